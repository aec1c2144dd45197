//! A block device behind virtio-mmio. Each of these tests has a boot of its own with a mediated one, and
//! `cargo xtask test several/` has them run in one guest beside another; where there is none they are skipped. The queue is built by hand, as no sane driver does.
//! Other devices are those of [`kinds`].

mod kinds;
mod rings;

use crate::harness::{TestError, TestResult};
use crate::rt::gic::{self, gicd};
use crate::rt::machine::machine;
use crate::rt::mmio::Device;
use crate::rt::sync::within_ms;
use crate::rt::virtio::{address, load, store};
use crate::rt::{exception, probe, sysreg};

// Registers (virtio 1.2, 4.2.2).
const MAGIC: u64 = 0x00;
const VERSION: u64 = 0x04;
const DEVICE_ID: u64 = 0x08;
const DEVICE_FEATURES: u64 = 0x10;
const DEVICE_FEATURES_SEL: u64 = 0x14;
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SEL: u64 = 0x24;
const QUEUE_SEL: u64 = 0x30;
const QUEUE_SIZE_MAX: u64 = 0x34;
const QUEUE_SIZE: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACK: u64 = 0x64;
const STATUS: u64 = 0x70;
const QUEUE_DESC: u64 = 0x80;
const QUEUE_DRIVER: u64 = 0x90;
const QUEUE_DEVICE: u64 = 0xa0;
const CONFIG: u64 = 0x100;
const CAPACITY: u64 = CONFIG;

const FEATURES_OK: u32 = 8;
const DRIVER_OK: u32 = 4;
const NEEDS_RESET: u32 = 64;

// Flags of a descriptor, and the most entries that these tests have in a table.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const ENTRIES: u16 = 8;

// Requests of a block device, and its answers (5.2.6).
const IN: u32 = 0;
const OUT: u32 = 1;
const OK: u8 = 0;
const UNTOUCHED: u8 = 0xff;
const SECTOR: u32 = 512;

// Where what is, in the memory of `rt::virtio`.
const TABLE: u64 = 0;
const DRIVER: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const OTHER_TABLE: u64 = 0x3000;
const HEADER: u64 = 0x4000;
const ANSWER: u64 = 0x4100;
const DATA: u64 = 0x8000;

/// A descriptor: address, length, flags, next.
type Descriptor = (u64, u32, u16, u16);

/// A block device that is set up.
struct Disk {
    device: Device,
    intid: u32,
    /// The available ring's index.
    available: u16,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The device is done with it.
    Done,
    /// The device wants to be reset.
    Broken,
}

impl Disk {
    /// The first there is.
    fn find() -> Result<Self, TestError> {
        let is_disk = |device: Device| {
            let [magic, version, id] = [MAGIC, VERSION, DEVICE_ID].map(|at| device.read32(at));
            (magic, version, id) == (0x7472_6976, 2, 2)
        };
        let mut disks = machine().transports().filter(|it| is_disk(it.0));
        let Some((device, intid)) = disks.next() else {
            skip!("there is no virtio disk of version 2");
        };
        Ok(Self {
            device,
            intid,
            available: 0,
        })
    }

    fn status(&self) -> u32 {
        self.device.read32(STATUS)
    }

    /// Agrees on VERSION_1 and tables of descriptors, and sets up a queue at these places.
    fn set_up_at(&mut self, [table, driver, ring]: [u64; 3]) -> TestResult {
        let device = self.device;
        for status in [0, 1, 3] {
            device.write32(STATUS, status);
        }
        for (select, features) in [(0, 1 << 28), (1, 1)] {
            device.write32(DRIVER_FEATURES_SEL, select);
            device.write32(DRIVER_FEATURES, features);
        }
        device.write32(STATUS, 3 | FEATURES_OK);
        expect_eq!(self.status(), 3 | FEATURES_OK);
        for ring in [DRIVER, DEVICE] {
            store(ring, 0u32);
        }
        self.available = 0;
        device.write32(QUEUE_SEL, 0);
        device.write32(QUEUE_SIZE, ENTRIES.into());
        let places = [
            (QUEUE_DESC, table),
            (QUEUE_DRIVER, driver),
            (QUEUE_DEVICE, ring),
        ];
        for (register, place) in places {
            device.write32(register, place as u32);
            device.write32(register + 4, (place >> 32) as u32);
        }
        device.write32(QUEUE_READY, 1);
        device.write32(STATUS, 3 | FEATURES_OK | DRIVER_OK);
        Ok(())
    }

    fn set_up(&mut self) -> TestResult {
        self.set_up_at([TABLE, DRIVER, DEVICE].map(address))?;
        expect_eq!(self.device.read32(QUEUE_READY), 1);
        expect_eq!(self.status(), 3 | FEATURES_OK | DRIVER_OK);
        Ok(())
    }

