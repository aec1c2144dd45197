//! The crash report kept in memory that the next boot finds (`hv_abi::crash`): a warm reset leaves RAM alone,
//! and the home region is at the same place again.

use core::fmt::Write;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hv_abi::crash::{HEADER_SIZE, SIZE, header, text};

use crate::{log, sysregs};

/// Where it is, in the window; 0 while there is none.
static AREA: AtomicU64 = AtomicU64::new(0);
/// Bytes of text so far.
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Takes the area at `va`, whose earlier record, if any, is printed and gone. Answers whether there was one.
///
/// # Safety
///
/// `SIZE` bytes there are mapped and writable, for good and for nobody else.
#[inline(never)]
pub unsafe fn open(va: u64) -> bool {
    let start = core::ptr::with_exposed_provenance_mut::<u8>(va as usize);
    // SAFETY: the caller answers for the area; RAM holds some value, and nobody writes it now.
    let area = unsafe { core::slice::from_raw_parts(start, SIZE) };
    let record = text(area);
    if let Some(record) = record {
        log!("crash record of the boot before:");
        for line in record.split(|&byte| byte == b'\n') {
            log!("| {}", Ascii(line));
        }
    }
    let was_there = record.is_some();
    // SAFETY: as above; the slice is not used any more.
    unsafe { start.write_bytes(0, HEADER_SIZE) };
    sysregs::clean_to_poc(va, HEADER_SIZE as u64);
    AREA.store(va, Ordering::Relaxed);
    was_there
}

/// Adds to the text; what does not fit is lost.
///
/// # Safety
///
/// Only one pCPU ever calls this, the stopper.
pub unsafe fn append(bytes: &[u8]) {
    let area = AREA.load(Ordering::Relaxed);
    if area == 0 {
        return;
    }
    let length = LENGTH.load(Ordering::Relaxed);
    let room = SIZE - HEADER_SIZE - length;
    let taken = bytes.len().min(room);
    let to = core::ptr::with_exposed_provenance_mut::<u8>(area as usize + HEADER_SIZE + length);
    // SAFETY: within the area that `open` was given, which nobody else names; the caller is the only one that writes.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, taken) };
    LENGTH.store(length + taken, Ordering::Relaxed);
}

/// Makes a record of it, in RAM itself and not only in a cache.
pub fn seal() {
    let area = AREA.load(Ordering::Relaxed);
    if area == 0 {
        return;
    }
    let length = LENGTH.load(Ordering::Relaxed);
    let start = core::ptr::with_exposed_provenance_mut::<u8>(area as usize);
    // SAFETY: `append` has written that much of the area, and nobody writes now.
    let text = unsafe { core::slice::from_raw_parts(start.wrapping_add(HEADER_SIZE), length) };
    let header = header(text);
    // SAFETY: the area begins with room for the header.
    unsafe { core::ptr::copy_nonoverlapping(header.as_ptr(), start, HEADER_SIZE) };
    sysregs::clean_to_poc(area, (HEADER_SIZE + length) as u64);
}

/// A line of the record without its framing.
struct Ascii<'a>(&'a [u8]);

impl core::fmt::Display for Ascii<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let text = self.0.iter().filter(|byte| (b' '..=b'~').contains(byte));
        text.copied()
            .try_for_each(|byte| f.write_char(char::from(byte)))
    }
}
