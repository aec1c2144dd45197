//! Loads and stores at emulated devices that no syndrome describes: with pre- and post-index, and of a pair.

use crate::harness::{TestResult, needs_hypervisor};
use crate::rt::cpu;
use crate::rt::exception::Fault;
use crate::rt::gic::{self, gicd};
use crate::rt::machine::machine;
use crate::rt::mmio::Device;
use crate::rt::sync::Flag;
use crate::rt::undescribed::{self, Registers, Slot};
use crate::rt::{sysreg, walk};

/// Exception class and status (DDI0487 D24.2 ESR_ELx): a data abort at the same level, an external one.
const DATA_ABORT: u64 = 0x25;
const EXTERNAL: u64 = 0x10;

/// Baud rate divisors of the PL011 (DDI0183 3.3.5, 3.3.6), registers that hold what is written.
const IBRD: u64 = 0x24;
const FBRD: u64 = 0x28;
/// What the tests of loads put there: a byte that is negative, and one that is not.
const DIVISORS: [u32; 2] = [0xf0, 0x0d];

/// x1 as base, x2 and x3 as data.
const BASE: u32 = 1;
const DATA: u32 = 2;

#[derive(Clone, Copy)]
enum Index {
    Post,
    Pre,
}

/// A load or store with write-back: log2 of the bytes, opc (0 store, 1 load, 2 and 3 sign-extending), rt (DDI0487
/// C4.1, "Load/store register (immediate post-indexed)" and "pre-indexed").
fn single(size: u32, opc: u32, index: Index, by: i32, rt: u32) -> u32 {
    let index = match index {
        Index::Post => 0x400,
        Index::Pre => 0xc00,
    };
    let by = (by as u32 & 0x1ff) << 12;
    size << 30 | 0x3800_0000 | opc << 22 | by | index | BASE << 5 | rt
}

/// LDP or STP with an offset, in units of its size: opc 0 (W), 1 (LDPSW), 2 (X); mode 1 post-index, 2 offset, 3 pre-index.
fn pair(opc: u32, mode: u32, is_load: bool, by: i32, rt: [u32; 2]) -> u32 {
    let by = (by as u32 & 0x7f) << 15;
    let load = u32::from(is_load) << 22;
    opc << 30 | 0x2800_0000 | mode << 23 | load | by | rt[1] << 10 | BASE << 5 | rt[0]
}

fn uart() -> Device {
    machine().uart
}

/// Executes `word` with x1 at `offset`, which must not fault, and answers x2, x3 and how far x1 moved.
fn run(
    word: u32,
    device: Device,
    offset: u64,
    data: [u64; 2],
) -> Result<([u64; 2], i64), crate::harness::TestError> {
    static SLOT: Slot = Slot::new();
    SLOT.put(word);
    let base = device.region().base + offset;
    let (after, fault) = SLOT.execute(device, Registers { base, data });
    if let Some(fault) = fault {
        fail!("{word:#x} at offset {offset:#x} faults: {fault:#x?}");
    }
    Ok((after.data, after.base.wrapping_sub(base) as i64))
}

/// Executes `word`, which must be an external abort that leaves the registers alone.
fn refuse(word: u32, device: Device, offset: u64, is_write: bool) -> TestResult {
    static SLOT: Slot = Slot::new();
    SLOT.put(word);
    let before = Registers {
        base: device.region().base + offset,
        data: [0x1234_5678_9abc_def0, 7],
    };
    let (after, fault) = SLOT.execute(device, before);
    let Some(fault) = fault else {
        fail!("{word:#x} at offset {offset:#x} does not fault, and leaves {after:x?}");
    };
    expect_eq!(fault.class(), DATA_ABORT, "{word:#x}: {fault:#x?}");
    expect_eq!(fault.status(), EXTERNAL, "{word:#x}: {fault:#x?}");
    expect_eq!(fault.esr >> 6 & 1 != 0, is_write, "{word:#x}: {fault:#x?}");
    expect_eq!(after, before, "{word:#x}");
    Ok(())
}

