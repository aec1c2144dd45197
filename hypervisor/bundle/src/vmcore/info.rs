//! VMCOREINFO: the note by which Linux tells tools of its own dump where things are (Linux `kernel/vmcore_info.c`,
//! `Documentation/admin-guide/kdump/vmcoreinfo.rst`), found in memory without the guest's help.
//!
//! The note begins a page (`alloc_pages_exact`) and is there from early in the boot on. There may be others: of an earlier kernel, or in somebody's
//! file. The registers say which is the running kernel's.

use platform::Range;

use super::{MOST_INFO, NOTE_HEADER, Registers};

/// What is in the note that is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmcoreInfo {
    /// Where it is, header and all.
    pub note: Range,
    /// Bits of the kernel's addresses (`VA_BITS`).
    va_bits: u64,
    /// The physical address that the linear map begins with (`PHYS_OFFSET`).
    phys_offset: u64,
    /// What an address of the kernel's image has more than where it is (`kimage_voffset`).
    pub(super) voffset: u64,
}

impl VmcoreInfo {
    /// Where its lines are.
    pub(super) const fn text(&self) -> Range {
        text_of(self.note)
    }

    /// Where the kernel's linear map has a physical address (Linux `arch/arm64/include/asm/memory.h`, `__phys_to_virt`).
    #[must_use]
    pub const fn linear(&self, address: u64) -> u64 {
        let page_offset = 0_u64.wrapping_sub(1 << (self.va_bits & 63));
        address
            .wrapping_sub(self.phys_offset)
            .wrapping_add(page_offset)
    }
}

/// The name, NUL included, and padded to words.
const NAME: &[u8; 12] = b"VMCOREINFO\0\0";
/// What the text begins with.
const FIRST: &[u8; 10] = b"OSRELEASE=";
/// Bytes from the note's beginning to its text.
const TEXT: u64 = NOTE_HEADER as u64 + NAME.len() as u64;

/// Notes are looked for at each page: the smallest that arm64 has.
const PAGE: u64 = 4096;

/// So many bytes of notes are looked into, some of them for each line that is needed: two thousand notes as Linux writes them.
const MOST_TEXT: u64 = 8 << 20;

/// Finds VMCOREINFO of the kernel that these registers are of. `ram` are ranges of memory, whole pages, and `read` reads in them. One look
/// at each page, and at 8 MiB of what seems to be notes: behind more of that nothing is found.
#[inline(never)]
pub fn find_info<'r, I>(
    ram: impl Iterator<Item = Range>,
    vcpus: impl Fn() -> I,
    read: impl Fn(u64, &mut [u8]),
) -> Option<VmcoreInfo>
where
    I: Iterator<Item = &'r Registers>,
{
    let mut left = MOST_TEXT;
    for range in ram {
        let mut at = range.start;
        while let Some(rest) = range.end().checked_sub(at).filter(|&rest| rest >= PAGE) {
            if let Some(note) = note(at, rest, &read) {
                left = left.checked_sub(note.size)?;
                let found = of_note(note, &vcpus, &read);
                if found.is_some() {
                    return found;
                }
            }
            at += PAGE;
        }
    }
    None
}

/// The note that begins there, if one does and lies in the memory of which `rest` bytes are left.
fn note(at: u64, rest: u64, read: &impl Fn(u64, &mut [u8])) -> Option<Range> {
    let mut head = [0; TEXT as usize + FIRST.len()];
    read(at, &mut head);
    let (words, text) = head.split_first_chunk::<NOTE_HEADER>()?;
    let (&[name, size, kind], []) = words.as_chunks::<4>() else {
        return None;
    };
    let [name, size, kind] = [name, size, kind].map(u32::from_le_bytes);
    let size = TEXT + u64::from(size);
    let is_note = name == 11 && kind == 0 && text.starts_with(NAME) && text.ends_with(FIRST);
    (is_note && size <= rest.min(MOST_INFO - 4)).then_some(Range::new(at, size))
}

/// The lines of a note.
const fn text_of(note: Range) -> Range {
    Range::new(note.start + TEXT, note.size - TEXT)
}

