//! The machines that QEMU plays: what differs between them, and what each cannot have.

pub mod raspi4b;

use std::ops::RangeInclusive;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::el3::El3;

/// Where the hypervisor is put on `virt`, and the devicetree, as QEMU does it: the start of RAM.
pub const HYPERVISOR_PA: u64 = 0x4020_0000;

/// A machine of QEMU's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Board {
    /// `virt` with a GICv3.
    #[default]
    Virt,
    /// `virt` with a GICv2, which has at most 8 CPUs.
    VirtGicv2,
    /// A Raspberry Pi 4: four Cortex-A72, a GICv2, firmware at EL3, 2 GiB.
    Raspi4b,
}

impl Board {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Virt => "virt",
            Self::VirtGicv2 => "virt-gicv2",
            Self::Raspi4b => "raspi4b",
        }
    }

    /// The version of its GIC.
    pub const fn gic(self) -> u32 {
        match self {
            Self::Virt => 3,
            Self::VirtGicv2 | Self::Raspi4b => 2,
        }
    }

    /// The most CPUs it has: a GICv2 has 8 interfaces (IHI0048 2.2); more than 128 the hypervisor's sets do not hold.
    pub const fn most_cpus(self) -> u32 {
        match self {
            Self::Virt => 128,
            Self::VirtGicv2 => 8,
            Self::Raspi4b => raspi4b::CPUS,
        }
    }

    /// How many CPUs it has when `wanted` are.
    pub fn cpus(self, wanted: u32) -> u32 {
        match self {
            Self::Virt | Self::VirtGicv2 => wanted.min(self.most_cpus()),
            Self::Raspi4b => raspi4b::CPUS,
        }
    }

    /// The CPU model that it has, whatever is asked for; `None` if it can have any.
    pub const fn model(self) -> Option<&'static str> {
        match self {
            Self::Virt | Self::VirtGicv2 => None,
            Self::Raspi4b => Some(raspi4b::MODEL),
        }
    }

    /// Its RAM in MiB, of which its firmware may be told to hide a part; `None` if it can have any.
    pub const fn memory_mib(self) -> Option<RangeInclusive<u64>> {
        match self {
            Self::Virt | Self::VirtGicv2 => None,
            Self::Raspi4b => Some(raspi4b::LEAST_MIB..=raspi4b::MEMORY_MIB),
        }
    }

    /// How many disks it has room for.
    const fn most_disks(self) -> usize {
        match self {
            // virt has 32 virtio transports.
            Self::Virt | Self::VirtGicv2 => 32,
            Self::Raspi4b => 1,
        }
    }

    /// That it can have so many CPUs, and what is wanted at EL3.
    pub fn check(self, cpus: u32, el3: El3) -> Result<()> {
        let (name, most) = (self.name(), self.most_cpus());
        ensure!(
            cpus <= most,
            "--machine {name} has no {cpus} CPUs; ask for {most} or fewer"
        );
        ensure!(
            self != Self::Raspi4b || cpus == most,
            "--machine {name} has {most} CPUs; leave out --cpus"
        );
        self.check_el3(el3)
    }

    /// That it can have what is wanted at EL3.
    pub fn check_el3(self, el3: El3) -> Result<()> {
        ensure!(
            self != Self::VirtGicv2 || el3 == El3::None,
            "Trusted Firmware-A is built for a GICv3; say --el3 none, or leave out --machine {}",
            self.name()
        );
        Ok(())
    }

    /// That a kernel can be started there at EL1, without a hypervisor.
    pub fn check_bare(self) -> Result<()> {
        ensure!(
            self != Self::Raspi4b,
            "--machine raspi4b starts kernels at EL2; leave out --bare"
        );
        Ok(())
    }

    /// That it can have this CPU model and so many disks.
    pub fn check_parts(self, model: Option<&str>, disks: usize) -> Result<()> {
        let name = self.name();
        if let (Some(own), Some(model)) = (self.model(), model) {
            ensure!(
                own == model,
                "--machine {name} has {own} CPUs and no {model}; leave out --cpu"
            );
        }
        let most = self.most_disks();
        ensure!(
            disks <= most,
            "--machine {name} has room for {most} disks, not for {disks}"
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
    fn a_raspberry_pi_is_as_it_is() {
        let board = Board::Raspi4b;
        assert!(board.check(4, El3::None).is_ok());
        assert!(board.check(4, El3::Tfa).is_ok());
        assert!(board.check(2, El3::None).is_err());
        assert!(board.check_parts(None, 1).is_ok());
        assert!(board.check_parts(Some("cortex-a72"), 0).is_ok());
        assert!(board.check_parts(Some("max"), 0).is_err());
        assert!(board.check_parts(None, 2).is_err());
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
