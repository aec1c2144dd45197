//! Tables that are gone when EL2 walks them on the guest's behalf.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::exception::Fault;
use super::mmio::Device;
use super::sysreg::read;

global_asm!(include_str!("walk.S"));

unsafe extern "C" {
    fn walk_without_tables(tables: u64, device: u64, control: u64) -> u64;
}

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

/// A table of which each entry leads to the same place.
static LEADS_ELSEWHERE: Table = Table([const { AtomicU64::new(0) }; 512]);

/// The address of a table all of whose entries are tables at `place`, or of one without entries.
pub fn table_that_leads_to(place: Option<u64>) -> u64 {
    const TABLE: u64 = 0b11;
    let entry = place.map_or(0, |place| place & !0xfff | TABLE);
    for slot in &LEADS_ELSEWHERE.0 {
        slot.store(entry, Ordering::SeqCst);
    }
    LEADS_ELSEWHERE.0.as_ptr().addr() as u64
}

/// Loads a pair at the start of `device`, which no syndrome describes, with TTBR0_EL1 at `tables` for as long as that takes.
///
/// # Errors
///
/// The abort that it ends in.
pub fn read_pair_by(tables: u64, device: Device) -> Result<(), Fault> {
    // 39 bits of address in the upper half, as in the lower one (DDI0487 D24.2 TCR_EL1): T1SZ 25, write-back, inner
    // shareable, TG1 4 KiB, and EPD1 clear.
    const UPPER: u64 = 25 << 16 | 0b01 << 24 | 0b01 << 26 | 0b11 << 28 | 0b10 << 30;
    const EPD1: u64 = 1 << 23;
    const UPPER_HALF: u64 = !0 << 39;
    let control = read!("tcr_el1") & !EPD1 | UPPER;
    let address = device.region().base | UPPER_HALF;
    // SAFETY: the routine uses nothing but registers and the page that it is in, and has put back all that it changes.
    let esr = unsafe { walk_without_tables(tables, address, control) };
    let (far, elr) = (read!("far_el1"), read!("elr_el1"));
    if esr == 0 {
        return Ok(());
    }
    Err(Fault { esr, far, elr })
}
