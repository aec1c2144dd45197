//! The room with `unsafe`: the board's registers and memory, and the way in and out.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, read_volatile, write_volatile};

use chainload::fdt::{self, Chosen};
use chainload::loader::Board;
use chainload::message::Refusal;
use chainload::offer::Part;
use hv_drivers::uart::{AuxRegisters, Pl011Registers, Uart};
use hv_drivers::videocore::{self, Clock, Message};
use safe_mmio::UniqueMmioPointer;
use safe_mmio::fields::ReadPureWrite;

global_asm!(
    include_str!("start.S"),
    enter = sym crate::enter,
    fault = sym crate::fault,
);

unsafe extern "C" {
    fn chainloader_forget(start: u64, end: u64);
    fn chainloader_leave();
    fn chainloader_leave_end();
    static __home: u8;
    static __home_end: u8;
}

/// [`chainloader_leave`], wherever it is.
type Leave = extern "C" fn(dtb: u64, entry: u64, dtb_end: u64, home: u64, home_end: u64) -> !;

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
static MESSAGE: Cell<Message> = Cell(UnsafeCell::new([0; 8]));

/// The devicetree that the firmware handed over, kept from what is loaded.
pub struct Tree {
    bytes: &'static [u8],
}

impl Tree {
    /// Takes the one at `pa`, if there is one, from there: it has seeds, and guests are not to find it. To be called once.
    pub fn keep(pa: u64) -> Option<Self> {
        if pa == 0 || !pa.is_multiple_of(8) {
            return None;
        }
        // SAFETY: the boot protocol puts a devicetree there; QEMU without one says 0x100, which is RAM, too.
        let header = unsafe { core::slice::from_raw_parts(pa as *const u8, fdt::HEADER) };
        let size = fdt::size(header).filter(|&size| size <= TREE_ROOM)?;
        // SAFETY: nobody else uses KEPT: this is called once.
        let kept = unsafe { &mut *KEPT.0.get() };
        // SAFETY: the blob at `pa` says that it has `size` bytes, and nothing is written there yet.
        let blob = unsafe { core::slice::from_raw_parts(pa as *const u8, size) };
        let place = kept.get_mut(..size)?;
        place.copy_from_slice(blob);
        // SAFETY: it was the firmware's, which has handed it over, and `blob` is not used any more.
        unsafe { erase(pa, pa + size as u64) };
        Some(Self { bytes: place })
    }

    /// The blob.
    pub const fn bytes(&self) -> &[u8] {
        self.bytes
    }
}

/// Overwrites memory that is not to be found.
///
/// # Safety
///
/// It is RAM, which nobody uses any more.
unsafe fn erase(start: u64, end: u64) {
    let Some(size) = end.checked_sub(start).filter(|&size| size > 0) else {
        return;
    };
    // SAFETY: the caller answers for it.
    unsafe { (start as *mut u8).write_bytes(0, size as usize) };
    // SAFETY: it drops lines of caches that are off and hold nothing that was not written back.
    unsafe { chainloader_forget(start, end) };
}

/// What is loaded into.
pub struct Pi {
    tree: Tree,
    /// Bytes of the devicetree that is told.
    told: usize,
    /// Bytes of each part that is to be started.
    sizes: [u32; 2],
    /// Where what was written to each part's memory ends.
    ends: [u64; 2],
}

impl Pi {
    /// The board of that devicetree.
    pub const fn new(tree: Tree) -> Self {
        Self {
            tree,
            told: 0,
            sizes: [0; 2],
            ends: [IMAGE, BUNDLE],
        }
    }

    /// Leaves for the image, which has been verified and whose devicetree is told. Of the loader, and of larger parts that
    /// came before, nothing is left but that devicetree.
    pub fn start(&self) -> ! {
        for ((part, size), end) in Part::ALL.into_iter().zip(self.sizes).zip(self.ends) {
            let start = memory(part);
            let unused = start + u64::from(size);
            // SAFETY: it drops lines of caches that are off and hold nothing that was not written back.
            unsafe { chainloader_forget(start, unused) };
            // SAFETY: it is within the part's room, and belongs to nothing that is started.
            unsafe { erase(unused, end) };
        }
        let dtb = TOLD.0.get() as u64;
        let dtb_end = dtb + self.told as u64;
        // The linker has put them around the loader.
        let (home, home_end) = (&raw const __home as u64, &raw const __home_end as u64);
        // SAFETY: `prepare` has put a copy of `chainloader_leave` there, which runs wherever it is.
        let leave = unsafe { core::mem::transmute::<u64, Leave>(dtb_end - way_out().len() as u64) };
        // SAFETY: it drops what the caches hold of the copy, so that it is fetched as it was written.
        unsafe { chainloader_forget(dtb, dtb_end) };
        // The image lies there and is one (`Loader` starts nothing else); nothing of the loader is needed any more.
        leave(dtb, IMAGE, dtb_end, home, home_end)
    }
}

