//! The crash utility for arm64, of Debian's archive. Debian's build reads dumps of the machine that it runs on alone, so another
//! host starts it with QEMU's emulator of programs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::archive::Archive;
use crate::cache::Cache;
use crate::initramfs::SUITE;
use crate::programs::{ARCHITECTURE, LOADER, Programs};
use crate::progress::Progress;
use crate::tools::{self, QEMU_USER};

const PROGRAMS: Programs<'_> = Programs {
    packages: &["crash"],
    places: &[("bin/crash", &["usr/bin/crash", "bin/crash"])],
};

/// It, with its libraries, in a folder of the cache.
pub struct CrashUtility {
    folder: PathBuf,
}

impl CrashUtility {
    /// Fetches it, unless the cache has it, and what starts it.
    pub fn ensure(cache: &Cache, progress: &Progress) -> Result<Self> {
        if !is_own() {
            tools::demand(cache, &[QEMU_USER], progress)?;
            tools::demand_user_version()?;
        }
        let _lock = cache.lock("crash", progress)?;
        let name = format!("crash-{}", PROGRAMS.fingerprint(&[SUITE, ARCHITECTURE]));
        let folder = cache.entry(&name, |dir| {
            let archive = Archive::open(cache)?;
            let root = archive
                .root(SUITE, ARCHITECTURE, progress)?
                .with_context(|| format!("the archive has no suite {SUITE}"))?;
            PROGRAMS.fetch(&archive, &root, dir, progress)
        })?;
        Ok(Self { folder })
    }

    /// It, as it is started on this host.
    pub fn command(&self) -> Command {
        let library = self.folder.join("lib");
        let loader = library.join(LOADER);
        let mut command = if is_own() {
            supervisor::command(loader)
        } else {
            let mut emulator = supervisor::command(QEMU_USER.program);
            emulator.arg(loader);
            emulator
        };
        command.arg("--library-path").arg(library);
        command.arg(self.folder.join("bin/crash"));
        command
    }
}

/// Whether programs for arm64 run here as they are.
const fn is_own() -> bool {
    cfg!(target_arch = "aarch64")
}
