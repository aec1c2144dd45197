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
    first(stride, |at| {
        // SAFETY: as `first` promises.
        let line = unsafe { at.read_volatile() };
        wanted(&line).then_some((at as u64, line))
    })
}

/// Writes what `line` says of each address to all lines of that memory.
pub fn fill_ram(line: impl Fn(u64) -> Line) {
    let _none: Option<()> = first(LINE, |at| {
        // SAFETY: as `first` promises; nobody has a reference to what is there.
        unsafe { at.write_volatile(line(at as u64)) };
        None
    });
}

/// The first line of it that is not what `line` says of its address, with that.
pub fn first_unlike(line: impl Fn(u64) -> Line) -> Option<(u64, Line)> {
    first(LINE, |at| {
        // SAFETY: as `first` promises.
        let found = unsafe { at.read_volatile() };
        (found != line(at as u64)).then_some((at as u64, found))
    })
}

/// The first of what `look` finds at lines of the guest's RAM that Rust uses for nothing: they are aligned, mapped at their own
/// addresses, and neither of the image nor of the devicetree.
fn first<T>(stride: u64, mut look: impl FnMut(*mut Line) -> Option<T>) -> Option<T> {
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
            if !own.iter().any(is_own)
                && let Some(found) = look(at as *mut Line)
            {
                return Some(found);
            }
            at += stride;
        }
    }
    None
}
