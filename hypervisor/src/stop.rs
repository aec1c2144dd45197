//! Stopping this machine's pCPUs: performs what `hv_core::stop` decides.
//!
//! This path takes no lock, allocates nothing, and prints past the console's lock only.

pub mod line;
mod progress;
pub mod report;
mod slots;

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering;

use hv_core::id::{PcpuId, PcpuSet};
use hv_core::stop::ladder::{Decision, Ladder};
use hv_core::stop::leaving::{Leaving, leaving};
use hv_core::stop::sequence::{Step, StopSequence};
use hv_core::stop::words::Claim;
use hv_core::stop::{LIMITS, StoppedBy};

use crate::backtrace::here;
use crate::gic;
use crate::percpu::{self, Context, Percpu};
use crate::report_line as say;
use crate::{console, crash_record, firmware, patience, reset, sdei_client, sysregs};

use progress::Progress;
use slots::{STOPPER, after_crash, is_off_wanted, slot};

pub use progress::Cause;
pub use slots::{Afterwards, is_up, pcpus, set_after_crash, set_count, set_off_wanted};

/// Something that only the stopper touches.
struct StopperOnly<T>(UnsafeCell<MaybeUninit<T>>);

// SAFETY: `STOPPER` makes one pCPU the only one that touches it.
unsafe impl<T> Sync for StopperOnly<T> {}

static PROGRESS: StopperOnly<Progress> = StopperOnly(UnsafeCell::new(MaybeUninit::uninit()));

/// This pCPU has come up and can be stopped from now on; if others are being stopped, it parks.
/// EL3 delivers event 0 to it if it is `armed`.
pub fn come_online(percpu: &'static Percpu, armed: bool) {
    if slot(percpu.id).come_online(armed).is_asked() {
        park(percpu, StoppedBy::Itself, here());
    }
}

/// Has EL3 interrupt a pCPU that is up, if it can; it then answers what it is asked ([`take_event`]).
pub fn interrupt(percpu: &Percpu) -> bool {
    slot(percpu.id).state().is_armed() && sdei_client::signal(percpu.mpidr).is_ok()
}

/// This pCPU has nothing to run, and no memory to touch: as good as stopped.
pub fn retire(percpu: &'static Percpu) -> ! {
    write_down(percpu, StoppedBy::Itself, here());
    halt_here()
}

/// The stop SGI has arrived on this pCPU, outside of the guest.
pub fn take_ipi(percpu: &'static Percpu) {
    if !slot(percpu.id).state().is_asked() {
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
    park(percpu, StoppedBy::Ipi, context)
}

/// EL3 has delivered event 0 here. Returns if what was interrupted is to go on, or with `Leaving::Off` if this
/// pCPU is to leave the event and to be switched off.
pub fn take_event(percpu: &'static Percpu, context: Context) -> Option<Leaving> {
    let state = slot(percpu.id).state();
    if state.is_asked() || state.parked().is_some() {
        let leaving = leaving(is_off_wanted(), context.pstate);
        // If it answered the SGI in the meantime, or failed itself, what it wrote stays.
        if state.parked().is_none() {
            write_down(percpu, StoppedBy::Sdei, context);
        }
        if leaving == Leaving::Park {
            halt_here();
        }
        return Some(leaving);
    }
    if percpu.sample.begin() {
        // SAFETY: the sample has begun, on the pCPU that it is of.
        unsafe { percpu.sampled.set(context) };
        percpu.sample.finish();
    }
    percpu.events.fetch_add(1, Ordering::Release);
    None
}

/// Writes down what this pCPU was doing, and tells the stopper.
fn write_down(percpu: &Percpu, by: StoppedBy, mut context: Context) {
    context.note_callers(percpu);
    // SAFETY: this is the pCPU it belongs to, which has not parked.
    unsafe { percpu.parked.set(context) };
    slot(percpu.id).park(by);
}

/// Writes down what this pCPU was doing, tells the stopper, and never touches memory again.
fn park(percpu: &'static Percpu, by: StoppedBy, context: Context) -> ! {
    write_down(percpu, by, context);
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
            Some(percpu) => park(percpu, StoppedBy::Itself, here()),
            None => halt_here(),
        },
        Claim::Mine => {
            let now = sysregs::now();
            let limits = LIMITS.in_ticks(sysregs::counter_frequency());
            let fresh = Progress {
                cause,
                me,
                sequence: StopSequence::new(),
                started: now,
                ended: now,
                ladder: Ladder::new(core::iter::empty(), limits),
                still_on: PcpuSet::EMPTY,
            };
            // SAFETY: this pCPU is the stopper, from now on the only one that comes here.
            unsafe { progress.write(fresh) };
            // SAFETY: as above.
            unsafe { &mut *progress }.sequence.advance()
        }
        Claim::Again => {
            // SAFETY: this pCPU is the stopper, and has written it when it became that.
            let progress = unsafe { &mut *progress };
            let next = progress.sequence.resume().1;
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
        step = progress.sequence.advance();
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
        for id in others().filter(|&id| slot(id).state().parked().is_some()) {
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
                    gic::send_sgi(gic::sgi(gic::STOP, percpu.mpidr));
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
        let Some(percpu) = percpu::of(id).filter(|_| slot(id).state().parked().is_some()) else {
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
        Cause::Shutdown => Afterwards::Off,
        Cause::Reboot => Afterwards::Reset,
        _ => after_crash(),
    };
    console::flush();
    match afterwards {
        Afterwards::Halt => {}
        Afterwards::Off => reset::off(),
        Afterwards::Reset => reset::reset(),
    }
}
