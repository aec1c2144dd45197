//! What describes a dump is read by other programs, and VMCOREINFO is found where it is and nowhere else.

use std::cell::RefCell;

use hv_bundle::{Piece, Registers, Vmcore, VmcoreInfo, find_info, room};
use object::LittleEndian as Little;
use object::elf::{EM_AARCH64, ET_CORE, FileHeader64, NT_FPREGSET, NT_PRSTATUS, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};
use platform::Range;
use proptest::prelude::*;

const PAGE: u64 = 4096;

/// Memory from an address on.
struct Ram {
    start: u64,
    bytes: Vec<u8>,
}

impl Ram {
    fn new(start: u64, pages: u64) -> Self {
        Self {
            start,
            bytes: vec![0; (pages * PAGE) as usize],
        }
    }

    fn range(&self) -> Range {
        Range::new(self.start, self.bytes.len() as u64)
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = (at - self.start) as usize;
        self.bytes[at..][..bytes.len()].copy_from_slice(bytes);
    }

    /// What is not in memory is not to be read.
    fn read(&self, at: u64, to: &mut [u8]) {
        let at = (at - self.start) as usize;
        to.copy_from_slice(&self.bytes[at..][..to.len()]);
    }

    fn find(&self, vcpus: &[Registers]) -> Option<VmcoreInfo> {
        let read = |at, to: &mut [u8]| self.read(at, to);
        find_info([self.range()].into_iter(), || vcpus.iter(), read)
    }
}

fn registers(seed: u64) -> Registers {
    Registers {
        x: std::array::from_fn(|n| seed + n as u64),
        sp: seed + 100,
        pc: seed + 101,
        pstate: 0x6040_00c5,
        v: std::array::from_fn(|n| u128::from(seed) << 64 | n as u128),
        fp_status: [7, 8],
        kernel: [0x4123_4000, 0xffff_8000_8001_0800],
        affinity: seed,
    }
}

/// As Linux 7.3 on arm64 writes it, shortened.
fn text(swapper: u64) -> String {
    format!(
        "OSRELEASE=7.3.4\nBUILD-ID=0123\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffff800082000000\n\
         SYMBOL(swapper_pg_dir)={swapper:x}\nSYMBOL(_stext)=ffff800080010000\nSIZE(page)=64\n\
         NUMBER(VA_BITS)=48\nNUMBER(MODULES_VADDR)=0xffff800078000000\nNUMBER(kimage_voffset)=0xffff80003fe00000\n\
         NUMBER(PHYS_OFFSET)=0x40000000\nNUMBER(TCR_EL1_T1SZ)=0x10\nKERNELOFFSET=0\n"
    )
}

/// Where its tables are that [`registers`] have.
const SWAPPER: u64 = 0x4123_4000 + 0xffff_8000_3fe0_0000;

fn note(text: &str) -> Vec<u8> {
    let head = [11, text.len() as u32, 0].map(u32::to_le_bytes);
    [&head.concat(), &b"VMCOREINFO\0\0"[..], text.as_bytes()].concat()
}

#[test]
fn the_running_kernels_note_is_found_among_others() {
    let mut ram = Ram::new(0x4000_0000, 16);
    let mut vcpu = registers(1);
    assert_eq!(ram.find(std::slice::from_ref(&vcpu)), None);
    // An earlier kernel's, and one that is in no page's beginning.
    ram.put(0x4000_1000, &note(&text(SWAPPER + 0x1000)));
    ram.put(0x4000_3004, &note(&text(SWAPPER)));
    assert_eq!(ram.find(std::slice::from_ref(&vcpu)), None);
    let own = note(&text(SWAPPER));
    ram.put(0x4000_9000, &own);
    let info = ram.find(std::slice::from_ref(&vcpu)).expect("the note");
    assert_eq!(info.note, Range::new(0x4000_9000, own.len() as u64));
    assert_eq!(info.linear(0x4000_0000), 0xffff_0000_0000_0000);
    assert_eq!(info.linear(0x4800_1000), 0xffff_0000_0800_1000);
    // One vCPU that is in the kernel is enough, and none is not.
    let mut other = registers(2);
    other.kernel = [0x4555_5000, 0];
    assert_eq!(ram.find(&[other.clone(), vcpu.clone()]), Some(info));
    assert_eq!(ram.find(&[other]), None);
    // At EL0 with KPTI they are two pages before.
    for (distance, pstate, is_own) in [(2, 0, true), (2, 0x3c5, false), (3, 0, false)] {
        let mut entry = vcpu.clone();
        entry.pstate = pstate;
        entry.kernel[0] -= distance * PAGE;
        assert_eq!(ram.find(&[entry]), is_own.then_some(info), "{distance}");
    }
    // ASID and CnP are no part of the address, and vectors below the kernel are another's.
    vcpu.kernel[0] |= 0x12_0000_0000_0001 << 48 | 1;
    assert_eq!(ram.find(std::slice::from_ref(&vcpu)), Some(info));
    vcpu.kernel[1] = 0xffff_8000_8000_0000;
    assert_eq!(ram.find(&[vcpu]), None);
}

