//! CPUs whose tables a sibling rewrites while they are walked, by the CPUs' own accesses and by EL2, which reads instructions
//! through them: they fault for as long as a table is wrong, and go on when it is right again. Nobody else is harmed.

use core::sync::atomic::Ordering;

use hv_abi::psci as abi;

use crate::harness::{TestResult, metric, needs_hypervisor};
use crate::rt::assault::{BATCH, Sandbox, Step};
use crate::rt::machine::machine;
use crate::rt::sync::{Cell64, within_ms};
use crate::rt::timer::Timer;
use crate::rt::{cpu, gic, psci, sdei, sysreg};
use crate::tests::timer::takes_interrupts;

use super::steps::{Map, Numbers};

/// Entries that are rewritten, unless `times=` says otherwise.
const TIMES: u64 = 20_000;
/// CPUs whose tables are rewritten; the one behind them does that.
const VICTIMS: [usize; 2] = [1, 2];
const REWRITER: usize = 3;
const EL1H_MASKED: u32 = 0x3c5;
/// Time for a CPU to end its batch once its tables are right, on a host that does much else.
const PATIENCE_MS: u64 = 60_000;

/// Batches of each victim so far, and what came of their steps.
static BATCHES: [Cell64; 2] = [const { Cell64::new(0) }; 2];
static ENDED: Cell64 = Cell64::new(0);
static REWRITTEN: Cell64 = Cell64::new(0);
/// The victims are to end.
static IS_OVER: Cell64 = Cell64::new(0);

/// Loads of pairs and with write-back, which no syndrome describes: EL2 reads the instruction.
const UNDESCRIBED: [u32; 6] = [
    0xa940_0c22, // LDP X2, X3, [X1]
    0xa8c1_0c22, // LDP X2, X3, [X1], #16
    0x2940_0c22, // LDP W2, W3, [X1]
    0xa840_0c22, // LDNP X2, X3, [X1]
    0xf840_8422, // LDR X2, [X1], #8
    0xb840_4c22, // LDR W2, [X1, #4]!
];

fn suffer() {
    let me = sysreg::cpu_index();
    let mut sandbox = Sandbox::new(me, 0);
    let map = Map::new(sandbox.places());
    let mut numbers = Numbers::new(me as u64);
    while IS_OVER.get() == 0 {
        sandbox.write((0..BATCH).map(|_| {
            let mut x = [numbers.next(); 31];
            x[1] = map.device(&mut numbers) & !15;
            Step {
                word: UNDESCRIBED[numbers.below(6) as usize],
                x,
                pstate: EL1H_MASKED,
                is_flat: false,
            }
        }));
        sandbox.execute(0, BATCH);
        BATCHES[me - VICTIMS[0]].add(1);
    }
    ENDED.add(1);
}

/// Writes what cannot be into an entry that is walked, and what was there before; nothing that would show another's memory.
fn rewrite() {
    const VALID: u64 = 0b11;
    const ACCESSED: u64 = 1 << 10;
    let foreign = Map::new(Sandbox::new(REWRITER, 0).places());
    let mut numbers = Numbers::new(machine().number("seed").unwrap_or(1));
    let times = machine().number("times").unwrap_or(TIMES);
    for _ in 0..times {
        let victim = VICTIMS[numbers.below(2) as usize];
        let tables = Sandbox::tables(victim);
        let (table, used) = tables[numbers.below(4) as usize];
        let entry = &table[used];
        let was = entry.load(Ordering::Relaxed);
        let place = foreign.foreign(&mut numbers).unwrap_or(0) & !0xfff;
        let wrong = match numbers.below(6) {
            0 => 0,
            // A table or a page where the hypervisor is, or behind the end of what there is.
            1 => place | VALID | ACCESSED,
            2 => place | VALID,
            3 => (numbers.next() & 0xff00_0000_0000) | VALID | ACCESSED,
            // Not valid, whatever else it says.
            4 => numbers.next() & !1,
            // The right one, but never accessed.
            _ => was & !ACCESSED,
        };
        // One that the victim itself has replaced in the meantime stays.
        if entry
            .compare_exchange(was, wrong, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            for _ in 0..numbers.below(2000) {
                sysreg::relax();
            }
            let _same = entry.compare_exchange(wrong, was, Ordering::Relaxed, Ordering::Relaxed);
            crate::rt::table::flush_translations();
            let _so_far = REWRITTEN.add(1);
        }
    }
}

guest_test!(
    cpus_whose_tables_siblings_rewrite_during_walks_go_on,
    cpus = 4,
    boot = own,
    icount = false,
    timeout = 120
);
fn cpus_whose_tables_siblings_rewrite_during_walks_go_on() -> TestResult {
    needs_hypervisor()?;
    let times = machine().number("times").unwrap_or(TIMES);
    for victim in VICTIMS {
        expect_eq!(cpu::start(victim, suffer), 0, "CPU {victim}");
    }
    expect_that!(within_ms(PATIENCE_MS, || BATCHES
        .iter()
        .all(|batches| batches.get() > 0)));
    expect_eq!(cpu::start(REWRITER, rewrite), 0, "CPU {REWRITER}");
    while !cpu::is_off(REWRITER) {
        for victim in VICTIMS {
            sdei::signal(cpu::affinity(victim));
            gic::send_sgi_to(cpu::affinity(victim), 1);
        }
        expect_eq!(
            psci::call_psci(abi::VERSION, &[]),
            abi::VERSION_1_3 as i32,
            "the hypervisor answers"
        );
    }
    let before = BATCHES.each_ref().map(Cell64::get);
    let go_on = || {
        BATCHES
            .iter()
            .zip(before)
            .all(|(now, before)| now.get() > before)
    };
    expect_that!(
        within_ms(PATIENCE_MS, go_on),
        "their tables are right, and they stand still"
    );
    IS_OVER.set(1);
    expect_that!(within_ms(PATIENCE_MS, || ENDED.get() == VICTIMS.len() as u64));
    for timer in Timer::BOTH {
        expect_that!(takes_interrupts(timer, 3), "{timer:?}");
    }
    metric("rewritten", REWRITTEN.get(), "entries");
    metric("batches", BATCHES.iter().map(Cell64::get).sum(), "batches");
    expect_that!(
        REWRITTEN.get() >= times / 2,
        "most entries stayed as they were meanwhile"
    );
    Ok(())
}
