//! Tables that are gone when EL2 walks them on the guest's behalf, and tables that were never there.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::exception::Fault;
use super::mmio::Device;
use super::sysreg::{read, write};
use super::table::flush_translations;

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

/// A granule of translation.
#[derive(Clone, Copy, Debug)]
pub struct Granule {
    /// Bits of an offset into a page.
    pub page: u32,
    /// TCR_EL1.TG1.
    code: u64,
}

/// Those that this CPU has (ID_AA64MMFR0_EL1.TGran4, TGran16 and TGran64).
pub fn granules() -> impl Iterator<Item = Granule> {
    let has = read!("id_aa64mmfr0_el1");
    let all = [
        (12, 0b10, has >> 28 & 0xf != 0xf),
        (14, 0b01, has >> 20 & 0xf != 0),
        (16, 0b11, has >> 24 & 0xf != 0xf),
    ];
    all.into_iter()
        .filter(|&(.., is_there)| is_there)
        .map(|(page, code, _)| Granule { page, code })
}

/// Runs `body` with an upper half of the address space that translates `bits` bits by `table`; the lower one, which all code and
/// data are in, stays. `body` is given the first address of it.
pub fn with_upper_half<T>(
    granule: Granule,
    bits: u32,
    table: u64,
    body: impl FnOnce(u64) -> T,
) -> T {
    // TCR_EL1: T1SZ, A1, EPD1, attributes as in `read_pair_by`, TG1.
    const FIELDS: u64 = 0xffff << 16;
    let (control, before) = (read!("tcr_el1"), read!("ttbr1_el1"));
    let upper =
        u64::from(64 - bits) << 16 | 0b01 << 24 | 0b01 << 26 | 0b11 << 28 | granule.code << 30;
    write!("ttbr1_el1", table);
    write!("tcr_el1", control & !FIELDS | upper);
    flush_translations();
    let result = body(!0 << bits);
    write!("tcr_el1", control);
    write!("ttbr1_el1", before);
    flush_translations();
    result
}
