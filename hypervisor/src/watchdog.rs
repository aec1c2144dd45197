//! The watch of each pCPU over its neighbour: performs what `hv_core::stop::watchdog` finds.
//!
//! It costs an alarm of the EL2 timer some times a second, and a guest's exit nothing: what exits count anyway is
//! what is watched.

use core::sync::atomic::{AtomicU32, Ordering};

use hv_abi::cmdline::OnStuck;
use hv_core::id::PcpuId;
use hv_core::stop::watchdog::{Finding, LIMIT_MS, Watch};

use crate::gic;
use crate::percpu::{self, Percpu};
use crate::report_line as say;
use crate::stop::{self, Cause, report, stop_machine};
use crate::{console, operator, sysregs};

/// What is done about a pCPU that is stuck, as [`OnStuck`].
static MODE: AtomicU32 = AtomicU32::new(OnStuck::Report as u32);
/// After how many milliseconds; 0 for the limit that is usual.
static LIMIT: AtomicU32 = AtomicU32::new(0);
/// How long the report waits for the console, whose lock the stuck one may hold, in microseconds.
const CONSOLE_LIMIT_US: u64 = 50_000;

/// Says what is done about a pCPU that is stuck, and after how many milliseconds; without, it is reported after the
/// limit that is usual.
pub fn configure(mode: OnStuck, limit: Option<u32>) {
    MODE.store(mode as u32, Ordering::Relaxed);
    if let Some(limit) = limit {
        LIMIT.store(limit, Ordering::Relaxed);
    }
}

fn limit_us() -> u64 {
    let ms = match LIMIT.load(Ordering::Relaxed) {
        0 => LIMIT_MS,
        ms => ms,
    };
    1000 * u64::from(ms)
}

/// The watch of this pCPU, which begins now; none if it is off.
pub fn begin() -> Option<Watch> {
    if MODE.load(Ordering::Relaxed) == OnStuck::Off as u32 {
        return None;
    }
    let limit = sysregs::counter_frequency().ticks_in_us(limit_us());
    Some(Watch::new(sysregs::now(), limit))
}

/// Looks, if that is due.
#[inline(never)]
pub fn look(watch: &mut Watch, me: &Percpu) {
    let behind = stop::pcpus().filter(|&id| id > me.id);
    let before = stop::pcpus().filter(|&id| id < me.id);
    let others = behind.chain(before).filter(|&id| stop::is_up(id));
    let others = others.filter_map(|id| Some((id, percpu::of(id)?.signs())));
    match watch.look(sysregs::now(), others) {
        Finding::Fine => {}
        Finding::Ring(id) => {
            if let Some(percpu) = percpu::of(id) {
                gic::send_sgi(gic::sgi(gic::STOP, percpu.mpidr));
            }
        }
        Finding::Stuck(id) if MODE.load(Ordering::Relaxed) == OnStuck::Stop as u32 => {
            stop_machine(Cause::Watchdog, &|| {
                say!("@hv-crash pcpu={} cause=watchdog", me.id.0);
                say!("pCPU {} does not get out of EL2", id.0);
            })
        }
        Finding::Stuck(id) => {
            if let Some(percpu) = percpu::of(id) {
                percpu.sample.ask();
                stop::interrupt(percpu);
            }
        }
        Finding::Report(id) => {
            if let Some(percpu) = percpu::of(id) {
                tell(percpu);
                operator::take_over(percpu.mpidr, me.mpidr);
            }
        }
    }
}

/// Whether a pCPU is known to be stuck.
#[inline(never)]
pub fn is_stuck(id: PcpuId) -> bool {
    percpu::of(id).is_some_and(|percpu| stop::is_up(id) && percpu.signs().is_known_stuck())
}

/// Says where it is.
#[cold]
fn tell(percpu: &Percpu) {
    percpu.note_stuck();
    let seen = percpu.sample.collect();
    console::hold(CONSOLE_LIMIT_US, || {
        let limit = limit_us();
        if seen {
            // SAFETY: the sample has been collected.
            let context = unsafe { percpu.sampled.get() };
            report::tell_of_pcpu("hv-stuck", percpu, "sdei", limit, Some(&context), true);
            percpu.sample.release();
        } else {
            report::tell_of_pcpu("hv-stuck", percpu, "deaf", limit, None, true);
        }
        say!("@hv-stuck-end");
    });
}
