//! Who is in a dump: those CPUs that Linux has online, if its memory says so.

use std::cell::Cell;
use std::collections::BTreeMap;

use hv_bundle::{By, Cpus, Piece, Registers, VmcoreInfo, find_info};
use platform::Range;
use proptest::prelude::*;

const RAM: Piece = Piece {
    ipa: 0x4000_0000,
    pa: 0x8000_0000,
    size: 0x3_0000,
};
/// What addresses of the kernel's image have more.
const VOFFSET: u64 = 0xffff_8000_3fe0_0000;
const IMAGE: u64 = RAM.ipa + VOFFSET;
/// Where the kernel's tables are.
const SWAPPER: u64 = 0x4000_3000;
/// Where in the image is what.
const NOTE: u64 = 0x1000;
const NAMES: u64 = 0x8000;
const TOKENS: u64 = 0x1_0000;
const INDEX: u64 = 0x1_2000;
const COUNT: u64 = 0x1_3000;
const OFFSETS: u64 = 0x1_4000;
const BASE: u64 = 0x1_8000;
const MASK: u64 = 0x2_0000;
const MAP: u64 = 0x2_0100;
const PANIC: u64 = 0x2_0800;

/// A Linux in memory.
#[derive(Clone, Debug)]
struct Linux {
    online: u64,
    /// The affinity of each of its CPUs.
    map: Vec<u64>,
    panic_cpu: i32,
    /// Its offsets are added to a base, as before 7.0.
    has_base: bool,
    /// Symbols of its KALLSYMS.
    symbols: Vec<(&'static str, u64)>,
}

impl Linux {
    fn of(cpus: u64) -> Self {
        Self {
            online: (1 << cpus) - 1,
            map: (0..cpus).map(|number| number << 8).collect(),
            panic_cpu: -1,
            has_base: false,
            symbols: vec![
                ("T_stext", 0),
                ("D__cpu_online_mask_of_another", 0x20400),
                ("D__cpu_logical_map", MAP),
                ("d__cpu_online", 0x20500),
                ("D__cpu_online_mask", MASK),
                ("B__cpu_possible_mask", 0x20600),
                ("Dpanic_cpu", PANIC),
                ("Dpanic_cpus", 0x20700),
            ],
        }
    }

