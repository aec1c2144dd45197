//! Instructions that may do anything, each executed once with registers of its own, by a CPU that is back afterwards.
//!
//! A CPU that does so lives in a sandbox meanwhile: its tables show it its own [`Block`], and all that is not the guest's
//! RAM: devices, what is beside the RAM, the hypervisor's memory. So it can harm itself alone, or be lost until the next
//! reset, as with vectors that are nowhere; whoever lies below it must not care.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

mod slots;

use super::machine::machine;
use super::mmio::Region;
use super::{start, sysreg};
use slots::Slots;

/// Instructions that are written at once: a page of slots.
pub const BATCH: usize = PAGE / 8;
/// CPUs that can have a block.
pub const BLOCKS: usize = 4;

const PAGE: usize = 4096;
/// What a vector cannot be: the instruction went through.
const COMPLETED: u64 = 0x7f;
/// Nor this: an event was taken, and nobody knows of the instruction.
const INTERRUPTED: u64 = 0x7e;

// Descriptors of stage 1 (DDI0487 D8.3).
/// Access flag, device; a block.
const DEVICE: u64 = 0x401;
/// Access flag, inner shareable, write-back; a block.
const NORMAL: u64 = 0x705;
/// The same, read-only at EL1 and EL0.
const CODE: u64 = NORMAL | 0b11 << 6;
/// Never executed.
const XN: u64 = 3 << 53;
/// The next level's table, or of the last level a page.
const TABLE: u64 = 0b11;
const PAGE_DESCRIPTOR: u64 = 0b11;

/// What the code finds in its block, behind its own page.
#[repr(C)]
struct Data {
    slots: AtomicU64,
    index: AtomicU64,
    count: AtomicU64,
    temporary: [AtomicU64; 2],
    saved: [AtomicU64; 12],
    stack: AtomicU64,
    ttbr0: AtomicU64,
    vbar: AtomicU64,
    tpidr: AtomicU64,
    owner: AtomicU64,
}

/// Registers of one instruction: x0 to x30, and how it is executed or what came of it.
type Image = [AtomicU64; 32];

/// Within one entry of a second-level table.
#[repr(C, align(0x80000))]
struct Block {
    code: UnsafeCell<[u8; PAGE]>,
    data: Data,
    _rest: [u8; PAGE - size_of::<Data>()],
    inputs: [Image; BATCH],
    outputs: [Image; BATCH],
    scratch: [AtomicU64; PAGE / 8],
    tables: [[AtomicU64; 512]; 4],
}

// SAFETY: the code is written before anybody executes it, by the CPU whose block it is; the rest is atomic.
unsafe impl Sync for Block {}

/// Not initialised but for its zeros: atomics and bytes.
static BLOCKS_: [Block; BLOCKS] = [const {
    Block {
        code: UnsafeCell::new([0; PAGE]),
        data: Data {
            slots: AtomicU64::new(0),
            index: AtomicU64::new(0),
            count: AtomicU64::new(0),
            temporary: [const { AtomicU64::new(0) }; 2],
            saved: [const { AtomicU64::new(0) }; 12],
            stack: AtomicU64::new(0),
            ttbr0: AtomicU64::new(0),
            vbar: AtomicU64::new(0),
            tpidr: AtomicU64::new(0),
            owner: AtomicU64::new(0),
        },
        _rest: [0; PAGE - size_of::<Data>()],
        inputs: [const { [const { AtomicU64::new(0) }; 32] }; BATCH],
        outputs: [const { [const { AtomicU64::new(0) }; 32] }; BATCH],
        scratch: [const { AtomicU64::new(0) }; PAGE / 8],
        tables: [const { [const { AtomicU64::new(0) }; 512] }; 4],
    }
}; BLOCKS];

const PE_MASK: u32 = hv_abi::sdei::Call::PeMask as u32;
const RESUME: u32 = hv_abi::sdei::Call::EventCompleteAndResume as u32;

global_asm!(
    include_str!("assault.S"),
    data = const offset_of!(Block, data),
    tables = const offset_of!(Block, tables),
    inputs = const (offset_of!(Block, inputs) - offset_of!(Block, data)) / PAGE,
    outputs = const (offset_of!(Block, outputs) - offset_of!(Block, data)) / PAGE,
    slots = const offset_of!(Data, slots),
    index = const offset_of!(Data, index),
    count = const offset_of!(Data, count),
    temporary = const offset_of!(Data, temporary),
    saved = const offset_of!(Data, saved),
    stack = const offset_of!(Data, stack),
    ttbr0 = const offset_of!(Data, ttbr0),
    vbar = const offset_of!(Data, vbar),
    tpidr = const offset_of!(Data, tpidr),
    owner = const offset_of!(Data, owner),
    completed = const COMPLETED,
    interrupted = const INTERRUPTED,
    cpacr_16 = const 3 << 4,
    tcr_0 = const start::TCR_EL1 & 0xffff,
    tcr_16 = const start::TCR_EL1 >> 16 & 0xffff,
    tcr_32 = const start::TCR_EL1 >> 32,
    sctlr_0 = const start::SCTLR_EL1 & 0xffff,
    sctlr_16 = const start::SCTLR_EL1 >> 16,
    pe_mask_0 = const PE_MASK & 0xffff,
    pe_mask_16 = const PE_MASK >> 16,
    resume_0 = const RESUME & 0xffff,
    resume_16 = const RESUME >> 16,
    cpu_off_0 = const hv_abi::psci::CPU_OFF & 0xffff,
    cpu_off_16 = const hv_abi::psci::CPU_OFF >> 16,
);

