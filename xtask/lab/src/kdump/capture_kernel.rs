//! The kernel that the hypervisor starts to save a guest's memory, where that is not the guest's own.

use std::path::PathBuf;

use anyhow::Result;

use super::files::unpack;
use debian::initramfs::{self, Guest, Saver};
use debian::kernel::{self, KernelVariant};
use debian::stock::{self, Release};
use machine::workshop::Workshop;

/// One that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureKernel {
    /// Ours.
    Ours,
    /// Debian's, as it is.
    Stock(Release),
}

/// Its files.
#[derive(Clone, Debug)]
pub struct CaptureFiles {
    /// The Image.
    pub kernel: PathBuf,
    /// Its initial ramdisk.
    pub initramfs: PathBuf,
}

impl CaptureKernel {
    const OURS: &str = "ours";

    /// The kernel of that name.
    ///
    /// # Errors
    ///
    /// If there is none, with all names that there are.
    pub fn named(name: &str) -> Result<Self, String> {
        match Release::named(name) {
            Some(release) => Ok(Self::Stock(release)),
            None if name == Self::OURS => Ok(Self::Ours),
            None => {
                let known = Release::ALL.map(Release::name).join(", ");
                Err(format!(
                    "there is no such kernel; there are {}, {known}",
                    Self::OURS
                ))
            }
        }
    }

    /// Makes its files; dumps are saved by `saver`, or by the makedumpfile of `suite`, which knows the kernel that is dumped.
    pub fn ensure(self, workshop: &Workshop, saver: &Saver, suite: &str) -> Result<CaptureFiles> {
        let (cache, progress) = (&workshop.cache, &workshop.progress);
        let (kernel, modules) = match self {
            Self::Ours => {
                let ours = kernel::ensure(cache, KernelVariant::Plain, progress)?;
                (ours.image, Vec::new())
            }
            Self::Stock(release) => {
                let stock = stock::ensure(cache, release, progress)?;
                (unpack(workshop, &stock.vmlinuz, None)?, stock.modules)
            }
        };
        let guest = Guest::Shipped {
            image: &kernel,
            modules: &modules,
            suite,
        };
        let initramfs = initramfs::ensure_with(cache, guest, saver, progress)?;
        Ok(CaptureFiles { kernel, initramfs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kernel_is_known_by_its_name() {
        assert_eq!(CaptureKernel::named("ours"), Ok(CaptureKernel::Ours));
        for release in Release::ALL {
            let stock = CaptureKernel::Stock(release);
            assert_eq!(CaptureKernel::named(release.name()), Ok(stock));
        }
        let error = CaptureKernel::named("trixie").unwrap_err();
        assert!(error.contains("ours, debian-12, debian-13, "), "{error}");
    }
}
