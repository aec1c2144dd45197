//! How long until the effect: from the instruction that causes it to the first one that it runs.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hv_abi::sdei::Call;

use super::instructions_of;
use crate::rt::call::Conduit;
use crate::rt::gic::v2;
use crate::rt::machine::MAX_CPUS;
use crate::rt::sync::{Cell64, Flag, eventually};
use crate::rt::{cpu, exception, gic, psci, sdei, sysreg, timer};

global_asm!(
    include_str!("../bench.S"),
    complete = const Call::EventComplete as u32,
    gicc = sym GICC,
    iar = const v2::gicc::IAR,
    eoir = const v2::gicc::EOIR,
);

/// Where a GICv2's CPU interface is, for bench.S.
static GICC: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static bench_vectors: u8;
    static bench_vectors_v2: u8;
    fn bench_sgi_to_self(value: u64) -> u64;
    fn bench_sgi_to_self_v2(value: u64, register: u64) -> u64;
    fn bench_send_sgi(value: u64) -> u64;
    fn bench_send_sgi_v2(value: u64, register: u64) -> u64;
    fn bench_wait_spinning(waiting: *const AtomicU64) -> u64;
    fn bench_wait_in_wfi(waiting: *const AtomicU64) -> u64;
    fn bench_timer_in_wfi(ahead: u64) -> u64;
    fn bench_timer_end(ahead: u64) -> u64;
    fn bench_sdei_entry();
    fn bench_signal(function: u64, affinity: u64, by_smc: u64) -> u64;
}

/// Rounds of each measurement.
const ROUNDS: u64 = 32;
/// The SGI that is measured.
const SGI: u64 = 1;

/// Mean and worst of several rounds, in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Of all rounds.
    pub mean: u64,
    /// The longest.
    pub worst: u64,
}

/// What the measured CPU and the measuring one share. The first two words are known to bench.S.
#[repr(C)]
struct Meeting {
    tick: AtomicU64,
    by_smc: AtomicU64,
    waiting: AtomicU64,
}

static MEETING: Meeting = Meeting {
    tick: AtomicU64::new(0),
    by_smc: AtomicU64::new(0),
    waiting: AtomicU64::new(0),
};
static ENOUGH: Flag = Flag::new();

/// Repeats `round`, which gives ticks; the first, which warms up, does not count.
fn measure(mut round: impl FnMut() -> Option<u64>) -> Option<Latency> {
    round()?;
    let (mut sum, mut worst) = (0, 0);
    for _ in 0..ROUNDS {
        let ticks = round()?;
        sum += ticks;
        worst = worst.max(ticks);
    }
    Some(Latency {
        mean: instructions_of(sum) / ROUNDS,
        worst: instructions_of(worst),
    })
}

fn use_bench_vectors() {
    let table = if v2::is_it() {
        GICC.store(v2::interface().address(0), Ordering::Relaxed);
        &raw const bench_vectors_v2 as u64
    } else {
        &raw const bench_vectors as u64
    };
    sysreg::write!("vbar_el1", table);
}

/// GICD_SGIR's value for the SGI to a CPU, and its address.
fn sgir(affinity: u64) -> (u64, u64) {
    let register = gic::distributor().address(gic::gicd::SGIR);
    (u64::from(v2::target(affinity)) << 16 | SGI, register)
}

/// The tick the other CPU left, once it did.
fn arrival() -> Option<u64> {
    eventually(|| MEETING.tick.load(Ordering::Acquire) != 0)
        .then(|| MEETING.tick.swap(0, Ordering::AcqRel))
}

/// An SGI to this CPU.
pub fn sgi_to_self() -> Option<Latency> {
    use_bench_vectors();
    let value = SGI << 24 | 1 << (cpu::affinity(0) & 0xf);
    let result = if v2::is_it() {
        let (value, register) = sgir(cpu::affinity(0));
        // SAFETY: the routine keeps the C calling convention; its handler uses x16 and x17 only.
        measure(|| Some(unsafe { bench_sgi_to_self_v2(value, register) }))
    } else {
        // SAFETY: as above.
        measure(|| Some(unsafe { bench_sgi_to_self(value) }))
    };
    exception::install_vectors();
    result
}

