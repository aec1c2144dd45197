//! Stopping this machine's pCPUs: performs what `hv_core::stop` decides.
//!
//! This path takes no lock, allocates nothing, and prints past the console's lock only.

pub mod report;

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use hv_core::id::{MAX_PCPUS, PcpuId, PcpuSet};
use hv_core::stop::course::{Course, Step};
use hv_core::stop::ladder::{Decision, Ladder};
use hv_core::stop::leaving::{Leaving, leaving};
use hv_core::stop::words::{Claim, Slot, Stopper};
use hv_core::stop::{LIMITS, Via};
use hv_core::time::Instant;

use crate::gic;
use crate::percpu::{self, Context, Percpu};
use crate::{breakage, console, crash_record, firmware, patience, power, sdei_client, sysregs};

/// Why the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// EL2 panicked.
    Panic,
    /// EL2 took an exception of its own.
    Fault,
    /// EL2 ran out of stack.
    StackOverflow,
    /// The machine is switched off.
    Shutdown,
    /// The machine is reset.
    Reboot,
    /// A pCPU does not get out of EL2.
    Watchdog,
}

impl Cause {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Fault => "fault",
            Self::StackOverflow => "stack-overflow",
            Self::Shutdown => "shutdown",
            Self::Reboot => "reboot",
            Self::Watchdog => "watchdog",
        }
    }

    /// Whether the hypervisor has failed, and is not just told to stop.
    const fn is_crash(self) -> bool {
        !matches!(self, Self::Shutdown | Self::Reboot)
    }
}

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

/// What the stopper knows.
struct Progress {
    cause: Cause,
    me: PcpuId,
    course: Course,
    started: Instant,
    ended: Instant,
    ladder: Ladder,
    /// Who has stopped, was to be switched off, and is not.
    still_on: PcpuSet,
}

/// Something that only the stopper touches.
struct StopperOnly<T>(UnsafeCell<MaybeUninit<T>>);

// SAFETY: `STOPPER` makes one pCPU the only one that touches it.
unsafe impl<T> Sync for StopperOnly<T> {}

static SLOTS: [Slot; MAX_PCPUS] = [const { Slot::new(AtomicU32::new(0)) }; MAX_PCPUS];
static STOPPER: Stopper = Stopper::new(AtomicU32::new(0));
static PROGRESS: StopperOnly<Progress> = StopperOnly(UnsafeCell::new(MaybeUninit::uninit()));
/// How many pCPUs there are.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// What follows a crash, as [`Afterwards`].
static AFTER_CRASH: AtomicU32 = AtomicU32::new(Afterwards::Halt as u32);
static IS_OFF_WANTED: AtomicBool = AtomicBool::new(false);

macro_rules! say {
    ($($argument:tt)*) => {
        $crate::console::write_emergency(format_args!($($argument)*))
    };
}
use say;

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
            crate::log!("crash= is halt or reset, stop= is park or off");
        }
        _ => {}
    }
}

/// Whether a pCPU that has stopped is to be switched off.
fn is_off_wanted() -> bool {
    IS_OFF_WANTED.load(Ordering::Relaxed)
}

fn slot(id: PcpuId) -> &'static Slot {
    // There are no more ids than slots.
    &SLOTS[id.index() % MAX_PCPUS]
}

/// All pCPUs.
pub fn pcpus() -> impl Iterator<Item = PcpuId> {
    (0..COUNT.load(Ordering::Relaxed)).map(|index| PcpuId(index as u8))
}

/// This pCPU has come up and can be stopped from now on; if others are being stopped, it parks.
pub fn come_online(percpu: &'static Percpu) {
    let armed = sdei_client::arm(percpu);
    if slot(percpu.id).come_online(armed).is_asked() {
        park(percpu, Via::Itself, here());
    }
}

/// Whether it runs our code and has not parked.
pub fn is_up(id: PcpuId) -> bool {
    let standing = slot(id).standing();
    standing.is_online() && standing.parked().is_none()
}

