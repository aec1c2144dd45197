//! What a guest boots: what its options give, and ours in place of a kernel that they do not.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::build_id;
use debian::initramfs::{self, Guest};
use debian::kernel::{self, KernelVariant};
use machine::guest::Options;
use machine::payload::{self, Capture};
use machine::workshop::Workshop;

/// The guest's parts: those that were given, and ours in place of a kernel that was not.
pub struct Given {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initial ramdisk.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub bootargs: String,
    /// The kernel with its symbols, if it is there.
    pub vmlinux: Option<PathBuf>,
    /// What saves its memory, if anything does.
    capture: Option<Saver>,
}

/// The files of a capture kernel.
struct Saver {
    /// The kernel, unless it is the guest's own.
    kernel: Option<PathBuf>,
    initrd: PathBuf,
}

impl Saver {
    /// That of `options`, with our initramfs unless they have one.
    fn of(options: &Options, workshop: &Workshop) -> Result<Option<Self>> {
        let Some(dump) = &options.dump else {
            return Ok(None);
        };
        let initrd = match &dump.initrd {
            Some(initrd) => initrd.clone(),
            None => initramfs::ensure(&workshop.cache, Guest::Any, &workshop.progress)?,
        };
        let kernel = dump.kernel.clone();
        Ok(Some(Self { kernel, initrd }))
    }
}

impl Given {
    /// Those of `options`, ours fetched and built unless they are there.
    pub fn of(options: &Options, workshop: &Workshop) -> Result<Self> {
        let capture = Saver::of(options, workshop)?;
        let words = options.append.as_deref().unwrap_or_default();
        if let Some(kernel) = &options.kernel {
            return Ok(Self {
                kernel: kernel.clone(),
                initrd: options.initrd.clone(),
                bootargs: words.to_owned(),
                vmlinux: beside(kernel, workshop),
                capture,
            });
        }
        let ours = kernel::ensure(&workshop.cache, KernelVariant::Plain, &workshop.progress)?;
        let kernel = ours.image;
        let initrd = match &options.initrd {
            Some(initrd) => initrd.clone(),
            None => initramfs::ensure(&workshop.cache, Guest::Ours(&kernel), &workshop.progress)?,
        };
        Ok(Self {
            kernel,
            initrd: Some(initrd),
            bootargs: format!("console=ttyAMA0 lab.do=shell {words}")
                .trim()
                .to_owned(),
            vmlinux: Some(ours.vmlinux),
            capture,
        })
    }

    /// What saves the guest's memory, as a bundle takes it.
    pub fn capture(&self) -> Capture<'_> {
        match &self.capture {
            None => Capture::default(),
            Some(saver) => Capture {
                kernel: saver.kernel.as_deref(),
                initrd: Some(&saver.initrd),
            },
        }
    }
}

/// The vmlinux beside `kernel`, if there is one and it was built with it; one that was not explains nothing.
fn beside(kernel: &Path, workshop: &Workshop) -> Option<PathBuf> {
    let vmlinux = kernel.with_file_name("vmlinux");
    if !vmlinux.exists() {
        return None;
    }
    // What is wrong with the kernel is said when it is bundled.
    let image = payload::read_kernel(kernel, payload::USUAL_MIB).unwrap_or_default();
    match build_id::check(&image, kernel, &vmlinux) {
        Ok(()) => Some(vmlinux),
        Err(error) => {
            let rest = "the guest's addresses stay numbers";
            workshop
                .progress
                .say(&format!("{error:#}; until then {rest}"));
            None
        }
    }
}
