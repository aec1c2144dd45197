//! Excursions to EL0, for what a guest's user programs may and may not do.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::TABLE;
use super::exception::Frame;
use super::probe::flush_translations;

global_asm!(include_str!("user.S"));

unsafe extern "C" {
    fn user_enter(entry: u64, spsr: u64);
    fn user_return();
    fn user_smc();
    fn user_hvc();
    fn user_svc();
    fn user_spin();
}

/// What to do at EL0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// `SMC #0`
    Smc,
    /// `HVC #0`
    Hvc,
    /// `SVC #0`
    Svc,
    /// A branch to itself, until an event resumes at [`way_back`].
    Spin,
}

/// The gigabyte under which EL0 sees the image.
const ALIAS: u64 = 510;
/// EL1h with DAIF masked, as in the runtime.
const EL1H_MASKED: u64 = 0x3c5;
/// EL0t with D, A and F masked, interrupts open.
const EL0T: u64 = 0x340;
/// The syndrome of the exception that ended the errand.
static SYNDROME: AtomicU64 = AtomicU64::new(0);

/// Goes to EL0 for `errand`, and returns the syndrome of the exception it ended in: 0 when it was none.
pub fn run(errand: Errand) -> u64 {
    let code = match errand {
        Errand::Smc => user_smc as *const () as u64,
        Errand::Hvc => user_hvc as *const () as u64,
        Errand::Svc => user_svc as *const () as u64,
        Errand::Spin => user_spin as *const () as u64,
    };
    SYNDROME.store(0, Ordering::SeqCst);
    let (gigabyte, offset) = (code >> 30, code & 0x3fff_ffff);
    let block = TABLE.0[gigabyte as usize].load(Ordering::SeqCst);
    // AP[1]: EL0 may read and write, and so EL1 may not execute (DDI0487 D8.4.1).
    TABLE.0[ALIAS as usize].store(block | 1 << 6, Ordering::SeqCst);
    flush_translations();
    // SAFETY: the code at EL0 touches no memory; `user_return` comes back with this stack and the
    // registers that the calling convention keeps.
    unsafe { user_enter(ALIAS << 30 | offset, EL0T) };
    SYNDROME.load(Ordering::SeqCst)
}

/// Where an EL0 loop spins, as EL0 sees it.
pub fn spin_here() -> u64 {
    ALIAS << 30 | user_spin as *const () as u64 & 0x3fff_ffff
}

/// Where EL1 goes on after an errand.
pub fn way_back() -> u64 {
    user_return as *const () as u64
}

/// A synchronous exception from EL0 ends the errand.
pub(super) fn come_back(frame: &mut Frame) {
    SYNDROME.store(frame.esr, Ordering::SeqCst);
    frame.elr = way_back();
    frame.spsr = EL1H_MASKED;
}
