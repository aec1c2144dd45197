//! The hypervisor's `memcpy` and `memset`: every length up to some turns of their loops, at every alignment.

use crate::harness::TestResult;
use crate::rt::copy;

/// Longer than two turns and any rest.
const LONGEST: usize = 100;
/// Alignments within a pair of registers.
const ALIGNMENTS: usize = 16;
const ROOM: usize = LONGEST + 2 * ALIGNMENTS;
/// What stands where nothing is to be written.
const UNTOUCHED: u8 = 0xa5;

/// Where `room` is not what it should be: `byte(n)` in the range, and untouched around it.
fn fault(room: &[u8], begin: usize, len: usize, byte: impl Fn(usize) -> u8) -> Option<usize> {
    (0..room.len()).find(|&at| {
        let expected = match at.checked_sub(begin) {
            Some(n) if n < len => byte(n),
            _ => UNTOUCHED,
        };
        room[at] != expected
    })
}

guest_test!(memory_is_copied_at_every_length_and_alignment);
fn memory_is_copied_at_every_length_and_alignment() -> TestResult {
    let mut from = [0; ROOM];
    for (at, byte) in from.iter_mut().enumerate() {
        *byte = at as u8 + 1;
    }
    for len in 0..=LONGEST {
        for (source, target) in (0..ALIGNMENTS).flat_map(|s| (0..ALIGNMENTS).map(move |t| (s, t))) {
            let mut room = [UNTOUCHED; ROOM];
            let is_begin = copy::copy(&mut room[target..], &from[source..source + len]);
            expect_that!(is_begin, "{len} bytes from {source} to {target}");
            let fault = fault(&room, target, len, |n| from[source + n]);
            expect_eq!(fault, None, "{len} bytes from {source} to {target}");
        }
    }
    Ok(())
}

guest_test!(memory_is_filled_at_every_length_and_alignment);
fn memory_is_filled_at_every_length_and_alignment() -> TestResult {
    for len in 0..=LONGEST {
        for target in 0..ALIGNMENTS {
            for word in [0, 0x1_5c, -1] {
                let mut room = [UNTOUCHED; ROOM];
                let is_begin = copy::fill(&mut room[target..target + len], word);
                expect_that!(is_begin, "{len} bytes at {target}");
                let fault = fault(&room, target, len, |_| word as u8);
                expect_eq!(fault, None, "{len} bytes at {target}");
            }
        }
    }
    Ok(())
}
