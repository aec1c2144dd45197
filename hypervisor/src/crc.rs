//! CRC-32 by the CPU's own instructions, where it has them.

use alloc::boxed::Box;
use core::arch::aarch64::{__crc32b, __crc32d};

use hv_bundle::{Crc32, Crc32Table};

use crate::sysregs;

/// The fastest that this pCPU has.
pub fn fastest() -> Box<dyn Crc32> {
    match Instructions::find() {
        Some(instructions) => Box::new(instructions),
        None => Box::new(Crc32Table::new()),
    }
}

/// FEAT_CRC32, which Armv8.0 may lack. It is made on a pCPU that has them, and used before another one is started.
struct Instructions(());

impl Instructions {
    fn find() -> Option<Self> {
        sysregs::has_crc32().then_some(Self(()))
    }
}

impl Crc32 for Instructions {
    fn update(&self, state: u32, bytes: &[u8]) -> u32 {
        // SAFETY: `find` made this value, so this pCPU has the instructions.
        unsafe { update(state, bytes) }
    }
}

/// CRC32X and CRC32B (DDI0487 C6.2) compute the division of `Crc32::update`, the polynomial and the bits reversed.
#[target_feature(enable = "crc")]
fn update(mut state: u32, bytes: &[u8]) -> u32 {
    // SAFETY: any eight bytes are a u64. The target's "strict-align" makes eight loads of one that is not aligned.
    let (before, words, behind) = unsafe { bytes.align_to::<u64>() };
    for &byte in before {
        state = __crc32b(state, byte);
    }
    let (lines, rest) = words.as_chunks::<8>();
    for line in lines {
        for word in line {
            state = __crc32d(state, word.to_le());
        }
    }
    for word in rest {
        state = __crc32d(state, word.to_le());
    }
    for &byte in behind {
        state = __crc32b(state, byte);
    }
    state
}
