//! What Debian has for the board: its devicetree, in a package of the kernel, and Trusted Firmware-A.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workshop::Workshop;
use debian::archive::Archive;

/// The suite whose kernel the devicetree belongs to: that of our guest's.
const KERNEL_SUITE: &str = "trixie-backports";
/// The package that depends on that kernel.
const KERNEL: &str = "linux-image-arm64";
/// The devicetree, in the kernel's package.
const DEVICETREE: &str = "broadcom/bcm2711-rpi-4-b.dtb";

const FIRMWARE_SUITE: &str = "trixie";
const FIRMWARE: &str = "arm-trusted-firmware";
/// Built for the board, in that package.
const BL31: &str = "usr/lib/arm-trusted-firmware/rpi4/bl31.bin";

/// The board's devicetree as Linux has it, fetched unless the cache has it.
pub fn devicetree(workshop: &Workshop) -> Result<PathBuf> {
    let name = format!("raspi4b-devicetree-{KERNEL_SUITE}");
    let file = "bcm2711-rpi-4-b.dtb";
    take(workshop, &name, file, KERNEL_SUITE, |archive, dir| {
        let root = archive.suite(KERNEL_SUITE, &workshop.progress)?;
        // Kernels come and go; an old list names one that is no longer there.
        root.update(&workshop.progress)?;
        let names = root.depends(KERNEL)?;
        let mut releases = names.iter();
        let release = releases
            .find_map(|name| name.strip_prefix("linux-image-"))
            .with_context(|| format!("{KERNEL} of {KERNEL_SUITE} names no kernel"))?;
        let package = format!("linux-base-{release}");
        let tree = format!("usr/lib/modules/{release}/dtb/{DEVICETREE}");
        let file = (format!("./{tree}"), dir.join(file));
        archive.take(&root, &package, &[file], &workshop.progress)
    })
}

/// Debian's build of Trusted Firmware-A for the board, fetched unless the cache has it.
pub fn trusted_firmware(workshop: &Workshop) -> Result<PathBuf> {
    let name = format!("raspi4b-firmware-{FIRMWARE_SUITE}");
    let file = "bl31.bin";
    take(workshop, &name, file, FIRMWARE_SUITE, |archive, dir| {
        let root = archive.suite(FIRMWARE_SUITE, &workshop.progress)?;
        let file = (format!("./{BL31}"), dir.join(file));
        archive.take(&root, FIRMWARE, &[file], &workshop.progress)
    })
}

/// A boot loader that is a flat binary, linked where the board has one.
const BOOT_LOADER: &str = "u-boot-rpi";
const U_BOOT: &str = "usr/lib/u-boot/rpi_4/u-boot.bin";

/// Debian's build of U-Boot for the board, fetched unless the cache has it.
pub fn u_boot(workshop: &Workshop) -> Result<PathBuf> {
    let name = format!("raspi4b-u-boot-{FIRMWARE_SUITE}");
    let file = "u-boot.bin";
    take(workshop, &name, file, FIRMWARE_SUITE, |archive, dir| {
        let root = archive.suite(FIRMWARE_SUITE, &workshop.progress)?;
        let file = (format!("./{U_BOOT}"), dir.join(file));
        archive.take(&root, BOOT_LOADER, &[file], &workshop.progress)
    })
}

/// The board's own firmware, of which a Raspberry Pi 4 reads these from its card, and its licence.
const VIDEOCORE: &str = "raspi-firmware";
const VIDEOCORE_FILES: [(&str, &str); 3] = [
    ("start4.elf", "usr/lib/raspi-firmware/start4.elf"),
    ("fixup4.dat", "usr/lib/raspi-firmware/fixup4.dat"),
    (
        "raspi-firmware.copyright",
        "usr/share/doc/raspi-firmware/copyright",
    ),
];

/// Debian's copy of the board's firmware: names and bytes.
pub fn videocore(workshop: &Workshop) -> Result<Vec<(String, Vec<u8>)>> {
    let _lock = workshop.cache.lock("raspi4b", &workshop.progress)?;
    let name = format!("raspi4b-videocore-{FIRMWARE_SUITE}");
    let entry = workshop.cache.entry(&name, |dir| {
        let archive = Archive::open(&workshop.cache)?;
        let component = "non-free-firmware";
        let root = archive.root_of(FIRMWARE_SUITE, component, "arm64", &workshop.progress)?;
        let root = root.with_context(|| format!("the archive has no {component}"))?;
        let files = VIDEOCORE_FILES.map(|(file, path)| (format!("./{path}"), dir.join(file)));
        archive.take(&root, VIDEOCORE, &files, &workshop.progress)
    })?;
    let read = |(file, _): (&str, &str)| {
        let bytes = fs::read(entry.join(file));
        Ok((
            file.to_owned(),
            bytes.with_context(|| format!("cannot read {file}"))?,
        ))
    };
    VIDEOCORE_FILES.into_iter().map(read).collect()
}

/// The `file` of the cache's entry `name`, which `make` puts there.
fn take(
    workshop: &Workshop,
    name: &str,
    file: &str,
    suite: &str,
    make: impl FnOnce(&Archive, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let _lock = workshop.cache.lock("raspi4b", &workshop.progress)?;
    let entry = workshop.cache.entry(name, |dir| {
        make(&Archive::open(&workshop.cache)?, dir)
            .with_context(|| format!("cannot take {file} from Debian {suite}"))
    })?;
    Ok(entry.join(file))
}
