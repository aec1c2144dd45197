//! Registers of devices, by offset: of a GIC's distributor and a GICv2's interfaces (`arm-gic` has types for most of
//! them, but can neither write GICD_ITARGETSR and GICC_DIR nor share a distributor between pCPUs, and has no GICH).

/// A block of registers.
#[derive(Clone, Copy)]
pub struct Registers(usize);

impl Registers {
    /// The block at `address`.
    ///
    /// # Safety
    ///
    /// It is there, mapped as device memory, and only its registers' own rules say who may access it when. Its
    /// users name offsets inside it.
    pub unsafe fn at(address: u64) -> Self {
        Self(address as usize)
    }

    fn pointer<T>(self, offset: u64) -> *mut T {
        core::ptr::with_exposed_provenance_mut(self.0.wrapping_add(offset as usize))
    }

    /// Reads a register of 32 bits.
    #[inline]
    pub fn read(self, offset: u64) -> u32 {
        // SAFETY: `at` was promised the registers; device memory takes any aligned access.
        unsafe { self.pointer::<u32>(offset).read_volatile() }
    }

    /// Writes a register of 32 bits.
    #[inline]
    pub fn write(self, offset: u64, value: u32) {
        // SAFETY: as `read`; no register changes memory that Rust knows of.
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
