use std::path::PathBuf;

use hv_abi::operator::Base64;
use introspection::core_file::CoreFile;
use introspection::oracle::Report;
use machine::hashes::{ALGORITHM, FORMAT, VERSION};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::dumped::tests::{Packing, compressed};
use crate::oracle::{Question, judge};

const RAM: u64 = 0x4000_0000;
const PAGES: u64 = 64;
/// The first of four tables of translation, and the page that has all `struct page`.
const TABLES: u64 = 40;
const MAP: u64 = 44;

/// What a page is for, as a kernel says it: flags, mapping, _mapcount.
type Kind = (u64, u64, u32);
const FILE: u64 = 0xffff_0000_1234_5678;
const KERNEL: Kind = (0, 0, u32::MAX);
const FREE: Kind = (0, 0, 0xf000_0000);
const CACHE: Kind = (1 << 5, FILE, 0);
const PRIVATE: Kind = (1 << 5 | 1 << 14, FILE, 0);
const USER: Kind = (1 << 5 | 1 << 17, FILE | 1, 0);

fn info(release: &str) -> String {
    let tables = 0xffff_8000_0000_0000u64 + RAM + TABLES * PAGE;
    format!(
        "OSRELEASE={release}\nPAGESIZE=4096\nSIZE(page)=64\nOFFSET(page.flags)=0\nOFFSET(page.mapping)=24\n\
         OFFSET(page._mapcount)=48\nOFFSET(page.private)=40\nOFFSET(page.compound_info)=8\nNUMBER(PG_lru)=5\n\
         NUMBER(PG_private)=14\nNUMBER(PG_swapcache)=10\nNUMBER(PG_swapbacked)=17\n\
         NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-268435456\nNUMBER(VMEMMAP_START)=0xfffffdffc0000000\n\
         NUMBER(PHYS_OFFSET)={RAM:#x}\nSYMBOL(swapper_pg_dir)={tables:x}\nNUMBER(kimage_voffset)=0xffff800000000000\n\
         NUMBER(TCR_EL1_T1SZ)=0x10\nKERNELOFFSET=0\n"
    )
}

/// A guest's memory, which describes itself: 32 pages with something in them, tables, `struct page`, and zeros.
struct Guest {
    memory: Vec<u8>,
    folder: TempDir,
}

impl Guest {
    fn new() -> Self {
        let mut guest = Self {
            memory: vec![0; (PAGES * PAGE) as usize],
            folder: tempfile::tempdir().unwrap(),
        };
        for n in 0..32 {
            guest.page(n).fill(n as u8 + 1);
        }
        for n in 0..PAGES {
            guest.set(n, KERNEL);
        }
        let at = |n| (RAM + n * PAGE) | 3;
        for (table, entry, to) in [(0, 0x1fb, 1), (1, 0x1ff, 2), (2, 0, 3), (3, 0, 4)] {
            guest.put(
                TABLES + table,
                8 * entry,
                &u64::to_le_bytes(at(TABLES + to)),
            );
        }
        guest
    }

    fn page(&mut self, n: u64) -> &mut [u8] {
        &mut self.memory[(n * PAGE) as usize..][..SIZE]
    }

