//! What runs at EL3, below the hypervisor: nothing, or Trusted Firmware-A, which fetches and starts it.

mod devicetree;
mod fip;
mod firmware;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use firmware::HYPERVISOR_PA;

use crate::board::Board;
use crate::folder::Folder;
use crate::raspi4b;
use crate::workshop::Workshop;

/// What is below the hypervisor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum El3 {
    /// Nothing: the machine has no EL3, and QEMU itself answers PSCI calls. On raspi4b a stub like the board's own,
    /// which answers none.
    #[default]
    None,
    /// Trusted Firmware-A without SDEI.
    TfaNosdei,
    /// Trusted Firmware-A with SDEI; on raspi4b Debian's own build, which has none.
    Tfa,
}

impl El3 {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::TfaNosdei => "tfa-nosdei",
            Self::Tfa => "tfa",
        }
    }

    /// How many CPUs it starts: TF-A's `qemu` platform has two clusters, of which 16 CPUs are sure to be there.
    pub const fn most_cpus(self) -> u32 {
        match self {
            Self::None => u32::MAX,
            Self::TfaNosdei | Self::Tfa => 16,
        }
    }
}

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
                let bios = firmware::ensure(&workshop.cache, &workshop.progress, sdei)?;
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
    pub fn within(self, folder: &Folder) -> Self {
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
