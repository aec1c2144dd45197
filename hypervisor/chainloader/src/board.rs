//! The room with `unsafe`: the board's registers and memory, and the way in and out.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::ptr::{read_volatile, write_volatile};

use chainload::fdt::{self, Chosen};
use chainload::loader::Board;
use chainload::message::Refusal;
use chainload::offer::Part;

global_asm!(
    include_str!("start.S"),
    enter = sym crate::enter,
    fault = sym crate::fault,
);

unsafe extern "C" {
    fn chainloader_forget(start: u64, end: u64);
    fn chainloader_leave(dtb: u64, entry: u64) -> !;
}

/// Where the image goes: where the Raspberry Pi's firmware puts one. Below are the firmware's own page and
/// the spin table.
const IMAGE: u64 = 0x0020_0000;
const IMAGE_ROOM: u32 = 0x0fc0_0000;
/// Where the bundle goes: behind the loader, which linker/chainloader.ld puts in between, and below what a
/// VideoCore takes of a board of 1 GiB.
const BUNDLE: u64 = 0x1800_0000;
const BUNDLE_ROOM: u32 = 0x1400_0000;

const fn memory(part: Part) -> u64 {
    match part {
        Part::Image => IMAGE,
        Part::Bundle => BUNDLE,
    }
}

/// The most that a devicetree may have; those of the Raspberry Pi have 60 KiB.
const TREE_ROOM: usize = 256 << 10;

#[repr(C, align(64))]
struct Cell<T>(UnsafeCell<T>);

// SAFETY: one CPU runs the loader, with interrupts masked, and each cell's users say why they are alone.
unsafe impl<T> Sync for Cell<T> {}

static KEPT: Cell<[u8; TREE_ROOM]> = Cell(UnsafeCell::new([0; TREE_ROOM]));
static TOLD: Cell<[u8; TREE_ROOM]> = Cell(UnsafeCell::new([0; TREE_ROOM]));
static LETTER: Cell<[u32; 8]> = Cell(UnsafeCell::new([0; 8]));

/// The devicetree that the firmware handed over, kept from what is loaded.
pub struct Tree {
    bytes: &'static [u8],
}

impl Tree {
    /// Copies the one at `pa`, if there is one. To be called once.
    pub fn keep(pa: u64) -> Option<Self> {
        if pa == 0 || !pa.is_multiple_of(8) {
            return None;
        }
        // SAFETY: the boot protocol puts a devicetree there; QEMU without one says 0x100, which is RAM, too.
        let header = unsafe { core::slice::from_raw_parts(pa as *const u8, 8) };
        let size = fdt::size(header).filter(|&size| size <= TREE_ROOM)?;
        // SAFETY: nobody else uses KEPT: this is called once.
        let kept = unsafe { &mut *KEPT.0.get() };
        // SAFETY: the blob at `pa` says that it has `size` bytes, and nothing is written there yet.
        let blob = unsafe { core::slice::from_raw_parts(pa as *const u8, size) };
        let place = kept.get_mut(..size)?;
        place.copy_from_slice(blob);
        Some(Self { bytes: place })
    }

    /// The blob.
    pub const fn bytes(&self) -> &[u8] {
        self.bytes
    }
}

/// What is loaded into.
pub struct Pi {
    tree: Tree,
    /// Where what was written to each part's memory ends.
    ends: [u64; 2],
}

impl Pi {
    /// The board of that devicetree.
    pub const fn new(tree: Tree) -> Self {
        Self {
            tree,
            ends: [IMAGE, BUNDLE],
        }
    }

    /// Leaves for the image, which has been verified and whose devicetree is told.
    pub fn start(&self) -> ! {
        for (part, end) in Part::ALL.into_iter().zip(self.ends) {
            // SAFETY: it drops lines of caches that are off and hold nothing that was not written back.
            unsafe { chainloader_forget(memory(part), end) };
        }
        let dtb = TOLD.0.get() as u64;
        // SAFETY: the image lies there and is one (`Loader` starts nothing else); nothing of the loader is
        // needed any more.
        unsafe { chainloader_leave(dtb, IMAGE) }
    }
}

impl Board for Pi {
    fn room(&self, part: Part) -> u32 {
        match part {
            Part::Image => IMAGE_ROOM,
            Part::Bundle => BUNDLE_ROOM,
        }
    }

    fn write(&mut self, part: Part, offset: usize, bytes: &[u8]) {
        if offset + bytes.len() > self.room(part) as usize {
            return;
        }
        let start = (memory(part) + offset as u64) as *mut u8;
        // SAFETY: it is within the part's room, which is RAM that nobody else uses.
        let place = unsafe { core::slice::from_raw_parts_mut(start, bytes.len()) };
        place.copy_from_slice(bytes);
        let end = start as u64 + bytes.len() as u64;
        for (own, known) in Part::ALL.into_iter().zip(&mut self.ends) {
            if own == part {
                *known = end.max(*known);
            }
        }
    }

