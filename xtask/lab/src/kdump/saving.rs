//! How a guest saves its dump.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use super::capture_kernel::CaptureKernel;
use debian::initramfs::Saver;

/// How a guest saves its dump.
#[derive(Args, Clone, Debug, Default)]
pub struct Saving {
    /// What the dump leaves out, as makedumpfile's -d has it: the sum of 1 zeros, 2 cache, 4 cache with private data, 8 user, 16 free
    /// [default: 23].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..32))]
    pub dump_level: Option<u32>,
    /// Have the dump saved by this makedumpfile, a program for arm64, instead of Debian's.
    #[arg(long, value_name = "PATH", conflicts_with = "makedumpfile_version")]
    pub makedumpfile: Option<PathBuf>,
    /// Have the dump saved by makedumpfile of this version, out of whatever suite of Debian's archive has it, such as 1.7.2, 1.7.6 or
    /// 1.7.8.
    #[arg(long, value_name = "VERSION")]
    pub makedumpfile_version: Option<String>,
    /// With --scenario assisted, have the hypervisor start this kernel to save the dump, and not the guest's own: ours, or a kernel of
    /// Debian's as --stock has it.
    #[arg(long, value_name = "KERNEL", value_parser = CaptureKernel::named)]
    pub capture_kernel: Option<CaptureKernel>,
    /// Have files, programs and memory come and go in the guest all the while.
    #[arg(long)]
    pub load: bool,
}

impl Saving {
    /// That nothing is said of a dump if none is saved.
    ///
    /// # Errors
    ///
    /// Names the options.
    pub fn check(&self, is_saved: bool) -> Result<()> {
        let is_usual = self.dump_level.is_none() && matches!(self.saver(), Saver::Usual);
        ensure!(
            is_saved || is_usual,
            "with this scenario no dump is saved; leave --dump-level, --makedumpfile and --makedumpfile-version out"
        );
        Ok(())
    }

    /// A kernel's words, and what init is to know of this.
    pub fn words(&self, bootargs: &str) -> String {
        let mut words = self.level(bootargs);
        if self.load {
            words += " lab.load=yes";
        }
        words
    }

    /// The words of a kernel that does nothing but save a dump, and what it leaves out.
    pub fn level(&self, bootargs: &str) -> String {
        match self.dump_level {
            Some(level) => format!("{bootargs} lab.level={level}"),
            None => bootargs.to_owned(),
        }
    }

    /// By which makedumpfile.
    pub fn saver(&self) -> Saver {
        match (&self.makedumpfile, &self.makedumpfile_version) {
            (Some(path), _) => Saver::Program(path.clone()),
            (None, Some(version)) => Saver::Version(version.clone()),
            (None, None) => Saver::Usual,
        }
    }
}