/// Where addresses of 52 bits are not to be had, a kernel with pages of 64 KiB has TTBR1_EL1 point to the end of its first table.
#[test]
fn the_registers_of_a_kernel_for_52_bits_point_into_its_table() {
    let text = text(SWAPPER + 0xc000).replace("PAGESIZE=4096", "PAGESIZE=65536");
    let mut ram = Ram::new(0x4000_0000, 16);
    ram.put(0x4000_0000, &note(&text));
    for (base, is_own) in [
        (0x4124_0000, true),
        (0x4124_1e00, true),
        (0x4122_1e00, true),
        (0x4123_1e00, false),
        (0x4125_0000, false),
    ] {
        let mut vcpu = registers(1);
        (vcpu.kernel[0], vcpu.pstate) = (base, 0);
        assert_eq!(ram.find(&[vcpu]).is_some(), is_own, "{base:#x}");
    }
}

/// A guest may fill its memory with notes as long as notes may be, each of which has many pages in it that are the next ones' as well.
#[test]
fn notes_without_end_are_not_read_without_end() {
    const MIB: u64 = 1 << 20;
    let vcpu = registers(1);
    let own = note(&text(SWAPPER));
    let mut ram = Ram::new(0x4000_0000, 512);
    let mut longest = note(&text(SWAPPER + 0x1000).replace("kimage_voffset", "no_voffset"));
    longest[4..8].copy_from_slice(&0xff00_u32.to_le_bytes());
    let pages = |count: u64| (0..count).map(|page| 0x4000_0000 + page * PAGE);
    // The last ones lead out of memory.
    for page in pages(496) {
        ram.put(page, &longest);
    }
    let size = RefCell::new(0);
    let read = |at, to: &mut [u8]| {
        *size.borrow_mut() += to.len() as u64;
        ram.read(at, to);
    };
    let found = find_info([ram.range()].into_iter(), || [&vcpu].into_iter(), read);
    assert_eq!(found, None);
    let size = size.into_inner();
    assert!(size < 10 * MIB, "{size} bytes of 2 MiB");
    // So many of other kernels, as Linux writes them, keep nobody from its own.
    let mut ram = Ram::new(0x4000_0000, 1024);
    for page in pages(1023) {
        ram.put(page, &note(&text(SWAPPER + 0x1000)));
    }
    ram.put(0x4000_0000 + 1023 * PAGE, &own);
    assert!(ram.find(&[vcpu]).is_some());
}

#[test]
fn a_note_that_leads_out_of_memory_is_none() {
    let vcpu = registers(1);
    let own = note(&text(SWAPPER));
    let mut ram = Ram::new(0x4000_0000, 2);
    ram.put(0x4000_1000, &own);
    assert!(ram.find(std::slice::from_ref(&vcpu)).is_some());
    for size in [PAGE as u32, 1 << 20, u32::MAX] {
        ram.put(0x4000_1004, &size.to_le_bytes());
        assert_eq!(ram.find(std::slice::from_ref(&vcpu)), None, "{size:#x}");
    }
    for (missing, instead) in [
        ("PAGESIZE=4096", "PAGESIZE=18446744073709551615"),
        ("NUMBER(VA_BITS)=48", "NUMBER(VA_BITS)=64"),
        ("NUMBER(VA_BITS)=48", "NUMBER(VA_BITS)="),
        ("SYMBOL(_stext)=", "SYMBOL(_stext)=g"),
        (
            "NUMBER(PHYS_OFFSET)=0x40000000",
            "NUMBER(PHYS_OFFSET)=0x1ffffffffffffffff",
        ),
        ("\nSYMBOL(swapper_pg_dir)", "\n SYMBOL(swapper_pg_dir)"),
    ] {
        ram.put(0x4000_1000, &note(&text(SWAPPER).replace(missing, instead)));
        let found = ram.find(std::slice::from_ref(&vcpu));
        assert_eq!(found, None, "{instead}");
    }
}