/// Has EL3 interrupt a pCPU that is up, if it can; it then answers what it is asked ([`take_event`]).
pub fn interrupt(percpu: &Percpu) -> bool {
    slot(percpu.id).standing().is_armed() && sdei_client::signal(percpu.mpidr).is_ok()
}

/// This pCPU has nothing to run, and no memory to touch: as good as stopped.
pub fn retire(percpu: &'static Percpu) -> ! {
    write_down(percpu, Via::Itself, here());
    halt_here()
}

/// The stop SGI has arrived on this pCPU, outside of the guest.
pub fn take_ipi(percpu: &'static Percpu) {
    if !slot(percpu.id).standing().is_asked() {
        // Somebody wants to know whether it does.
        percpu.beat();
        return;
    }
    let context = match percpu.guest_regs() {
        Some(regs) => Context {
            x: regs.x,
            pc: regs.pc,
            pstate: regs.pstate,
            ..Context::now()
        },
        None => here(),
    };
    park(percpu, Via::Ipi, context)
}

/// EL3 has delivered event 0 here. Returns if what was interrupted is to go on, or with `Leaving::Off` if this
/// pCPU is to leave the event and to be switched off.
pub fn take_event(percpu: &'static Percpu, context: Context) -> Option<Leaving> {
    let standing = slot(percpu.id).standing();
    if standing.is_asked() || standing.parked().is_some() {
        let leaving = leaving(is_off_wanted(), context.pstate);
        // If it answered the SGI in the meantime, or failed itself, what it wrote stays.
        if standing.parked().is_none() {
            write_down(percpu, Via::Sdei, context);
        }
        if leaving == Leaving::Park {
            halt_here();
        }
        return Some(leaving);
    }
    breakage::note_event(&context);
    if percpu.glance.begin() {
        // SAFETY: the glance has begun, on the pCPU that it is of.
        unsafe { percpu.glimpse.set(context) };
        percpu.glance.finish();
    }
    percpu.events.fetch_add(1, Ordering::Release);
    None
}

/// The EL2 code that calls this.
#[inline(never)]
fn here() -> Context {
    let frame = sysregs::frame_pointer();
    let mut x = [0; 31];
    x[29] = frame;
    Context {
        x,
        pc: here as *const () as u64,
        pstate: sysregs::EL2H_MASKED,
        ..Context::now()
    }
}

/// Writes down what this pCPU was doing, and tells the stopper.
fn write_down(percpu: &Percpu, via: Via, mut context: Context) {
    context.note_callers(percpu);
    // SAFETY: this is the pCPU it belongs to, which has not parked.
    unsafe { percpu.parked.set(context) };
    slot(percpu.id).park(via);
}

/// Writes down what this pCPU was doing, tells the stopper, and never touches memory again.
fn park(percpu: &'static Percpu, via: Via, context: Context) -> ! {
    write_down(percpu, via, context);
    if is_off_wanted() {
        firmware::cpu_off();
    }
    halt_here()
}

/// Where a pCPU goes on that has left EL3's event to be switched off.
pub extern "C" fn go_off() -> ! {
    firmware::cpu_off();
    halt_here()
}

/// Never runs anything again: interrupts off, memory left alone. In a handler of EL3's event, that never
/// completes: CPU_OFF from there wedges EL3 on machines in the field (docs/stop.md).
pub extern "C" fn halt_here() -> ! {
    gic::disable_cpu_interface();
    loop {
        sysregs::wait_for_interrupt();
    }
}