    /// Makes a chain available and waits for what comes of it.
    fn submit(&mut self, head: u16) -> Result<Outcome, TestError> {
        let slot = u64::from(self.available % ENTRIES);
        store(DRIVER + 4 + 2 * slot, head);
        sysreg::store_barrier();
        self.available = self.available.wrapping_add(1);
        store(DRIVER + 2, self.available);
        sysreg::store_barrier();
        self.device.write32(QUEUE_NOTIFY, 0);
        self.wait()
    }

    fn wait(&self) -> Result<Outcome, TestError> {
        let mut outcome = None;
        let has_ended = within_ms(10_000, || {
            if load::<u16>(DEVICE + 2) == self.available {
                outcome = Some(Outcome::Done);
            } else if self.status() & NEEDS_RESET != 0 {
                outcome = Some(Outcome::Broken);
            }
            outcome.is_some()
        });
        match outcome {
            Some(outcome) if has_ended => Ok(outcome),
            _ => fail!("the device says nothing: status {:#x}", self.status()),
        }
    }

    /// Writes the header of a request, and forgets the last answer.
    fn begin(kind: u32, sector: u64) {
        store(HEADER, kind);
        store(HEADER + 4, 0u32);
        store(HEADER + 8, sector);
        store(ANSWER, UNTOUCHED);
    }

    /// A request with its data at `data`, in descriptors of the queue's own table or in one of their own.
    fn request(
        &mut self,
        (kind, sector): (u32, u64),
        data: u64,
        is_indirect: bool,
    ) -> Result<Outcome, TestError> {
        Self::begin(kind, sector);
        let table = if is_indirect { OTHER_TABLE } else { TABLE };
        let (first, written) = (1, if kind == IN { WRITE } else { 0 });
        let [a, b, c] = if is_indirect {
            [0, 1, 2]
        } else {
            [first, 5, 3]
        };
        describe(table, a, (address(HEADER), 16, NEXT, b));
        describe(table, b, (data, SECTOR, NEXT | written, c));
        describe(table, c, (address(ANSWER), 1, WRITE, 0));
        if is_indirect {
            describe(TABLE, first, (address(OTHER_TABLE), 48, INDIRECT, 0));
        }
        self.submit(first)
    }

    /// The same with data of the test's own memory, which succeeds.
    fn work(&mut self, request: (u32, u64), is_indirect: bool) -> TestResult {
        let outcome = self.request(request, address(DATA), is_indirect)?;
        expect_eq!(outcome, Outcome::Done);
        expect_eq!(load::<u8>(ANSWER), OK, "{request:?}");
        Ok(())
    }

    /// Reads a sector and expects it to hold the pattern of `seed`.
    fn expect_sector(&mut self, sector: u64, seed: u64) -> TestResult {
        fill(!seed);
        self.work((IN, sector), seed.is_multiple_of(2))?;
        for at in (0..u64::from(SECTOR)).step_by(8) {
            expect_eq!(load::<u64>(DATA + at), seed ^ at, "sector {sector}");
        }
        Ok(())
    }
}

fn describe(table: u64, index: u16, (address, length, flags, next): Descriptor) {
    let at = table + 16 * u64::from(index);
    store(at, address);
    store(at + 8, length);
    store(at + 12, flags);
    store(at + 14, next);
}

/// Fills a sector's data with the pattern of `seed`.
fn fill(seed: u64) {
    for at in (0..u64::from(SECTOR)).step_by(8) {
        store(DATA + at, seed ^ at);
    }
}

guest_test!(
    a_virtio_disk_reads_and_writes,
    cpus = 1,
    boot = own,
    icount = false,
    config = "disk",
    timeout = 120
);
fn a_virtio_disk_reads_and_writes() -> TestResult {
    let mut disk = Disk::find()?;
    disk.set_up()?;
    expect_that!(disk.device.read32(CAPACITY) >= 128);
    expect_that!(disk.device.read32(QUEUE_SIZE_MAX) >= ENTRIES.into());
    // More of them than the queue has entries, forwards and backwards, in both kinds of table.
    for sector in 0..64 {
        fill(sector + 1);
        disk.work((OUT, sector), sector % 3 == 0)?;
    }
    for sector in (0..64).rev() {
        disk.expect_sector(sector, sector + 1)?;
    }
    // As it was after a reset in the middle.
    disk.set_up()?;
    disk.expect_sector(7, 8)?;
    disk.device.write32(STATUS, 0);
    Ok(())
}

