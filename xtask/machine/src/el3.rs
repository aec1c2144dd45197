//! What runs at EL3, below the hypervisor: nothing, or Trusted Firmware-A, which fetches and starts it.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

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
