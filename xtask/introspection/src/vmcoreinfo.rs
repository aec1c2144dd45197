//! VMCOREINFO: what a Linux kernel says of itself in a note in its memory, from early in its boot on
//! (`kernel/vmcore_info.c`; before Linux 6.9 `kernel/crash_core.c`). The note is found without the guest's help.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use crate::memory::{Memory, Words};
use crate::translation::Regime;

/// How the note begins, up to the length of what it says and behind that: the size of its name, 0 for its type, the name,
/// padded to 4 bytes, and the first words of all.
const NAME_SIZE: [u8; 4] = [11, 0, 0, 0];
const REST: &[u8; 26] = b"\0\0\0\0VMCOREINFO\0\0OSRELEASE=";
/// Where what it says begins.
const TEXT: usize = 24;
/// So much of it is read to see whether it is one.
const HEAD: usize = 8 + REST.len();
/// It is in pages of its own (`VMCOREINFO_BYTES` is one page, of at most 64 KiB).
const LONGEST: u32 = 64 << 10;
/// The smallest page.
const PAGE: u64 = 4096;

/// What a kernel says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vmcoreinfo {
    /// Where the note is, as a physical address; 0 if it is not known.
    pub place: u64,
    /// The note as a whole, as `/proc/vmcore` has it.
    pub note: Vec<u8>,
    fields: BTreeMap<String, String>,
}

impl Vmcoreinfo {
    /// The note at `place`, if there is one.
    pub fn at(memory: &mut impl Memory, place: u64) -> Result<Option<Self>> {
        let head = memory.bytes(place, HEAD)?;
        if head[..4] != NAME_SIZE || head[8..] != REST[..] {
            return Ok(None);
        }
        let length = memory.u32(place + 4)?;
        if length > LONGEST {
            return Ok(None);
        }
        let size = TEXT + (length as usize).next_multiple_of(4);
        let note = memory.bytes(place, size)?;
        let text = &note[TEXT..TEXT + length as usize];
        Ok(Some(Self {
            place,
            ..Self::of_text(text, &note)
        }))
    }

    /// What the note says.
    pub fn text(&self) -> &[u8] {
        let size = self.note.get(4..8).and_then(<[u8]>::first_chunk);
        let size = size.map_or(0, |size| u32::from_le_bytes(*size)) as usize;
        let behind = self.note.get(TEXT..).unwrap_or_default();
        behind.get(..size).unwrap_or(behind)
    }

    /// What `text` says, the content of `note`, out of a dump: nobody knows where it was.
    pub fn of_text(text: &[u8], note: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let fields = lines.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self {
            place: 0,
            note: note.to_vec(),
            fields: fields.collect(),
        }
    }

    /// Such as `6.12.48+deb13-arm64`.
    pub fn release(&self) -> Result<&str> {
        self.word("OSRELEASE")
    }

    /// The value of `key`, as written.
    pub fn word(&self, key: &str) -> Result<&str> {
        let word = self.fields.get(key).map(String::as_str);
        word.with_context(|| format!("the kernel's VMCOREINFO has no {key}"))
    }

    /// `SYMBOL(name)`, an address.
    pub fn symbol(&self, name: &str) -> Result<u64> {
        let word = self.word(&format!("SYMBOL({name})"))?;
        hexadecimal(word)
    }

    /// `NUMBER(name)`, in decimal or with 0x in hexadecimal.
    pub fn number(&self, name: &str) -> Result<u64> {
        let word = self.word(&format!("NUMBER({name})"))?;
        if word.starts_with("0x") {
            return hexadecimal(word);
        }
        let number = word.parse::<i64>();
        number
            .map(|number| number as u64)
            .with_context(|| format!("{word} in the kernel's VMCOREINFO is no number"))
    }

    /// Where an address of the kernel's image is, without a walk.
    pub fn image(&self, address: u64) -> Result<u64> {
        Ok(address.wrapping_sub(self.number("kimage_voffset")?))
    }