guest_test!(
    a_virtio_disk_interrupts_unless_it_is_told_not_to,
    cpus = 1,
    boot = own,
    icount = false,
    config = "disk",
    timeout = 60
);
fn a_virtio_disk_interrupts_unless_it_is_told_not_to() -> TestResult {
    let mut disk = Disk::find()?;
    disk.set_up()?;
    let (device, intid) = (disk.device, disk.intid);
    let is_pending = || gic::is_set(gicd::ISPENDR, intid);
    let clear = || gic::bank(intid).write32(gicd::ICPENDR + gic::word(intid), gic::bit(intid));
    clear();
    for round in 0..3 {
        disk.work((IN, round), false)?;
        expect_that!(within_ms(10_000, is_pending), "round {round}");
        expect_eq!(device.read32(INTERRUPT_STATUS), 1);
        device.write32(INTERRUPT_ACK, 1);
        expect_eq!(device.read32(INTERRUPT_STATUS), 0);
        clear();
        expect_that!(!is_pending());
        // VIRTQ_AVAIL_F_NO_INTERRUPT (2.7.6).
        store(DRIVER, 1u16);
        disk.work((IN, round), true)?;
        expect_that!(!is_pending());
        expect_eq!(device.read32(INTERRUPT_STATUS), 0);
        store(DRIVER, 0u16);
    }
    device.write32(STATUS, 0);
    Ok(())
}

guest_test!(
    a_mediated_disk_offers_only_what_can_be_checked,
    cpus = 1,
    boot = own,
    icount = false,
    config = "disk",
    timeout = 60
);
fn a_mediated_disk_offers_only_what_can_be_checked() -> TestResult {
    let disk = needs_mediated()?;
    let device = disk.device;
    for (select, offered) in [(0, 0x10ff_ffff), (1, 1), (2, 0), (3, 0)] {
        device.write32(DEVICE_FEATURES_SEL, select);
        let features = device.read32(DEVICE_FEATURES);
        expect_eq!(features & !offered, 0, "features {select}");
    }
    // EVENT_IDX; ACCESS_PLATFORM, RING_PACKED, NOTIFICATION_DATA, RING_RESET.
    for (select, bit) in [(0, 29), (1, 1), (1, 2), (1, 6), (1, 8)] {
        for status in [0, 1, 3] {
            device.write32(STATUS, status);
        }
        for word in [0, 1] {
            let more = if word == select { 1 << bit } else { 0 };
            device.write32(DRIVER_FEATURES_SEL, word);
            device.write32(DRIVER_FEATURES, word | more);
        }
        device.write32(STATUS, 3 | FEATURES_OK);
        expect_eq!(disk.status(), 3, "feature {bit} of {select}");
    }
    // Of the page that the transport is in nothing else is there: other guests' are.
    let own = device.region();
    let others = (0..8).map(|slot| (own.base & !0xfff) + 0x200 * slot);
    for other in others.filter(|&at| !own.contains(at) && !machine().describes(at)) {
        expect_that!(probe::read32(other).is_err(), "{other:#x}");
        expect_that!(probe::write32(other + STATUS, 0).is_err(), "{other:#x}");
    }
    device.write32(STATUS, 0);
    Ok(())
}

/// Skips unless the disk is mediated: the transport beside it is then not shown.
fn needs_mediated() -> Result<Disk, TestError> {
    let disk = Disk::find()?;
    if !machine().has_argument("mediated") {
        skip!("the disk is the guest's without a check");
    }
    Ok(disk)
}

/// Addresses that no guest of this machine reaches, where the hypervisor is, other guests and devices; all RAM from the end of this
/// guest's on to 4 GiB.
fn elsewhere() -> impl Iterator<Item = u64> {
    let step = 2 << 20;
    let low = [0, 0x0800_0000, 0x0900_0000, 0x0a00_0000, 0x3fff_fe00];
    let end = machine().home().end();
    let above = (0..).map(move |n| end + n * step);
    let high = [1 << 32, 1 << 39, 1 << 47, 1 << 63, u64::MAX - 511];
    let all = low.into_iter().chain(above.take_while(|&at| at < 1 << 32));
    let all = all.chain([end - 511, end - 1]).chain(high);
    all.filter(|&at| at >= machine().home().end() - 511 || !probe::is_memory(at))
}

