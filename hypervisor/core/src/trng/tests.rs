use alloc::vec::Vec;

use super::*;

/// All ones, as long as it lasts: what is not asked for shows.
struct Ones {
    left: usize,
}

impl Entropy for Ones {
    fn fill(&mut self, words: &mut [u64]) -> bool {
        for word in words {
            if self.left == 0 {
                return false;
            }
            self.left -= 1;
            *word = u64::MAX;
        }
        true
    }
}

/// x0 to x3 after a call, and that nothing else changed.
fn call_with(source: Option<Ones>, function: u32, x1: u64) -> [u64; 4] {
    const OLD: u64 = 0x5555_aaaa_5555_aaaa;
    let mut regs = GuestRegs {
        x: [OLD; 31],
        ..GuestRegs::default()
    };
    let call = decode(function, x1).expect("a function that exists");
    answer(call, source, &mut regs);
    assert!(regs.x[4..].iter().all(|&x| x == OLD));
    [regs.x[0], regs.x[1], regs.x[2], regs.x[3]]
}

fn call(function: u32, x1: u64) -> [u64; 4] {
    call_with(Some(Ones { left: 3 }), function, x1)
}

/// How many bits each of x3, x2 and x1 has, and that those are its lowest.
fn counts([_, x1, x2, x3]: [u64; 4]) -> [u32; 3] {
    [x3, x2, x1].map(|word| {
        assert_eq!(word.trailing_ones(), word.count_ones(), "{word:#x}");
        word.count_ones()
    })
}

#[test]
fn version_is_1_0_and_all_five_functions_are_there() {
    assert_eq!(call(0x8400_0050, 0)[0], 0x1_0000);
    for id in [
        0x8400_0050,
        0x8400_0051,
        0x8400_0052,
        0x8400_0053,
        0xC400_0053,
    ] {
        assert_eq!(call(0x8400_0051, id)[0], 0, "{id:#x}");
        // The upper half of a W register is nobody's.
        assert_eq!(call(0x8400_0051, id | 1 << 40)[0], 0, "{id:#x}");
    }
    for id in [0, 0x8400_0054, 0xC400_0050, 0xC400_0052, 0x8000_0000] {
        assert_eq!(call(0x8400_0051, id)[0] as i64, -1, "{id:#x}");
    }
}

#[test]
fn nothing_else_is_decoded() {
    for id in [
        0x8400_004f,
        0x8400_0054,
        0xC400_0050,
        0xC400_0051,
        0xC400_0052,
        0xC400_0054,
        0x0400_0050,
        0,
        u32::MAX,
    ] {
        assert_eq!(decode(id, 0), None, "{id:#x}");
    }
}

#[test]
fn the_uuid_is_in_four_words_none_of_which_looks_like_an_error() {
    let words = call(0x8400_0052, 0);
    assert!(words.iter().all(|&word| word < 0xffff_ffff));
    let bytes: Vec<u8> = words
        .iter()
        .flat_map(|&word| (word as u32).to_le_bytes())
        .collect();
    assert_eq!(bytes, trng::UUID);
}

#[test]
fn rnd64_fills_x3_then_x2_then_x1_with_as_many_bits_as_asked() {
    for bits in 1..=192u32 {
        let answer = call(0xC400_0053, bits.into());
        assert_eq!(answer[0], 0, "{bits}");
        let expected = [0, 64, 128].map(|below| bits.saturating_sub(below).min(64));
        assert_eq!(counts(answer), expected, "{bits}");
    }
}

#[test]
fn rnd32_puts_at_most_32_bits_into_a_register() {
    for bits in 1..=96u32 {
        let answer = call(0x8400_0053, bits.into());
        assert_eq!(answer[0], 0, "{bits}");
        let expected = [0, 32, 64].map(|below| bits.saturating_sub(below).min(32));
        assert_eq!(counts(answer), expected, "{bits}");
    }
    // The argument is a W register.
    assert_eq!(counts(call(0x8400_0053, 1 << 32 | 5)), [5, 0, 0]);
}

#[test]
fn a_size_that_is_none_is_invalid_and_gives_nothing() {
    for bits in [0, 97, 128, 0xffff_ffff, 1 << 32] {
        assert_eq!(call(0x8400_0053, bits), [-2i64 as u64, 0, 0, 0], "{bits}");
    }
    for bits in [0, 193, 256, 1 << 32 | 8, u64::MAX] {
        assert_eq!(call(0xC400_0053, bits), [-2i64 as u64, 0, 0, 0], "{bits}");
    }
}

#[test]
fn a_source_that_fails_midway_gives_nothing_away() {
    for left in 0..3 {
        let answer = call_with(Some(Ones { left }), 0xC400_0053, 192);
        assert_eq!(answer, [-3i64 as u64, 0, 0, 0], "after {left} words");
    }
    // Nobody asks for more words than the bits take.
    assert_eq!(call_with(Some(Ones { left: 1 }), 0xC400_0053, 64)[0], 0);
}

#[test]
fn without_a_source_no_function_is_supported() {
    for (id, x1) in [
        (0x8400_0050, 0),
        (0x8400_0051, 0x8400_0050),
        (0x8400_0052, 0),
        (0x8400_0053, 32),
        (0xC400_0053, 64),
    ] {
        assert_eq!(call_with(None, id, x1)[0] as i64, -1, "{id:#x}");
    }
}

/// What a firmware answers, by function and first argument; all else is -1. And what it was asked.
fn probe(answers: &[((u32, u32), i32)]) -> (bool, Vec<u32>) {
    let mut asked = Vec::new();
    let offered = is_offered(|function, argument| {
        asked.push(function);
        let mut known = answers.iter();
        let found = known.find(|(call, _)| *call == (function, argument));
        found.map_or(-1, |&(_, answer)| answer)
    });
    (offered, asked)
}

#[test]
fn a_firmware_is_asked_for_entropy_only_once_it_is_known_to_have_some() {
    let all = [
        ((0x8400_000A, 0x8000_0000), 0),
        ((0x8000_0000, 0), 0x1_0001),
        ((0x8400_0050, 0), 0x1_0000),
        ((0x8400_0051, 0xC400_0053), 0),
    ];
    assert!(probe(&all).0);
    for missing in 0..all.len() {
        let mut known = all.to_vec();
        known.remove(missing);
        let (offered, asked) = probe(&known);
        assert!(!offered);
        assert_eq!(asked.len(), missing + 1, "and nothing beyond");
    }
    let with = |index: usize, answer| {
        let mut known = all;
        known[index].1 = answer;
        probe(&known).0
    };
    assert!(!with(1, 0x1_0000), "SMCCC 1.0");
    assert!(with(1, 0x1_0005));
    assert!(!with(2, 0x2_0000), "another major version");
    assert!(with(2, 0x1_0003));
}
