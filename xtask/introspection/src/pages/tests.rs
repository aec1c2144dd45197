use super::*;
use crate::memory::tests::Pieces;

/// What kernels say: Linux 7.3 of ours, and 6.1, in which a slab is a flag and the type of a page a bit.
const NEW: &str = "SIZE(page)=64\nOFFSET(page.flags)=0\nOFFSET(page.mapping)=24\nOFFSET(page._mapcount)=48\nOFFSET(page.private)=40\n\
    OFFSET(page.compound_info)=8\nNUMBER(PG_lru)=5\nNUMBER(PG_private)=14\nNUMBER(PG_swapcache)=10\nNUMBER(PG_swapbacked)=17\n\
    NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)=-184549376\nNUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-268435456\n\
    NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)=-201326592\nNUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-251658240\n";
const OLD: &str = "SIZE(page)=64\nOFFSET(page.flags)=0\nOFFSET(page.mapping)=24\nOFFSET(page._mapcount)=48\nOFFSET(page.private)=40\n\
    OFFSET(page.compound_head)=8\nNUMBER(PG_lru)=4\nNUMBER(PG_private)=13\nNUMBER(PG_swapcache)=10\nNUMBER(PG_swapbacked)=19\n\
    NUMBER(PG_slab)=9\nNUMBER(PG_hwpoison)=22\nNUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129\nNUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-257\n";

fn rule(text: &str) -> Result<Rule> {
    Rule::of(&Vmcoreinfo::of_text(text.as_bytes(), &[]))
}