    /// Whether a vCPU with these registers runs this kernel, and not one before it, or the one that captures its dump: its tables
    /// are where the note says, and its vectors are in the kernel's text.
    pub fn is_of(&self, regime: &Regime, vbar: u64) -> bool {
        let judge = || -> Result<bool> {
            let tables = self.image(self.symbol("swapper_pg_dir")?)?;
            // BADDR, without the ASID and CnP; bits 5:2 are those of an address of more than 48 bits.
            const BADDR: u64 = ((1 << 48) - 1) & !0x3f;
            let text = self.symbol("_stext")?;
            // At EL0 with its own tables (KPTI), those of the entry: two pages before (TRAMP_SWAPPER_OFFSET).
            let page: u64 = self.word("PAGESIZE")?.parse()?;
            // A kernel for addresses of 52 bits that has not got them begins within its first table (TTBR1_BADDR_4852_OFFSET).
            let own = regime.ttbr1 & BADDR & !page.saturating_sub(1);
            let is_own =
                [tables, tables.wrapping_sub(2 * page)].map(|tables| tables & BADDR == own);
            Ok(is_own.contains(&true) && vbar >= text)
        };
        judge().unwrap_or(false)
    }

    /// How the kernel translates its own half, whatever a vCPU does.
    pub fn own_half(&self) -> Result<Regime> {
        Ok(Regime {
            sctlr: 1,
            tcr: self.tcr()?,
            ttbr1: self.image(self.symbol("swapper_pg_dir")?)?,
            ..Regime::default()
        })
    }

    /// How the kernel translates its own half, where TCR_EL1 is not known.
    pub fn tcr(&self) -> Result<u64> {
        let t1sz = self.number("TCR_EL1_T1SZ")?;
        let granule = match self.word("PAGESIZE")? {
            "4096" => 0b10,
            "16384" => 0b01,
            "65536" => 0b11,
            other => bail!("the kernel's VMCOREINFO has pages of {other} bytes"),
        };
        Ok((t1sz & 0x3f) << 16 | granule << 30)
    }
}

fn hexadecimal(word: &str) -> Result<u64> {
    let digits = word.strip_prefix("0x").unwrap_or(word);
    u64::from_str_radix(digits, 16)
        .with_context(|| format!("{word} in the kernel's VMCOREINFO is no hexadecimal number"))
}

/// RAM, as its first address and its length, each a multiple of a page.
pub type Range = (u64, u64);

/// In which pages the note is looked for: those of `windows` that are in `ram`, in their order, and then all. Each page is named
/// once.
pub fn order(ram: &[Range], windows: &[Range]) -> impl Iterator<Item = u64> + use<> {
    let clipped = windows.iter().flat_map(|(start, length)| {
        ram.iter().filter_map(move |(bottom, size)| {
            let first = (start & !(PAGE - 1)).max(*bottom);
            let end = start.saturating_add(*length).min(bottom + size);
            end.checked_sub(first).map(|length| (first, length))
        })
    });
    let parts: Vec<Range> = clipped.chain(ram.iter().copied()).collect();
    let all = parts.clone();
    let pages = parts.into_iter().enumerate();
    let pages = pages.flat_map(|(n, (start, length))| {
        (0..length.div_ceil(PAGE)).map(move |page| (n, start + page * PAGE))
    });
    pages.filter_map(move |(n, page)| {
        let mut before = all[..n].iter();
        let is_new = !before.any(|(start, length)| (*start..start + length).contains(&page));
        is_new.then_some(page)
    })
}

/// Where the note of a kernel mostly is that vCPUs with these registers run. Linux takes it out of the first memory that is free
/// early in its boot: some MiB behind its image, or, as in 6.1, behind its initial ramdisk, near which what it has made then
/// is, too: tables of user space, and tasks.
pub fn windows(memory: &mut impl Memory, vcpus: &[(Regime, u64)], tasks: &[u64]) -> Vec<Range> {
    const MIB: u64 = 1 << 20;
    let mut windows = Vec::new();
    let mut images: Vec<u64> = Vec::new();
    for (regime, vbar) in vcpus {
        images.extend(image_end(memory, regime, *vbar));
    }
    images.dedup();
    windows.extend(images.into_iter().map(|end| (end, 16 * MIB)));
    let mut around = |place: u64| windows.push((place.saturating_sub(4 * MIB), 8 * MIB));
    for (regime, _) in vcpus {
        around(regime.ttbr0 & ((1 << 48) - 1) & !0x3f);
        for task in tasks {
            if let Ok(mapped) = regime.translate(memory, *task) {
                around(mapped.physical);
            }
        }
    }
    windows
}

