//! vCPUs that make the hypervisor take its locks without end. They may slow themselves, and must not keep another from
//! what it needs.

use crate::harness::{TestResult, needs_hypervisor};
use crate::rt::gic;
use crate::rt::machine::machine;
use crate::rt::sync::{Cell64, Flag};
use crate::rt::{cpu, sysreg};

/// GICD_CTLR, GICD_ISPENDR and GICD_ICPENDR (IHI0069 12.9; the same offsets in IHI0048 4.3).
const CTLR: u64 = 0;
const ISENABLER: u64 = 0x100;
const ISPENDR: u64 = 0x200;
const ICPENDR: u64 = 0x280;

/// How often CPU 0 wants the lock; `times=` says how often otherwise.
const TIMES: u64 = 2000;

static STOP: Flag = Flag::new();
static UP: Cell64 = Cell64::new(0);
/// How often the others had the lock.
static OTHERS: Cell64 = Cell64::new(0);

/// CPU 0 reads a register while all others write to the distributor, with every SPI pending.
fn read_while_others_write() -> TestResult {
    needs_hypervisor()?;
    STOP.lower();
    UP.set(0);
    OTHERS.set(0);
    let gicd = gic::distributor();
    for block in 1..8 {
        gicd.write32(ISENABLER + 4 * block, !0);
        gicd.write32(ISPENDR + 4 * block, !0);
    }
    for index in 1..cpu::count() {
        let status = cpu::start(index, || {
            let gicd = gic::distributor();
            let me = sysreg::cpu_index() as u64;
            let _up = UP.add(1);
            let mut groups = 0;
            while !STOP.is_up() {
                if me % 3 == 2 {
                    let block = 4 * (1 + me % 7);
                    gicd.write32(ISPENDR + block, !0);
                    gicd.write32(ICPENDR + block, !0);
                    let _taken = OTHERS.add(2);
                } else {
                    groups ^= 0b11;
                    gicd.write32(CTLR, groups);
                    let _taken = OTHERS.add(1);
                }
            }
        });
        expect_eq!(status, 0);
    }
    let others = cpu::count() as u64 - 1;
    while UP.get() < others {
        sysreg::relax();
    }
    let times = machine().number("times").unwrap_or(TIMES);
    let before = OTHERS.get();
    for _ in 0..times {
        let _enabled = gicd.read32(ISENABLER + 4);
    }
    let taken = OTHERS.get() - before;
    STOP.raise();
    for index in 1..cpu::count() {
        expect_that!(cpu::wait_off(index));
    }
    // Only where the CPUs take turns is it known how long each has run.
    if machine().has_argument("icount") {
        let share = taken / others;
        expect_that!(
            3 * times >= share,
            "{times} times, and {share} for each of the others"
        );
    }
    Ok(())
}

guest_test!(
    no_vcpu_is_kept_from_the_lock_by_others_that_take_it_without_end,
    cpus = 3,
    boot = own,
    icount = true,
    timeout = 60
);
fn no_vcpu_is_kept_from_the_lock_by_others_that_take_it_without_end() -> TestResult {
    read_while_others_write()
}

guest_test!(
    vcpus_that_take_the_lock_without_end_stop_nobody,
    cpus = 8,
    boot = own,
    icount = false,
    timeout = 60
);
fn vcpus_that_take_the_lock_without_end_stop_nobody() -> TestResult {
    read_while_others_write()
}
