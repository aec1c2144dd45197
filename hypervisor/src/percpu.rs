//! One block for each pCPU, found through TPIDR_EL2.

use alloc::boxed::Box;
use core::cell::Cell;

use hv_core::id::{Mpidr, PcpuId};

use crate::{memory, sysregs};

/// What a pCPU knows about itself. Shared references only: its own code runs on no other pCPU, and
/// EL2 takes no interrupts, so `Cell` is enough.
#[repr(C)]
pub struct Percpu {
    /// Top of the stack that faults are reported on; read by `vectors.S`.
    pub emergency_top: u64,
    /// Its number, in the order of the machine's devicetree.
    pub id: PcpuId,
    /// Its affinity.
    pub mpidr: Mpidr,
    /// It is reporting a crash already.
    pub is_crashing: Cell<bool>,
    /// What it did last, for a crash report.
    pub last_exits: ExitLog,
}

/// How many exits are remembered.
const EXITS: usize = 8;

/// The last exits of the guest on this pCPU.
#[derive(Default)]
pub struct ExitLog {
    entries: [Cell<ExitEntry>; EXITS],
    next: Cell<usize>,
}

/// One exit: when, the vector it came by, ESR_EL2 and the guest's pc.
#[derive(Clone, Copy, Default)]
pub struct ExitEntry {
    /// Counter ticks; 0 for an empty entry.
    pub at: u64,
    /// 0 synchronous, 1 IRQ, 2 FIQ, 3 SError.
    pub vector: u32,
    /// ESR_EL2, for a synchronous one.
    pub esr: u64,
    /// Where the guest was.
    pub pc: u64,
}

impl ExitLog {
    /// Remembers an exit.
    #[inline]
    pub fn push(&self, entry: ExitEntry) {
        let next = self.next.get();
        self.entries[next % EXITS].set(entry);
        self.next.set(next.wrapping_add(1));
    }

    /// Newest first.
    pub fn iter(&self) -> impl Iterator<Item = ExitEntry> + '_ {
        let next = self.next.get();
        (1..=EXITS)
            .map(move |back| self.entries[next.wrapping_sub(back) % EXITS].get())
            .filter(|entry| entry.at != 0)
    }
}

/// Makes the block of this pCPU.
pub fn install(id: PcpuId) -> &'static Percpu {
    let block = Box::leak(Box::new(Percpu {
        emergency_top: memory::emergency_stack_top(usize::from(id.0)),
        id,
        mpidr: sysregs::mpidr(),
        is_crashing: Cell::new(false),
        last_exits: ExitLog::default(),
    }));
    sysregs::set_percpu_address(core::ptr::from_ref(block).expose_provenance() as u64);
    block
}

/// This pCPU's block, once it has one.
pub fn this() -> Option<&'static Percpu> {
    let block = core::ptr::with_exposed_provenance::<Percpu>(sysregs::percpu_address() as usize);
    // SAFETY: TPIDR_EL2 is zero or what `install` put there on this pCPU: a leaked, initialised block.
    unsafe { block.as_ref() }
}

/// This pCPU's number; 0 before it has a block.
pub fn index() -> u8 {
    this().map_or(0, |percpu| percpu.id.0)
}