/// Runs `test` while the baud rate divisors are [`DIVISORS`].
fn with_divisors(test: impl FnOnce(Device) -> TestResult) -> TestResult {
    let uart = uart();
    let kept = [uart.read32(IBRD), uart.read32(FBRD)];
    uart.write32(IBRD, DIVISORS[0]);
    uart.write32(FBRD, DIVISORS[1]);
    let result = test(uart);
    uart.write32(IBRD, kept[0]);
    uart.write32(FBRD, kept[1]);
    result
}

guest_test!(loads_with_write_back_read_and_move_on);
fn loads_with_write_back_read_and_move_on() -> TestResult {
    let gicd = gic::distributor();
    let iidr = u64::from(gicd.read32(gicd::IIDR));
    let garbage = [u64::MAX; 2];
    let load = |index, by| single(2, 1, index, by, DATA);
    let post = run(load(Index::Post, 4), gicd, gicd::IIDR, garbage)?;
    expect_eq!(post, ([iidr, u64::MAX], 4));
    let back = run(load(Index::Post, -256), gicd, gicd::IIDR, garbage)?;
    expect_eq!(back, ([iidr, u64::MAX], -256));
    let pre = run(load(Index::Pre, 4), gicd, gicd::IIDR - 4, garbage)?;
    expect_eq!(pre, ([iidr, u64::MAX], 4));
    let pre = run(load(Index::Pre, -8), gicd, gicd::IIDR + 8, garbage)?;
    expect_eq!(pre, ([iidr, u64::MAX], -8));
    with_divisors(|uart| {
        let byte = run(single(0, 1, Index::Post, 1, DATA), uart, IBRD, garbage)?;
        expect_eq!(byte, ([0xf0, u64::MAX], 1));
        Ok(())
    })
}

guest_test!(loads_with_write_back_extend_the_sign);
fn loads_with_write_back_extend_the_sign() -> TestResult {
    with_divisors(|uart| {
        for (opc, expected) in [(2, 0xffff_ffff_ffff_fff0), (3, 0xffff_fff0)] {
            let word = single(0, opc, Index::Post, 4, DATA);
            let (data, moved) = run(word, uart, IBRD, [0; 2])?;
            expect_eq!((data[0], moved), (expected, 4), "opc {opc}");
            let word = single(0, opc, Index::Pre, -4, DATA);
            let (data, moved) = run(word, uart, FBRD, [0; 2])?;
            expect_eq!((data[0], moved), (expected, -4), "opc {opc}");
            let word = single(0, opc, Index::Pre, 4, DATA);
            let (data, moved) = run(word, uart, IBRD, [u64::MAX; 2])?;
            expect_eq!((data[0], moved), (0x0d, 4), "opc {opc}");
        }
        Ok(())
    })
}

guest_test!(stores_with_write_back_write_and_move_on);
fn stores_with_write_back_write_and_move_on() -> TestResult {
    let uart = uart();
    let kept = [uart.read32(IBRD), uart.read32(FBRD)];
    let store = |index, by| single(2, 0, index, by, DATA);
    let post = run(store(Index::Post, 4), uart, IBRD, [0xabc, 0])?;
    let first = uart.read32(IBRD);
    let pre = run(store(Index::Pre, -4), uart, FBRD, [0xdef, 0])?;
    let second = uart.read32(IBRD);
    // STR wzr.
    let zero = run(single(2, 0, Index::Post, 4, 31), uart, IBRD, [1, 1])?;
    let third = uart.read32(IBRD);
    uart.write32(IBRD, kept[0]);
    uart.write32(FBRD, kept[1]);
    expect_eq!((post, first), (([0xabc, 0], 4), 0xabc));
    expect_eq!((pre, second), (([0xdef, 0], -4), 0xdef));
    expect_eq!((zero, third), (([1, 1], 4), 0));
    Ok(())
}

