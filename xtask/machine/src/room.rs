//! Whether a guest has room in the machine's RAM, asked before anything boots: QEMU and the hypervisor would only say it
//! when it is too late to do something else.

use anyhow::{Result, bail};

use crate::board::{Board, raspi4b};

const MIB: u64 = 1 << 20;

/// What a guest takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The kernel, with the memory behind its file that it says it takes.
    pub kernel: u64,
    /// The kernel is a flat binary, which goes behind the base of RAM and has its devicetree at a boundary of 2 MiB behind all.
    pub is_flat: bool,
    /// The initial ramdisk.
    pub ramdisk: u64,
    /// The bundle of both that the hypervisor gets and keeps; 0 if a kernel is started without it.
    pub bundle: u64,
}

/// The hypervisor's own memory of few pCPUs, and the devicetree's block.
const HYPERVISOR: u64 = 4 * MIB;
/// Where an Image goes at the least: behind the devicetree.
const KERNEL_OFFSET: u64 = 2 * MIB;
/// Where a flat binary goes, from the base of RAM, and the boundaries of devicetrees (`hv_bundle::Layout`).
const FLAT_OFFSET: u64 = 0x8_0000;
const BLOCK: u64 = 2 * MIB;
const PAGE: u64 = 4096;
/// Where the bundle is loaded below firmware on `virt`, from the base of RAM (`qemu.rs`).
const FIRMWARE_OFFSET: u64 = 4 * MIB;

impl Needs {
    /// That `board` with so many MiB of RAM has room for it, loaded by QEMU itself or as EL3's firmware finds it.
    pub fn check(&self, board: Board, memory_mib: u64, by_firmware: bool) -> Result<()> {
        if self.fits(board, memory_mib, by_firmware) {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(MIB);
        let mut parts = format!("the kernel takes {} MiB of memory", mib(self.kernel));
        if self.ramdisk != 0 {
            parts += &format!(", the initrd {}", mib(self.ramdisk));
        }
        if self.bundle != 0 {
            parts += &format!(", the hypervisor's copy of the files {}", mib(self.bundle));
        }
        let enough = (0..24).map(|power| 64 << power);
        let mut enough =
            enough.filter(|&mib| board.memory_mib().is_none_or(|own| own.contains(&mib)));
        match enough.find(|&mib| self.fits(board, mib, by_firmware)) {
            Some(enough) => {
                bail!("{parts}; {memory_mib} MiB of RAM are too few: ask for --memory {enough}M")
            }
            None => {
                bail!("{parts}; no memory that this machine can have is enough: give smaller ones")
            }
        }
    }

    /// What kernel and ramdisk take of the guest's memory, up to where the devicetree of a flat binary begins.
    fn placed(&self) -> u64 {
        let both = self.kernel.saturating_add(self.ramdisk);
        if !self.is_flat {
            return both;
        }
        // The ramdisk begins at a page of its own.
        let end = both.saturating_add(FLAT_OFFSET + PAGE * u64::from(self.ramdisk != 0));
        end.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX)
    }

    fn fits(&self, board: Board, memory_mib: u64, by_firmware: bool) -> bool {
        let ram = memory_mib.saturating_mul(MIB);
        // QEMU hw/arm/boot.c puts an initrd at half of RAM or 128 MiB, or behind the kernel.
        let (loaded, from, to) = match (self.bundle, board, by_firmware) {
            (0, ..) => (
                self.ramdisk,
                (ram / 2)
                    .min(128 * MIB)
                    .max(KERNEL_OFFSET.saturating_add(self.kernel)),
                ram,
            ),
            (bundle, Board::Raspi4b, _) => {
                (bundle, raspi4b::INITRD_PA, raspi4b::DEVICETREE_PA.into())
            }
            (bundle, _, true) => (bundle, FIRMWARE_OFFSET, ram),
            (bundle, _, false) => (bundle, (ram / 2).min(128 * MIB), ram),
        };
        let kept = if self.bundle == 0 {
            KERNEL_OFFSET
        } else {
            HYPERVISOR + self.bundle
        };
        let all = kept.saturating_add(self.placed());
        all <= ram && from.saturating_add(loaded) <= to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(kernel: u64, ramdisk: u64, bundle: u64) -> Needs {
        Needs {
            kernel: kernel * MIB,
            is_flat: false,
            ramdisk: ramdisk * MIB,
            bundle: bundle * MIB,
        }
    }

    fn refused(needs: Needs, memory_mib: u64) -> String {
        let result = needs.check(Board::Virt, memory_mib, false);
        result.unwrap_err().to_string()
    }

    #[test]
    fn usual_guests_have_room() {
        for (needs, memory_mib) in [
            (needs(1, 0, 1), 64),
            (needs(40, 20, 50), 256),
            (needs(40, 20, 0), 128),
            (needs(40, 200, 230), 1024),
            // QEMU has it from 128 MiB on.
            (needs(20, 200, 0), 384),
        ] {
            needs.check(Board::Virt, memory_mib, false).unwrap();
            needs.check(Board::Virt, memory_mib, true).unwrap();
        }
        needs(40, 20, 50)
            .check(Board::Raspi4b, 2048, false)
            .unwrap();
    }

    #[test]
    fn a_kernel_larger_than_ram_is_told_how_much_is_enough() {
        assert_eq!(
            refused(needs(300, 0, 300), 256),
            "the kernel takes 300 MiB of memory, the hypervisor's copy of the files 300; 256 MiB of RAM are too few: \
             ask for --memory 1024M"
        );
        assert_eq!(
            refused(needs(300, 0, 0), 256),
            "the kernel takes 300 MiB of memory; 256 MiB of RAM are too few: ask for --memory 512M"
        );
    }

    #[test]
    fn a_flat_binary_has_its_offset_and_the_boundary_of_its_devicetree() {
        // As much as an Image may have: 4 MiB are the hypervisor's and the devicetree's.
        let image = needs(30, 0, 30);
        image.check(Board::Virt, 64, false).unwrap();
        let flat = |kernel: u64, ramdisk: u64| Needs {
            kernel,
            is_flat: true,
            ramdisk,
            bundle: 30 * MIB,
        };
        assert!(refused(flat(30 * MIB, 0), 64).ends_with("ask for --memory 128M"));
        // 0x80000 are left in front of it.
        let most = 30 * MIB - 0x8_0000;
        flat(most, 0).check(Board::Virt, 64, false).unwrap();
        assert!(flat(most + 1, 0).check(Board::Virt, 64, false).is_err());
        assert!(flat(most - 100, 100).check(Board::Virt, 64, false).is_err());
        flat(most - 5000, 100)
            .check(Board::Virt, 64, false)
            .unwrap();
    }

    #[test]
    fn an_initrd_too_large_is_told_too() {
        let error = refused(needs(40, 150, 190), 256);
        assert!(error.contains("the initrd 150,"), "{error}");
        assert!(error.ends_with("ask for --memory 512M"), "{error}");
        // QEMU has room for the bundle, and the hypervisor not for what it unpacks.
        assert!(refused(needs(42, 90, 121), 256).ends_with("ask for --memory 512M"));
        assert!(refused(needs(40, 220, 0), 256).ends_with("ask for --memory 512M"));
    }

    #[test]
    fn what_no_memory_holds_is_refused() {
        let result = needs(100, 900, 1000).check(Board::Raspi4b, 2048, false);
        let error = result.unwrap_err().to_string();
        assert!(error.ends_with("give smaller ones"), "{error}");
    }
}
