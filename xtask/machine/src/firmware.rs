//! The files of what runs at EL3, below the hypervisor, and of the devicetree that is handed over.

mod devicetree;
mod fip;
mod tfa;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::board::Board;
use crate::el3::El3;
use crate::raspi4b;
use crate::run_dir::RunDir;
use crate::workshop::Workshop;

/// Files of a machine with firmware at EL3.
#[derive(Clone, Debug)]
pub struct Firmware {
    /// What the machine starts from: BL1, and the package with BL2 and BL31; or all that is at EL3 of a board.
    pub bios: PathBuf,
    /// The board's own devicetree; if there is none, it is QEMU that makes one.
    pub own_devicetree: Option<PathBuf>,
    /// Where the machine's devicetree is written, with `/chosen` filled in.
    pub devicetree: PathBuf,
    /// Where the secure UART's output goes: what firmware says when it dies.
    pub log: PathBuf,
}

impl Firmware {
    /// The firmware below what `workshop` boots, built if need be.
    pub fn of(workshop: &Workshop) -> Result<Option<Self>> {
        Self::prepare(workshop, workshop.board, workshop.el3)
    }

    /// The firmware of `board` that `el3` asks for, built or fetched unless the cache has it; `None` if nothing is
    /// to be there.
    pub fn prepare(workshop: &Workshop, board: Board, el3: El3) -> Result<Option<Self>> {
        let (bios, own_devicetree) = match (board, el3) {
            (Board::Raspi4b, _) => {
                let parts = raspi4b::prepare(workshop, el3)?;
                (parts.bios, Some(parts.devicetree))
            }
            (_, El3::None) => return Ok(None),
            (_, el3) => {
                let sdei = el3 == El3::Tfa;
                let bios = tfa::ensure(&workshop.cache, &workshop.progress, sdei)?;
                (bios, None)
            }
        };
        Ok(Some(Self {
            bios,
            own_devicetree,
            devicetree: workshop.output("el3.dtb")?,
            log: workshop.output("el3.log")?,
        }))
    }

    /// The same, with what a run of it writes in `folder`: runs may go side by side.
    pub fn within(self, folder: &RunDir) -> Self {
        Self {
            devicetree: folder.file("el3.dtb"),
            log: folder.file("el3.log"),
            ..self
        }
    }

    /// Completes the devicetree that QEMU `dumped` with what a loader says.
    pub fn write_devicetree(
        &self,
        dumped: &Path,
        bootargs: &str,
        initrd: Option<std::ops::Range<u64>>,
    ) -> Result<()> {
        devicetree::complete(dumped, &self.devicetree, bootargs, initrd)
    }
}