guest_test!(pairs_are_two_accesses_in_a_row);
fn pairs_are_two_accesses_in_a_row() -> TestResult {
    let (gicd, uart) = (gic::distributor(), uart());
    let first = gicd.read32(gicd::IIDR - 4);
    let second = gicd.read32(gicd::IIDR);
    let both = [first, second].map(u64::from);
    let registers = [DATA, DATA + 1];
    // LDP and LDNP, LDP with post-index and with pre-index.
    for (mode, from, moved) in [(2, 0, 0), (0, 0, 0), (1, 0, 8), (3, 8, -8)] {
        let by = match mode {
            1 => 2,
            3 => -2,
            _ => 0,
        };
        let word = pair(0, mode, true, by, registers);
        let loaded = run(word, gicd, gicd::IIDR - 4 + from, [u64::MAX; 2])?;
        expect_eq!(loaded, (both, moved), "mode {mode}");
    }
    // LDPSW.
    let word = pair(1, 1, true, 2, registers);
    let (loaded, moved) = run(word, gicd, gicd::IIDR - 4, [0; 2])?;
    let signed = both.map(|value| value as u32 as i32 as i64 as u64);
    expect_eq!((loaded, moved), (signed, 8));
    // One of the two is xzr.
    let (loaded, _) = run(
        pair(0, 2, true, 0, [31, DATA]),
        gicd,
        gicd::IIDR - 4,
        [0; 2],
    )?;
    expect_eq!(loaded, [both[1], 0]);
    let kept = [uart.read32(IBRD), uart.read32(FBRD)];
    let stored = run(pair(0, 1, false, 2, registers), uart, IBRD, [0x123, 0x2a])?;
    let held = [uart.read32(IBRD), uart.read32(FBRD)];
    uart.write32(IBRD, kept[0]);
    uart.write32(FBRD, kept[1]);
    expect_eq!(stored, ([0x123, 0x2a], 8));
    expect_eq!(held, [0x123, 0x2a]);
    Ok(())
}

guest_test!(either_stack_pointer_is_a_base);
fn either_stack_pointer_is_a_base() -> TestResult {
    let gicd = gic::distributor();
    // GICD_CTLR.
    let value = gicd.read32(0);
    expect_that!(value != 0, "the distributor is off");
    expect_eq!(undescribed::read_by_sp_el1(gicd, 0), (value, 16));
    expect_eq!(undescribed::read_by_sp_el0(gicd, 0), (value, 16));
    Ok(())
}

guest_test!(what_is_not_decoded_is_an_abort_that_changes_nothing);
fn what_is_not_decoded_is_an_abort_that_changes_nothing() -> TestResult {
    needs_hypervisor()?;
    let gicd = gic::distributor();
    let refused = [
        // Write-back into the register that is transferred (CONSTRAINED UNPREDICTABLE).
        (single(2, 0, Index::Post, 4, BASE), true),
        (single(2, 1, Index::Pre, 4, BASE), false),
        (pair(0, 1, true, 2, [DATA, BASE]), false),
        // A pair loaded into one register.
        (pair(0, 2, true, 0, [DATA, DATA]), false),
        // LDXR w2, [x1]; LDR q2, [x1], #0; LDP d2, d3, [x1].
        (0x885f_7c22, false),
        (0x3cc0_0422, false),
        (0x6d40_0c22, false),
    ];
    for (word, is_write) in refused {
        refuse(word, gicd, gicd::IIDR & !7, is_write)?;
    }
    // A pair that begins on one page and ends on the next.
    let crossing = pair(0, 2, true, 0, [DATA, DATA + 1]);
    refuse(crossing, gicd, 0xffc, false)?;
    // Afterwards all is as before.
    let (loaded, _) = run(single(2, 1, Index::Post, 4, DATA), gicd, gicd::IIDR, [0; 2])?;
    expect_eq!(loaded[0], u64::from(gicd.read32(gicd::IIDR)));
    Ok(())
}

