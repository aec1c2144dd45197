//! Excursions to EL0, for what a guest's user programs may and may not do.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::exception::Frame;
use super::sysreg;
use super::table::{TABLE, flush_translations};

global_asm!(include_str!("user.S"));

unsafe extern "C" {
    fn user_enter(entry: u64, spsr: u64, number: u64);
    fn user_return();
    fn user_smc();
    fn user_hvc();
    fn user_svc();
    fn user_spin();
    fn user_count();
    fn user_spin_a32();
    fn user_count_t32();
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
    /// The same, in A32.
    SpinA32,
    /// Counts so far, with an IT block in each turn, in T32: [`results`] has the count, and one less.
    CountT32(u32),
    /// Counts a turn of two instructions, and takes a software step exception after each of so many.
    Step(u64),
}

/// The gigabyte under which EL0 sees the image.
const ALIAS: u64 = 510;
/// EL1h with DAIF masked, as in the runtime.
const EL1H_MASKED: u64 = 0x3c5;
/// EL0t with D, A and F masked, interrupts open.
const EL0T: u64 = 0x340;
/// AArch32 User mode with A and F masked, interrupts open; bit 5 is T (DDI0487 C5.2.19, SPSR_EL1).
const USER_A32: u64 = 0x150;
const USER_T32: u64 = USER_A32 | 1 << 5;
/// SPSR and MDSCR_EL1: software step (DDI0487 D2.11).
const SPSR_SS: u64 = 1 << 21;
const MDSCR_SS: u64 = 1 << 0;
/// The class of a software step exception from a lower level.
const SOFTWARE_STEP: u64 = 0x32;
/// The syndrome of the exception that ended the errand.
static SYNDROME: AtomicU64 = AtomicU64::new(0);
/// x1 and x2 at that time.
static RESULTS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// Steps that are still to be taken.
static STEPS: AtomicU64 = AtomicU64::new(0);

/// The gigabyte for AArch32, in which there is neither RAM nor a device: the fourth, or the third where memory
/// begins at 0 and devices are in the fourth.
fn alias_32() -> u64 {
    if user_spin_a32 as *const () as u64 >> 30 == 0 {
        2
    } else {
        3
    }
}

/// Goes to EL0 for `errand`, and returns the syndrome of the exception it ended in: 0 when it was none.
pub fn run(errand: Errand) -> u64 {
    let alias_32 = alias_32();
    let (code, alias, spsr, number) = match errand {
        Errand::Smc => (user_smc as *const () as u64, ALIAS, EL0T, 0),
        Errand::Hvc => (user_hvc as *const () as u64, ALIAS, EL0T, 0),
        Errand::Svc => (user_svc as *const () as u64, ALIAS, EL0T, 0),
        Errand::Spin => (user_spin as *const () as u64, ALIAS, EL0T, 0),
        Errand::SpinA32 => (user_spin_a32 as *const () as u64, alias_32, USER_A32, 0),
        Errand::CountT32(count) => {
            let code = user_count_t32 as *const () as u64;
            (code, alias_32, USER_T32, u64::from(count))
        }
        Errand::Step(_) => (user_count as *const () as u64, ALIAS, EL0T | SPSR_SS, 0),
    };
    SYNDROME.store(0, Ordering::SeqCst);
    let (gigabyte, offset) = (code >> 30, code & 0x3fff_ffff);
    let block = TABLE.0[gigabyte as usize].load(Ordering::SeqCst);
    // AP[1]: EL0 may read and write, and so EL1 may not execute (DDI0487 D8.4.1).
    let before = TABLE.0[alias as usize].swap(block | 1 << 6, Ordering::SeqCst);
    flush_translations();
    if let Errand::Step(steps) = errand {
        STEPS.store(steps, Ordering::SeqCst);
        set_stepping(true);
    }
    // SAFETY: the code at EL0 touches no memory; `user_return` comes back with this stack and the
    // registers that the calling convention keeps.
    unsafe { user_enter(alias << 30 | offset, spsr, number) };
    set_stepping(false);
    TABLE.0[alias as usize].store(before, Ordering::SeqCst);
    flush_translations();
    SYNDROME.load(Ordering::SeqCst)
}

/// What the program had in x1 and x2 when an exception ended it.
pub fn results() -> [u64; 2] {
    RESULTS.each_ref().map(|cell| cell.load(Ordering::SeqCst))
}

/// Whether EL0 can be AArch32 (ID_AA64PFR0_EL1.EL0).
pub fn has_aarch32() -> bool {
    sysreg::read!("id_aa64pfr0_el1") & 0xf == 2
}

/// Lets EL0 be stepped, with the OS lock open.
fn set_stepping(on: bool) {
    sysreg::write!("oslar_el1", 0);
    sysreg::write!("mdscr_el1", if on { MDSCR_SS } else { 0 });
    sysreg::isb();
}

/// Where an EL0 loop spins, as EL0 sees it.
pub fn spin_here() -> u64 {
    ALIAS << 30 | user_spin as *const () as u64 & 0x3fff_ffff
}

/// The same for the loop in A32.
pub fn spin_here_a32() -> u64 {
    alias_32() << 30 | user_spin_a32 as *const () as u64 & 0x3fff_ffff
}

/// Where EL1 goes on after an errand.
pub fn way_back() -> u64 {
    user_return as *const () as u64
}

/// A synchronous exception from EL0 ends the errand, but for a step that is not the last.
pub(super) fn come_back(frame: &mut Frame) {
    if frame.esr >> 26 == SOFTWARE_STEP && STEPS.fetch_sub(1, Ordering::SeqCst) > 1 {
        frame.spsr |= SPSR_SS;
        return;
    }
    for (result, x) in RESULTS.iter().zip(&frame.x[1..]) {
        result.store(*x, Ordering::SeqCst);
    }
    SYNDROME.store(frame.esr, Ordering::SeqCst);
    frame.elr = way_back();
    frame.spsr = EL1H_MASKED;
}