/// Where the image ends in physical memory that has its vectors at `vbar`: it lies there in one piece, though not all of it stays
/// mapped.
fn image_end(memory: &mut impl Memory, regime: &Regime, vbar: u64) -> Option<u64> {
    /// What is between two mapped parts at most: what only the boot needs.
    const HOLE: u64 = 32 << 20;
    const LARGEST: u64 = 256 << 20;
    let page = vbar & !(PAGE - 1);
    let distance = page.wrapping_sub(regime.translate(memory, page).ok()?.physical);
    let (mut at, mut end) = (page, page);
    while at - page < LARGEST && at - end < HOLE {
        match regime.translate(memory, at) {
            Ok(mapped) if at.wrapping_sub(mapped.physical) == distance => {
                at = at.checked_add(mapped.left)?;
                end = at;
            }
            _ => at = at.checked_add(PAGE)?,
        }
    }
    Some(end.wrapping_sub(distance))
}

/// The note of the kernel that a vCPU with these registers runs, out of `pages`. `look` is told of each page that has been looked
/// at, and says whether to go on.
///
/// # Errors
///
/// If there is none; whether there is one of another kernel is said.
pub fn find(
    memory: &mut impl Memory,
    pages: impl Iterator<Item = u64>,
    vcpus: &[(Regime, u64)],
    mut look: impl FnMut(u64) -> bool,
) -> Result<Vmcoreinfo> {
    ensure!(
        !vcpus.is_empty(),
        "no vCPU runs at EL1 with its MMU on, so which kernel is the guest's cannot be told"
    );
    let mut stale = None;
    for page in pages {
        if let Some(found) = Vmcoreinfo::at(memory, page)? {
            if vcpus
                .iter()
                .any(|(regime, vbar)| found.is_of(regime, *vbar))
            {
                return Ok(found);
            }
            stale = found.release().ok().map(str::to_owned).or(stale);
        }
        if !look(page) {
            bail!(
                "nothing says that the guest is Linux in the part of its memory that was looked at"
            );
        }
    }
    match stale {
        None => {
            bail!("the guest's memory has no VMCOREINFO: it is not Linux, or has not come so far")
        }
        Some(release) => bail!(
            "the guest's memory has the VMCOREINFO of a Linux {release} that does not run any more, and none of what runs"
        ),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::memory::tests::Pieces;

    pub fn note(text: &str) -> Vec<u8> {
        let mut note = NAME_SIZE.to_vec();
        note.extend((text.len() as u32).to_le_bytes());
        note.extend(b"\0\0\0\0VMCOREINFO\0\0");
        note.extend(text.as_bytes());
        note.resize(note.len().next_multiple_of(4096), 0);
        note
    }

    fn text(release: &str, tables: u64) -> String {
        format!(
            "OSRELEASE={release}\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)={tables:x}\nSYMBOL(_stext)=ffff800080010000\n\
             NUMBER(kimage_voffset)=0xffff800040000000\nNUMBER(TCR_EL1_T1SZ)=0x10\nNUMBER(minus)=-2\n"
        )
    }

    const VBAR: u64 = 0xffff_8000_8001_0800;

    fn vcpu() -> (Regime, u64) {
        let ttbr1 = 0x4100_0000 | 0x17 << 48 | 1;
        (
            Regime {
                ttbr1,
                ..Regime::default()
            },
            VBAR,
        )
    }

    #[test]
    fn the_note_of_the_running_kernel_is_told_from_stale_ones() {
        let mut memory = Pieces::default();
        memory.put(0x4000_0000, &vec![0; 0x1_0000]);
        let own = note(&text("7.3.4", 0xffff_8000_8100_0000));
        memory.put(0x4000_3000, &note(&text("6.1.0", 0xffff_8000_8200_0000)));
        memory.put(0x4000_4000, &[0; 0x4000]);
        memory.put(0x4000_8000, &own);
        memory.put(0x4000_9000, &[0; 0x7000]);
        let ranges = [(0x4000_0000, 0x1_0000)];
        let pages = || order(&ranges, &[(0x4000_2123, 0x2_0000)]);
        let found = find(&mut memory, pages(), &[vcpu()], |_| true).unwrap();
        assert_eq!(
            (found.place, found.release().unwrap()),
            (0x4000_8000, "7.3.4")
        );
        assert_eq!(memory.reads.iter().filter(|(_, n)| *n == HEAD).count(), 7);
        assert_eq!(found.note, own[..found.note.len()]);
        assert_eq!(found.image(0xffff_8000_8000_0010).unwrap(), 0x4000_0010);
        assert_eq!(found.number("minus").unwrap(), u64::MAX - 1);
        assert_eq!(found.tcr().unwrap(), 16 << 16 | 0b10 << 30);
        assert!(found.symbol("nothing").is_err());

        memory.put(0x4000_8000, &[0; 0x1000]);
        let error = find(&mut memory, pages(), &[vcpu()], |_| true).unwrap_err();
        assert!(
            error.to_string().contains("Linux 6.1.0 that does not run"),
            "{error}"
        );
        memory.put(0x4000_3000, &[0; 0x1000]);
        let error = find(&mut memory, pages(), &[vcpu()], |_| true).unwrap_err();
        assert!(error.to_string().contains("has no VMCOREINFO"), "{error}");
        let error = find(&mut memory, pages(), &[vcpu()], |_| false).unwrap_err();
        assert!(error.to_string().contains("that was looked at"), "{error}");
        assert!(find(&mut memory, pages(), &[], |_| true).is_err());
    }

    #[test]
    fn vectors_below_the_text_are_another_kernels() {
        let mut memory = Pieces::default();
        memory.put(0x4000_0000, &note(&text("7.3.4", 0xffff_8000_8100_0000)));
        let found = Vmcoreinfo::at(&mut memory, 0x4000_0000).unwrap().unwrap();
        let (regime, vbar) = vcpu();
        assert!(found.is_of(&regime, vbar));
        assert!(!found.is_of(&regime, 0xffff_8000_8000_0800));
        let (mut entry, mut other) = (regime, regime);
        entry.ttbr1 -= 0x2000;
        other.ttbr1 -= 0x1000;
        assert!(found.is_of(&entry, vbar), "at EL0 with KPTI");
        assert!(!found.is_of(&other, vbar));
        let mut narrow = regime;
        narrow.ttbr1 += 0xe00;
        assert!(found.is_of(&narrow, vbar), "without addresses of 52 bits");
    }

    #[test]
    fn what_only_begins_like_a_note_is_none() {
        let mut memory = Pieces::default();
        let mut bytes = note("OSRELEASE=7.3.4\n");
        bytes[4..8].copy_from_slice(&0x7000_0000u32.to_le_bytes());
        memory.put(0x4000_0000, &bytes);
        assert_eq!(Vmcoreinfo::at(&mut memory, 0x4000_0000).unwrap(), None);
        bytes[30] = b'x';
        memory.put(0x4000_0000, &bytes);
        assert_eq!(Vmcoreinfo::at(&mut memory, 0x4000_0000).unwrap(), None);
    }

    #[test]
    fn each_page_is_looked_at_once_windows_first() {
        let ram = [(0x1000, 0x4000), (0x8000, 0x2000)];
        let windows = [(0x9fff, 0x1000), (0x6000, 0x1000), (0x3000, 0x6000)];
        let pages: Vec<u64> = order(&ram, &windows).collect();
        assert_eq!(pages, [0x9000, 0x3000, 0x4000, 0x8000, 0x1000, 0x2000]);
    }

    #[test]
    fn windows_begin_behind_the_image_whose_middle_is_gone() {
        // 2 MiB blocks of 39 bits: text, nothing, data; and one of something else behind them.
        let mut memory = Pieces::default();
        memory.put(0x4000_0000, &[0; 0x2000]);
        memory.put_u64(0x4000_0000 + 8 * 0x1ff, 0x4000_1000 | 3);
        for (entry, block) in [(8, 0x4020_0000), (10, 0x4060_0000), (11, 0x9000_0000)] {
            memory.put_u64(0x4000_1000 + 8 * entry, block | 1);
        }
        let regime = Regime {
            sctlr: 1,
            tcr: 25 << 16 | 0b10 << 30,
            ttbr0: 0x5000_0000 | 7 << 48,
            ttbr1: 0x4000_0000,
        };
        let vbar = 0xffff_ffff_c100_0000 + 0x800;
        let found = windows(&mut memory, &[(regime, vbar)], &[vbar + 0x40_0000, 0]);
        let expected = [
            (0x4080_0000, 16 << 20),
            (0x5000_0000 - (4 << 20), 8 << 20),
            (0x4060_0800 - (4 << 20), 8 << 20),
        ];
        assert_eq!(found, expected);
    }
}