/// What the note says, if it is the kernel's that these registers are of.
fn of_note<'r, I>(
    note: Range,
    vcpus: &impl Fn() -> I,
    read: &impl Fn(u64, &mut [u8]),
) -> Option<VmcoreInfo>
where
    I: Iterator<Item = &'r Registers>,
{
    let value = |key: &[u8]| value(text_of(note), key, read);
    let swapper = value(b"SYMBOL(swapper_pg_dir)")?;
    let text_start = value(b"SYMBOL(_stext)")?;
    let voffset = value(b"NUMBER(kimage_voffset)")?;
    let page = value(b"PAGESIZE").filter(|page| matches!(page, 0x1000 | 0x4000 | 0x1_0000))?;
    let info = VmcoreInfo {
        note,
        va_bits: value(b"NUMBER(VA_BITS)").filter(|&bits| (36..=52).contains(&bits))?,
        phys_offset: value(b"NUMBER(PHYS_OFFSET)")?,
        voffset,
    };
    let tables = swapper.wrapping_sub(voffset);
    let is_its = |registers: &Registers| {
        let [ttbr1, vbar] = registers.kernel;
        // A kernel for addresses of 52 bits that has not got them begins within its first table (TTBR1_BADDR_4852_OFFSET). At EL0
        // the tables may be those of the entry (KPTI), two pages before (TRAMP_SWAPPER_OFFSET).
        let before = tables.wrapping_sub(base_of(ttbr1) & !(page - 1));
        let is_el0 = registers.pstate & 0xf == 0;
        (before == 0 || is_el0 && before == 2 * page) && text_start <= vbar
    };
    vcpus().any(is_its).then_some(info)
}

/// BADDR of a TTBR: bits 47 to 1, those that a table of 4 KiB has (DDI0487 D24.2.188, TTBR1_EL1); and bits 51 to 48, which with addresses
/// of 52 bits are in bits 5 to 2, where a table of that size has none.
const fn base_of(ttbr: u64) -> u64 {
    ttbr & 0xffff_ffff_f000 | (ttbr >> 2 & 0xf) << 48
}

/// The value of a line `KEY=VALUE`: of symbols hexadecimal, of numbers decimal or with 0x (`VMCOREINFO_SYMBOL`,
/// `VMCOREINFO_NUMBER`, and arm64's `arch_crash_save_vmcoreinfo`).
pub(super) fn value(text: Range, key: &[u8], read: &impl Fn(u64, &mut [u8])) -> Option<u64> {
    let mut line = Line::new(key);
    let mut at = text.start;
    while at < text.end() {
        let mut bytes = [0; 256];
        let size = (text.end() - at).min(bytes.len() as u64);
        let bytes = bytes.get_mut(..size as usize)?;
        read(at, bytes);
        for &byte in &*bytes {
            if line.push(byte) {
                return line.value;
            }
        }
        at += size;
    }
    None
}

/// The search for one line, a byte after the other.
struct Line<'k> {
    key: &'k [u8],
    /// How much of the key has been met at the beginning of this line; none if the line is another.
    met: Option<usize>,
    radix: u64,
    value: Option<u64>,
}

impl<'k> Line<'k> {
    const fn new(key: &'k [u8]) -> Self {
        Self {
            key,
            met: Some(0),
            radix: 10,
            value: None,
        }
    }

    /// Takes a byte. True if it ends the line that is looked for.
    fn push(&mut self, byte: u8) -> bool {
        if byte == b'\n' {
            if self.met > Some(self.key.len()) {
                return true;
            }
            (self.met, self.value) = (Some(0), None);
            return false;
        }
        let Some(met) = self.met else {
            return false;
        };
        let is_met = match met.checked_sub(self.key.len()) {
            None => self.key.get(met) == Some(&byte),
            Some(0) => {
                self.radix = if self.key.starts_with(b"SYMBOL") {
                    16
                } else {
                    10
                };
                self.value = Some(0);
                byte == b'='
            }
            Some(_) => self.digit(byte),
        };
        self.met = is_met.then_some(met + 1);
        false
    }

    /// A digit, or the x of 0x.
    fn digit(&mut self, byte: u8) -> bool {
        if byte == b'x' && self.value == Some(0) && self.radix == 10 {
            self.radix = 16;
            return true;
        }
        let digit = char::from(byte).to_digit(self.radix as u32);
        let value = self.value.and_then(|value| value.checked_mul(self.radix));
        self.value = value
            .zip(digit)
            .and_then(|(value, digit)| value.checked_add(digit.into()));
        self.value.is_some()
    }
}
