//! A guest's RAM, as the operator reads it.

use crate::sysregs;

/// Copies out of guest RAM, which the guest may be writing meanwhile: aligned doublewords are read at once.
///
/// All of it is RAM of a guest (`Hardware::read_ram`).
pub fn read(pa: u64, to: &mut [u8]) {
    // What a guest with its caches off has written is in memory, and what others have written may be in a cache.
    sysregs::clean_and_invalidate(pa, to.len() as u64);
    let mut at = pa as usize;
    let mut rest = to;
    while !rest.is_empty() {
        let from = core::ptr::with_exposed_provenance::<u8>(at);
        let is_whole = at.is_multiple_of(8) && rest.len() >= 8;
        let (now, later) = rest.split_at_mut(if is_whole { 8 } else { 1 });
        if is_whole {
            // SAFETY: as below, and aligned.
            let doubleword = unsafe { from.cast::<u64>().read_volatile() };
            now.copy_from_slice(&doubleword.to_ne_bytes());
        } else {
            // SAFETY: RAM that the plan gave to a guest is mapped at its own address, and holds nothing of this program's:
            // not `to` either. What the guest writes meanwhile is no access of this program.
            now.fill(unsafe { from.read_volatile() });
        }
        (at, rest) = (at + now.len(), later);
    }
}
