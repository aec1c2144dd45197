//! Guests that do anything at random: calls, system registers, devices and memory, words that are no instruction. They may
//! harm themselves: the hypervisor answers all along, and gives away nothing that is not theirs.
//!
//! CPU 0 stays sane. It lets the others work in their sandboxes (`rt::assault`), starts those that went off, wakes those
//! that sleep, and as soon as one is lost, resets the machine and goes on; what has been done is counted across resets.

mod rewritten;
mod steps;
mod tables;

use hv_abi::psci as abi;
use hv_abi::sdei::Call;

use crate::harness::{TestResult, metric, needs_hypervisor};
use crate::rt::assault::{BATCH, BLOCKS, Outcome, Sandbox};
use crate::rt::machine::machine;
use crate::rt::mmio::Device;
use crate::rt::sync::Cell64;
use crate::rt::timer::{self, Timer};
use crate::rt::{cpu, gic, psci, sdei, survivor, sysreg};
use steps::{Kind, Maker};

/// Steps of a run, unless `times=` says otherwise.
const TIMES: u64 = 60_000;
/// Steps of each CPU until the next reset.
const OF_A_BOOT: u64 = 100_000;
/// Steps between two looks at what came of them.
const ROUND: usize = 32;
/// How long a CPU may stand still until it counts as lost, in milliseconds; it is woken up before.
const PATIENCE_MS: u64 = 1000;
/// How long CPU 0 sleeps between two looks at the others, in microseconds: while it does, they have the host.
const NAP_US: u64 = 2000;

/// What a CPU has done in this boot.
struct Done {
    steps: Cell64,
    faults: Cell64,
    /// Pages of slots, earlier boots' included.
    pages: Cell64,
    /// Steps that went through and must not, or left an address of the hypervisor's behind; the last one's word and x1.
    wrong: Cell64,
    word: Cell64,
    address: Cell64,
    /// It has what it was to do.
    is_through: Cell64,
}

static DONE: [Done; BLOCKS] = [const {
    Done {
        steps: Cell64::new(0),
        faults: Cell64::new(0),
        pages: Cell64::new(0),
        wrong: Cell64::new(0),
        word: Cell64::new(0),
        address: Cell64::new(0),
        is_through: Cell64::new(0),
    }
}; BLOCKS];
/// Where the numbers of this boot begin, and the steps that each CPU is to do.
static SEED: Cell64 = Cell64::new(0);
static QUOTA: Cell64 = Cell64::new(0);

/// Whether `value` could be an address of the hypervisor's image, which is linked there (`linker/hypervisor.ld`).
fn is_ours(value: u64) -> bool {
    const HV_BASE: u64 = 1 << 47;
    (HV_BASE..HV_BASE + (4 << 20)).contains(&value)
}

/// What is to be known of a step beside its registers.
#[derive(Clone, Copy)]
struct Known {
    word: u32,
    kind: Kind,
    must_fault: bool,
}

/// Work of a CPU: batch after batch, until it has done its part.
fn attack() {
    const NOTHING: Known = Known {
        word: 0,
        kind: Kind::Word,
        must_fault: false,
    };
    let me = sysreg::cpu_index();
    let done = &DONE[me];
    let mut sandbox = Sandbox::new(me, done.pages.get());
    let mut known = [NOTHING; BATCH];
    // One that was off goes on with other numbers.
    let seed = SEED.get() ^ (me as u64) << 56 ^ done.pages.get() << 8;
    let mut maker = Maker::new(seed, sandbox.places());
    while done.steps.get() < QUOTA.get() {
        sandbox.write(known.iter_mut().map(|known| {
            let made = maker.make();
            *known = Known {
                word: made.step.word,
                kind: made.kind,
                must_fault: made.must_fault,
            };
            made.step
        }));
        done.pages.set(sandbox.pages());
        for first in (0..BATCH).step_by(ROUND) {
            arm_events(&sandbox, &mut maker);
            sandbox.execute(first, first + ROUND);
            for (n, known) in known.iter().enumerate().skip(first).take(ROUND) {
                judge(&sandbox, n, *known, done);
            }
            let _steps = done.steps.add(ROUND as u64);
        }
    }
    done.is_through.set(1);
}