/// The instructions that leave.
fn way_out() -> &'static [u8] {
    let start = chainloader_leave as *const u8;
    let size = chainloader_leave_end as *const () as usize - start as usize;
    // SAFETY: the assembler has put them there, one behind the other.
    unsafe { core::slice::from_raw_parts(start, size) }
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

    fn prepare(&mut self, sizes: [u32; 2], bootargs: &[u8]) -> Result<(), Refusal> {
        // SAFETY: nobody else uses TOLD until it is left for, and the reference ends here.
        let told = unsafe { &mut *TOLD.0.get() };
        let [_, bundle] = sizes;
        let initrd = (bundle > 0).then(|| (BUNDLE, BUNDLE + u64::from(bundle)));
        let chosen = Chosen { initrd, bootargs };
        self.sizes = sizes;
        self.told = fdt::choose(self.tree.bytes(), &chosen, way_out(), told)
            .map_err(|fdt::Damaged| Refusal::Devicetree)?;
        Ok(())
    }
}

/// The registers of a device at `pa`.
///
/// # Safety
///
/// They are there, and nobody else is driving the device.
unsafe fn registers<T>(pa: u64) -> UniqueMmioPointer<'static, T> {
    let pointer = NonNull::new(pa as *mut T).expect("no device is at address 0");
    // SAFETY: the caller answers for the address.
    unsafe { UniqueMmioPointer::new(pointer) }
}

/// Physical addresses of the BCM2711 in low peripheral mode (BCM2711 ARM Peripherals 1.2.4), which it is in
/// unless config.txt says `arm_peri_high=1`.
const GPFSEL1: u64 = 0xfe20_0004;
const PL011: u64 = 0xfe20_1000;
const AUX: u64 = 0xfe21_5000;
const MAILBOX: u64 = 0xfe00_b880;

/// The function select of GPIO 10 to 19.
pub fn function_select() -> UniqueMmioPointer<'static, ReadPureWrite<u32>> {
    // SAFETY: the board has it, and one CPU runs the loader, which asks for it once.
    unsafe { registers(GPFSEL1) }
}

/// The PL011 on the header. It is asked for again only for last words, after which nobody goes on.
pub fn pl011() -> Uart<'static> {
    // SAFETY: the board has it, and one CPU runs the loader.
    Uart::Pl011(unsafe { registers::<Pl011Registers>(PL011) })
}

/// The mini-UART.
pub fn mini_uart() -> Uart<'static> {
    // SAFETY: the board has it, and one CPU runs the loader, which asks for it once.
    Uart::Mini(unsafe { registers::<AuxRegisters>(AUX) })
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

/// The clock of the PL011 in Hz, if the firmware says.
pub fn uart_clock() -> Option<u32> {
    let place = MESSAGE.0.get();
    // SAFETY: nobody else uses MESSAGE, and the VideoCore only once it is told.
    unsafe { write_volatile(place, videocore::ask_rate(Clock::Uart)) };
    // SAFETY: the board has it, and one CPU runs the loader.
    let mut mailbox = unsafe { registers::<videocore::Registers>(MAILBOX) };
    let end = millis() + videocore::LIMIT_MS;
    let size = size_of::<Message>() as u64;
    barrier();
    videocore::exchange(&mut mailbox, place as u64, size, || millis() > end)?;
    barrier();
    // SAFETY: the VideoCore has answered and is through with it.
    let answer = unsafe { read_volatile(place) };
    videocore::rate(&answer)
}

/// What was written to memory comes before what is said about it, and the other way round (DDI0487 B2.3.10).
fn barrier() {
    // SAFETY: it only waits.
    unsafe { asm!("dsb sy", options(nostack)) };
}
