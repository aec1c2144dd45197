use super::*;

const INFO: &str = "NUMBER(VA_BITS)=48\nNUMBER(PHYS_OFFSET)=0x40000000\nNUMBER(kimage_voffset)=0xffff800040000000\n";

fn map(image: Option<(u64, u64)>) -> Option<Map> {
    Some(Map::of(&Vmcoreinfo::of_text(INFO.as_bytes(), &[]), image).unwrap())
}

/// A segment: its kind, and p_offset, p_vaddr, p_paddr, p_filesz.
fn segments(head: &[u8]) -> Vec<(u32, [u64; 4])> {
    let half = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
    assert_eq!((half(16), half(18), half(52), half(54)), (4, 183, 64, 56));
    let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
    let one = |n: usize| {
        let at = 64 + 56 * n;
        assert_eq!(long(at + 32), long(at + 40), "p_memsz");
        let kind = u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        (kind, [8, 16, 24, 32].map(|word| long(at + word)))
    };
    (0..half(56)).map(one).collect()
}

fn cpu(number: u32) -> Cpu {
    let mut registers = [0; REGISTERS];
    for (n, register) in registers.iter_mut().enumerate() {
        *register = u64::from(number) << 32 | n as u64;
    }
    Cpu { number, registers }
}

#[test]
fn a_linux_has_its_image_and_all_of_ram_by_virtual_address() {
    let core = CoreFile {
        cpus: vec![cpu(0), cpu(3)],
        vmcoreinfo: note(b"VMCOREINFO\0", 0, b"A=1\n"),
        ram: vec![(0x4000_0000, 0x80_0000), (0x8000_0000, 0x1000)],
        map: map(Some((0xffff_8000_8020_0000, 0xffff_8000_8040_0000))),
        mapped: Vec::new(),
        copies: Vec::new(),
    };
    let head = core.head();
    let at = head.len() as u64;
    assert_eq!(at % 4096, 0);
    let found = segments(&head);
    let (notes, loads) = found.split_first().unwrap();
    assert_eq!(
        loads,
        [
            (
                1,
                [
                    at + 0x20_0000,
                    0xffff_8000_8020_0000,
                    0x4020_0000,
                    0x20_0000
                ]
            ),
            (1, [at, 0xffff_0000_0000_0000, 0x4000_0000, 0x80_0000]),
            (
                1,
                [at + 0x80_0000, 0xffff_0000_4000_0000, 0x8000_0000, 0x1000]
            ),
        ]
    );
    let (kind, [offset, _, _, size]) = *notes;
    let bytes = &head[offset as usize..(offset + size) as usize];
    assert_eq!(kind, 4);
    // Two of 12 + 8 + 392 bytes, and VMCOREINFO.
    assert_eq!(bytes.len(), 2 * 412 + 28);
    let second = &bytes[412..824];
    assert_eq!(
        second[..20],
        *b"\x05\0\0\0\x88\x01\0\0\x01\0\0\0CORE\0\0\0\0"
    );
    assert_eq!(second[20 + 32..][..4], 4u32.to_le_bytes());
    for n in 0..34 {
        let word: [u8; 8] = second[20 + 112 + 8 * n..][..8].try_into().unwrap();
        assert_eq!(u64::from_le_bytes(word), 3 << 32 | n as u64);
    }
    assert_eq!(&bytes[824..836], b"\x0b\0\0\0\x04\0\0\0\0\0\0\0");
}

#[test]
fn what_is_no_linux_has_physical_addresses() {
    let core = CoreFile {
        ram: vec![(0x4000_0000, 0x2000)],
        ..CoreFile::default()
    };
    let head = core.head();
    let load = (1, [head.len() as u64, 0x4000_0000, 0x4000_0000, 0x2000]);
    assert_eq!(segments(&head)[1..], [load]);
    assert!(core.tail().is_empty());
}

#[test]
fn copies_are_found_instead_of_pages_that_stay_as_they_are() {
    let core = CoreFile {
        ram: vec![(0x4000_0000, 0x4000), (0x8000_0000, 0x1000)],
        map: map(Some((0xffff_8000_8000_1000, 0xffff_8000_8000_3000))),
        copies: vec![
            (0x4000_2000, vec![1; 0x1000]),
            (0x8000_0000, vec![2; 0x1000]),
        ],
        ..CoreFile::default()
    };
    let head = core.head();
    let at = head.len() as u64;
    let (image, linear) = (0xffff_8000_8000_0000, 0xffff_0000_0000_0000);
    assert_eq!(
        segments(&head)[1..],
        [
            (1, [at + 0x1000, image + 0x1000, 0x4000_1000, 0x1000]),
            (1, [at + 0x5000, image + 0x2000, 0x4000_2000, 0x1000]),
            (1, [at, linear, 0x4000_0000, 0x2000]),
            (1, [at + 0x5000, linear + 0x2000, 0x4000_2000, 0x1000]),
            (1, [at + 0x3000, linear + 0x3000, 0x4000_3000, 0x1000]),
            (1, [at + 0x6000, linear + 0x4000_0000, 0x8000_0000, 0x1000]),
        ]
    );
    assert_eq!(core.tail(), [vec![1; 0x1000], vec![2; 0x1000]].concat());
}

#[test]
fn addresses_of_52_bits_on_a_cpu_that_has_48() {
    // memstart_addr is below the RAM then, by the difference of the two (arch/arm64/mm/init.c).
    let text =
        "NUMBER(VA_BITS)=52\nNUMBER(PHYS_OFFSET)=0xfff1000040000000\nNUMBER(kimage_voffset)=0\n";
    let map = Map::of(&Vmcoreinfo::of_text(text.as_bytes(), &[]), None).unwrap();
    assert_eq!(map.linear(0x4000_0000), 0xffff_0000_0000_0000);
    assert_eq!(map.linear(0x8000_1000), 0xffff_0000_4000_1000);
    for bits in ["64", "-1", "4294967344"] {
        let text = INFO.replace("=48", &format!("={bits}"));
        assert!(Map::of(&Vmcoreinfo::of_text(text.as_bytes(), &[]), None).is_err());
    }
}

#[test]
fn a_stack_is_found_where_the_kernel_has_it() {
    let core = CoreFile {
        ram: vec![(0x4000_0000, 0x4000)],
        map: map(None),
        mapped: vec![(0xffff_8000_8003_8000, 0x4000_1000, 0x2000)],
        copies: vec![(0x4000_2000, vec![1; 0x1000])],
        ..CoreFile::default()
    };
    let head = core.head();
    let at = head.len() as u64;
    let stack = 0xffff_8000_8003_8000;
    let found = segments(&head);
    assert_eq!(
        found[4..],
        [
            (1, [at + 0x1000, stack, 0x4000_1000, 0x1000]),
            (1, [at + 0x4000, stack + 0x1000, 0x4000_2000, 0x1000]),
        ]
    );
}
