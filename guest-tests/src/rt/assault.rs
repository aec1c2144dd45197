//! Instructions that may do anything, each executed once with registers of its own, by a CPU that is back afterwards.
//!
//! A CPU that does so lives in a sandbox meanwhile: its tables show it its own [`Block`], and all that is not the guest's
//! RAM: devices, what is beside the RAM, the hypervisor's memory. So it can harm itself alone, or be lost until the next
//! reset, as with vectors that are nowhere; whoever lies below it must not care.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use super::machine::machine;
use super::mmio::Region;
use super::{start, sysreg};

/// Instructions that are executed one after the other: as many as a stack has room for.
pub const BATCH: usize = 32;
/// CPUs that can have a block.
pub const BLOCKS: usize = 8;

const PAGE: usize = 4096;
/// What a vector cannot be: the instruction went through.
const COMPLETED: u64 = 0x7f;

/// What the code finds in its block, behind its own page and that of the instructions.
#[repr(C)]
struct Data {
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

#[repr(C, align(65536))]
struct Block {
    code: UnsafeCell<[u8; PAGE]>,
    slots: [AtomicU64; PAGE / 8],
    data: Data,
    _rest: [u8; PAGE - size_of::<Data>()],
    inputs: [Image; BATCH],
    outputs: [Image; BATCH],
    scratch: [AtomicU64; PAGE / 8],
    tables: [[AtomicU64; 512]; 3],
}

// SAFETY: the code is written before anybody executes it, by the CPU whose block it is; the rest is atomic.
unsafe impl Sync for Block {}

/// Not initialised but for its zeros: atomics and bytes.
static BLOCKS_: [Block; BLOCKS] = [const {
    Block {
        code: UnsafeCell::new([0; PAGE]),
        slots: [const { AtomicU64::new(0) }; PAGE / 8],
        data: Data {
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
        tables: [const { [const { AtomicU64::new(0) }; 512] }; 3],
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
    slots_back = const (offset_of!(Block, data) - offset_of!(Block, slots)) / PAGE,
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
    /// Nothing: the batch was left before its turn, or began again behind it.
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

/// The block of CPU `index`.
pub struct Sandbox(&'static Block);

impl Sandbox {
    /// Makes the block of this CPU, which is no other's.
    pub fn new(index: usize) -> Self {
        let block = &BLOCKS_[index % BLOCKS];
        let begin = &raw const assault_begin;
        let size = &raw const assault_end as usize - begin as usize;
        assert!(size <= PAGE, "the code takes {size} bytes");
        // SAFETY: the code is its own, and fits into the page, which nobody executes yet.
        unsafe { core::ptr::copy_nonoverlapping(begin, block.code.get().cast(), size) };
        let sandbox = Self(block);
        sandbox.make_visible(block.code.get() as u64);
        sandbox.fill_tables();
        sandbox
    }

    /// Where things are in it.
    pub fn places(&self) -> Places {
        Places {
            scratch: self.0.scratch.as_ptr() as u64,
            handler: self.of(&raw const assault_handler),
            park: self.of(&raw const assault_park),
        }
    }

    /// Of a symbol of the code, its copy.
    fn of(&self, symbol: *const u8) -> u64 {
        self.0.code.get() as u64 + (symbol as u64 - &raw const assault_begin as u64)
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
        const BLOCK: u64 = 0x401; // access flag, device
        const NORMAL: u64 = 0x705; // access flag, inner shareable, write-back
        const TABLE: u64 = 0b11;
        const READ_ONLY_FOR_ALL: u64 = 0b11 << 6;
        const XN: u64 = 3 << 53;
        let [first, second, third] = &self.0.tables;
        let base = self.0.code.get() as u64;
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
                n << 30 | BLOCK
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
                0 | 1 if at >= base => READ_ONLY_FOR_ALL,
                page if at >= base && page < offset_of!(Block, tables) / PAGE => XN,
                _ => {
                    entry.store(0, Ordering::Relaxed);
                    continue;
                }
            };
            entry.store(at | NORMAL | kind | 0b11, Ordering::Relaxed);
        }
        sysreg::store_barrier();
    }

    /// Lets this CPU execute `steps`, the first [`BATCH`] of them, one after the other.
    pub fn execute<'a>(&self, steps: impl Iterator<Item = &'a Step>) {
        /// SVC #0.
        const SVC: u32 = 0xd400_0001;
        let block = self.0;
        let mut count = 0;
        for (n, step) in steps.enumerate().take(BATCH) {
            let slot = block.slots[n].as_ptr() as u64;
            let way = self.of(&raw const assault_done).wrapping_sub(slot + 4);
            let branch = 0x1400_0000 | (way >> 2) as u32 & 0x3ff_ffff;
            let next = if step.pstate & 0xf == 0 { SVC } else { branch };
            block.slots[n].store(
                u64::from(step.word) | u64::from(next) << 32,
                Ordering::Relaxed,
            );
            for (place, value) in block.inputs[n].iter().zip(step.x) {
                place.store(value, Ordering::Relaxed);
            }
            let flat = u64::from(step.is_flat) << 63;
            block.inputs[n][31].store(flat | u64::from(step.pstate), Ordering::Relaxed);
            block.outputs[n][31].store(0, Ordering::Relaxed);
            count += 1;
        }
        block.data.count.store(count, Ordering::Relaxed);
        self.make_visible(block.slots.as_ptr() as u64);
        let run = self.of(&raw const assault_run);
        // SAFETY: the code keeps the registers that C's convention wants kept, this CPU's translation and vectors among
        // them. While others stand there, what is executed reaches nothing of Rust's: the tables do not show it, and
        // `tests::assault` lets no instruction access memory without them.
        unsafe {
            asm!("blr {run}", run = in(reg) run, clobber_abi("C"));
        }
    }

    /// What came of step `n`.
    pub fn outcome(&self, n: usize) -> Outcome {
        let status = self.0.outputs[n][31].load(Ordering::Relaxed);
        match status >> 56 {
            _ if status == 0 => Outcome::Unknown,
            COMPLETED => Outcome::Done,
            _ => Outcome::Fault,
        }
    }

    /// x0 to x30 behind it.
    pub fn registers(&self, n: usize) -> [u64; 31] {
        core::array::from_fn(|x| self.0.outputs[n][x].load(Ordering::Relaxed))
    }
}

fn overlap(one: &Region, other: &Region) -> bool {
    one.base < other.end() && other.base < one.end()
}
