use std::collections::BTreeMap;

use anyhow::bail;

use super::*;
use crate::memory::tests::Pieces;
use crate::pages::Kind;

const RAM: u64 = 0x4000_0000;
const TABLES: u64 = 0x5000_0000;
const MAP: u64 = 0x6000_0000;

/// A guest of 32 pages of a size, and a dump of it.
struct Guest {
    memory: Pieces,
    info: Vmcoreinfo,
    page: u64,
}

impl Truth for Pieces {}

/// What a dump has; a page without content cannot be read.
#[derive(Default)]
struct Dump(BTreeMap<u64, Option<Vec<u8>>>);

impl Pages for Dump {
    fn page(&mut self, address: u64, into: &mut [u8]) -> Result<Presence> {
        match self.0.get(&address) {
            None => Ok(Presence::Absent),
            Some(None) => bail!("it cannot be unpacked"),
            Some(Some(content)) if content.is_empty() => {
                into.fill(0);
                Ok(Presence::Zero)
            }
            Some(Some(content)) => {
                into.copy_from_slice(content);
                Ok(Presence::Here)
            }
        }
    }

    fn size(&self) -> u64 {
        let pages = self.0.values().flatten().map(|page| page.len() as u64);
        pages.max().unwrap_or_default() * self.0.len() as u64
    }
}

impl Guest {
    /// With pages of `1 << bits` bytes, each of another content, and each for the kernel.
    fn new(bits: u32) -> Self {
        let page = 1u64 << bits;
        let start = 0xffff_fdff_c000_0000u64 >> 29 << 29;
        let text = format!(
            "OSRELEASE=7.3.4\nPAGESIZE={page}\nSIZE(page)=64\nOFFSET(page.flags)=0\nOFFSET(page.mapping)=24\n\
             OFFSET(page._mapcount)=48\nOFFSET(page.private)=40\nOFFSET(page.compound_info)=8\nNUMBER(PG_lru)=5\n\
             NUMBER(PG_private)=14\nNUMBER(PG_swapcache)=10\nNUMBER(PG_swapbacked)=17\nNUMBER(PG_hwpoison)=22\n\
             NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)=-184549376\nNUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-268435456\n\
             NUMBER(VMEMMAP_START)={start:#x}\nNUMBER(PHYS_OFFSET)={RAM:#x}\nSYMBOL(swapper_pg_dir)=ffff800050000000\n\
             NUMBER(kimage_voffset)=0xffff800000000000\nNUMBER(TCR_EL1_T1SZ)=0x10\n"
        );
        let mut memory = Pieces::default();
        memory.put(MAP, &[0; 64 * 64]);
        // Tables of each level down to a block, for addresses of 48 bits.
        let stride = bits - 3;
        let levels = (48 - bits).div_ceil(stride);
        for below in (1..levels).rev() {
            let table = TABLES + u64::from(levels - 1 - below) * 0x1_0000;
            memory.put(table, &vec![0; 0x1_0000]);
            let shift = bits + below * stride;
            let width = stride.min(48 - shift);
            let index = start >> shift & ((1 << width) - 1);
            let entry = if below == 1 {
                MAP | 1
            } else {
                (table + 0x1_0000) | 3
            };
            memory.put_u64(table + 8 * index, entry);
        }
        let mut guest = Self {
            memory,
            info: Vmcoreinfo::of_text(text.as_bytes(), &[]),
            page,
        };
        for n in 0..64 {
            guest.set(n, Kind::Kernel);
        }
        guest.memory.put(
            RAM,
            &(0..32)
                .flat_map(|n| vec![n as u8 + 1; page as usize])
                .collect::<Vec<_>>(),
        );
        guest
    }

    fn at(&self, n: u64) -> u64 {
        RAM + n * self.page
    }

    /// What page `n` is for.
    fn set(&mut self, n: u64, kind: Kind) {
        const FILE: u64 = 0xffff_0000_1234_5678;
        let (flags, mapping, mapcount) = match kind {
            Kind::Free => (0, 0, 0xf000_0000u32),
            Kind::Cache => (1 << 5, FILE, 0),
            Kind::CachePrivate => (1 << 5 | 1 << 14, FILE, 0),
            Kind::User => (1 << 5 | 1 << 17, FILE | 1, 0),
            Kind::Unreadable => (1 << 22, FILE, 0),
            Kind::Kernel => (0, 0, u32::MAX),
        };
        let at = MAP + 64 * n;
        self.memory.put_u64(at, flags);
        self.memory.put_u64(at + 24, mapping);
        self.memory.put_u64(at + 48, mapcount.into());
    }

    /// What is in page `n`.
    fn fill(&mut self, n: u64, byte: u8) {
        for at in (self.at(n)..self.at(n + 1)).step_by(8) {
            self.memory.put_u64(at, u64::from_le_bytes([byte; 8]));
        }
    }

