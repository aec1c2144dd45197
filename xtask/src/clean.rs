//! `cargo xtask clean`: what runs have left, and the cache.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use debian::cache::{self, Cache};
use debian::paths;
use machine::run_dir;

/// Remove what runs have left in target/xtask, and with --cache all that was fetched and built once.
///
/// Folders of runs that go on stay. `cargo clean` removes what cargo has built, and target/xtask with it. What is in the cache is
/// fetched and built again by the next command that needs it, which takes minutes.
#[derive(Args)]
pub struct Clean {
    /// Remove the cache, too, which `cargo xtask doctor` names.
    #[arg(long)]
    cache: bool,
}

impl Clean {
    /// Removes it, and says how much that was.
    pub fn execute(self) -> Result<ExitCode> {
        for name in ["runs", "matrix"] {
            let runs = paths::output(name)?;
            let freed = run_dir::remove_all(&runs)?;
            println!("{}: {} MB", runs.display(), megabytes(freed));
        }
        if self.cache {
            let cache = Cache::look()?;
            let freed = cache::clear(&cache)?;
            println!("{}: {} MB", cache.path().display(), megabytes(freed));
        }
        Ok(ExitCode::SUCCESS)
    }
}

const fn megabytes(bytes: u64) -> u64 {
    bytes / 1_000_000
}