unsafe extern "C" {
    static assault_begin: u8;
    static assault_end: u8;
    static assault_done: u8;
    static assault_run: u8;
    static assault_handler: u8;
    static assault_park: u8;
}

/// One instruction, and all that it finds.
#[derive(Clone, Copy)]
pub struct Step {
    /// The instruction.
    pub word: u32,
    /// x0 to x30; x29 is SP_EL1, too.
    pub x: [u64; 31],
    /// PSTATE, in SPSR's form. At EL0 an SVC follows the instruction.
    pub pstate: u32,
    /// Stage 1 is off.
    pub is_flat: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// Nobody knows: the batch was left before its turn, or an event came.
    Unknown,
    /// It went through.
    Done,
    /// An exception to EL1.
    Fault,
}

/// Where things of a block are, for who makes up registers.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// A page that may be read and written.
    pub scratch: u64,
    /// A handler of events that is whole.
    pub handler: u64,
    /// Code that switches its CPU off, with the MMU on or off.
    pub park: u64,
}

/// The block of a CPU, and where its instructions are.
pub struct Sandbox {
    block: &'static Block,
    slots: Slots,
}

impl Sandbox {
    /// Makes the block of this CPU, which is no other's, with the instructions from page `page` of its slots on.
    pub fn new(index: usize, page: u64) -> Self {
        let block = &BLOCKS_[index % BLOCKS];
        let begin = &raw const assault_begin;
        let size = &raw const assault_end as usize - begin as usize;
        assert!(size <= PAGE, "the code takes {size} bytes");
        // SAFETY: the code is its own, and fits into the page, which nobody executes yet.
        unsafe { core::ptr::copy_nonoverlapping(begin, block.code.get().cast(), size) };
        let sandbox = Self {
            block,
            slots: Slots::new(index, page),
        };
        sandbox.make_visible(block.code.get() as u64);
        sandbox.fill_tables();
        sandbox
    }

    /// Where things are in it.
    pub fn places(&self) -> Places {
        Places {
            scratch: self.block.scratch.as_ptr() as u64,
            handler: self.of(&raw const assault_handler),
            park: self.of(&raw const assault_park),
        }
    }

    /// Of a symbol of the code, its copy.
    fn of(&self, symbol: *const u8) -> u64 {
        self.block.code.get() as u64 + (symbol as u64 - &raw const assault_begin as u64)
    }

    fn make_visible(&self, page: u64) {
        for line in (page..page + PAGE as u64).step_by(16) {
            // SAFETY: maintenance of a page of our own (DDI0487 B2.4.4).
            unsafe {
                asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", in(reg) line, options(nostack))
            };
        }
        // SAFETY: barriers.
        unsafe { asm!("dsb ish", "isb", options(nostack)) };
    }

    /// All but the guest's RAM at its own address, and of that the block. Descriptors: DDI0487 D8.3.1.
    fn fill_tables(&self) {
        let [first, second, third, _] = &self.block.tables;
        let base = self.block.code.get() as u64;
        let own = base >> 30;
        let is_ram = |place: &Region| {
            machine()
                .memory
                .iter()
                .flatten()
                .any(|ram| overlap(ram, place))
        };
        for (n, entry) in (0..).zip(first) {
            let place = Region {
                base: n << 30,
                size: 1 << 30,
            };
            let value = if n == own {
                second.as_ptr() as u64 | TABLE
            } else if is_ram(&place) {
                0
            } else {
                n << 30 | DEVICE
            };
            entry.store(value, Ordering::Relaxed);
        }
        for (n, entry) in (0..).zip(second) {
            let at = own << 30 | n << 21;
            let place = Region {
                base: at,
                size: 1 << 21,
            };
            let value = if at == base >> 21 << 21 {
                third.as_ptr() as u64 | TABLE
            } else if is_ram(&place) {
                0
            } else {
                at | NORMAL
            };
            entry.store(value, Ordering::Relaxed);
        }
        for (n, entry) in (0..).zip(third) {
            let at = base >> 21 << 21 | n << 12;
            let kind = match (at.wrapping_sub(base) as usize) / PAGE {
                0 if at >= base => CODE,
                page if at >= base && page < offset_of!(Block, tables) / PAGE => XN,
                _ => {
                    entry.store(0, Ordering::Relaxed);
                    continue;
                }
            };
            entry.store(at | NORMAL | kind | PAGE_DESCRIPTOR, Ordering::Relaxed);
        }
        sysreg::store_barrier();
    }

