//! What the pCPUs tell each other about a stop, and what is configured for it.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use hv_core::id::{MAX_PCPUS, PcpuId};
use hv_core::stop::words::{Slot, Stopper};

use crate::{log, percpu};

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

/// A word of the hypervisor's own command line. `crash=halt`, the default, and `crash=reset`: what is done with
/// the machine after a crash. `stop=park`, the default, and `stop=off`: what is done with a pCPU that has stopped.
#[inline(never)]
pub fn configure(word: &[u8]) {
    match word {
        b"crash=halt" => AFTER_CRASH.store(Afterwards::Halt as u32, Ordering::Relaxed),
        b"crash=reset" => AFTER_CRASH.store(Afterwards::Reset as u32, Ordering::Relaxed),
        b"stop=park" => IS_OFF_WANTED.store(false, Ordering::Relaxed),
        b"stop=off" => IS_OFF_WANTED.store(true, Ordering::Relaxed),
        _ if word.starts_with(b"crash=") || word.starts_with(b"stop=") => {
            log!("crash= is halt or reset, stop= is park or off");
        }
        _ => {}
    }
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