guest_test!(tables_that_are_gone_when_el2_walks_them_end_in_an_abort);
fn tables_that_are_gone_when_el2_walks_them_end_in_an_abort() -> TestResult {
    needs_hypervisor()?;
    let gicd = gic::distributor();
    let beyond = machine().home().end();
    let good = sysreg::translation_table();
    expect_eq!(
        walk::read_pair_by(good, gicd),
        Ok(()),
        "with its own tables"
    );
    // A device that EL2 emulates, one that stage 2 maps, what is behind the guest's memory, no memory at all.
    let places = [
        gicd.region().base,
        uart().region().base,
        beyond & !0xfff,
        0xff_ffff_f000,
    ];
    for place in places {
        for tables in [place, walk::table_that_leads_to(Some(place))] {
            let Err(fault) = walk::read_pair_by(tables, gicd) else {
                fail!("the instruction was read through tables at {place:#x}, {tables:#x}");
            };
            let found = (fault.class(), fault.status());
            expect_eq!(
                found,
                (DATA_ABORT, EXTERNAL),
                "{place:#x}, {tables:#x}: {fault:#x?}"
            );
        }
    }
    let empty = walk::read_pair_by(walk::table_that_leads_to(None), gicd);
    expect_eq!(empty.map_err(Fault::class), Err(DATA_ABORT));
    expect_eq!(walk::read_pair_by(good, gicd), Ok(()), "afterwards");
    Ok(())
}

/// The instruction that one CPU executes and another writes.
static CONTESTED: Slot = Slot::new();
static IS_OVER: Flag = Flag::new();
static HAS_BEGUN: Flag = Flag::new();

/// At GICD_IIDR: LDR w2, [x1], #4; LDR w2, [x1, #-4]!; STR w2, [x1], #4; LDP w2, w3, [x1], #8; and LDR w2, [x1].
fn contestants() -> [u32; 5] {
    [
        single(2, 1, Index::Post, 4, DATA),
        single(2, 1, Index::Pre, -4, DATA),
        single(2, 0, Index::Post, 4, DATA),
        pair(0, 1, true, 2, [DATA, DATA + 1]),
        0xb940_0022,
    ]
}

fn rewrite() {
    let words = contestants();
    HAS_BEGUN.raise();
    while !IS_OVER.is_up() {
        for word in words {
            CONTESTED.put(word);
        }
    }
}

guest_test!(
    code_that_changes_all_the_time_is_one_instruction_or_an_abort,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 60
);
fn code_that_changes_all_the_time_is_one_instruction_or_an_abort() -> TestResult {
    const ROUNDS: usize = 5000;
    let gicd = gic::distributor();
    let words = [gicd::IIDR - 4, gicd::IIDR, gicd::IIDR + 4];
    let [before_it, iidr, behind_it] = words.map(|offset| u64::from(gicd.read32(offset)));
    let garbage = [0xdead_beef, 0xfeed_f00d];
    let outcomes = [
        ([iidr, garbage[1]], 4),
        ([before_it, garbage[1]], -4),
        (garbage, 4),
        ([iidr, behind_it], 8),
        ([iidr, garbage[1]], 0),
    ];
    IS_OVER.lower();
    HAS_BEGUN.lower();
    CONTESTED.put(contestants()[0]);
    expect_eq!(cpu::start(1, rewrite), 0);
    expect_that!(HAS_BEGUN.wait());
    let base = gicd.region().base + gicd::IIDR;
    let mut seen = [0; 5];
    let mut aborts = 0;
    let mut wrong = None;
    for _ in 0..ROUNDS {
        let before = Registers {
            base,
            data: garbage,
        };
        let (after, fault) = CONTESTED.execute(gicd, before);
        let outcome = (after.data, after.base.wrapping_sub(base) as i64);
        let which = outcomes.iter().position(|known| *known == outcome);
        match (fault, which) {
            (None, Some(which)) => seen[which] += 1,
            (Some(fault), None) if fault.class() == DATA_ABORT && after == before => aborts += 1,
            _ => wrong = Some((after, fault)),
        }
    }
    IS_OVER.raise();
    expect_that!(cpu::wait_off(1));
    expect_that!(wrong.is_none(), "{wrong:x?}");
    let done: usize = seen.iter().sum();
    expect_eq!(done + aborts, ROUNDS);
    // Whoever writes, most of what is executed is one instruction.
    expect_that!(done > aborts, "{seen:?} were done, {aborts} aborted");
    Ok(())
}
