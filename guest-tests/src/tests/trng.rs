//! TRNG (DEN0098): offered where there is a source, and then as long and as random as asked.

use hv_abi::{smccc, trng};

use crate::harness::{TestResult, needs_hypervisor};
use crate::rt::call::{Conduit, Registers, call, call_all};
use crate::rt::machine::machine;
use crate::rt::sync::eventually;
use crate::rt::sysreg;

const NOT_SUPPORTED: i64 = trng::Status::NotSupported as i64;
const INVALID: i64 = trng::Status::InvalidParameters as i64;
const NO_ENTROPY: i64 = trng::Status::NoEntropy as i64;
/// The five functions.
const ALL: [u32; 5] = [
    trng::VERSION,
    trng::FEATURES,
    trng::GET_UUID,
    trng::RND32,
    trng::RND64,
];

/// Skips unless there is a TRNG; where there must be one is a test of its own.
fn needs_trng() -> TestResult {
    needs_hypervisor()?;
    if call(machine().conduit, trng::VERSION, &[]) < 0 {
        skip!("there is no source of entropy here");
    }
    Ok(())
}

/// Asks for `bits` bits until there are some: x0, and x3, x2, x1.
fn draw(function: u32, bits: u64) -> (i64, [u64; 3]) {
    let mut x: Registers = [0x5555_5555_5555_5555; 18];
    let _in_time = eventually(|| {
        x[0] = function.into();
        x[1] = bits;
        x = call_all(machine().conduit, x);
        x[0] as i64 != NO_ENTROPY
    });
    (x[0] as i64, [x[3], x[2], x[1]])
}

/// How many of `bits` bits are in each of the three registers.
fn lengths(bits: u64, width: u64) -> [u64; 3] {
    [0, width, 2 * width].map(|below| bits.saturating_sub(below).min(width))
}

guest_test!(there_is_a_trng_exactly_where_the_cpu_has_random_numbers);
fn there_is_a_trng_exactly_where_the_cpu_has_random_numbers() -> TestResult {
    needs_hypervisor()?;
    // The firmware of QEMU's machine has none to fall back on.
    let expected = if sysreg::has_random_numbers() {
        i64::from(trng::VERSION_1_0)
    } else {
        NOT_SUPPORTED
    };
    for conduit in Conduit::BOTH {
        expect_eq!(call(conduit, trng::VERSION, &[]), expected, "{conduit:?}");
    }
    if expected == NOT_SUPPORTED {
        for id in ALL {
            let answer = call(machine().conduit, id, &[trng::VERSION.into()]);
            expect_eq!(answer, NOT_SUPPORTED, "{id:#x}");
        }
    }
    Ok(())
}

guest_test!(the_trng_has_its_five_functions_and_no_more);
fn the_trng_has_its_five_functions_and_no_more() -> TestResult {
    needs_trng()?;
    let features = |id: u32| call(machine().conduit, trng::FEATURES, &[id.into()]);
    for id in ALL {
        expect_eq!(features(id), 0, "{id:#x}");
    }
    for id in [
        0x8400_0054,
        0xc400_0050,
        0xc400_0051,
        0xc400_0052,
        smccc::VERSION,
        0,
    ] {
        expect_eq!(features(id), NOT_SUPPORTED, "{id:#x}");
        if id & 0xffff_fff0 == 0xc400_0050 {
            let answer = call(machine().conduit, id, &[32]);
            expect_eq!(answer, NOT_SUPPORTED, "{id:#x}");
        }
    }
    let uuid = |conduit| {
        let mut x: Registers = [0; 18];
        x[0] = trng::GET_UUID.into();
        let x = call_all(conduit, x);
        [x[0], x[1], x[2], x[3]]
    };
    let words = uuid(Conduit::Smc);
    expect_that!(words.iter().all(|&word| word < 0xffff_ffff), "{words:#x?}");
    expect_eq!(uuid(Conduit::Hvc), words);
    Ok(())
}

guest_test!(random_numbers_are_as_long_as_asked_and_zero_beyond);
fn random_numbers_are_as_long_as_asked_and_zero_beyond() -> TestResult {
    needs_trng()?;
    for (function, width) in [(trng::RND32, 32), (trng::RND64, 64)] {
        for bits in 1..=3 * width {
            let (status, words) = draw(function, bits);
            expect_eq!(status, 0, "{function:#x}, {bits} bits");
            for (word, length) in words.into_iter().zip(lengths(bits, width)) {
                let beyond = word.checked_shr(length as u32).unwrap_or(0);
                expect_eq!(beyond, 0, "{function:#x}, {bits} bits: {words:#x?}");
            }
        }
    }
    Ok(())
}

guest_test!(every_bit_of_a_random_number_is_now_set_and_now_clear);
fn every_bit_of_a_random_number_is_now_set_and_now_clear() -> TestResult {
    needs_trng()?;
    // A bit that is fair is the same 96 times with probability 2^-95.
    for (function, width) in [(trng::RND32, 32), (trng::RND64, 64)] {
        let (mut ever, mut always) = ([0; 3], [u64::MAX; 3]);
        let mut last = [0; 3];
        for round in 0..96 {
            let (status, words) = draw(function, 3 * width);
            expect_eq!(status, 0, "round {round}");
            expect_that!(words != last, "twice the same: {words:#x?}");
            last = words;
            for ((ever, always), word) in ever.iter_mut().zip(&mut always).zip(words) {
                *ever |= word;
                *always &= word;
            }
        }
        let all = u64::MAX >> (64 - width);
        expect_eq!(ever, [all; 3], "never set, {function:#x}");
        expect_eq!(always, [0; 3], "never clear, {function:#x}");
    }
    Ok(())
}

guest_test!(random_numbers_of_no_or_of_too_great_a_length_are_refused);
fn random_numbers_of_no_or_of_too_great_a_length_are_refused() -> TestResult {
    needs_trng()?;
    for bits in [0, 97, 192, 0xffff_ffff] {
        expect_eq!(draw(trng::RND32, bits), (INVALID, [0; 3]), "{bits}");
    }
    for bits in [0, 193, 1 << 32, u64::MAX] {
        expect_eq!(draw(trng::RND64, bits), (INVALID, [0; 3]), "{bits}");
    }
    // The argument of the SMC32 form is a W register.
    let (status, words) = draw(trng::RND32, 1 << 32 | 32);
    expect_eq!(status, 0);
    expect_that!(words[0] <= 0xffff_ffff && words[1..] == [0; 2]);
    Ok(())
}
