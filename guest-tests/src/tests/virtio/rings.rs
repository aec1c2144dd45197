//! Rings that another CPU rewrites while they are read.

use super::{
    ANSWER, DATA, DEVICE, DRIVER, Disk, ENTRIES, HEADER, IN, INDIRECT, NEEDS_RESET, NEXT, OK,
    OTHER_TABLE, OUT, Outcome, QUEUE_NOTIFY, SECTOR, STATUS, TABLE, TestResult, WRITE, address,
    describe, elsewhere, load, machine, needs_mediated, store, sysreg,
};
use crate::rt::cpu;
use crate::rt::sync::{Cell64, Flag};
use crate::rt::virtio::SIZE;

/// How often the device is notified at least; `times=` says how often otherwise.
const TIMES: u64 = 2000;
/// How often requests are done, queues refused and fields rewritten at least. How often each of these is in so many notifications depends on
/// how much of a CPU each of the two threads gets: the device is notified until all of them are.
const DONE: u64 = 20;
const BROKEN: u64 = 20;
const REWRITES: u64 = 1000;
/// What all of the test's data is, and what is on the disk at first.
const OWN: u8 = 0x5a;
const BLANK: u8 = 0x33;
/// Bytes of a sector that are the test's own or the disk's, at least: the others may be of a header or a table that was taken for data,
/// as they are shorter than a sector.
const LEAST: usize = 48;
/// Bytes of a table for a whole request.
const WHOLE: u32 = 48;
/// What no device answers.
const UNTOUCHED: u8 = 0xfe;
/// The sectors that requests are about.
const SECTORS: u64 = 64;

static STOP: Flag = Flag::new();
/// How often something was rewritten.
static REWRITTEN: Cell64 = Cell64::new(0);

/// Numbers that look like nothing (xorshift64).
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    const fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// Rewrites what the queue of [`Disk::set_up`] is made of, one field after the other, until it is told to stop. Whatever is put together of
/// these fields, what is the guest's own is data of this test.
fn rewrite() {
    let mut random = Random(machine().number("seed").unwrap_or(1) | 1);
    let foreign: [u64; 16] = {
        let mut all = elsewhere();
        core::array::from_fn(|_| all.next().unwrap_or(0))
    };
    let end = machine().home().end();
    let own = [HEADER, ANSWER, DATA, DATA + 0x1000, DATA + 0x2e00].map(address);
    let mut entries = 0;
    while !STOP.is_up() {
        let table = random.of(&[TABLE, TABLE, OTHER_TABLE]);
        let index = random.below(ENTRIES.into());
        let at = table + 16 * index;
        match random.below(12) {
            0..=2 => {
                let to = match random.below(8) {
                    0 => random.of(&foreign),
                    // Beginning in the guest's own, or just not.
                    1 => end - 1 - random.below(16),
                    _ => random.of(&own),
                };
                store(at, to);
            }
            // With an address of the guest's own, these lengths are of this test's data, or beyond all of the guest's memory.
            3 | 4 => {
                let lengths = [SECTOR, SECTOR, 2 * SECTOR, WHOLE, 16, 1, 1, 0, 1 << 31, !0];
                store(at + 8, random.of(&lengths));
            }
            5 | 6 => store(
                at + 12,
                random.of(&[NEXT, NEXT, NEXT | WRITE, WRITE, 0, INDIRECT]),
            ),
            7 => store(at + 14, random.below(u64::from(ENTRIES) + 1) as u16),
            8 => {
                let slot = 2 * random.below(ENTRIES.into());
                store(
                    DRIVER + 4 + slot,
                    random.below(u64::from(ENTRIES) + 1) as u16,
                );
            }
            9 => {
                entries += 1;
                let index = load::<u16>(DRIVER + 2);
                let more = random.of(&[1, 1, 1, ENTRIES, ENTRIES + 1, 0x8000]);
                if entries % 16 == 0 {
                    store(DRIVER + 2, index.wrapping_add(more));
                }
            }
            10 => {
                store(HEADER, random.of(&[IN, OUT, OUT, 0x77]));
                store(HEADER + 8, random.below(SECTORS + 1));
            }
            // A whole request, so that some are done.
            _ => request(&mut random),
        }
        if random.below(64) == 0 {
            store(DEVICE + 2, random.next() as u16);
        }
        let _all = REWRITTEN.add(1);
    }
}