/// A `struct page`: its flags, mapping, private, word with the tail's bit, and `_mapcount`.
fn page(flags: u64, mapping: u64, private: u64, compound: u64, mapcount: u32) -> Vec<u8> {
    let mut page = vec![0; 64];
    for (at, word) in [(0, flags), (24, mapping), (40, private), (8, compound)] {
        page[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    page[48..52].copy_from_slice(&mapcount.to_le_bytes());
    page
}

const FILE: u64 = 0xffff_0000_1234_5678;
const PROGRAM: u64 = 0xffff_0000_1234_5679;
const UNMAPPED: u32 = u32::MAX;

#[test]
fn a_page_is_told_by_its_flags_and_its_type() {
    let (new, old) = (rule(NEW).unwrap(), rule(OLD).unwrap());
    for (rule, kind, page) in [
        (&new, Kind::Cache, page(1 << 5, FILE, 0, 0, 3)),
        (
            &new,
            Kind::CachePrivate,
            page(1 << 5 | 1 << 14, FILE, 0, 0, UNMAPPED),
        ),
        (&new, Kind::User, page(1 << 5 | 1 << 17, PROGRAM, 0, 0, 0)),
        (
            &new,
            Kind::Cache,
            page(1 << 10 | 1 << 17, FILE, 0, 0, UNMAPPED),
        ),
        // Of a file system's own, or of a driver's.
        (
            &new,
            Kind::Kernel,
            page(1 << 10 | 1 << 14, FILE, 0, 0, UNMAPPED),
        ),
        (&new, Kind::User, page(1 << 6, FILE, 0, 0, 0xf400_0001)),
        (&new, Kind::Unreadable, page(0, 0, 0, 0, 0xf100_0000)),
        // A slab, whose other words are not what they are elsewhere.
        (&new, Kind::Kernel, page(1 << 5, PROGRAM, 0, 0, 0xf500_0000)),
        (&new, Kind::Free, page(0, 0, 0, 0, 0xf000_0000)),
        (&old, Kind::Cache, page(1 << 4, FILE, 0, 0, 1)),
        (
            &old,
            Kind::User,
            page(1 << 4 | 1 << 19, PROGRAM, 0, 0, UNMAPPED),
        ),
        (&old, Kind::Kernel, page(1 << 9, PROGRAM, 0, 0, 0xffff_ff7f)),
        (
            &old,
            Kind::Unreadable,
            page(1 << 22 | 1 << 4, FILE, 0, 0, 0),
        ),
        (&old, Kind::Unreadable, page(0, 0, 0, 0, 0xffff_feff)),
        (&old, Kind::Free, page(0, 0, 0, 0, 0xffff_ff7f)),
        // A table of a program's addresses.
        (&old, Kind::Kernel, page(0, PROGRAM, 0, 0, 0xffff_fdff)),
    ] {
        assert_eq!(rule.row().next(&page), kind, "{page:02x?}");
    }
}

#[test]
fn tails_and_free_blocks_are_what_their_first_page_is() {
    for (text, free) in [(NEW, 0xf000_0000), (OLD, 0xffff_ff7f)] {
        let rule = rule(text).unwrap();
        let mut row = rule.row();
        let lru = if text == NEW { 1 << 5 } else { 1 << 4 };
        let tail = page(0, 0xdead, 0, FILE | 1, UNMAPPED);
        let kernel = page(0, 0, 0, 0, UNMAPPED);
        let found: Vec<Kind> = [
            &page(lru, FILE, 0, 0, 0),
            &tail,
            &page(lru, PROGRAM, 0, 0, 0),
            &tail,
            &page(0, 0, 2, 0, free),
            // Left as they were when they were freed.
            &kernel,
            &kernel,
            &page(0, PROGRAM, 0, 0, UNMAPPED),
            &kernel,
            // No such block is there.
            &page(0, 0, 77, 0, free),
            &kernel,
        ]
        .into_iter()
        .map(|page| row.next(page))
        .collect();
        use Kind::{Cache, Free, Kernel, User};
        let expected = [
            Cache, Cache, User, User, Free, Free, Free, Free, Kernel, Free, Kernel,
        ];
        assert_eq!(found, expected);
    }
}

#[test]
fn a_page_is_judged_by_what_the_level_leaves_out() {
    let (truth, other, zeros) = ([1; 16], [2; 16], [0; 16]);
    let zero = Reason::Zero;
    let of = |kind| Verdict::Excluded(Reason::Kind(kind));
    for (kind, level, truth, dumped, verdict) in [
        (Kind::Kernel, 31, &truth, Some(&truth), Verdict::Equal),
        (Kind::Kernel, 31, &truth, Some(&other), Verdict::Different),
        (Kind::Kernel, 31, &truth, None, Verdict::Missing),
        (Kind::Kernel, 31, &zeros, None, Verdict::Excluded(zero)),
        (Kind::Kernel, 30, &zeros, None, Verdict::Missing),
        (
            Kind::Kernel,
            1,
            &zeros,
            Some(&zeros),
            Verdict::Needless(zero),
        ),
        (Kind::Free, 16, &truth, None, of(Kind::Free)),
        (Kind::Free, 15, &truth, None, Verdict::Missing),
        // What it is for counts before what is in it.
        (Kind::Free, 17, &zeros, None, of(Kind::Free)),
        (Kind::Free, 15, &zeros, None, Verdict::Excluded(zero)),
        (Kind::Cache, 2, &truth, None, of(Kind::Cache)),
        (Kind::CachePrivate, 2, &truth, None, Verdict::Missing),
        (Kind::CachePrivate, 4, &truth, None, of(Kind::CachePrivate)),
        (
            Kind::User,
            8,
            &truth,
            Some(&truth),
            Verdict::Needless(Reason::Kind(Kind::User)),
        ),
        (Kind::User, 8, &truth, Some(&other), Verdict::Different),
        (Kind::User, 0, &truth, Some(&truth), Verdict::Equal),
        (Kind::Unreadable, 0, &truth, None, of(Kind::Unreadable)),
    ] {
        let dumped = dumped.map_or(Dumped::Absent, |bytes: &[u8; 16]| {
            if bytes == truth {
                Dumped::Same
            } else {
                Dumped::Other
            }
        });
        assert_eq!(
            judge(kind, level, is_zero(truth), dumped),
            verdict,
            "{kind:?} {level}"
        );
    }
    for (level, truth, verdict) in [
        (1, &zeros, Verdict::Excluded(zero)),
        (0, &zeros, Verdict::Equal),
        (1, &truth, Verdict::Different),
    ] {
        assert_eq!(
            judge(Kind::Kernel, level, is_zero(truth), Dumped::Zero),
            verdict
        );
    }
}

#[test]
fn a_kernel_that_says_too_little_or_nonsense_is_refused() {
    let without = |key: &str| {
        let lines = NEW.lines().filter(|line| !line.contains(key));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    for key in ["SIZE(page)", "compound_info", "PG_lru", "BUDDY"] {
        assert!(rule(&without(key)).is_err(), "{key}");
    }
    assert!(rule(&without("PG_hwpoison")).is_ok());
    assert!(rule(&NEW.replace("mapping)=24", "mapping)=60")).is_err());
    assert!(rule(&NEW.replace("_mapcount)=48", "_mapcount)=60")).is_ok());
    assert!(rule(&NEW.replace("_mapcount)=48", "_mapcount)=61")).is_err());
    assert!(rule(&NEW.replace("PG_lru)=5", "PG_lru)=64")).is_err());
}

#[test]
fn what_the_kernel_has_is_kept_and_the_rest_left_out() {
    // 2 MiB blocks of 39 bits: the array of all struct pages is one, and behind its first 2 MiB there is none.
    let mut memory = Pieces::default();
    memory.put(0x4000_0000, &[0; 0x2000]);
    memory.put_u64(0x4000_0000 + 8 * 0x1ff, 0x4000_1000 | 3);
    memory.put_u64(0x4000_1000 + 8 * 8, 0x4020_0000 | 1);
    let text = format!(
        "{NEW}PAGESIZE=4096\nNUMBER(VMEMMAP_START)=0xffffffffc1000000\nNUMBER(PHYS_OFFSET)=0x40000000\n\
         NUMBER(TCR_EL1_T1SZ)=0x19\nNUMBER(kimage_voffset)=0xffff800040000000\nSYMBOL(swapper_pg_dir)=ffff800080000000\n"
    );
    let info = Vmcoreinfo::of_text(text.as_bytes(), &[]);
    // The kernel's pages are 0, 2, 100 and the last; between the second and the third the gap is too long.
    let ram = (0x4000_0000, 0x80_0000);
    let mut array = Vec::new();
    for number in 0..0x800 {
        array.extend(match number {
            0 | 2 | 100 | 0x7ff => page(0, 0, 0, 0, UNMAPPED),
            _ => page(1 << 5, FILE, 0, 0, 0),
        });
    }
    memory.put(0x4020_0000, &array);
    let expected = [
        (0x4000_0000, 0x3000),
        (0x4006_4000, 0x1000),
        (0x407f_f000, 0x1000),
    ];
    let (parts, left_out) = of_kernel(&mut memory, &info, &[ram]).unwrap();
    assert_eq!(parts, expected);
    assert_eq!(left_out, 0x80_0000 - 0x5000);
    // Of what has no struct page nothing is left out.
    let behind = (0x4000_0000 + (2 << 20) / 64 * 4096, 0x2000);
    let (parts, left_out) = of_kernel(&mut memory, &info, &[behind]).unwrap();
    assert_eq!((parts, left_out), (vec![behind], 0));
}

#[test]
fn a_page_is_told_wherever_one_begins_to_ask() {
    let info = format!(
        "{NEW}PAGESIZE=4096\nNUMBER(VMEMMAP_START)=0xfffffdffc0000000\nNUMBER(PHYS_OFFSET)=0x40000000\n\
         SYMBOL(swapper_pg_dir)=ffff800081000000\nNUMBER(kimage_voffset)=0xffff800040000000\nNUMBER(TCR_EL1_T1SZ)=0x10\n"
    );
    let info = Vmcoreinfo::of_text(info.as_bytes(), &[]);
    let rule = Rule::of(&info).unwrap();
    // 4 KiB pages, 48 bits: tables of levels 0 to 2, and a block of 2 MiB with the first 2^15 struct pages.
    let mut memory = Pieces::default();
    memory.put(0x4100_0000, &[0; 0x3000]);
    memory.put_u64(0x4100_0000 + 8 * 0x1fb, 0x4100_1003);
    memory.put_u64(0x4100_1000 + 8 * 0x1ff, 0x4100_2003);
    memory.put_u64(0x4100_2000, 0x4200_0001);
    let mut map = Vec::new();
    for number in 0u64..0x8000 {
        map.extend(match number {
            // A free block of 2^12 pages whose other pages say anything.
            0x1000 => page(0, 0, 12, 0, 0xf000_0000),
            // A slab of two.
            0x2001 => page(0, 0, 0, 0, 0xf500_0000),
            0x2002 => page(0, PROGRAM, 0, FILE | 1, 0),
            _ => page(1 << 5 | 1 << 17, PROGRAM, 0, 0, 0),
        });
    }
    memory.put(0x4200_0000, &map);
    let first = 0x4_0000;
    let mut kinds = Kinds::of(&info, &rule).unwrap();
    assert_eq!(kinds.at(&mut memory, first + 0x1800), Kind::Free);
    assert_eq!(kinds.slab(), None);
    assert!(kinds.is_told());
    assert_eq!(kinds.at(&mut memory, first + 0x2000), Kind::User);
    assert_eq!(kinds.at(&mut memory, first + 0x2002), Kind::Kernel);
    let head = page(0, 0, 0, 0, 0xf500_0000);
    assert_eq!(kinds.slab(), Some(&head[..]));
    // Back, and where there is nothing.
    assert_eq!(kinds.at(&mut memory, first + 0x1001), Kind::Free);
    assert_eq!(kinds.at(&mut memory, first + 0x8000), Kind::Kernel);
    assert!(!kinds.is_told());
    assert_eq!(kinds.at(&mut memory, first + 0x7fff), Kind::User);
    assert!(kinds.is_told());
}
