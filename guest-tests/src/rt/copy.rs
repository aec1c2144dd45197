//! The hypervisor's `memcpy` and `memset` under other names: the same assembly, where it can be watched.

use core::arch::global_asm;

global_asm!(
    include_str!("../../../hypervisor/src/copy.S"),
    ".text",
    "copy_functions tested_copy, tested_fill",
);

unsafe extern "C" {
    fn tested_copy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8;
    fn tested_fill(to: *mut u8, byte: i32, bytes: usize) -> *mut u8;
}

/// Copies all of `from` to the beginning of `to`, which must be as long; whether the answer is where `to` begins.
pub fn copy(to: &mut [u8], from: &[u8]) -> bool {
    assert!(from.len() <= to.len());
    let begin = to.as_mut_ptr();
    // SAFETY: both are as long as that, and do not overlap.
    begin == unsafe { tested_copy(begin, from.as_ptr(), from.len()) }
}

/// Fills `to` with the lowest eight bits of `word`; whether the answer is where it begins.
pub fn fill(to: &mut [u8], word: i32) -> bool {
    let begin = to.as_mut_ptr();
    // SAFETY: it is that long.
    begin == unsafe { tested_fill(begin, word, to.len()) }
}