    /// Writes `steps`, the first [`BATCH`] of them, into the next page of slots, which is all of them that the tables show.
    pub fn write(&mut self, steps: impl Iterator<Item = Step>) {
        self.show_slots(0);
        self.slots.turn_page();
        self.show_slots(self.slots.address(0) | CODE | PAGE_DESCRIPTOR);
        let back = self.of(&raw const assault_done);
        let block = self.block;
        for (n, step) in steps.enumerate().take(BATCH) {
            let way = back.wrapping_sub(self.slots.address(n) + 4);
            let branch = 0x1400_0000 | (way >> 2) as u32 & 0x3ff_ffff;
            let next = match step.pstate & 0x3f {
                0x10..0x20 => 0xef00_0000, // SVC #0 of A32
                0x30.. => 0xdf00_df00,     // of T32, twice
                0 => 0xd400_0001,          // of A64
                _ => branch,
            };
            self.slots.write(n, [step.word, next]);
            for (place, value) in block.inputs[n].iter().zip(step.x) {
                place.store(value, Ordering::Relaxed);
            }
            let flat = u64::from(step.is_flat) << 63;
            block.inputs[n][31].store(flat | u64::from(step.pstate), Ordering::Relaxed);
            block.outputs[n][31].store(0, Ordering::Relaxed);
        }
        let slots = self.slots.address(0);
        block.data.slots.store(slots, Ordering::Relaxed);
        self.make_visible(slots);
    }

    /// Has the tables map the page of slots so; what is remembered of them is forgotten before anything is executed.
    fn show_slots(&self, descriptor: u64) {
        let page = self.slots.address(0);
        let [_, second, _, fourth] = &self.block.tables;
        fourth[(page >> 12) as usize % 512].store(descriptor, Ordering::Relaxed);
        let value = fourth.as_ptr() as u64 | TABLE;
        second[(page >> 21) as usize % 512]
            .store(if descriptor == 0 { 0 } else { value }, Ordering::Relaxed);
    }

    /// Lets this CPU execute what was written, from step `first` to `end`, one after the other.
    pub fn execute(&self, first: usize, end: usize) {
        let data = &self.block.data;
        data.index.store(first as u64, Ordering::Relaxed);
        data.count.store(end as u64, Ordering::Relaxed);
        let run = self.of(&raw const assault_run);
        // SAFETY: the code keeps the registers that C's convention wants kept, this CPU's translation and vectors among
        // them. While others stand there, what is executed reaches nothing of Rust's: the tables do not show it, and
        // `tests::assault` lets no instruction access memory without them.
        unsafe {
            asm!("blr {run}", run = in(reg) run, clobber_abi("C"));
        }
    }

    /// The tables, for who rewrites them under another's feet; and of each level an entry that the CPU lives by.
    pub fn tables(index: usize) -> [(&'static [AtomicU64; 512], usize); 4] {
        let block = &BLOCKS_[index % BLOCKS];
        let [first, second, third, fourth] = &block.tables;
        let base = block.code.get() as u64;
        let slots = block.data.slots.load(Ordering::Relaxed);
        [
            (first, (base >> 30) as usize % 512),
            (second, (base >> 21) as usize % 512),
            (third, (base >> 12) as usize % 512),
            (fourth, (slots >> 12) as usize % 512),
        ]
    }

    /// Pages of slots that have been written so far, those of earlier lives included.
    pub fn pages(&self) -> u64 {
        self.slots.pages()
    }

    /// x0 to x30 in front of step `n`.
    pub fn given(&self, n: usize) -> [u64; 31] {
        core::array::from_fn(|x| self.block.inputs[n][x].load(Ordering::Relaxed))
    }

    /// What came of step `n`.
    pub fn outcome(&self, n: usize) -> Outcome {
        let status = self.block.outputs[n][31].load(Ordering::Relaxed);
        match status >> 56 {
            0 | INTERRUPTED => Outcome::Unknown,
            COMPLETED => Outcome::Done,
            _ => Outcome::Fault,
        }
    }

    /// x0 to x30 behind it.
    pub fn registers(&self, n: usize) -> [u64; 31] {
        core::array::from_fn(|x| self.block.outputs[n][x].load(Ordering::Relaxed))
    }
}

fn overlap(one: &Region, other: &Region) -> bool {
    one.base < other.end() && other.base < one.end()
}