/// Event 0 with a handler that is whole, or with none; unmasked only by what the steps call.
fn arm_events(sandbox: &Sandbox, maker: &mut Maker) {
    if maker.numbers.below(4) == 0 {
        sdei::call(Call::EventUnregister, &[0]);
        sdei::call(Call::EventRegister, &[0, sandbox.places().handler, 0, 0, 0]);
        sdei::enable();
    }
}

/// Whether the device at `address` has registers of 32 bits there. None of them can show an address; a doubleword is two of
/// them, and what two hold that the guest has written may look like one.
fn has_words(address: u64) -> bool {
    let machine = machine();
    let offset_in = |device: Option<Device>| {
        let region = device?.region();
        region.contains(address).then(|| address - region.base)
    };
    if let Some(offset) = offset_in(Some(machine.gicd)) {
        // Behind them GICD_IROUTER has 64 (IHI0069 12.8).
        return offset < 0x6000;
    }
    if let Some(offset) = offset_in(machine.gicr) {
        // Of each redistributor's two frames, SGI_base (IHI0069 12.10).
        return offset & 0x1_0000 != 0;
    }
    offset_in(Some(machine.uart)).is_some() || offset_in(machine.gicc).is_some()
}

fn judge(sandbox: &Sandbox, n: usize, known: Known, done: &Done) {
    let outcome = sandbox.outcome(n);
    if let Outcome::Fault = outcome {
        let _faults = done.faults.add(1);
    }
    let given = sandbox.given(n);
    let went_through = known.must_fault && matches!(outcome, Outcome::Done);
    // What a word does, and what stands in memory and registers of its own, is of the CPU's own making.
    let is_its_own = known.kind == Kind::Word
        || given[1] >> 12 == sandbox.places().scratch >> 12
        || has_words(given[1]);
    let after = sandbox.registers(n);
    let leaks = after
        .iter()
        .zip(&given)
        .any(|(after, before)| after != before && is_ours(*after));
    if went_through || leaks && !is_its_own {
        done.word.set(known.word.into());
        done.address.set(given[1]);
        let _wrong = done.wrong.add(1);
    }
}

/// What is kept across resets, behind the count of boots.
struct Kept([u64; Self::PAGES + BLOCKS]);

impl Kept {
    const STEPS: usize = 0;
    const FAULTS: usize = 1;
    const LOST: usize = 2;
    const BOOTS: usize = 3;
    const RESTARTS: usize = 4;
    /// The pages of slots that each CPU has used, from here on.
    const PAGES: usize = 5;

    fn load() -> Self {
        Self(core::array::from_fn(survivor::kept))
    }

    fn save(&self) {
        for (n, value) in self.0.iter().enumerate() {
            survivor::keep(n, *value);
        }
    }
}

/// What CPU 0 knows of another.
#[derive(Clone, Copy)]
struct Seen {
    steps: u64,
    /// The count when they were so many.
    since: u64,
}