    fn read(&self, part: Part, offset: usize, bytes: &mut [u8]) {
        if offset + bytes.len() > self.room(part) as usize {
            return;
        }
        let start = (memory(part) + offset as u64) as *const u8;
        // SAFETY: it is within the part's room, which is RAM that nobody writes meanwhile.
        let place = unsafe { core::slice::from_raw_parts(start, bytes.len()) };
        bytes.copy_from_slice(place);
    }

    fn prepare(&mut self, bundle: u32, bootargs: &[u8]) -> Result<(), Refusal> {
        // SAFETY: nobody else uses TOLD until it is left for, and the reference ends here.
        let told = unsafe { &mut *TOLD.0.get() };
        let initrd = (bundle > 0).then(|| (BUNDLE, BUNDLE + u64::from(bundle)));
        let chosen = Chosen { initrd, bootargs };
        match fdt::choose(self.tree.bytes(), &chosen, told) {
            Ok(_) => Ok(()),
            Err(fdt::Damaged) => Err(Refusal::Devicetree),
        }
    }
}

/// Reads a device's register.
pub fn read(pa: u64) -> u32 {
    // SAFETY: callers name registers of devices, which are no memory of Rust's.
    unsafe { read_volatile(pa as *const u32) }
}

/// Writes a device's register.
pub fn write(pa: u64, value: u32) {
    // SAFETY: callers name registers of devices, which are no memory of Rust's.
    unsafe { write_volatile(pa as *mut u32, value) }
}

/// The system counter.
pub fn ticks() -> u64 {
    let ticks;
    // SAFETY: it reads a register that changes nothing.
    unsafe { asm!("isb", "mrs {}, cntpct_el0", out(reg) ticks, options(nomem, nostack)) };
    ticks
}

/// Milliseconds of it.
pub fn millis() -> u64 {
    ticks() / (frequency() / 1000).max(1)
}

/// Looks at no device for 20 us, in which no receiver fills up: [`crate::uart::DEPTH`] bytes take 174 us at 921600
/// baud. (QEMU fills it meanwhile, where CPUs and devices take turns.)
pub fn rest() {
    let begin = ticks();
    while ticks() - begin < frequency() / 50_000 {}
}

/// Ticks of the counter in a second.
fn frequency() -> u64 {
    let frequency;
    // SAFETY: it reads a register that changes nothing.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
    frequency
}

/// Does nothing more.
pub fn stop() -> ! {
    loop {
        // SAFETY: it waits.
        unsafe { asm!("wfe", options(nomem, nostack)) };
    }
}

/// The mailbox to the VideoCore, its status bits, and the channel of properties (Raspberry Pi firmware wiki,
/// "Accessing mailboxes" and "Mailbox property interface").
const MAILBOX: u64 = 0xfe00_b880;
const MAIL_READ: u64 = MAILBOX;
const MAIL_STATUS: u64 = MAILBOX + 0x18;
const MAIL_WRITE: u64 = MAILBOX + 0x20;
const MAIL_FULL: u32 = 1 << 31;
const MAIL_EMPTY: u32 = 1 << 30;
const PROPERTIES: u32 = 8;
/// Where the VideoCore sees the ARM's memory, around its own caches.
const ALIAS: u32 = 0xc000_0000;
/// "Get clock rate", of the UART.
const GET_CLOCK_RATE: u32 = 0x0003_0002;
const UART_CLOCK: u32 = 2;
const ANSWERED: u32 = 0x8000_0000;
/// How long the VideoCore may take.
const MAIL_MILLIS: u64 = 100;

/// The clock of the PL011 in Hz, if the firmware says.
pub fn uart_clock() -> Option<u32> {
    let letter = [32, 0, GET_CLOCK_RATE, 8, 0, UART_CLOCK, 0, 0];
    let place = LETTER.0.get();
    // SAFETY: nobody else uses LETTER, and the VideoCore only once it is told.
    unsafe { write_volatile(place, letter) };
    let message = (place as u32 | ALIAS) | PROPERTIES;
    let end = millis() + MAIL_MILLIS;
    let wait = |bit| {
        while read(MAIL_STATUS) & bit != 0 {
            if millis() > end {
                return None;
            }
        }
        Some(())
    };
    wait(MAIL_FULL)?;
    barrier();
    write(MAIL_WRITE, message);
    loop {
        wait(MAIL_EMPTY)?;
        if read(MAIL_READ) == message {
            break;
        }
    }
    barrier();
    // SAFETY: the VideoCore has answered and is through with it.
    let answer = unsafe { read_volatile(place) };
    let [_, code, .., rate] = answer;
    (code == ANSWERED && rate > 0).then_some(rate)
}

/// What was written to memory comes before what is said about it, and the other way round (DDI0487 B2.3.10).
fn barrier() {
    // SAFETY: it only waits.
    unsafe { asm!("dsb sy", options(nostack)) };
}