    fn put(&mut self, n: u64, at: usize, bytes: &[u8]) {
        self.page(n)[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn set(&mut self, n: u64, (flags, mapping, mapcount): Kind) {
        let at = 64 * n as usize;
        self.put(MAP, at, &flags.to_le_bytes());
        self.put(MAP, at + 24, &mapping.to_le_bytes());
        self.put(MAP, at + 48, &mapcount.to_le_bytes());
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// All of it, as `ctl dump` writes it.
    fn core(&self) -> PathBuf {
        let text = info("7.3.4");
        let mut note = Vec::new();
        for word in [11, text.len() as u32, 0] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"VMCOREINFO\0\0");
        note.extend(text.as_bytes());
        note.resize(note.len().next_multiple_of(4), 0);
        let core = CoreFile {
            vmcoreinfo: note,
            ram: vec![(RAM, PAGES * PAGE)],
            ..CoreFile::default()
        };
        self.file("core", &[core.head(), self.memory.clone()].concat())
    }

    /// Hashes of it, as `ctl dump --pages hashes` writes them.
    fn hashes(&self, release: &str) -> Value {
        let (pages, _) = self.memory.as_chunks::<SIZE>();
        let words: Vec<String> = pages
            .chunks(7)
            .map(|some| {
                let words = some.iter().map(|page| word(page).bits().to_be_bytes());
                Base64(&words.collect::<Vec<_>>().concat()).to_string()
            })
            .collect();
        json!({
            "format": FORMAT, "version": VERSION, "page": PAGE, "hash": ALGORITHM, "release": release,
            "vmcoreinfo": info(release), "cpus": [],
            "ram": [{ "start": RAM, "length": PAGES * PAGE, "words": words }],
            "consistent": true,
        })
    }

    /// What makedumpfile would write at level 31 without these pages.
    fn dump(&mut self, without: &[u64]) -> Vec<(u64, Vec<u8>)> {
        let numbers = (0..PAGES).filter(|n| !without.contains(n));
        numbers
            .map(|n| {
                let mut page = self.page(n).to_vec();
                if page.iter().all(|byte| *byte == 0) {
                    page.clear();
                }
                (RAM / PAGE + n, page)
            })
            .collect()
    }

    fn compress(&self, pages: &[(u64, Vec<u8>)]) -> PathBuf {
        let bytes = compressed(4096, 31, Packing::Zlib, pages, &info("7.3.4"));
        self.file("dump", &bytes)
    }

    /// What is said of a dump by all of the memory, and by its hashes.
    fn ask(&self, pages: &[(u64, Vec<u8>)]) -> [Report; 2] {
        let dump = self.compress(pages);
        let hashes = self.file("hashes", self.hashes("7.3.4").to_string().as_bytes());
        [self.core(), hashes].map(|truth| judge(&Question::new(&truth, &dump)).unwrap())
    }
}

fn count(report: &Report, class: &str, reason: Option<&str>) -> u64 {
    let mut lines = report.classes.iter();
    let line = lines.find(|line| line.class == class && line.reason == reason);
    line.map_or(0, |line| line.count.pages)
}

#[test]
fn hashes_say_of_each_class_what_all_of_the_memory_says() {
    let mut guest = Guest::new();
    for (n, kind) in [
        (1, CACHE),
        (2, PRIVATE),
        (3, USER),
        (4, FREE),
        (10, FREE),
        (11, USER),
    ] {
        guest.set(n, kind);
    }
    guest.page(20).fill(0);
    let zeros: Vec<u64> = (45..64).collect();
    let mut pages = guest.dump(&[&[1, 2, 3, 4, 7][..], &zeros].concat());
    // A bit of page 8 is another, and page 9 is all zeros.
    let place = |n: u64| move |page: &(u64, Vec<u8>)| page.0 == RAM / PAGE + n;
    let found = pages.iter().position(place(8)).unwrap();
    pages[found].1[4000] ^= 0x10;
    pages[found + 1].1.clear();
    let [whole, hashes] = guest.ask(&pages);
    assert_eq!(hashes.classes, whole.classes, "{whole}\n{hashes}");
    for (class, reason, pages) in [
        ("equal", None, 27),
        ("different", None, 2),
        ("absent and required", None, 1),
        ("absent and excludable", Some("free"), 1),
        ("absent and excludable", Some("cache"), 1),
        ("absent and excludable", Some("cache private"), 1),
        ("absent and excludable", Some("user"), 1),
        ("absent and excludable", Some("zero"), 28),
        ("present and needless", Some("free"), 1),
        ("present and needless", Some("user"), 1),
    ] {
        assert_eq!(
            count(&hashes, class, reason),
            pages,
            "{class} {reason:?}\n{hashes}"
        );
    }
    assert_eq!(hashes.failures(), whole.failures());
    assert_eq!((hashes.untold, whole.untold), (None, None));
    let bad = |report: &Report| -> Vec<u64> {
        let all = [&report.different.first[..], &report.missing.first].concat();
        all.iter().map(|page| page.address).collect()
    };
    assert_eq!(bad(&hashes), [8, 9, 7].map(|n| RAM + n * PAGE));
    // Which of its bytes is another the hashes do not say.
    let [page, _] = &hashes.different.first[..] else {
        panic!("{hashes}");
    };
    assert_eq!((page.differs_from, page.differing), (None, 0));
}

#[test]
fn what_no_struct_page_says_is_required_and_counted() {
    for is_there in [true, false] {
        let mut guest = Guest::new();
        guest.set(3, USER);
        let mut pages = guest.dump(&[3]);
        let found = pages.iter().position(|page| page.0 == RAM / PAGE + MAP);
        match found.filter(|_| is_there) {
            // Of page 60, and all of that page are as they were no more.
            Some(found) => pages[found].1[64 * 60] ^= 1,
            None => pages.retain(|page| page.0 != RAM / PAGE + MAP),
        }
        let [whole, hashes] = guest.ask(&pages);
        assert_eq!(whole.missing.pages, u64::from(!is_there));
        assert_eq!(hashes.missing.pages, whole.missing.pages + 1);
        assert_eq!(hashes.untold, Some(hashes.missing.pages), "{hashes}");
        let text = hashes.to_string();
        assert!(text.contains("of which cannot be told what for"), "{text}");
        let failures = hashes.failures().join("; ");
        assert!(failures.contains("cannot be told)"), "{failures}");
    }
}

#[test]
fn a_page_of_the_guests_is_several_hashes() {
    let mut guest = Guest::new();
    guest.page(5).fill(0);
    let hashes = || Hashes::parse(guest.hashes("7.3.4").to_string().as_bytes()).unwrap();
    let dump = || crate::dumped::Dumped::open(&guest.core()).unwrap();
    let mut truth = Hashed::new(hashes(), dump());
    let mut into = vec![0xff; 4 * SIZE];
    let own = &guest.memory[4 * SIZE..8 * SIZE];
    let known = truth.known(RAM + 4 * PAGE, Some(own), &mut into).unwrap();
    assert!(
        known.is_same && known.is_whole && !known.is_zero,
        "{known:?}"
    );
    assert_eq!(into, own);
    let mut other = own.to_vec();
    other[3 * SIZE] ^= 1;
    let known = truth
        .known(RAM + 4 * PAGE, Some(&other), &mut into)
        .unwrap();
    assert!(!known.is_same && !known.is_whole, "{known:?}");
    let known = truth.known(RAM + 4 * PAGE, None, &mut into).unwrap();
    assert!(
        !known.is_same && !known.is_whole && !known.is_zero,
        "{known:?}"
    );
    let known = truth.known(RAM + 48 * PAGE, None, &mut into).unwrap();
    assert!(known.is_zero && known.is_whole, "{known:?}");
    assert!(truth.known(RAM + 62 * PAGE, None, &mut into).is_err());
    // Across pages, and behind the end.
    let mut word = [0; 8];
    truth.read(RAM + 4 * PAGE - 4, &mut word).unwrap();
    assert_eq!(word, [4, 4, 4, 4, 5, 5, 5, 5]);
    assert!(truth.read(RAM + PAGES * PAGE - 4, &mut word).is_err());
}

#[test]
fn a_file_that_is_not_of_this_dump_is_refused_with_what_to_do() {
    let mut guest = Guest::new();
    let pages = guest.dump(&[]);
    let dump = guest.compress(&pages);
    let refused = |truth: &PathBuf, dump: &PathBuf| {
        let error = judge(&Question::new(truth, dump)).unwrap_err();
        format!("{error:#}")
    };
    // Another kernel; another boot of the same one.
    let other = guest.hashes("6.1.0").to_string();
    let other = guest.file("other", other.as_bytes());
    let error = refused(&other, &dump);
    assert!(error.contains("another boot (Linux 7.3.4)"), "{error}");
    let good = guest.hashes("7.3.4").to_string();
    for byte in &mut guest.memory {
        *byte ^= 0x55;
    }
    let changed = guest.hashes("7.3.4").to_string();
    let changed = guest.file("changed", changed.as_bytes());
    let error = refused(&changed, &dump);
    assert!(
        error.contains("of two boots or of two guests; take both"),
        "{error}"
    );
    let cut = guest.file("cut", &good.as_bytes()[..good.len() / 2]);
    let error = refused(&cut, &dump);
    let expected = "cut is no truth that is read here: it is cut short; `cargo xtask ctl dump";
    assert!(error.contains(expected), "{error}");
    let good = guest.file("good", good.as_bytes());
    let error = refused(&dump, &good);
    assert!(
        error.contains("takes one as TRUTH, the first of both"),
        "{error}"
    );
    assert!(judge(&Question::new(&good, &dump)).unwrap().is_true());
}