/// Lets all others attack until each has done its part or one of them is lost; how many are, and how many starts it took.
fn watch_attackers(count: usize) -> Result<(u64, u64), crate::harness::TestError> {
    let patience = timer::ticks_of_us(PATIENCE_MS * 1000);
    let mut starts = 0;
    for index in 1..count {
        expect_eq!(cpu::start(index, attack), 0, "CPU {index}");
    }
    let mut seen = [Seen {
        steps: 0,
        since: timer::counter(),
    }; BLOCKS];
    loop {
        nap();
        expect_eq!(
            psci::call_psci(abi::VERSION, &[]),
            abi::VERSION_1_3 as i32,
            "the hypervisor answers"
        );
        let now = timer::counter();
        let mut lost = 0;
        let mut working = 0;
        for index in 1..count {
            let done = &DONE[index];
            let seen = &mut seen[index];
            if done.is_through.get() != 0 {
                continue;
            }
            let steps = done.steps.get();
            if steps != seen.steps {
                *seen = Seen { steps, since: now };
            } else if cpu::is_off(index) {
                // It went off, or a sibling had it begin and end elsewhere. A sibling may start it right now, too.
                starts += u64::from(cpu::start(index, attack) == 0);
                seen.since = now;
            } else {
                wake(index);
            }
            working += 1;
            lost += u64::from(now - seen.since > patience);
        }
        if working == 0 || lost > 0 {
            return Ok((lost, starts));
        }
    }
}

/// Sleeps for [`NAP_US`], or until anything comes.
fn nap() {
    // Others may have written what this CPU's interrupts need, in one of the two.
    for timer in Timer::BOTH {
        gic::enable(timer.intid());
        timer.fire_in(timer::ticks_of_us(NAP_US));
    }
    sysreg::wfi();
    for timer in Timer::BOTH {
        timer.stop();
    }
}

/// Wakes CPU `index` by all that there is.
fn wake(index: usize) {
    gic::send_sgi_to(cpu::affinity(index), 1);
    sdei::signal(cpu::affinity(index));
}

guest_test!(
    random_steps_of_every_kind_harm_nobody_else,
    cpus = 4,
    boot = own,
    icount = false,
    timeout = 120
);
fn random_steps_of_every_kind_harm_nobody_else() -> TestResult {
    needs_hypervisor()?;
    let boots = survivor::count_boot("assault");
    let mut kept = if boots == 1 {
        Kept([0; Kept::PAGES + BLOCKS])
    } else {
        Kept::load()
    };
    let times = machine().number("times").unwrap_or(TIMES);
    let seed = machine().number("seed").unwrap_or(1);
    let count = cpu::count().min(BLOCKS);
    SEED.set(seed ^ boots << 40);
    let left = times - kept.0[Kept::STEPS].min(times);
    for (done, pages) in DONE.iter().zip(&kept.0[Kept::PAGES..]) {
        done.pages.set(*pages);
    }
    QUOTA.set((left / (count as u64 - 1) + 1).min(OF_A_BOOT));
    let (lost, starts) = watch_attackers(count)?;
    for (n, done) in DONE.iter().enumerate() {
        kept.0[Kept::PAGES + n] = done.pages.get();
        let [word, address] = [&done.word, &done.address].map(Cell64::get);
        expect_eq!(
            done.wrong.get(),
            0,
            "steps went through that cannot, or showed what is the hypervisor's: {word:#x} at {address:#x} in boot {boots}"
        );
        kept.0[Kept::STEPS] += done.steps.get();
        kept.0[Kept::FAULTS] += done.faults.get();
    }
    kept.0[Kept::LOST] += lost;
    kept.0[Kept::BOOTS] = boots;
    kept.0[Kept::RESTARTS] += starts;
    crate::rt::console::reopen();
    crate::rt::console::say(format_args!(
        "# boot {boots}: {} steps, {lost} lost, {starts} starts",
        kept.0[Kept::STEPS]
    ));
    if kept.0[Kept::STEPS] < times {
        kept.save();
        psci::system_reset();
    }
    survivor::forget();
    // The console as it was: its registers have been written, too.
    crate::rt::console::reopen();
    metric("steps", kept.0[Kept::STEPS], "steps");
    metric("faults", kept.0[Kept::FAULTS], "exceptions");
    metric("lost_cpus", kept.0[Kept::LOST], "CPUs");
    metric("boots", kept.0[Kept::BOOTS], "boots");
    metric("restarts", kept.0[Kept::RESTARTS], "starts");
    expect_that!(kept.0[Kept::FAULTS] > times / 10, "most go nowhere");
    Ok(())
}