/// What is written of a guest with these vCPUs and this memory.
fn write(
    vcpus: &[(u32, Registers)],
    ram: &[Piece],
    info: Option<(VmcoreInfo, &Ram)>,
) -> (u64, Vec<u8>) {
    let place = Range::new(0x6fff_0000, room(8, ram.len()));
    let bytes = RefCell::new(vec![0xaa; place.size as usize]);
    let put = |at: u64, from: &[u8]| {
        bytes.borrow_mut()[at as usize..][..from.len()].copy_from_slice(from);
    };
    let vmcore = Vmcore {
        place,
        ram,
        info: info.map(|(info, _)| info),
    };
    let copy = |at: u64, note: Range| {
        let mut text = vec![0; note.size as usize];
        info.expect("a note").1.read(note.start, &mut text);
        put(at, &text);
    };
    let each = vcpus.iter().map(|(number, registers)| (*number, registers));
    assert_eq!(vmcore.write(each, put, copy), Ok(vcpus.len()));
    (place.start, bytes.into_inner())
}

fn pieces(count: u64) -> Vec<Piece> {
    let piece = |n| Piece {
        ipa: 0x4000_0000 + n * 0x1000_0000,
        pa: 0x1_0000_0000 + n * 0x2000_0000,
        size: 0x80_0000,
    };
    (0..count).map(piece).collect()
}

/// A note: its name, kind and descriptor; and that is all of them.
fn notes(bytes: &[u8]) -> Vec<(&[u8], u32, &[u8])> {
    let mut notes = Vec::new();
    let word = |at: usize| u32::from_le_bytes(bytes[at..][..4].try_into().unwrap());
    let mut at = 0;
    while word(at) != 0 {
        let [name, size] = [word(at), word(at + 4)].map(|size| size as usize);
        let data = at + 12 + name.next_multiple_of(4);
        notes.push((
            &bytes[at + 12..][..name],
            word(at + 8),
            &bytes[data..][..size],
        ));
        at = data + size.next_multiple_of(4);
    }
    assert_eq!(&bytes[at..], [0; 12], "an empty note is the last");
    notes
}

/// What another program reads of it: the notes, and each piece of memory as p_vaddr, p_paddr, p_offset, p_filesz.
fn read(start: u64, bytes: &[u8]) -> (Vec<u8>, Vec<[u64; 4]>) {
    let header = FileHeader64::<Little>::parse(bytes).expect("an ELF header");
    assert_eq!(header.e_type(Little), ET_CORE);
    assert_eq!(header.e_machine(Little), EM_AARCH64);
    let headers = header
        .program_headers(Little, bytes)
        .expect("program headers");
    let [first, loads @ ..] = headers else {
        panic!("no program header");
    };
    assert_eq!(first.p_type(Little), PT_NOTE);
    let (at, size) = (first.p_offset(Little), first.p_memsz(Little));
    assert_eq!(size, first.p_filesz(Little));
    let at = (at - start) as usize;
    let notes = bytes[at..][..size as usize].to_vec();
    let load = |header: &object::elf::ProgramHeader64<Little>| {
        assert_eq!(header.p_type(Little), PT_LOAD);
        assert_eq!(header.p_filesz(Little), header.p_memsz(Little));
        [
            header.p_vaddr(Little),
            header.p_paddr(Little),
            header.p_offset(Little),
            header.p_filesz(Little),
        ]
    };
    (notes, loads.iter().map(load).collect())
}

