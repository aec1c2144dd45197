//! Where the instructions of a sandbox are: RAM that nothing of Rust's is in, a page for each batch.
//!
//! A page is written once for as long as there are others. An emulator translates each instruction anew, and to write over
//! one that it has translated costs it more than to execute it.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{BATCH, BLOCKS, PAGE};
use crate::rt::machine::machine;
use crate::rt::mmio::Region;

unsafe extern "C" {
    static __image_end: u8;
}

/// Distance from the image: behind what survives a reset (`rt::survivor`).
const DISTANCE: u64 = 16 << 20;
/// Of all blocks together: a slot branches to its block's code, which is within 128 MiB (DDI0487 C6.2, B).
const MOST: u64 = 96 << 20;
/// What one entry of a second-level table maps (DDI0487 D8.3.1).
const UNIT: u64 = 2 << 20;

/// The slots of one CPU.
pub struct Slots {
    /// All of them.
    region: Region,
    /// Pages that have been begun.
    pages: u64,
}

impl Slots {
    /// Those of CPU `index`, which is not the first, of which `pages` pages have been used.
    pub fn new(index: usize, pages: u64) -> Self {
        let image_end = &raw const __image_end as u64;
        let base = (image_end + DISTANCE).next_multiple_of(UNIT);
        let all = (machine().home().end() - base).min(MOST);
        let others = BLOCKS as u64 - 1;
        let size = all / others / UNIT * UNIT;
        assert!(size > 0, "no RAM behind {base:#x}");
        assert!(index > 0, "CPU 0 stays sane");
        Self {
            region: Region {
                base: base + (index as u64 - 1) % others * size,
                size,
            },
            pages,
        }
    }

    /// Pages that have been begun.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Goes on to the next page; behind the last one, to the first.
    pub fn turn_page(&mut self) {
        self.pages += 1;
    }

    /// Where slot `n` of the page is.
    pub fn address(&self, n: usize) -> u64 {
        let all = self.region.size / PAGE as u64;
        self.region.base + self.pages % all * PAGE as u64 + 8 * (n % BATCH) as u64
    }

    /// Writes two instructions into slot `n`.
    pub fn write(&self, n: usize, words: [u32; 2]) {
        let place = self.address(n) as *mut AtomicU64;
        // SAFETY: an aligned doubleword of RAM that is this CPU's alone and that nothing else of Rust's is in.
        let place = unsafe { &*place };
        let [first, second] = words.map(u64::from);
        place.store(first | second << 32, Ordering::Relaxed);
    }
}
