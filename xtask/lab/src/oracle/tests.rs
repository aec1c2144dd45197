use introspection::core_file::CoreFile;

use super::*;
use crate::dumped::tests::{Packing, compressed};

/// The note of a kernel that has no tables: all that it has is its own.
fn info(release: &str) -> String {
    format!(
        "OSRELEASE={release}\nPAGESIZE=4096\nSIZE(page)=64\nOFFSET(page.flags)=0\nOFFSET(page.mapping)=24\n\
         OFFSET(page._mapcount)=48\nOFFSET(page.private)=40\nOFFSET(page.compound_info)=8\nNUMBER(PG_lru)=5\n\
         NUMBER(PG_private)=14\nNUMBER(PG_swapcache)=10\nNUMBER(PG_swapbacked)=17\n\
         NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-268435456\nNUMBER(VMEMMAP_START)=0xfffffdffc0000000\n\
         NUMBER(PHYS_OFFSET)=0x0\nSYMBOL(swapper_pg_dir)=ffff800050000000\nNUMBER(kimage_voffset)=0xffff800000000000\n\
         NUMBER(TCR_EL1_T1SZ)=0x10\nKERNELOFFSET=0\n"
    )
}

fn core(info: &str, pages: u8) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [11, info.len() as u32, 0] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"VMCOREINFO\0\0");
    note.extend(info.as_bytes());
    note.resize(note.len().next_multiple_of(4), 0);
    let core = CoreFile {
        vmcoreinfo: note,
        ram: vec![(0x1000, u64::from(pages) << 12)],
        ..CoreFile::default()
    };
    let memory = (1..=pages).flat_map(|byte| vec![byte; 4096]);
    core.head().into_iter().chain(memory).collect()
}

#[test]
fn a_dump_is_held_against_a_core_file_and_against_another_dump() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let mut pages: Vec<(u64, Vec<u8>)> = (1..=8u8)
        .map(|byte| (u64::from(byte), vec![byte; 4096]))
        .collect();
    let text = info("7.3.4");
    let truth = file("truth", &core(&text, 8));
    let whole = file("whole", &compressed(4096, 31, Packing::Zlib, &pages, &text));
    pages[2].1[77] ^= 4;
    pages.remove(5);
    let broken = file(
        "broken",
        &compressed(4096, 31, Packing::Zlib, &pages, &text),
    );
    let other = info("6.1.0");
    let other = file("other", &compressed(4096, 0, Packing::Zlib, &pages, &other));
    let ask = |truth, dump, level| {
        judge(&Question {
            level,
            ..Question::new(truth, dump)
        })
    };
    let report = ask(&truth, &whole, None).unwrap();
    assert!(report.is_true(), "{report}");
    assert_eq!((report.level, report.unknown), (31, 0));
    let report = ask(&truth, &broken, Some(0)).unwrap();
    assert_eq!(report.level, 0);
    let [different] = &report.different.first[..] else {
        panic!("{report}");
    };
    assert_eq!(different.differs_from, Some(0x3000 + 77));
    let [missing] = &report.missing.first[..] else {
        panic!("{report}");
    };
    assert_eq!(missing.address, 0x6000);
    // Of two dumps, only what the first has is judged.
    let report = ask(&broken, &whole, None).unwrap();
    assert_eq!((report.different.pages, report.missing.pages), (1, 0));
    assert_eq!(report.unknown, 4096);
    let error = format!("{:#}", ask(&truth, &other, None).unwrap_err());
    assert!(error.contains("another boot (Linux 6.1.0)"), "{error}");
    assert!(ask(&truth, &whole, Some(32)).is_err());
    assert!(ask(&truth, &folder.path().join("none"), None).is_err());
}

#[test]
fn a_list_of_writers_is_read_or_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("writers.json");
    fs::write(&path, r#"[{"address":4096,"by":"vcpu","vcpu":2,"pc":7}]"#).unwrap();
    assert_eq!(writers(&path).unwrap()[0].address, 4096);
    fs::write(&path, "{}").unwrap();
    let error = format!("{:#}", writers(&path).unwrap_err());
    assert!(
        error.contains("nor a list of writers, such as [{"),
        "{error}"
    );
    // A log in which nobody has written, and one that does not come so far.
    fs::write(
        &path,
        "\x1e[    1.0 p2] @kexec vm=0 vcpu=2 pc=0x50000000\r\n",
    )
    .unwrap();
    assert_eq!(writers(&path).unwrap().len(), 0);
    fs::write(&path, "\x1e[    1.0 p2] @ready vms=1\r\n").unwrap();
    assert!(writers(&path).is_err());
    // As a log has it, with what stands around it; of another guest, and cut short.
    fs::write(
        &path,
        b"\x1e[    1.0 p2] @write vm=0 ipa=0x40001000 by=vcpu vcpu=2 pc=0xffff800080001234\r\n\xff\n\
          @write vm=1 ipa=0x1000 by=mediator\n@write vm=0 ipa=0x3000 by=mediator\n",
    )
    .unwrap();
    let found = writers(&path).unwrap();
    let [vcpu, part] = &found[..] else {
        panic!("{found:?}");
    };
    let expected = Who::Vcpu {
        vcpu: 2,
        pc: 0xffff_8000_8000_1234,
        symbol: None,
    };
    assert_eq!((vcpu.address, &vcpu.who), (0x4000_1000, &expected));
    assert_eq!(part.address, 0x3000);
    fs::write(&path, "@write vm=0 by=vcpu vcpu=2 pc=1\n").unwrap();
    assert!(writers(&path).is_err());
}