    fn memory(&self) -> Memory {
        let mut memory = Memory(vec![0; RAM.size as usize]);
        // Tokens: each letter is its own, but for some of more letters.
        let more = [(200, "D__"), (201, "cpu_"), (202, "online"), (203, "mask")];
        let more: BTreeMap<u8, &str> = more.into_iter().collect();
        let mut at = 0;
        for token in 0..=u8::MAX {
            let text = more.get(&token).map_or_else(
                || char::from(token & 127).to_string().into_bytes(),
                |text| text.as_bytes().to_vec(),
            );
            memory.put(INDEX + 2 * u64::from(token), &(at as u16).to_le_bytes());
            memory.put(TOKENS + at, &text);
            at += text.len() as u64 + 1;
        }
        let mut names = NAMES;
        for (number, (name, place)) in (0..).zip(&self.symbols) {
            let mut tokens = name.as_bytes().to_vec();
            for (token, text) in &more {
                while let Some(at) = tokens
                    .windows(text.len())
                    .position(|part| part == text.as_bytes())
                {
                    tokens.splice(at..at + text.len(), [*token]);
                }
            }
            let length = tokens.len();
            let length = if length < 128 {
                vec![length as u8]
            } else {
                vec![length as u8 & 127 | 128, (length >> 7) as u8]
            };
            memory.put(names, &[&length[..], &tokens].concat());
            names += (length.len() + tokens.len()) as u64;
            let offset = OFFSETS + 4 * number;
            let from = if self.has_base { 0 } else { offset };
            memory.put(offset, &(place.wrapping_sub(from) as u32).to_le_bytes());
        }
        memory.put(COUNT, &(self.symbols.len() as u32).to_le_bytes());
        memory.put(BASE, &IMAGE.to_le_bytes());
        memory.put(MASK, &self.online.to_le_bytes());
        for (number, affinity) in (0..).zip(&self.map) {
            memory.put(MAP + 8 * number, &affinity.to_le_bytes());
        }
        memory.put(PANIC, &self.panic_cpu.to_le_bytes());
        let mut text = format!(
            "OSRELEASE=7.3.4\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)={:x}\nSYMBOL(_stext)={IMAGE:x}\nNUMBER(VA_BITS)=48\n\
             NUMBER(kimage_voffset)={VOFFSET:#x}\nNUMBER(PHYS_OFFSET)=0x40000000\n",
            SWAPPER + VOFFSET
        );
        let parts = [
            ("names", NAMES),
            ("num_syms", COUNT),
            ("token_table", TOKENS),
            ("token_index", INDEX),
            ("offsets", OFFSETS),
        ];
        let base = self.has_base.then_some(("relative_base", BASE));
        for (name, place) in parts.into_iter().chain(base) {
            text += &format!("SYMBOL(kallsyms_{name})={:x}\n", IMAGE + place);
        }
        memory.put_note(&text);
        memory
    }
}

/// RAM.
#[derive(Clone)]
struct Memory(Vec<u8>);

impl Memory {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.0[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn put_note(&mut self, text: &str) {
        let head = [11, text.len() as u32, 0].map(u32::to_le_bytes);
        let note = [&head.concat(), &b"VMCOREINFO\0\0"[..], text.as_bytes()].concat();
        self.put(NOTE, &note);
    }

    /// What is not in memory is not to be read.
    fn read(&self, at: u64, to: &mut [u8]) {
        let at = (at - RAM.ipa) as usize;
        to.copy_from_slice(&self.0[at..][..to.len()]);
    }

    fn info(&self, kept: &[Option<Registers>]) -> Option<VmcoreInfo> {
        let range = Range::new(RAM.ipa, RAM.size);
        let read = |at, to: &mut [u8]| self.read(at, to);
        find_info([range].into_iter(), || kept.iter().flatten(), read)
    }

    fn cpus(&self, kept: &[Option<Registers>]) -> Cpus {
        let info = self.info(kept);
        Cpus::of(info.as_ref(), kept, &[RAM], |at, to| self.read(at, to))
    }
}

/// vCPUs that were on, each with its affinity; its registers say its number.
fn kept(on: &[Option<u64>]) -> Vec<Option<Registers>> {
    let registers = |(number, affinity): (u64, &Option<u64>)| {
        affinity.map(|affinity| Registers {
            x: [number; 31],
            sp: 0,
            pc: 0,
            pstate: 0,
            v: [0; 32],
            fp_status: [0; 2],
            kernel: [SWAPPER, IMAGE + 0x800],
            affinity,
        })
    };
    (0..).zip(on).map(registers).collect()
}

/// Who says so, and Linux's number of each that is dumped with that of its vCPU.
fn dumped(linux: &Linux, on: &[Option<u64>]) -> (By, Vec<(u32, u64)>) {
    let kept = kept(on);
    let cpus = linux.memory().cpus(&kept);
    let numbered = cpus.numbered(&kept);
    (
        cpus.by,
        numbered.map(|(number, vcpu)| (number, vcpu.x[0])).collect(),
    )
}

const FOUR: [Option<u64>; 4] = [Some(0), Some(0x100), Some(0x200), Some(0x300)];

#[test]
fn a_cpu_that_linux_has_offline_is_left_out() {
    for has_base in [false, true] {
        let mut linux = Linux {
            has_base,
            ..Linux::of(4)
        };
        assert_eq!(
            dumped(&linux, &FOUR),
            (By::Linux, vec![(0, 0), (1, 1), (2, 2), (3, 3)])
        );
        linux.online = 0b1011;
        assert_eq!(
            dumped(&linux, &FOUR),
            (By::Linux, vec![(0, 0), (1, 1), (3, 3)])
        );
        // One that is off for PSCI has no registers, whatever Linux says.
        let on = [Some(0), None, FOUR[2], FOUR[3]];
        assert_eq!(dumped(&linux, &on), (By::Linux, vec![(0, 0), (3, 3)]));
    }
}

#[test]
fn numbers_are_linuxs_own() {
    // Started by a kexec on its third CPU.
    let linux = Linux {
        map: vec![0x200, 0, 0x100, 0x300],
        online: 0b0101,
        ..Linux::of(4)
    };
    assert_eq!(dumped(&linux, &FOUR), (By::Linux, vec![(0, 2), (2, 1)]));
}

#[test]
fn who_was_stopped_by_a_panic_is_dumped() {
    let linux = Linux {
        online: 0b0100,
        panic_cpu: 2,
        ..Linux::of(4)
    };
    assert_eq!(
        dumped(&linux, &FOUR),
        (By::Panic, vec![(0, 0), (1, 1), (2, 2), (3, 3)])
    );
}

#[test]
fn what_a_kernel_for_fewer_cpus_has_behind_its_own_counts_for_nothing() {
    // Zeros, which are an affinity as well.
    let mut linux = Linux {
        online: u64::MAX << 1,
        map: vec![0, 0x100],
        ..Linux::of(2)
    };
    assert_eq!(dumped(&linux, &FOUR[..2]), (By::Linux, vec![(1, 1)]));
    linux.map.extend([0x100, 0, 0x100]);
    assert_eq!(dumped(&linux, &FOUR[..2]), (By::Linux, vec![(1, 1)]));
}

#[test]
fn without_linuxs_word_psci_decides() {
    let all = (By::Psci, vec![(0, 0), (1, 1), (3, 3)]);
    let on = [Some(0), Some(0x100), None, Some(0x300)];
    let linux = Linux {
        online: 1,
        ..Linux::of(4)
    };
    // KALLSYMS without data, or without one of the three.
    for missing in ["D__cpu_online_mask", "D__cpu_logical_map", "Dpanic_cpu"] {
        let mut linux = linux.clone();
        linux.symbols.retain(|(name, _)| *name != missing);
        assert_eq!(dumped(&linux, &on), all, "{missing}");
    }
    // Nobody is online, which cannot be.
    let nobody = Linux {
        online: 0,
        ..linux.clone()
    };
    assert_eq!(dumped(&nobody, &on), all);
    // Parts that lead out of memory.
    let outside = Linux {
        symbols: vec![
            ("D__cpu_online_mask", RAM.size - 8),
            ("D__cpu_logical_map", MAP),
            ("Dpanic_cpu", PANIC),
        ],
        ..linux
    };
    assert_eq!(dumped(&outside, &on), all);
    // No Linux.
    let kept = kept(&on);
    let cpus = Memory(vec![0; RAM.size as usize]).cpus(&kept);
    assert_eq!(cpus.by, By::Psci);
    assert_eq!(cpus.numbered(&kept).count(), 3);
}

#[test]
fn long_names_are_passed_over() {
    const LONG: &str = "t0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\
        012345678901234567890123456789";
    let mut linux = Linux::of(2);
    linux.online = 0b10;
    linux.symbols.splice(
        1..1,
        [
            (LONG, 0x20900),
            (&LONG[..128], 0x20900),
            (&LONG[..127], 0x20900),
        ],
    );
    assert_eq!(dumped(&linux, &FOUR[..2]), (By::Linux, vec![(1, 1)]));
}

/// Names as long as one that is looked for, each of which may be one until its last token: all are empty.
#[test]
fn tables_without_end_are_not_read_without_end() {
    const MANY: usize = 1 << 17;
    let mut linux = Linux::of(4);
    linux.online = 1;
    let mut memory = linux.memory();
    let text = String::from_utf8_lossy(&memory.0[NOTE as usize + 24..]).into_owned();
    let text = text.split('\0').next().unwrap_or_default();
    memory.put_note(&text.replace(
        &format!("SYMBOL(kallsyms_names)={:x}", IMAGE + NAMES),
        &format!("SYMBOL(kallsyms_names)={:x}", IMAGE + RAM.size),
    ));
    memory.put(COUNT, &u32::MAX.to_le_bytes());
    // The token of the number 0 has no letters.
    let name = [&[20][..], &[0; 20]].concat();
    memory.0.extend(name.repeat(MANY));
    let ram = Piece {
        size: memory.0.len() as u64,
        ..RAM
    };
    let kept = kept(&FOUR);
    let info = memory.info(&kept);
    let reads = Cell::new(0_u32);
    let read = |at, to: &mut [u8]| {
        reads.set(reads.get() + 1);
        memory.read(at, to);
    };
    let cpus = Cpus::of(info.as_ref(), &kept, &[ram], read);
    assert_eq!(cpus.by, By::Psci);
    let reads = reads.get();
    assert!(reads < 5 << 19, "{reads} looks at memory");
}

/// What the guest finds in one piece may be in several behind.
#[test]
fn a_table_may_lie_across_pieces() {
    let memory = Linux {
        online: 0b0101,
        ..Linux::of(4)
    }
    .memory();
    let kept = kept(&FOUR);
    let info = memory.info(&kept);
    for at in [NAMES + 8, TOKENS + 4, INDEX + 256, MASK + 8, MAP + 8] {
        let rest = Piece {
            ipa: RAM.ipa + at,
            pa: 0x1_0000_0000,
            size: RAM.size - at,
        };
        let first = Piece { size: at, ..RAM };
        let cpus = Cpus::of(info.as_ref(), &kept, &[first, rest], |at, to| {
            memory.read(at, to);
        });
        assert_eq!(cpus.by, By::Linux, "{at:#x}");
        assert_eq!(cpus.numbered(&kept).count(), 2);
    }
}

proptest! {
    /// Whatever a guest has made of its tables: nothing outside of its memory is read, and each vCPU that is dumped was on and is dumped once.
    #[test]
    fn whatever_is_in_memory_is_read_in_bounds(
        changes in prop::collection::vec((prop::sample::select(vec![NAMES, TOKENS, INDEX, COUNT, OFFSETS, BASE, MASK, MAP, PANIC]), 0_u64..64, any::<u8>()), 0..40),
        has_base in any::<bool>(),
        moved in prop::option::of((0_usize..5, any::<u64>())),
    ) {
        let linux = Linux { has_base, ..Linux::of(4) };
        let mut memory = linux.memory();
        for (place, at, byte) in changes {
            memory.put(place + at, &[byte]);
        }
        if let Some((which, place)) = moved {
            let name = ["names", "num_syms", "token_table", "token_index", "offsets"][which];
            let text = String::from_utf8_lossy(&memory.0[NOTE as usize + 24..]).into_owned();
            let text = text.trim_end_matches('\0').split("OSRELEASE").nth(1).unwrap_or_default();
            let key = format!("SYMBOL(kallsyms_{name})=");
            let text: String = format!("OSRELEASE{text}").lines()
                .take_while(|line| !line.contains('\0'))
                .map(|line| if line.starts_with(&key) { format!("{key}{place:x}\n") } else { format!("{line}\n") })
                .collect();
            memory.put_note(&text);
        }
        let kept = kept(&FOUR);
        let cpus = memory.cpus(&kept);
        let mut vcpus: Vec<u64> = cpus.numbered(&kept).map(|(_, vcpu)| vcpu.x[0]).collect();
        prop_assert!(!vcpus.is_empty());
        let count = vcpus.len();
        vcpus.sort_unstable();
        vcpus.dedup();
        prop_assert_eq!(vcpus.len(), count);
    }
}
