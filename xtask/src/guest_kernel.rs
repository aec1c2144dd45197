//! `cargo xtask guest-kernel`: the kernel that our guests run, and its initramfs.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use debian::cache::Cache;
use debian::initramfs::{self, Guest};
use debian::kernel::{self, KernelVariant};
use debian::progress::Progress;

/// Fetch and build the guest's kernel and initramfs, unless the cache has them.
///
/// Prints three paths: the Image, the vmlinux with symbols and debug information, and the initramfs.
/// Other commands do this by themselves when they need it. Interrupted, it goes on where it was.
#[derive(Args)]
pub struct GuestKernel {
    /// Take the newest source that Debian's archive has now, rather than the one in the cache.
    #[arg(long)]
    update: bool,
}

impl GuestKernel {
    /// Fetches, builds and prints.
    pub fn execute(self) -> Result<ExitCode> {
        let progress = Progress::new();
        let cache = Cache::open()?;
        if self.update {
            kernel::update(&cache, &progress)?;
        }
        let kernel = kernel::ensure(&cache, KernelVariant::Plain, &progress)?;
        let initramfs = initramfs::ensure(&cache, Guest::Ours(&kernel.image), &progress)?;
        for path in [&kernel.image, &kernel.vmlinux, &initramfs] {
            println!("{}", path.display());
        }
        Ok(ExitCode::SUCCESS)
    }
}
