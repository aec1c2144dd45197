//! Registers of a GIC by offset: of the distributor, and of a GICv2's interfaces. `arm-gic` has types for most of them, but
//! can neither write GICD_ITARGETSR and GICC_DIR nor share a distributor between pCPUs, and has no GICH. Other devices
//! have typed blocks (`hv-drivers`).

/// A block of registers. No access leaves it.
#[derive(Clone, Copy)]
pub struct Registers {
    base: usize,
    size: u64,
}

impl Registers {
    /// The block of `size` bytes at `address`.
    ///
    /// # Safety
    ///
    /// It is there, aligned to 8 bytes, and mapped as device memory for good. Any access to it is no more than an access
    /// to a device: none changes memory that Rust knows of.
    #[inline(always)]
    pub const unsafe fn at(address: u64, size: u64) -> Self {
        Self {
            base: address as usize,
            size,
        }
    }

    /// Where the register at `offset` is. Folded away where block and offset are constants.
    #[inline(always)]
    fn pointer<T>(self, offset: u64) -> *mut T {
        let width = size_of::<T>() as u64;
        assert!(
            offset.is_multiple_of(width) && width <= self.size && offset <= self.size - width,
            "no register of this block"
        );
        core::ptr::with_exposed_provenance_mut(self.base.wrapping_add(offset as usize))
    }

    /// Reads a register of 32 bits.
    #[inline(always)]
    pub fn read(self, offset: u64) -> u32 {
        // SAFETY: the register is aligned and in the block that `at` was promised.
        unsafe { self.pointer::<u32>(offset).read_volatile() }
    }

    /// Writes a register of 32 bits.
    #[inline(always)]
    pub fn write(self, offset: u64, value: u32) {
        // SAFETY: as `read`, and by the promise of `at` it changes no memory that Rust knows of.
        unsafe { self.pointer::<u32>(offset).write_volatile(value) };
    }

    /// Writes a register that can be accessed by bytes.
    pub fn write8(self, offset: u64, value: u8) {
        // SAFETY: as `write`.
        unsafe { self.pointer::<u8>(offset).write_volatile(value) };
    }

    /// Writes a register of 64 bits.
    pub fn write64(self, offset: u64, value: u64) {
        // SAFETY: as `write`.
        unsafe { self.pointer::<u64>(offset).write_volatile(value) };
    }
}
