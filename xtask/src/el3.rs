//! What runs at EL3, below the hypervisor: nothing, or Trusted Firmware-A, which fetches and starts it.

mod devicetree;
mod fip;
mod firmware;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use firmware::HYPERVISOR_PA;

use crate::workshop::Workshop;

/// What is below the hypervisor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum El3 {
    /// Nothing: the machine has no EL3, and QEMU itself answers PSCI calls.
    #[default]
    None,
    /// Trusted Firmware-A without SDEI.
    TfaNosdei,
    /// Trusted Firmware-A with SDEI.
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
    /// What the machine starts from: BL1, and the package with BL2 and BL31.
    pub bios: PathBuf,
    /// Where the machine's devicetree is written, with `/chosen` filled in.
    pub devicetree: PathBuf,
    /// Where the secure UART's output goes: what firmware says when it dies.
    pub log: PathBuf,
}

impl Firmware {
    /// The firmware that `el3` asks for, built unless the cache has it; `None` if nothing is to be there.
    pub fn prepare(workshop: &Workshop, el3: El3) -> Result<Option<Self>> {
        if el3 == El3::None {
            return Ok(None);
        }
        let bios = firmware::ensure(&workshop.cache, &workshop.progress, el3 == El3::Tfa)?;
        // Runs may go side by side.
        let name = format!("el3-{}", std::process::id());
        Ok(Some(Self {
            bios,
            devicetree: workshop.output(&format!("{name}.dtb"))?,
            log: workshop.output(&format!("{name}.log"))?,
        }))
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