    fn content(&mut self, n: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.page as usize];
        self.memory.read(self.at(n), &mut bytes).unwrap();
        bytes
    }

    /// A dump of all pages.
    fn dump(&mut self) -> Dump {
        Dump(
            (0..32)
                .map(|n| (self.at(n), Some(self.content(n))))
                .collect(),
        )
    }

    fn ask(&mut self, dump: &mut Dump, level: u32, writers: &[Writer]) -> Report {
        let ram = [(RAM, 32 * self.page)];
        let question = Question {
            info: &self.info,
            ram: &ram,
            level,
            writers,
            reserve: &[],
            told: FIRST,
        };
        compare(&mut self.memory, dump, &question, |_| {}).unwrap()
    }
}

/// How many pages are in each class, by its name and the reason.
fn counted(report: &Report) -> BTreeMap<String, u64> {
    let lines = report.classes.iter();
    let lines = lines.filter(|line| line.count.pages > 0);
    lines
        .map(|line| {
            assert_eq!(line.count.bytes, line.count.pages * report.page_size);
            let reason = line
                .reason
                .map_or(String::new(), |reason| format!(": {reason}"));
            (format!("{}{reason}", line.class), line.count.pages)
        })
        .collect()
}

fn counts(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let expected = expected.iter();
    expected
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

#[test]
fn each_page_is_in_its_class_whatever_size_pages_have() {
    for bits in [12, 14, 16] {
        let mut guest = Guest::new(bits);
        for (n, kind) in [
            (0, Kind::Free),
            (1, Kind::Cache),
            (2, Kind::CachePrivate),
            (3, Kind::User),
            (4, Kind::Unreadable),
            (6, Kind::Free),
            (7, Kind::User),
        ] {
            guest.set(n, kind);
        }
        guest.fill(5, 0);
        guest.fill(8, 0);
        let mut dump = guest.dump();
        for n in [0, 1, 2, 3, 4, 5] {
            dump.0.remove(&guest.at(n));
        }
        dump.0.insert(guest.at(8), Some(Vec::new()));
        let report = guest.ask(&mut dump, 31, &[]);
        let expected = counts(&[
            ("equal", 23),
            ("absent and excludable: free", 1),
            ("absent and excludable: cache", 1),
            ("absent and excludable: cache private", 1),
            ("absent and excludable: user", 1),
            ("absent and excludable: unreadable", 1),
            ("absent and excludable: zero", 2),
            ("present and needless: free", 1),
            ("present and needless: user", 1),
        ]);
        assert_eq!(counted(&report), expected, "pages of 2^{bits}");
        assert!(report.is_true());
        assert_eq!(report.failures(), [""; 0]);
        assert_eq!((report.page_size, report.unknown), (1 << bits, 0));

        // At a level that leaves out less, the same dump lacks what it must have.
        let report = guest.ask(&mut dump, 16, &[]);
        let expected = counts(&[
            ("equal", 25),
            ("absent and required", 4),
            ("absent and excludable: free", 1),
            ("absent and excludable: unreadable", 1),
            ("present and needless: free", 1),
        ]);
        assert_eq!(counted(&report), expected, "pages of 2^{bits}");
        let missing: Vec<u64> = report
            .missing
            .first
            .iter()
            .map(|page| page.address)
            .collect();
        assert_eq!(missing, [1, 2, 3, 5].map(|n| guest.at(n)));
        assert!(!report.is_true());
    }
}

#[test]
fn a_page_that_was_dropped_is_found() {
    let mut guest = Guest::new(12);
    let mut dump = guest.dump();
    dump.0.remove(&guest.at(9));
    let report = guest.ask(&mut dump, 31, &[]);
    assert_eq!(
        counted(&report),
        counts(&[("equal", 31), ("absent and required", 1)])
    );
    assert!(!report.is_true());
    assert_eq!(
        report.failures(),
        ["the dump lacks 1 page that it must have, the first of them 0x40009000: the kernel"]
    );
    let text = report.to_string();
    assert!(
        text.contains("absent and required:\n  0x40009000 the kernel\n"),
        "{text}"
    );
}

#[test]
fn one_bit_that_changed_is_found_and_so_is_who_wrote_there() {
    for bits in [12, 16] {
        let mut guest = Guest::new(bits);
        let mut dump = guest.dump();
        let at = guest.at(11) + guest.page - 7;
        let page = dump.0.get_mut(&guest.at(11)).unwrap().as_mut().unwrap();
        let last = page.len() - 7;
        page[last] ^= 0x10;
        let writers = [
            Writer {
                address: at & !7,
                who: Who::Vcpu {
                    vcpu: 2,
                    pc: 0xffff_8000_1234_5678,
                    symbol: Some("lkdtm_HARDLOCKUP+0x4".to_owned()),
                },
            },
            // What it wrote is in the dump as it was.
            Writer {
                address: guest.at(12),
                who: Who::Hypervisor {
                    name: "clock page".to_owned(),
                },
            },
        ];
        for (writers, by) in [(&writers[..], 1), (&[], 0)] {
            let report = guest.ask(&mut dump, 31, writers);
            assert_eq!(counted(&report), counts(&[("equal", 31), ("different", 1)]));
            assert!(!report.is_true(), "a writer is no excuse");
            let [page] = &report.different.first[..] else {
                panic!("{report:?}");
            };
            assert_eq!(
                (page.address, page.differs_from, page.differing),
                (guest.at(11), Some(at), 1)
            );
            let expected = ["vCPU 2 in lkdtm_HARDLOCKUP+0x4"];
            assert_eq!(page.written_by, expected[..by]);
            assert_eq!(
                (report.touched.harmful, report.touched.harmless),
                (by as u64, by as u64)
            );
            assert_eq!(report.touched.first.len(), 2 * by);
            assert_eq!(report.failures().len(), 1);
            assert_eq!(report.failures()[0].contains("vCPU 2"), by == 1);
        }
    }
}

#[test]
fn a_page_that_cannot_be_read_is_different_and_zeros_are_no_content() {
    let mut guest = Guest::new(12);
    guest.fill(4, 0);
    let mut dump = guest.dump();
    dump.0.insert(guest.at(3), None);
    // Zeros instead of what was there, and as they were.
    dump.0.insert(guest.at(4), Some(Vec::new()));
    dump.0.insert(guest.at(5), Some(Vec::new()));
    let report = guest.ask(&mut dump, 0, &[]);
    assert_eq!(counted(&report), counts(&[("equal", 30), ("different", 2)]));
    let [broken, zero] = &report.different.first[..] else {
        panic!("{report:?}");
    };
    assert_eq!(broken.broken.as_deref(), Some("it cannot be unpacked"));
    assert_eq!((broken.differs_from, broken.differing), (None, 0));
    assert_eq!((zero.address, zero.differing), (guest.at(5), 4096));
}

#[test]
fn the_first_ten_are_told_and_all_are_counted() {
    let mut guest = Guest::new(12);
    let report = guest.ask(&mut Dump::default(), 0, &[]);
    assert_eq!(
        (report.missing.pages, report.missing.first.len()),
        (32, FIRST)
    );
    assert_eq!(report.missing.bytes, 32 << 12);
    assert!(
        report
            .to_string()
            .contains("absent and required, the first 10:")
    );
    let json = serde_json_of(&report);
    assert!(json.contains("\"version\":1"), "{json}");
}

/// That it can be written, whatever writes it.
fn serde_json_of(report: &Report) -> String {
    serde_json::to_string(report).unwrap()
}

#[test]
fn the_capture_kernels_own_memory_and_what_is_unknown_are_not_judged() {
    let mut guest = Guest::new(12);
    let mut dump = guest.dump();
    for n in 8..16 {
        dump.0.remove(&guest.at(n));
    }
    dump.0.insert(0x1000, Some(vec![1; 4096]));
    let ram = [
        (RAM + 0x800, 0x4000),
        (RAM, 0x2000),
        (RAM + 0x8000, 0x1_8000),
    ];
    let reserve = [(guest.at(8), 8 * guest.page)];
    let question = Question {
        info: &guest.info,
        ram: &ram,
        level: 31,
        writers: &[],
        reserve: &reserve,
        told: FIRST,
    };
    let mut told = Vec::new();
    let report = compare(&mut guest.memory, &mut dump, &question, |done| {
        told.push(done)
    })
    .unwrap();
    // Whole pages of the truth, each once: 0 to 3, and 8 to 31.
    let expected = counts(&[("equal", 20), ("the capture kernel's own", 8)]);
    assert_eq!(counted(&report), expected);
    assert_eq!(report.unknown, (4 + 1) << 12);
    assert_eq!((told[0], told.last()), (0, Some(&(28 << 12))));
    assert!(report.is_true());
}

#[test]
fn nonsense_is_refused() {
    let mut guest = Guest::new(12);
    for ram in [&[][..], &[(RAM, 0x800)], &[(u64::MAX - 0xfff, 0x2000)]] {
        let question = Question {
            info: &guest.info,
            ram,
            level: 0,
            writers: &[],
            reserve: &[],
            told: FIRST,
        };
        let found = compare(&mut guest.memory, &mut Dump::default(), &question, |_| {});
        assert!(found.is_err(), "{ram:x?}");
    }
    let info = Vmcoreinfo::of_text(b"OSRELEASE=7.3.4\n", &[]);
    let question = Question {
        info: &info,
        ram: &[(RAM, 0x1000)],
        level: 0,
        writers: &[],
        reserve: &[],
        told: FIRST,
    };
    assert!(compare(&mut guest.memory, &mut Dump::default(), &question, |_| {}).is_err());
}

#[test]
fn writers_are_read_as_they_are_written() {
    let text = r#"[{"address":4096,"by":"vcpu","vcpu":2,"pc":7},{"address":8192,"by":"hypervisor","name":"x"}]"#;
    let writers: Vec<Writer> = serde_json::from_str(text).unwrap();
    assert_eq!(
        writers[0].who,
        Who::Vcpu {
            vcpu: 2,
            pc: 7,
            symbol: None
        }
    );
    let again: Vec<Writer> =
        serde_json::from_str(&serde_json::to_string(&writers).unwrap()).unwrap();
    assert_eq!(again, writers);
}
