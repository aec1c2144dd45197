//! The translation table, which start.S fills and tests change for a while.

use core::arch::asm;
use core::sync::atomic::AtomicU64;

/// Level 1: 512 blocks of 1 GiB.
#[repr(C, align(4096))]
pub(super) struct Table(pub(super) [AtomicU64; 512]);

/// The one table, which all CPUs use.
pub(super) static TABLE: Table = Table([const { AtomicU64::new(0) }; 512]);

/// Forgets translations on every CPU, after a change of the table.
pub fn flush_translations() {
    // SAFETY: drops cached translations; the tables in memory are whole.
    unsafe {
        asm!(
            "dsb ishst",
            "tlbi vmalle1is",
            "dsb ish",
            "isb",
            options(nostack)
        )
    };
}
