//! A Raspberry Pi 4 as QEMU plays it: the files that lie in its RAM when its CPUs start.

pub mod devicetree;
mod package;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};

use crate::board::raspi4b::{DEVICETREE_PA, KERNEL_PA};
use crate::build::{self, Program};
use crate::el3::El3;
use crate::run_dir::RunDir;
use crate::workshop::Workshop;
use debian::paths::write_if_new;
use debian::tools;
use devicetree::Handover;

pub use package::{devicetree as stock_devicetree, trusted_firmware, u_boot, videocore};

/// What is loaded besides the kernel.
pub struct Parts {
    /// What runs at EL3.
    pub bios: PathBuf,
    /// The board's devicetree, as Linux has it.
    pub devicetree: PathBuf,
}

/// Builds or fetches them.
pub fn prepare(workshop: &Workshop, el3: El3) -> Result<Parts> {
    demand_model(&tools::qemu(&workshop.cache, &workshop.progress)?)?;
    let stub = match el3 {
        El3::None => build::build(workshop, Program::Armstub)?.image,
        El3::TfaNosdei | El3::Tfa => trusted_firmware(workshop)?,
    };
    let bytes = fs::read(&stub).with_context(|| format!("cannot read {}", stub.display()))?;
    let bios = workshop.output(&format!("raspi4b-{}.bin", el3.name()))?;
    let filled = fill_in(bytes).with_context(|| format!("in {}", stub.display()))?;
    write_if_new(&bios, &filled)?;
    Ok(Parts {
        bios,
        devicetree: stock_devicetree(workshop)?,
    })
}

/// Writes, in `folder`, the devicetree of a board with so many MiB for QEMU to hand to a kernel; QEMU says itself what it
/// has loaded besides.
pub fn bare_devicetree(workshop: &Workshop, folder: &RunDir, memory_mib: u64) -> Result<PathBuf> {
    demand_model(&tools::qemu(&workshop.cache, &workshop.progress)?)?;
    let path = folder.file("board.dtb");
    let handover = Handover {
        memory_mib,
        bootargs: "",
        initrd: None,
        mini_uart: false,
    };
    devicetree::complete(&stock_devicetree(workshop)?, &path, &handover)?;
    Ok(path)
}

/// Whether this QEMU can play it.
pub fn is_known(qemu: &Path) -> Result<bool> {
    let output = supervisor::command(qemu)
        .args(["-machine", "help"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", qemu.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().any(|line| line.starts_with("raspi4b ")))
}

fn demand_model(qemu: &Path) -> Result<()> {
    if is_known(qemu)? {
        return Ok(());
    }
    let version = tools::qemu_version(qemu)?;
    bail!(
        "QEMU {version} does not know raspi4b: {}",
        tools::newer_qemu()
    );
}

/// Where the board's firmware finds the words that it fills in: a magic number, a version, the addresses of
/// devicetree and kernel (bootloaders of Raspberry Pi, `armstub8.S`). TF-A's image has the same.
const WORDS: usize = 0xf0;
const MAGIC: u32 = 0x5afe_570b;

/// `stub` with the addresses of kernel and devicetree in it; the magic goes, as its place is CPU 3's slot.
pub fn fill_in(mut stub: Vec<u8>) -> Result<Vec<u8>> {
    let words = stub.get_mut(WORDS..WORDS + 16);
    let words = words.context("it is too short for a stub of the board's")?;
    ensure!(
        words[..4] == MAGIC.to_le_bytes(),
        "it has no words that the board's firmware fills in"
    );
    words[..4].fill(0);
    words[8..12].copy_from_slice(&DEVICETREE_PA.to_le_bytes());
    words[12..].copy_from_slice(&u32::try_from(KERNEL_PA)?.to_le_bytes());
    Ok(stub)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmware_fills_in_where_kernel_and_devicetree_are() {
        let mut stub = vec![0xee; 0x200];
        stub[0xf0..0xf8].copy_from_slice(&[0x0b, 0x57, 0xfe, 0x5a, 0, 0, 0, 0]);
        let filled = fill_in(stub.clone()).unwrap();
        let words = [0u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x2e, 0, 0, 0x20, 0];
        assert_eq!(filled[0xf0..0x100], words);
        assert_eq!(filled[..0xf0], stub[..0xf0]);
        assert_eq!(filled[0x100..], stub[0x100..]);
    }

    #[test]
    fn what_is_no_stub_is_refused() {
        assert!(fill_in(vec![0; 0xff]).is_err());
        assert!(fill_in(vec![0; 0x100]).is_err());
    }
}