guest_test!(
    a_queue_that_is_made_up_reaches_nothing_but_the_guests_memory,
    cpus = 1,
    boot = own,
    icount = false,
    config = "disk",
    timeout = 300
);
fn a_queue_that_is_made_up_reaches_nothing_but_the_guests_memory() -> TestResult {
    let mut disk = needs_mediated()?;
    disk.set_up()?;
    fill(0xa5a5);
    disk.work((OUT, 0), false)?;
    fill(0x5a5a);
    disk.work((OUT, 1), false)?;
    // The disk is to read from there what it then has, and to write there what it has; each way in both kinds of table.
    for (number, at) in elsewhere().enumerate() {
        for request in [(OUT, 0), (IN, 1)] {
            let outcome = disk.request(request, at, number % 2 == 0)?;
            expect_eq!(outcome, Outcome::Broken, "{request:?} at {at:#x}");
            expect_eq!(load::<u8>(ANSWER), UNTOUCHED, "{request:?} at {at:#x}");
            disk.set_up()?;
        }
    }
    disk.expect_sector(0, 0xa5a5)?;
    disk.expect_sector(1, 0x5a5a)
}

/// A chain that is none: what is in the queue's table, and in another one.
type Chain<'a> = (&'a [Descriptor], &'a [Descriptor]);

guest_test!(
    chains_that_make_no_sense_stop_the_disk_and_nothing_else,
    cpus = 1,
    boot = own,
    icount = false,
    config = "disk",
    timeout = 120
);
fn chains_that_make_no_sense_stop_the_disk_and_nothing_else() -> TestResult {
    let mut disk = needs_mediated()?;
    let (head, answer) = (
        (address(HEADER), 16, NEXT, 1),
        (address(ANSWER), 1, WRITE, 0),
    );
    let table = |length, flags| (address(OTHER_TABLE), length, INDIRECT | flags, 0);
    let outside = machine().home().end();
    let made_up: [Chain<'_>; 14] = [
        (&[(address(HEADER), 16, NEXT, 0)], &[]),
        (&[head, (address(DATA), 512, NEXT, 0)], &[]),
        (&[(address(HEADER), 16, NEXT, ENTRIES)], &[]),
        (&[(address(HEADER), 16, NEXT, u16::MAX)], &[]),
        (&[(address(HEADER), 0, NEXT, 1), answer], &[]),
        (&[(address(HEADER), u32::MAX, NEXT, 1), answer], &[]),
        (&[(u64::MAX - 15, 32, NEXT, 1), answer], &[]),
        (&[(address(ANSWER), 1, WRITE | NEXT, 1), head], &[]),
        (&[table(0, 0)], &[]),
        (&[table(17, 0)], &[head, answer]),
        (&[table(32, NEXT)], &[head, answer]),
        (&[table(16, 0)], &[table(16, 0)]),
        (&[table(32, 0)], &[head, (address(DATA), 512, NEXT, 2)]),
        (&[(outside, 32, INDIRECT, 0)], &[]),
    ];
    for (number, (own, others)) in made_up.iter().enumerate() {
        disk.set_up()?;
        Disk::begin(IN, 0);
        for (place, entries) in [(TABLE, own), (OTHER_TABLE, others)] {
            for (index, entry) in (0..).zip(*entries) {
                describe(place, index, *entry);
            }
        }
        expect_eq!(disk.submit(0)?, Outcome::Broken, "chain {number}");
        // The guest is told by an interrupt, too.
        expect_eq!(disk.device.read32(INTERRUPT_STATUS), 2, "chain {number}");
        expect_eq!(load::<u8>(ANSWER), UNTOUCHED, "chain {number}");
    }
    // Rings that are elsewhere, or not aligned, or as a device must never find them.
    let sound = [TABLE, DRIVER, DEVICE].map(address);
    for place in 0..3 {
        for at in [outside, outside - 16, sound[place] + 1, 0, !15] {
            let mut places = sound;
            places[place] = at;
            disk.set_up_at(places)?;
            expect_eq!(disk.device.read32(QUEUE_READY), 0, "{place} at {at:#x}");
            expect_that!(disk.status() & NEEDS_RESET != 0);
        }
    }
    for index in [ENTRIES + 1, 0x8000, 0xffff] {
        disk.set_up()?;
        disk.available = index.wrapping_sub(1);
        expect_eq!(disk.submit(0)?, Outcome::Broken, "index {index}");
    }
    let garbage = |word: u64| word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7;
    for round in 0..50 {
        disk.set_up()?;
        for word in 0..2 * u64::from(ENTRIES) {
            store(TABLE + 8 * word, garbage(64 * round + word));
        }
        let outcome = exception::catch(|| disk.submit((garbage(round) % 9) as u16));
        match outcome {
            Ok(outcome) => expect_eq!(outcome?, Outcome::Broken, "round {round}"),
            Err(fault) => fail!("round {round}: {fault:x?}"),
        }
    }
    disk.set_up()?;
    fill(0x77);
    disk.work((OUT, 2), true)?;
    disk.expect_sector(2, 0x77)?;
    disk.device.write32(STATUS, 0);
    Ok(())
}