/// The virtual timer, while this CPU is in WFI.
pub fn timer_in_wfi() -> Option<Latency> {
    gic::enable(timer::Timer::Virtual.intid());
    use_bench_vectors();
    // SAFETY: as in `sgi_to_self`.
    let result = measure(|| Some(unsafe { bench_timer_in_wfi(timer::ticks_of_us(100)) }));
    exception::install_vectors();
    result
}

/// From the first instruction of the virtual timer's handler, which does next to nothing, to what it interrupted: what the
/// end of an interrupt costs.
pub fn timer_end() -> Option<Latency> {
    gic::enable(timer::Timer::Virtual.intid());
    use_bench_vectors();
    // SAFETY: as in `sgi_to_self`.
    let result = measure(|| Some(unsafe { bench_timer_end(timer::ticks_of_us(100)) }));
    exception::install_vectors();
    result
}

fn receive(wait: unsafe extern "C" fn(*const AtomicU64) -> u64) {
    use_bench_vectors();
    for _ in 0..=ROUNDS {
        // SAFETY: as in `sgi_to_self`; the word lives for ever.
        let tick = unsafe { wait(&raw const MEETING.waiting) };
        MEETING.tick.store(tick, Ordering::Release);
    }
    exception::install_vectors();
}

/// An SGI to CPU 1, which spins or sits in WFI.
pub fn sgi_to_other(in_wfi: bool) -> Option<Latency> {
    let work = match in_wfi {
        true => || receive(bench_wait_in_wfi),
        false => || receive(bench_wait_spinning),
    };
    if cpu::start(1, work) != 0 {
        return None;
    }
    let value = SGI << 24 | (cpu::affinity(1) & 0xff00) << 8 | 1 << (cpu::affinity(1) & 0xf);
    let result = measure(|| {
        let waits = || MEETING.waiting.swap(0, Ordering::AcqRel) == 1;
        if !eventually(waits) {
            return None;
        }
        // Some turns, so that the other one surely is where it waits.
        crate::rt::sync::watch_for_ms(1);
        let start = if v2::is_it() {
            let (value, register) = sgir(cpu::affinity(1));
            // SAFETY: sends an SGI, as `v2::send_raw` does.
            unsafe { bench_send_sgi_v2(value, register) }
        } else {
            // SAFETY: sends an SGI, as `gic::send_sgi_raw` does.
            unsafe { bench_send_sgi(value) }
        };
        Some(arrival()? - start)
    });
    cpu::wait_off(1).then_some(result).flatten()
}

/// Each CPU that an SGI to all others reaches: that it waits, and the count in its handler.
static ARRIVALS: [Arrival; MAX_CPUS] = [const { Arrival::new() }; MAX_CPUS];
/// How many have come to their handlers.
static ARRIVED: Cell64 = Cell64::new(0);

struct Arrival {
    waiting: AtomicU64,
    tick: AtomicU64,
}

impl Arrival {
    const fn new() -> Self {
        Self {
            waiting: AtomicU64::new(0),
            tick: AtomicU64::new(0),
        }
    }
}

