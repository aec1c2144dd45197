//! `--tree`: the kernel is built from the user's own source tree.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::fixture::System;
use crate::needs;
use crate::plan::Plan;
use debian::cache::Cache;
use debian::kernel::Kernel;
use debian::kernel::config::Found;
use debian::kernel::flags::Flags;
use debian::kernel::pages::Pages;
use debian::kernel::tree::{Base, Tree};
use debian::paths;
use debian::progress::Progress;
use machine::board::Board;

/// A source tree, and what it is configured from.
//
// clap forgives a missing option that is required if that cannot stand beside one that is given. So its conflicts are named again.
#[derive(Args, Clone, Debug, Default)]
pub struct FromTree {
    /// Build the kernel from this source tree of Linux, which stays as it is, and take that instead of ours.
    ///
    /// It is configured with guest-tests/linux/kernel.config, over --config or --defconfig if they are given; what of that does not
    /// take is said, with what it needs. Objects go to the cache, so that the next time only what has changed is built. LLVM,
    /// CROSS_COMPILE and the -j of MAKEFLAGS are heard from the environment.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kernel", "stock"])]
    tree: Option<PathBuf>,
    /// The configuration that the tree is built with, under our options [default: none, so all that can be left out is].
    #[arg(
        long,
        value_name = "FILE",
        requires = "tree",
        conflicts_with_all = ["defconfig", "kernel", "stock"]
    )]
    config: Option<PathBuf>,
    /// The same by the name of one of the tree's own, such as defconfig.
    #[arg(long, value_name = "NAME", requires = "tree", conflicts_with_all = ["kernel", "stock"])]
    defconfig: Option<String>,
    /// The size of the kernel's pages: 4k, 16k or 64k [default: what --config or --defconfig chooses, or 4k].
    #[arg(long, value_name = "SIZE", value_parser = Pages::named, requires = "tree",
          conflicts_with_all = ["kernel", "stock"])]
    pages: Option<Pages>,
    /// Compile so many files at a time [default: what MAKEFLAGS says, or as many as the host has CPUs].
    #[arg(long, short, value_name = "N", requires = "tree", conflicts_with_all = ["kernel", "stock"],
          value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

impl FromTree {
    /// Builds it, if there is one and what it is configured with can do what `plan` asks on `board`.
    pub fn build(&self, plan: &Plan, board: Board) -> Result<Option<System>> {
        let built = self.build_if(|config| Ok(needs::check(plan, board, config)?))?;
        Ok(built.map(|(kernel, _)| System::Other {
            kernel: kernel.image,
            vmlinux: kernel.vmlinux,
        }))
    }

    /// Builds it, if there is one and `check` finds nothing wrong with what it is configured with; the kernel, and the file with its
    /// configuration.
    pub fn build_if(
        &self,
        check: impl FnOnce(&Found) -> Result<()>,
    ) -> Result<Option<(Kernel, PathBuf)>> {
        let Some(path) = &self.tree else {
            return Ok(None);
        };
        ensure!(
            path.is_dir(),
            "there is no folder {} for --tree; check the path",
            path.display()
        );
        let base = match (&self.config, &self.defconfig) {
            (Some(file), _) => {
                paths::check_input(file, "--config")?;
                Base::File(file.clone())
            }
            (None, Some(name)) => Base::Named(name.clone()),
            (None, None) => Base::Nothing,
        };
        let flags = Flags::of_user(self.jobs.map(usize::from));
        let tree = Tree::open(path, base, self.pages, flags)?;
        let (cache, progress) = (Cache::open()?, Progress::new());
        let configured = tree.configure(&cache, &progress)?;
        let config = configured.place.clone();
        check(&Found {
            config: configured.config.clone(),
            place: config.display().to_string(),
        })?;
        let kernel = configured
            .build(&progress)
            .with_context(|| format!("the tree {} does not build", path.display()))?;
        progress.say(&format!(
            "Linux {} is built: {}",
            kernel.release,
            kernel.image.display()
        ));
        Ok(Some((kernel, config)))
    }
}
