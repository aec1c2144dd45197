//! A guest's RAM: written when the guest is loaded, read for the operator, and read and written where the guest has queues of
//! mediated devices.

use core::sync::atomic::AtomicU32;

use hv_abi::operator::hashes::{PAGE, Word};
use hv_bundle::{BLOCK_WORDS, Backing, page_word};
use platform::Range;

use crate::memory;
use crate::percpu;
use crate::sysregs;

/// RAM that the plan took out of what guests get, for a guest's flash or for queues of its devices: it begins with `contents`, and
/// each byte behind that is `rest`.
pub fn own(ram: Range, rest: u8, contents: &[u8]) -> &'static [AtomicU32] {
    if ram.is_empty() {
        return &[];
    }
    assert!(ram.end() <= memory::IDENTITY_END, "RAM at {ram:?}");
    let start = core::ptr::with_exposed_provenance_mut::<u32>(ram.start as usize);
    let words = ram.size as usize / size_of::<u32>();
    // SAFETY: the plan took the range, in whole blocks and so aligned, out of the RAM that guests get: stage 2 does not show
    // it, the identity map shows it read-write, and nothing of ours is there.
    unsafe { start.write_bytes(rest, words) };
    let size = contents.len().min(ram.size as usize);
    // SAFETY: the same; the contents are in the copy of the bundle, which is apart from it.
    unsafe { core::ptr::copy_nonoverlapping(contents.as_ptr(), start.cast(), size) };
    // SAFETY: the same; it is initialised, nobody has another way to it but a device, whose accesses atomics allow for, and an
    // AtomicU32 is laid out as a u32.
    unsafe { core::slice::from_raw_parts(start.cast::<AtomicU32>(), words) }
}

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

/// Copies out of guest RAM, which may be in several pieces; what is no RAM is left as it is.
pub fn read_parts(backing: &Backing, ipa: u64, to: &mut [u8]) {
    for (from, part) in backing.parts(ipa, to.len() as u64) {
        if let Some(to) = to.get_mut(from as usize..(from + part.size) as usize) {
            read(part.start, to);
        }
    }
}

/// What stands for a page of guest RAM, which is in one piece, as pieces are of whole pages. The guest is to stand still; what a
/// device writes meanwhile is hashed as it was or as it is.
#[cold]
#[inline(never)]
pub fn hash_page(backing: &Backing, ipa: u64) -> Word {
    let Some(page) = place(backing, ipa, PAGE, PAGE) else {
        // No pages of zeros: whoever reads the answer refuses that.
        return Word::Zeros(0);
    };
    // As in `read`.
    sysregs::clean_and_invalidate(page as u64, PAGE);
    page_word(&mut |offset| {
        let from = core::ptr::with_exposed_provenance::<u64>(page + offset as usize);
        core::array::from_fn::<u64, BLOCK_WORDS, _>(|n| {
            // SAFETY: RAM that the plan gave to a guest is mapped at its own address, and holds nothing of this program's;
            // `offset` is of a block in the page, so all of its words are in there, aligned. What is written meanwhile is no
            // access of this program.
            unsafe { from.wrapping_add(n).read_volatile() }
        })
    })
}

/// So much is copied between two signs of life: a slow machine takes long for a large kernel.
const AT_ONCE: usize = 64 << 10;

/// Copies into the RAM of a guest none of whose vCPUs runs, and makes it visible to a reader with its caches off.
pub fn write(backing: &Backing, ipa: u64, bytes: &[u8]) {
    let mut written = 0;
    for (from, to) in backing.parts(ipa, bytes.len() as u64) {
        assert!(to.end() <= memory::IDENTITY_END, "guest memory at {to:?}");
        let mut at = to.start;
        for part in bytes[from as usize..][..to.size as usize].chunks(AT_ONCE) {
            let start = core::ptr::with_exposed_provenance_mut::<u8>(at as usize);
            // SAFETY: the plan gave the range to this guest as RAM, which the identity map shows read-write and which holds
            // neither `bytes` (home region or bundle) nor anything else of ours; no vCPU of it runs.
            unsafe { core::ptr::copy_nonoverlapping(part.as_ptr(), start, part.len()) };
            sysregs::clean_to_poc(at, part.len() as u64);
            at += part.len() as u64;
            written += part.len();
            percpu::beat();
        }
    }
    assert!(written == bytes.len(), "no guest memory at {ipa:#x}");
}

/// Where `size` bytes are that the guest finds at `ipa`, if that is a multiple of `align` and they are RAM of the guest's, in one
/// piece.
#[inline]
fn place(backing: &Backing, ipa: u64, size: u64, align: u64) -> Option<usize> {
    if ipa & (align - 1) != 0 {
        return None;
    }
    let part = backing.at(ipa, size)?;
    (part.size == size).then_some(part.start as usize)
}

/// Reads 2 bytes at once; what is not there, or not aligned, is not read.
#[inline]
pub fn load16(backing: &Backing, ipa: u64) -> Option<u16> {
    let at = place(backing, ipa, 2, 2)?;
    // SAFETY: RAM that the plan gave to a guest is mapped at its own address, and holds nothing of this program's. What the
    // guest writes meanwhile is no access of this program.
    Some(unsafe { core::ptr::with_exposed_provenance::<u16>(at).read_volatile() })
}

/// Reads two doublewords, each at once; `ipa` is a multiple of 8.
#[inline]
pub fn load_pair(backing: &Backing, ipa: u64) -> Option<[u64; 2]> {
    let load = |at: usize| {
        // SAFETY: as in `load16`.
        unsafe { core::ptr::with_exposed_provenance::<u64>(at).read_volatile() }
    };
    match place(backing, ipa, 16, 8) {
        Some(at) => Some([load(at), load(at + 8)]),
        // They may be in two pieces.
        None => {
            let second = place(backing, ipa.checked_add(8)?, 8, 8)?;
            Some([load(place(backing, ipa, 8, 8)?), load(second)])
        }
    }
}

/// Writes 2 bytes at once; what is not there, or not aligned, is not written.
#[inline]
pub fn store16(backing: &Backing, ipa: u64, value: u16) -> Option<()> {
    let at = place(backing, ipa, 2, 2)?;
    // SAFETY: as in `load16`; the guest that owns the RAM asked for it.
    unsafe { core::ptr::with_exposed_provenance_mut::<u16>(at).write_volatile(value) };
    Some(())
}

/// The same with 4 bytes.
#[inline]
pub fn store32(backing: &Backing, ipa: u64, value: u32) -> Option<()> {
    let at = place(backing, ipa, 4, 4)?;
    // SAFETY: as in `store16`.
    unsafe { core::ptr::with_exposed_provenance_mut::<u32>(at).write_volatile(value) };
    Some(())
}