/// Stops all other pCPUs, says why and what they were doing, and then does with the machine what `cause`
/// and the configuration want. `tell` prints what is known of the cause.
///
/// Of several that come here the first does it and the others park; one that fails on the way comes here
/// again and goes on with what is left to do.
pub fn stop_machine(cause: Cause, tell: &dyn Fn()) -> ! {
    let me = PcpuId(percpu::index());
    let progress = PROGRESS.0.get().cast::<Progress>();
    let mut step = match STOPPER.claim(me) {
        Claim::Theirs(_) => match percpu::this() {
            Some(percpu) => park(percpu, Via::Itself, here()),
            None => halt_here(),
        },
        Claim::Mine => {
            let now = sysregs::now();
            let limits = LIMITS.in_ticks(sysregs::counter_frequency());
            let fresh = Progress {
                cause,
                me,
                course: Course::new(),
                started: now,
                ended: now,
                ladder: Ladder::new(core::iter::empty(), limits),
                still_on: PcpuSet::EMPTY,
            };
            // SAFETY: this pCPU is the stopper, from now on the only one that comes here.
            unsafe { progress.write(fresh) };
            // SAFETY: as above.
            unsafe { &mut *progress }.course.advance()
        }
        Claim::Again => {
            // SAFETY: this pCPU is the stopper, and has written it when it became that.
            let progress = unsafe { &mut *progress };
            let next = progress.course.resume().1;
            say!("failed again, in the stop for {}:", progress.cause.name());
            tell();
            next
        }
    };
    loop {
        // SAFETY: this pCPU is the stopper, and has written it when it became that.
        let progress = unsafe { &mut *progress };
        match step {
            Step::Stop => {
                climb(progress);
                if is_off_wanted() {
                    await_off(progress);
                }
            }
            Step::Report => {
                if progress.cause.is_crash() {
                    tell();
                }
                report::tell(progress);
            }
            Step::Keep if progress.cause.is_crash() => crash_record::seal(),
            Step::Keep => {}
            Step::Leave => leave(progress.cause),
            Step::Park => halt_here(),
        }
        step = progress.course.advance();
    }
}

/// Climbs the ladder.
fn climb(progress: &mut Progress) {
    let me = progress.me;
    let others = || pcpus().filter(move |&id| id != me);
    let asked = others().map(|id| (id, slot(id).ask()));
    let limits = LIMITS.in_ticks(sysregs::counter_frequency());
    progress.ladder = Ladder::new(asked, limits);
    let look = || {
        let mut parked = PcpuSet::EMPTY;
        for id in others().filter(|&id| slot(id).standing().parked().is_some()) {
            parked.insert(id);
        }
        parked
    };
    loop {
        let parked = look();
        progress.ended = sysregs::now();
        match progress.ladder.poll(progress.ended, parked) {
            Decision::Ring(set) => {
                sysregs::order_before_doorbell();
                for percpu in set.iter().filter_map(percpu::of) {
                    gic::send_sgi(gic::STOP, percpu.mpidr);
                }
            }
            Decision::Signal(set) => {
                for percpu in set.iter().filter_map(percpu::of) {
                    let before = slot(percpu.id).mark_signalled();
                    if !before.is_signalled() && sdei_client::signal(percpu.mpidr).is_err() {
                        progress.ladder.note_refusal(percpu.id);
                    }
                }
            }
            Decision::Wait => {
                // Whether there was one or not, there is time to be looked at.
                let _change = patience::briefly(|| (look() != parked).then_some(()));
            }
            Decision::Done => break,
        }
    }
}

/// Waits until those that have stopped are off, and notes who is not.
fn await_off(progress: &mut Progress) {
    for id in pcpus().filter(|&id| id != progress.me) {
        let Some(percpu) = percpu::of(id).filter(|_| slot(id).standing().parked().is_some()) else {
            continue;
        };
        let is_off = || firmware::is_off(percpu.mpidr).then_some(());
        if patience::within(LIMITS.last_us, is_off).is_none() {
            progress.still_on.insert(id);
        }
    }
}

/// The end of this machine's life, or of this boot's.
fn leave(cause: Cause) {
    let afterwards = match cause {
        Cause::Shutdown => Afterwards::Off as u32,
        Cause::Reboot => Afterwards::Reset as u32,
        _ => AFTER_CRASH.load(Ordering::Relaxed),
    };
    console::flush();
    if afterwards == Afterwards::Off as u32 {
        power::off();
    } else if afterwards == Afterwards::Reset as u32 {
        power::reset();
    }
}
