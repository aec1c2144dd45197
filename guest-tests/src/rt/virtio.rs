//! Memory that a device reads and writes: a part of this image, at the same addresses for both.

use core::cell::UnsafeCell;

/// Bytes of it.
pub const SIZE: u64 = 0x1_0000;

#[repr(C, align(4096))]
struct Shared(UnsafeCell<[u8; SIZE as usize]>);

// SAFETY: all accesses are volatile, and no reference to what is within is ever made.
unsafe impl Sync for Shared {}

static SHARED: Shared = Shared(UnsafeCell::new([0; SIZE as usize]));

/// The address of what is at `offset`.
pub fn address(offset: u64) -> u64 {
    assert!(offset < SIZE, "{offset:#x} is outside");
    SHARED.0.get() as u64 + offset
}

/// Reads a value at `offset`.
pub fn load<T: Number>(offset: u64) -> T {
    let from = place::<T>(offset);
    // SAFETY: `place` finds it within the memory, and aligned; any bits are a number.
    unsafe { from.read_volatile() }
}

/// Writes a value at `offset`.
pub fn store<T: Number>(offset: u64, value: T) {
    let to = place::<T>(offset);
    // SAFETY: as in `load`; nobody has a reference to it.
    unsafe { to.write_volatile(value) };
}

fn place<T: Number>(offset: u64) -> *mut T {
    let size = size_of::<T>() as u64;
    let fits = offset.is_multiple_of(size) && offset + size <= SIZE;
    assert!(fits, "{offset:#x} is outside");
    SHARED
        .0
        .get()
        .cast::<u8>()
        .wrapping_add(offset as usize)
        .cast()
}

/// What may be in memory that a device writes: any bits are one.
pub trait Number: Copy {}
impl Number for u8 {}
impl Number for u16 {}
impl Number for u32 {}
impl Number for u64 {}
