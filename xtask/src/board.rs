//! The machines that QEMU plays: what differs between them, and what each cannot have.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::el3::El3;

/// A machine of QEMU's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Board {
    /// `virt` with a GICv3.
    #[default]
    Virt,
    /// `virt` with a GICv2, which has at most 8 CPUs.
    VirtGicv2,
}

impl Board {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Virt => "virt",
            Self::VirtGicv2 => "virt-gicv2",
        }
    }

    /// The version of its GIC.
    pub const fn gic(self) -> u32 {
        match self {
            Self::Virt => 3,
            Self::VirtGicv2 => 2,
        }
    }

    /// The most CPUs it has: a GICv2 has 8 interfaces (IHI0048 2.2); more than 128 the hypervisor's sets do not hold.
    pub const fn most_cpus(self) -> u32 {
        match self {
            Self::Virt => 128,
            Self::VirtGicv2 => 8,
        }
    }

    /// That it can have so many CPUs, and what is wanted at EL3.
    pub fn check(self, cpus: u32, el3: El3) -> Result<()> {
        let (name, most) = (self.name(), self.most_cpus());
        ensure!(
            cpus <= most,
            "--machine {name} has no {cpus} CPUs; ask for {most} or fewer"
        );
        self.check_el3(el3)
    }

    /// That it can have what is wanted at EL3.
    pub fn check_el3(self, el3: El3) -> Result<()> {
        ensure!(
            self == Self::Virt || el3 == El3::None,
            "Trusted Firmware-A is built for a GICv3; leave out --el3 or --machine {}",
            self.name()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gicv2_has_8_cpus_and_no_firmware() {
        let board = Board::VirtGicv2;
        assert!(board.check(8, El3::None).is_ok());
        assert!(board.check(9, El3::None).is_err());
        assert!(board.check(4, El3::Tfa).is_err());
        assert!(Board::Virt.check(128, El3::Tfa).is_ok());
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for board in Board::value_variants() {
            let said = board.to_possible_value();
            assert_eq!(
                said.map(|it| it.get_name().to_owned()).as_deref(),
                Some(board.name())
            );
        }
    }
}
