//! CPUs that make their own tables, stack pointers and event handlers worthless, and are lost: nobody else is.

use hv_abi::psci as abi;
use hv_abi::sdei::Call;

use crate::harness::{TestResult, metric, needs_hypervisor};
use crate::rt::assault::{BLOCKS, Sandbox, Step};
use crate::rt::machine::machine;
use crate::rt::sync::Cell64;
use crate::rt::timer::Timer;
use crate::rt::{cpu, gic, psci, sdei, survivor, sysreg};
use crate::tests::timer::takes_interrupts;

use super::steps::{Map, Numbers};

/// Boots of a run, in each of which all CPUs but one are lost; `boots=` says how many otherwise.
const BOOTS: u64 = 12;
/// Signals that each of them is sent then.
const SIGNALS: u64 = 100;

/// CPUs that are about to be lost.
static READY: Cell64 = Cell64::new(0);
static SEED: Cell64 = Cell64::new(0);

const EL1H_MASKED: u32 = 0x3c5;
/// HVC #0.
const HVC: u32 = 0xd400_0002;

fn step(word: u32, x: [u64; 31]) -> Step {
    Step {
        word,
        x,
        pstate: EL1H_MASKED,
        is_flat: false,
    }
}

/// Registers event 0 at an address that is no handler, unmasks, and breaks what it lives by.
fn be_lost() {
    let me = sysreg::cpu_index();
    let mut sandbox = Sandbox::new(me, 0);
    let places = sandbox.places();
    let map = Map::new(places);
    let mut numbers = Numbers::new(SEED.get() ^ (me as u64) << 56);
    let handlers = [
        map.device(&mut numbers) & !3,
        map.foreign(&mut numbers).unwrap_or(0) & !3,
        places.scratch,
        numbers.next(),
        0xffff_ffff_ffff_fffc,
        places.handler,
    ];
    let handler = handlers[numbers.below(6) as usize];
    let call = |call: Call, x1: u64, x2: u64| {
        let mut x = [map_filler(x2); 31];
        x[..3].copy_from_slice(&[call as u64, x1, x2]);
        step(HVC, x)
    };
    /// Another ASID, so that nothing that is remembered of the good tables helps.
    const ASID: u64 = 1 << 48;
    // MSR of TTBR0_EL1, TCR_EL1 and, for the byte order of walks alone, SCTLR_EL1 from x5.
    let (word, value) = match numbers.below(6) {
        0 => (0xd518_2005, map.device(&mut numbers) & !0xfff | ASID),
        1 => (
            0xd518_2005,
            map.foreign(&mut numbers).unwrap_or(0) & !0xfff | ASID,
        ),
        2 => (0xd518_2005, places.scratch & !0xfff | ASID),
        3 => (0xd518_2005, numbers.next()),
        4 => (0xd518_2045, numbers.next()),
        _ => (0xd518_1005, 0x32d0_0801 | 1 << 2),
    };
    let mut x = [value; 31];
    x[1] = map.device(&mut numbers) & !15;
    READY.add(1);
    let steps = [
        call(Call::EventRegister, 0, handler),
        call(Call::EventEnable, 0, 0),
        call(Call::PeUnmask, 0, 0),
        // What no syndrome describes, so that EL2 reads the instruction through these tables; with the tables gone.
        step(0xa940_0c22, x),
        step(word, x),
        step(0xa8c1_0c22, x),
    ];
    sandbox.write(steps.into_iter());
    sandbox.execute(0, steps.len());
}

/// What stands in registers that do not matter.
fn map_filler(x: u64) -> u64 {
    x.rotate_left(17) | 1
}

guest_test!(
    cpus_that_lose_their_tables_and_handlers_are_lost_alone,
    cpus = 4,
    boot = own,
    icount = false,
    timeout = 120
);
fn cpus_that_lose_their_tables_and_handlers_are_lost_alone() -> TestResult {
    needs_hypervisor()?;
    let boots = survivor::count_boot("assault_tables");
    let count = cpu::count().min(BLOCKS);
    let seed = machine().number("seed").unwrap_or(1);
    SEED.set(seed ^ boots << 32);
    for index in 1..count {
        expect_eq!(cpu::start(index, be_lost), 0, "CPU {index}");
    }
    let others = count as u64 - 1;
    expect_that!(crate::rt::sync::eventually(|| READY.get() == others));
    for _ in 0..SIGNALS {
        for index in 1..count {
            sdei::signal(cpu::affinity(index));
            gic::send_sgi_to(cpu::affinity(index), 1);
        }
        expect_eq!(
            psci::call_psci(abi::VERSION, &[]),
            abi::VERSION_1_3 as i32,
            "boot {boots}"
        );
    }
    for timer in Timer::BOTH {
        expect_that!(takes_interrupts(timer, 3), "{timer:?} in boot {boots}");
    }
    let lost = (1..count).filter(|&index| !cpu::is_off(index)).count() as u64;
    let lost = lost + if boots == 1 { 0 } else { survivor::kept(0) };
    if boots < machine().number("boots").unwrap_or(BOOTS) {
        survivor::keep(0, lost);
        psci::system_reset();
    }
    survivor::forget();
    metric("boots", boots, "boots");
    metric("lost_cpus", lost, "CPUs");
    expect_that!(lost >= boots, "{lost} CPUs were lost in {boots} boots");
    Ok(())
}