/// Writes a request that makes sense.
fn request(random: &mut Random) {
    let is_read = random.below(2) == 0;
    store(HEADER, if is_read { IN } else { OUT });
    store(HEADER + 8, random.below(SECTORS));
    let written = if is_read { WRITE } else { 0 };
    let chain = [
        (address(HEADER), 16, NEXT, 1),
        (address(DATA), SECTOR, NEXT | written, 2),
        (address(ANSWER), 1, WRITE, 0),
    ];
    let table = random.of(&[TABLE, OTHER_TABLE]);
    for (index, entry) in (0..).zip(chain) {
        describe(table, index, entry);
    }
    if table == OTHER_TABLE {
        describe(TABLE, 0, (address(OTHER_TABLE), WHOLE, INDIRECT, 0));
    }
}

/// Everything that chains can lead to is this test's data.
fn fill_all() {
    for at in OTHER_TABLE..SIZE {
        store(at, OWN);
    }
}

/// Sets the queue up, whatever is made of it meanwhile.
fn set_up(disk: &mut Disk) -> TestResult {
    disk.set_up_at([TABLE, DRIVER, DEVICE].map(address))
}

/// No sector is of memory that is not the test's.
fn expect_own_data(disk: &mut Disk) -> TestResult {
    for sector in 0..2 * SECTORS {
        let outcome = disk.request((IN, sector), address(DATA), false)?;
        expect_eq!(outcome, Outcome::Done);
        expect_eq!(load::<u8>(ANSWER), OK);
        let bytes = (DATA..DATA + u64::from(SECTOR)).map(load::<u8>);
        let own = bytes.filter(|byte| [OWN, BLANK].contains(byte)).count();
        expect_that!(
            own >= LEAST,
            "of sector {sector} only {own} bytes are known"
        );
    }
    Ok(())
}

guest_test!(
    rings_that_change_while_they_are_read_reach_nothing_else,
    cpus = 2,
    boot = own,
    icount = false,
    config = "disk",
    timeout = 300
);
fn rings_that_change_while_they_are_read_reach_nothing_else() -> TestResult {
    let mut disk = needs_mediated()?;
    fill_all();
    for sector in 0..SECTORS {
        disk.set_up()?;
        disk.work((OUT, sector), false)?;
    }
    STOP.lower();
    REWRITTEN.set(0);
    expect_eq!(cpu::start(1, rewrite), 0);
    let outcome = notify_often(&mut disk);
    STOP.raise();
    expect_that!(cpu::wait_off(1));
    outcome?;
    // The disk works as ever, and has nothing but what it was given.
    disk.set_up()?;
    expect_own_data(&mut disk)?;
    disk.device.write32(STATUS, 0);
    Ok(())
}

/// Has the device look at its queue until enough has come of it.
fn notify_often(disk: &mut Disk) -> TestResult {
    let (mut done, mut broken) = (0, 0);
    store(ANSWER, UNTOUCHED);
    set_up(disk)?;
    let times = machine().number("times").unwrap_or(TIMES);
    let mut notified = 0;
    while notified < times || done < DONE || broken < BROKEN || REWRITTEN.get() < REWRITES {
        notified += 1;
        let index = load::<u16>(DRIVER + 2);
        store(DRIVER + 2, index.wrapping_add(1));
        sysreg::store_barrier();
        disk.device.write32(QUEUE_NOTIFY, 0);
        if load::<u8>(ANSWER) != UNTOUCHED {
            store(ANSWER, UNTOUCHED);
            done += 1;
        }
        if disk.status() & NEEDS_RESET != 0 {
            broken += 1;
            set_up(disk)?;
        }
    }
    disk.device.write32(STATUS, 0);
    Ok(())
}