#[test]
fn another_program_reads_registers_and_memory() {
    let mut ram = Ram::new(0x4000_0000, 4);
    let own = note(&text(SWAPPER));
    ram.put(0x4000_2000, &own);
    let vcpus = [(0, registers(0x1000)), (2, registers(0x2000))];
    let info = ram.find(&[registers(1)]).expect("the note");
    let (start, bytes) = write(&vcpus, &pieces(2), Some((info, &ram)));
    let (all, loads) = read(start, &bytes);
    let linear = 0xffff_0000_0000_0000_u64;
    assert_eq!(
        loads,
        [
            [linear, 0x4000_0000, 0x4000_0000, 0x80_0000],
            [linear + 0x1000_0000, 0x5000_0000, 0x5000_0000, 0x80_0000],
        ]
    );
    let all = notes(&all);
    let kinds: Vec<(&[u8], u32)> = all.iter().map(|note| (note.0, note.1)).collect();
    let core: &[u8] = b"CORE\0";
    let both = [(core, NT_PRSTATUS.0), (core, NT_FPREGSET.0)];
    let info: (&[u8], u32) = (b"VMCOREINFO\0", 0);
    assert_eq!(kinds, [both[0], both[1], both[0], both[1], info]);
    assert_eq!(all[4].2, text(SWAPPER).as_bytes());
    for (pair, (number, registers)) in all.chunks(2).zip(&vcpus) {
        let (status, vectors) = (pair[0].2, pair[1].2);
        assert_eq!((status.len(), vectors.len()), (392, 528));
        assert_eq!(status[32..36], (number + 1).to_le_bytes());
        let (words, []) = status[112..384].as_chunks::<8>() else {
            panic!("34 registers");
        };
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        assert_eq!(words[..31], registers.x);
        assert_eq!(words[31..], [registers.sp, registers.pc, registers.pstate]);
        for (value, bytes) in registers.v.iter().zip(vectors.as_chunks::<16>().0) {
            assert_eq!(&value.to_le_bytes(), bytes);
        }
        assert_eq!(
            vectors[512..],
            [7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
    }
}

#[test]
fn what_finds_no_room_is_refused() {
    let all: Vec<Registers> = (0..3).map(registers).collect();
    let each = || (0..).zip(&all);
    let size = room(2, 0) - (64 << 10);
    for (count, fits) in [(2, true), (3, false)] {
        let vmcore = Vmcore {
            place: Range::new(0x1000, size),
            ram: &[],
            info: None,
        };
        let put = |at: u64, bytes: &[u8]| assert!(at + bytes.len() as u64 <= size);
        let written = vmcore.write(each().take(count), put, |_, _| panic!("nothing to copy"));
        assert_eq!(written.is_ok(), fits, "{count}");
    }
}

proptest! {
    /// Whatever there is: notes are in bounds and words, end with an empty one, and nothing overlaps.
    #[test]
    fn whatever_is_dumped_is_well_formed(
        on in prop::collection::btree_set(0_u32..128, 0..=8),
        count in 0_u64..6,
        extra in prop::option::of(0_usize..3000),
    ) {
        let mut ram = Ram::new(0x4000_0000, 2);
        let text = text(SWAPPER) + &"x".repeat(extra.unwrap_or_default()) + "\n";
        ram.put(0x4000_0000, &note(&text));
        let info = extra.map(|_| ram.find(&[registers(1)]).expect("the note"));
        let vcpus: Vec<_> = on.iter().map(|&number| (number, registers(number.into()))).collect();
        let (start, bytes) = write(&vcpus, &pieces(count), info.map(|info| (info, &ram)));
        prop_assert_eq!(bytes.len() as u64, room(8, count as usize));
        let (all, loads) = read(start, &bytes);
        prop_assert_eq!(loads.len() as u64, count);
        prop_assert_eq!(notes(&all).len(), 2 * vcpus.len() + usize::from(info.is_some()));
    }

    /// Whatever is in memory, nothing outside of it is read.
    #[test]
    fn whatever_is_in_memory_no_search_leads_out_of_it(
        size in any::<u32>(),
        text in "[ -~\n]{0,300}",
        ttbr1 in any::<u64>(),
    ) {
        let mut ram = Ram::new(0x4000_0000, 1);
        let mut own = note(&(String::from("OSRELEASE=") + &text));
        own[4..8].copy_from_slice(&size.to_le_bytes());
        ram.put(0x4000_0000, &own);
        let mut vcpu = registers(1);
        vcpu.kernel[0] = ttbr1;
        let _ = ram.find(&[vcpu]);
    }
}