/// An SGI to all others, each in WFI, until it has reached the last of them; of that as much as falls to each.
pub fn sgi_to_all_others() -> Option<Latency> {
    let others = ARRIVALS.get(1..cpu::count())?;
    let count = others.len() as u64;
    for index in 1..cpu::count() {
        let status = cpu::start(index, || {
            let me = ARRIVALS.get(sysreg::cpu_index());
            use_bench_vectors();
            // One more than is measured, so that nobody goes on while others have yet to come.
            for arrival in me.into_iter().cycle().take(ROUNDS as usize + 2) {
                // SAFETY: as in `sgi_to_self`; the word lives for ever.
                let tick = unsafe { bench_wait_in_wfi(&raw const arrival.waiting) };
                arrival.tick.store(tick, Ordering::Release);
                ARRIVED.add(1);
            }
            exception::install_vectors();
        });
        if status != 0 {
            return None;
        }
    }
    let mut round = || {
        for other in others {
            if !eventually(|| other.waiting.swap(0, Ordering::AcqRel) == 1) {
                return None;
            }
        }
        // Some turns, so that the last one surely is where it waits.
        (0..16).for_each(|_| sysreg::relax());
        ARRIVED.set(0);
        // SAFETY: sends an SGI, as `gic::send_sgi_raw` does; with ICC_SGI1R_EL1.IRM, to all others.
        let start = unsafe { bench_send_sgi(1 << 40 | SGI << 24) };
        if !eventually(|| ARRIVED.get() == count) {
            return None;
        }
        let ticks = others
            .iter()
            .map(|other| other.tick.load(Ordering::Acquire));
        Some(ticks.max()? - start)
    };
    let result = measure(&mut round);
    round()?;
    let are_off = (1..cpu::count()).all(cpu::wait_off);
    let result = result.filter(|_| are_off)?;
    Some(Latency {
        mean: result.mean / count,
        worst: result.worst / count,
    })
}

/// SDEI_EVENT_SIGNAL to the first instruction of the handler on CPU 1, which spins with all masked.
pub fn signal_to_wedged() -> Option<Latency> {
    ENOUGH.lower();
    let by_smc = u64::from(sdei::conduit() == Conduit::Smc);
    MEETING.by_smc.store(by_smc, Ordering::Release);
    MEETING.waiting.store(0, Ordering::Release);
    let status = cpu::start(1, || {
        let entry = bench_sdei_entry as *const () as u64;
        let argument = &raw const MEETING as u64;
        let registered = sdei::call(Call::EventRegister, &[0, entry, argument, 0, 0]);
        if registered == 0 && sdei::enable() == 0 && sdei::unmask() == 0 {
            MEETING.waiting.store(1, Ordering::Release);
        }
        while !ENOUGH.is_up() {
            core::hint::spin_loop();
        }
    });
    if status != 0 || !eventually(|| MEETING.waiting.load(Ordering::Acquire) == 1) {
        return None;
    }
    let function = Call::EventSignal as u64;
    let result = measure(|| {
        crate::rt::sync::watch_for_ms(1);
        // SAFETY: a call by SMCCC; the handler on the other CPU keeps all but x0-x17 there.
        let start = unsafe { bench_signal(function, cpu::affinity(1), by_smc) };
        Some(arrival()? - start)
    });
    ENOUGH.raise();
    cpu::wait_off(1).then_some(result).flatten()
}

/// CPU_ON to the first instruction of CPU 1.
pub fn cpu_on() -> Option<Latency> {
    measure(|| {
        MEETING.waiting.store(0, Ordering::Release);
        let context = cpu::prepare(1, || MEETING.waiting.store(1, Ordering::Release))?;
        let start = timer::counter();
        if cpu::race_to_start(1, context) != 0 {
            return None;
        }
        let on = eventually(|| MEETING.waiting.load(Ordering::Acquire) == 1);
        let first = cpu::entry_state(1).first_tick;
        (on && cpu::wait_off(1)).then(|| first - start)
    })
}

/// CPU_OFF of CPU 1 until AFFINITY_INFO says so.
pub fn cpu_off() -> Option<Latency> {
    measure(|| {
        let status = cpu::start(1, || {
            gic::stop_cpu();
            MEETING.tick.store(timer::counter(), Ordering::Release);
            psci::cpu_off();
        });
        if status != 0 {
            return None;
        }
        let start = arrival()?;
        cpu::wait_off(1).then(|| timer::counter() - start)
    })
}
