//! Device registers: plain loads and stores that a hypervisor can decode from the syndrome.

use core::arch::asm;

/// A range of guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

impl Region {
    /// First address behind the region.
    pub const fn end(&self) -> u64 {
        self.base.saturating_add(self.size)
    }

    /// Whether `address` lies inside.
    pub const fn contains(&self, address: u64) -> bool {
        address >= self.base && address < self.end()
    }
}

/// The registers of a device the devicetree names.
#[derive(Clone, Copy, Debug)]
pub struct Device(Region);

impl Device {
    /// Takes `region` for device registers.
    ///
    /// # Safety
    ///
    /// No byte of it is memory that Rust uses, and reading it has no effect on such memory.
    pub const unsafe fn new(region: Region) -> Self {
        Self(region)
    }

    /// Where the registers are.
    pub const fn region(self) -> Region {
        self.0
    }

    /// Address of the register at `offset`.
    pub fn address(self, offset: u64) -> u64 {
        assert!(offset < self.0.size, "register {offset:#x} is outside");
        self.0.base + offset
    }

    /// The part that begins at `offset`.
    pub fn part(self, offset: u64, size: u64) -> Self {
        assert!(
            offset + size <= self.0.size,
            "part at {offset:#x} is outside"
        );
        Self(Region {
            base: self.0.base + offset,
            size,
        })
    }

    /// Reads 32 bits.
    pub fn read32(self, offset: u64) -> u32 {
        let address = self.address(offset);
        let value: u32;
        // SAFETY: `address` is a device register, which `new` took as apart from Rust's memory.
        unsafe { asm!("ldr {:w}, [{}]", out(reg) value, in(reg) address, options(nostack)) };
        value
    }

    /// Writes 32 bits.
    pub fn write32(self, offset: u64, value: u32) {
        let address = self.address(offset);
        // SAFETY: as in `read32`.
        unsafe { asm!("str {:w}, [{}]", in(reg) value, in(reg) address, options(nostack)) };
    }

    /// Reads 64 bits.
    pub fn read64(self, offset: u64) -> u64 {
        let address = self.address(offset);
        let value: u64;
        // SAFETY: as in `read32`.
        unsafe { asm!("ldr {}, [{}]", out(reg) value, in(reg) address, options(nostack)) };
        value
    }

    /// Reads 8 bits.
    pub fn read8(self, offset: u64) -> u8 {
        let address = self.address(offset);
        let value: u32;
        // SAFETY: as in `read32`.
        unsafe { asm!("ldrb {:w}, [{}]", out(reg) value, in(reg) address, options(nostack)) };
        value as u8
    }

    /// Writes 8 bits.
    pub fn write8(self, offset: u64, value: u8) {
        let address = self.address(offset);
        // SAFETY: as in `read32`.
        unsafe {
            asm!("strb {:w}, [{}]", in(reg) u32::from(value), in(reg) address, options(nostack))
        };
    }

    /// Writes 64 bits.
    pub fn write64(self, offset: u64, value: u64) {
        let address = self.address(offset);
        // SAFETY: as in `read32`.
        unsafe { asm!("str {}, [{}]", in(reg) value, in(reg) address, options(nostack)) };
    }
}
