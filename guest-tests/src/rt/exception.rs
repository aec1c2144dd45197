//! What tests see of the guest's own exceptions: counted interrupts and caught faults. `vectors.rs` takes them.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use spin::Mutex;

use super::machine::MAX_CPUS;
use super::sysreg;

unsafe extern "C" {
    static vectors_table: u8;
}

/// INTIDs the tests keep count of.
const INTIDS: usize = 256;

/// What a vector saved; written back when the handler returns.
#[repr(C, align(16))]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Where the exception was taken from.
    pub elr: u64,
    /// In which state.
    pub spsr: u64,
    /// SP_EL1 before the exception; not written back.
    pub sp: u64,
    /// Syndrome.
    pub esr: u64,
    /// Faulting address.
    pub far: u64,
}

/// A synchronous exception that a probe provoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    /// ELR_EL1.
    pub elr: u64,
}

impl Fault {
    /// Exception class (DDI0487 D24.2 ESR_ELx).
    pub fn class(self) -> u64 {
        self.esr >> 26 & 0x3f
    }

    /// Fault status code of an abort.
    pub fn status(self) -> u64 {
        self.esr & 0x3f
    }
}

struct Catch {
    armed: AtomicBool,
    in_event: AtomicBool,
    happened: AtomicBool,
    esr: AtomicU64,
    far: AtomicU64,
    elr: AtomicU64,
}

/// What runs on an interrupt, between its acknowledge and its end.
pub type Hook = fn(&mut Frame, u32) -> Source;

/// What becomes of a timer that caused the interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It is masked, so that it does not fire again.
    Silence,
    /// It stays as the hook left it.
    Leave,
}

static CATCHES: [Catch; MAX_CPUS] = [const {
    Catch {
        armed: AtomicBool::new(false),
        in_event: AtomicBool::new(false),
        happened: AtomicBool::new(false),
        esr: AtomicU64::new(0),
        far: AtomicU64::new(0),
        elr: AtomicU64::new(0),
    }
}; MAX_CPUS];
static HOOKS: [Mutex<Option<Hook>>; MAX_CPUS] = [const { Mutex::new(None) }; MAX_CPUS];
static COUNTS: [[AtomicU32; INTIDS]; MAX_CPUS] =
    [const { [const { AtomicU32::new(0) }; INTIDS] }; MAX_CPUS];

/// Points VBAR_EL1 at the vectors.
pub fn install_vectors() {
    let table = &raw const vectors_table as u64;
    sysreg::write!("vbar_el1", table);
}

/// Runs `body`; a synchronous exception inside skips one instruction (or returns, when it was the
/// fetch that failed) and is the result.
pub fn catch<T>(body: impl FnOnce() -> T) -> Result<T, Fault> {
    let catch = &CATCHES[sysreg::cpu_index()];
    catch.happened.store(false, Ordering::SeqCst);
    catch.armed.store(true, Ordering::SeqCst);
    let value = body();
    catch.armed.store(false, Ordering::SeqCst);
    if !catch.happened.load(Ordering::SeqCst) {
        return Ok(value);
    }
    Err(Fault {
        esr: catch.esr.load(Ordering::SeqCst),
        far: catch.far.load(Ordering::SeqCst),
        elr: catch.elr.load(Ordering::SeqCst),
    })
}

/// As [`catch`], for a body that makes an event handler fault on its first instruction: the exception
/// completes the event, and the body goes on.
pub fn catch_in_event(body: impl FnOnce()) -> Result<(), Fault> {
    let catch = &CATCHES[sysreg::cpu_index()];
    catch.in_event.store(true, Ordering::SeqCst);
    let result = self::catch(body);
    catch.in_event.store(false, Ordering::SeqCst);
    result
}

/// Runs `hook` on every interrupt of this CPU from now on.
pub fn set_hook(hook: Option<Hook>) {
    *HOOKS[sysreg::cpu_index()].lock() = hook;
}

/// How often CPU `cpu` took `intid`.
pub fn count(cpu: usize, intid: u32) -> u32 {
    COUNTS[cpu][intid as usize].load(Ordering::SeqCst)
}

/// Forgets counts and hooks; no other CPU runs.
pub fn forget() {
    for count in COUNTS.iter().flatten() {
        count.store(0, Ordering::SeqCst);
    }
    for hook in &HOOKS {
        *hook.lock() = None;
    }
}

/// Whether this CPU is inside of [`catch`].
pub(super) fn is_catching() -> bool {
    CATCHES[sysreg::cpu_index()].armed.load(Ordering::SeqCst)
}

/// Whether the fault that this CPU waits for is an event handler's.
pub(super) fn is_catching_in_event() -> bool {
    CATCHES[sysreg::cpu_index()].in_event.load(Ordering::SeqCst)
}

/// Keeps `fault` for [`catch`], which returns it.
pub(super) fn keep(fault: Fault) {
    let catch = &CATCHES[sysreg::cpu_index()];
    catch.esr.store(fault.esr, Ordering::SeqCst);
    catch.far.store(fault.far, Ordering::SeqCst);
    catch.elr.store(fault.elr, Ordering::SeqCst);
    catch.happened.store(true, Ordering::SeqCst);
}

/// What this CPU runs on an interrupt.
pub(super) fn hook() -> Option<Hook> {
    *HOOKS[sysreg::cpu_index()].lock()
}

/// Counts `intid` for this CPU.
pub(super) fn count_one(intid: u32) {
    if let Some(count) = COUNTS[sysreg::cpu_index()].get(intid as usize) {
        count.fetch_add(1, Ordering::SeqCst);
    }
}
