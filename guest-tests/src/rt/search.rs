//! What is in RAM that nobody has given the tests.

use super::machine::machine;
use super::mmio::Region;

unsafe extern "C" {
    static guest_image: u8;
    static __image_end: u8;
}

/// Doublewords that are looked at together.
pub type Line = [u64; 8];
const LINE: u64 = size_of::<Line>() as u64;

/// The first line of the guest's RAM, with its address, that `wanted` picks out: outside the image with all that Rust
/// uses, and outside the devicetree. Of each `stride` bytes, a multiple of a line's, the first line is looked at.
pub fn first_in_ram(stride: u64, wanted: impl Fn(&Line) -> bool) -> Option<(u64, Line)> {
    let base = &raw const guest_image as u64;
    let image = Region {
        base,
        size: &raw const __image_end as u64 - base,
    };
    let own = [image, machine().devicetree];
    for region in machine().memory.iter().flatten() {
        let mut at = region.base.next_multiple_of(stride);
        while at + LINE <= region.end() {
            let is_own = |own: &Region| at < own.end() && own.base < at + LINE;
            if !own.iter().any(is_own) {
                // SAFETY: aligned RAM by the devicetree, mapped at its own address, that Rust uses for nothing.
                let line = unsafe { (at as *const Line).read_volatile() };
                if wanted(&line) {
                    return Some((at, line));
                }
            }
            at += stride;
        }
    }
    None
}
