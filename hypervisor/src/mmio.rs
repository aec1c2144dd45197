//! Registers of a GIC, by type: which block they are in, how wide they are, whether they are read or written. `arm-gic` has
//! types for most of them, but can neither write GICD_ITARGETSR and GICC_DIR nor share a distributor between pCPUs, which
//! `safe-mmio`'s pointers are not for, and has no GICH. Other devices have blocks of `safe-mmio` (`hv-drivers`).

use core::marker::PhantomData;

/// A block of registers.
pub trait Layout {
    /// Its size in bytes.
    const SIZE: u64;
}

/// Access to a register that is only read.
pub enum ReadOnly {}
/// Access to a register that is only written.
pub enum WriteOnly {}
/// Access to a register that is read and written.
pub enum ReadWrite {}

/// Access that includes reads.
pub trait Readable {}
impl Readable for ReadOnly {}
impl Readable for ReadWrite {}

/// Access that includes writes.
pub trait Writable {}
impl Writable for WriteOnly {}
impl Writable for ReadWrite {}

/// A type that something is of without holding one.
type Of<T> = PhantomData<fn() -> T>;

/// A register of type `T` in the block `L`.
pub struct Register<L, T, A> {
    offset: u64,
    kind: Of<(L, T, A)>,
}

impl<L: Layout, T, A> Register<L, T, A> {
    /// The one at `offset`. In a constant, one that is not in the block does not compile.
    pub const fn at(offset: u64) -> Self {
        let width = size_of::<T>() as u64;
        assert!(
            offset.is_multiple_of(width) && width <= L::SIZE && offset <= L::SIZE - width,
            "no register of this block"
        );
        Self {
            offset,
            kind: PhantomData,
        }
    }
}

/// A row of registers, one behind the other.
pub struct Bank<L, T, A> {
    first: u64,
    count: u64,
    kind: Of<(L, T, A)>,
}

impl<L: Layout, T, A> Bank<L, T, A> {
    /// `count` registers, at least one, from `first` on.
    pub const fn at(first: u64, count: u64) -> Self {
        let last = first + (count - 1) * size_of::<T>() as u64;
        let _ = Register::<L, T, A>::at(first);
        let _ = Register::<L, T, A>::at(last);
        Self {
            first,
            count,
            kind: PhantomData,
        }
    }

    /// Register `index` of the row.
    #[inline(always)]
    pub fn get(self, index: u32) -> Register<L, T, A> {
        let index = u64::from(index);
        assert!(index < self.count, "no register of this row");
        Register {
            offset: self.first + index * size_of::<T>() as u64,
            kind: PhantomData,
        }
    }
}

/// Where a block is.
pub struct Block<L> {
    base: usize,
    layout: Of<L>,
}

impl<L> Clone for Block<L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L> Copy for Block<L> {}

impl<L: Layout> Block<L> {
    /// The block at `address`.
    ///
    /// # Safety
    ///
    /// It is there, as large as its layout says, aligned to 8 bytes, and mapped as device memory for good. Any access to
    /// it is no more than an access to a device: none changes memory that Rust knows of.
    #[inline(always)]
    pub const unsafe fn at(address: u64) -> Self {
        Self {
            base: address as usize,
            layout: PhantomData,
        }
    }

    #[inline(always)]
    fn pointer<T, A>(self, register: Register<L, T, A>) -> *mut T {
        core::ptr::with_exposed_provenance_mut(self.base.wrapping_add(register.offset as usize))
    }

    /// Reads a register.
    #[inline(always)]
    pub fn read<T: Word, A: Readable>(self, register: Register<L, T, A>) -> T {
        // SAFETY: a register is aligned and in its block, which `at` was promised.
        unsafe { self.pointer(register).read_volatile() }
    }

    /// Writes a register.
    #[inline(always)]
    pub fn write<T: Word, A: Writable>(self, register: Register<L, T, A>, value: T) {
        // SAFETY: as `read`, and by the promise of `at` it changes no memory that Rust knows of.
        unsafe { self.pointer(register).write_volatile(value) };
    }
}

/// What a register can hold: any bits are one.
pub trait Word: Copy {}
impl Word for u8 {}
impl Word for u32 {}
impl Word for u64 {}
