//! The guest's own exceptions: counted interrupts, caught faults, and a report for the rest.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use spin::Mutex;

use super::machine::MAX_CPUS;
use super::sysreg;
use super::{cpu, gic, sdei, timer, user};

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

/// Slots of the vector table, in its order.
const SYNC_SPX: u64 = 4;
const IRQ_SPX: u64 = 5;
const SYNC_EL0: u64 = 8;
const IRQ_EL0: u64 = 9;
const SYNC_AARCH32: u64 = 12;
const IRQ_AARCH32: u64 = 13;
const SLOTS: [&str; 16] = [
    "synchronous, SP0",
    "IRQ, SP0",
    "FIQ, SP0",
    "SError, SP0",
    "synchronous",
    "IRQ",
    "FIQ",
    "SError",
    "synchronous from EL0",
    "IRQ from EL0",
    "FIQ from EL0",
    "SError from EL0",
    "synchronous from AArch32",
    "IRQ from AArch32",
    "FIQ from AArch32",
    "SError from AArch32",
];

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

/// Every vector ends here.
pub extern "C" fn enter(frame: &mut Frame, slot: u64) {
    match slot {
        IRQ_SPX | IRQ_EL0 | IRQ_AARCH32 => take_interrupt(frame),
        SYNC_EL0 | SYNC_AARCH32 => user::come_back(frame),
        SYNC_SPX if CATCHES[sysreg::cpu_index()].armed.load(Ordering::SeqCst) => {
            take_fault(frame);
        }
        _ => report(frame, slot),
    }
}

fn take_fault(frame: &mut Frame) {
    let catch = &CATCHES[sysreg::cpu_index()];
    let fault = Fault {
        esr: frame.esr,
        far: frame.far,
        elr: frame.elr,
    };
    catch.esr.store(fault.esr, Ordering::SeqCst);
    catch.far.store(fault.far, Ordering::SeqCst);
    catch.elr.store(fault.elr, Ordering::SeqCst);
    catch.happened.store(true, Ordering::SeqCst);
    if catch.in_event.load(Ordering::SeqCst) {
        sdei::complete_from_exception(frame);
    }
    const FETCH_ABORT: u64 = 0x21;
    frame.elr = if fault.class() == FETCH_ABORT {
        frame.x[30]
    } else {
        frame.elr + 4
    };
}

fn take_interrupt(frame: &mut Frame) {
    let cpu = sysreg::cpu_index();
    let intid = gic::acknowledge();
    if intid == gic::NONE {
        return;
    }
    let hook = *HOOKS[cpu].lock();
    let source = hook.map_or(Source::Silence, |hook| hook(frame, intid));
    for timer in timer::Timer::BOTH {
        if source == Source::Silence && intid == timer.intid() {
            timer.mask();
        }
    }
    if let Some(count) = COUNTS[cpu].get(intid as usize) {
        count.fetch_add(1, Ordering::SeqCst);
    }
    gic::end(intid);
    if intid == cpu::STOP_SGI {
        cpu::stop_here();
    }
}

fn report(frame: &Frame, slot: u64) -> ! {
    crate::harness::fail_and_stop(format_args!(
        "guest-tests/src/rt/exception.rs:{}: unexpected exception on CPU {} ({}): esr {:#x} elr {:#x} (image + {:#x}) \
         far {:#x} spsr {:#x} sp {:#x} x30 {:#x} (image + {:#x})",
        line!(),
        sysreg::cpu_index(),
        SLOTS.get(slot as usize).unwrap_or(&"?"),
        frame.esr,
        frame.elr,
        cpu::image_offset(frame.elr),
        frame.far,
        frame.spsr,
        frame.sp,
        frame.x[30],
        cpu::image_offset(frame.x[30]),
    ))
}
