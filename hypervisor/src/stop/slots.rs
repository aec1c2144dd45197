//! What the pCPUs tell each other about a stop, and what is configured for it.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use hv_core::id::{MAX_PCPUS, PcpuId};
use hv_core::stop::words::{Slot, Stopper};

use crate::percpu;

/// What is done with the machine once it has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Afterwards {
    /// It stays as it is, to be looked at.
    Halt = 0,
    /// It is reset, and the next boot prints the record.
    Reset = 1,
    /// It is switched off.
    Off = 2,
}

static SLOTS: [Slot; MAX_PCPUS] = [const { Slot::new(AtomicU32::new(0)) }; MAX_PCPUS];
/// Who stops the others.
pub static STOPPER: Stopper = Stopper::new(AtomicU32::new(0));
/// How many pCPUs there are.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// What follows a crash, as [`Afterwards`].
static AFTER_CRASH: AtomicU32 = AtomicU32::new(Afterwards::Halt as u32);
static IS_OFF_WANTED: AtomicBool = AtomicBool::new(false);

/// Whether this pCPU stops the others.
pub fn is_stopper() -> bool {
    STOPPER.who() == Some(PcpuId(percpu::index()))
}

/// Says how many pCPUs there are, before any but the first runs.
pub fn set_count(pcpus: usize) {
    COUNT.store(pcpus.min(MAX_PCPUS), Ordering::Relaxed);
}

/// Says what is done with the machine after a crash; without, it halts.
pub fn set_after_crash(after: Afterwards) {
    AFTER_CRASH.store(after as u32, Ordering::Relaxed);
}

/// Says whether a pCPU that has stopped is switched off; without, it sleeps.
pub fn set_off_wanted(off: bool) {
    IS_OFF_WANTED.store(off, Ordering::Relaxed);
}

/// Whether a pCPU that has stopped is to be switched off.
pub fn is_off_wanted() -> bool {
    IS_OFF_WANTED.load(Ordering::Relaxed)
}

/// The word of a pCPU.
pub fn slot(id: PcpuId) -> &'static Slot {
    // There are no more ids than slots.
    &SLOTS[id.index() % MAX_PCPUS]
}

/// All pCPUs.
pub fn pcpus() -> impl Iterator<Item = PcpuId> {
    (0..COUNT.load(Ordering::Relaxed)).map(|index| PcpuId(index as u8))
}

/// What follows a crash.
pub fn after_crash() -> Afterwards {
    match AFTER_CRASH.load(Ordering::Relaxed) {
        reset if reset == Afterwards::Reset as u32 => Afterwards::Reset,
        off if off == Afterwards::Off as u32 => Afterwards::Off,
        _ => Afterwards::Halt,
    }
}

/// Whether it runs our code and has not parked.
pub fn is_up(id: PcpuId) -> bool {
    let state = slot(id).state();
    state.is_online() && state.parked().is_none()
}
