//! Many guests that print at once: each console has what its guest has written, byte for byte, and the wire is not spent on saying
//! whose turn it is.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, ensure};
use debian::paths::write_if_new;
use hv_abi::console::{RS, US};

use super::{start, written};
use crate::ledger::Ledger;
use machine::workshop::Workshop;

/// The names of these tests.
pub const NAMES: [&str; 3] = [
    "several/sixteen-print-at-once",
    "several/four-floods-are-whole-on-their-consoles",
    "several/who-waits-for-slow-ones-is-not-stuck",
];

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let [sixteen, four, slow] = NAMES;
    ledger.check(sixteen, || print(workshop, 16, 40));
    ledger.check(four, || print(workshop, 4, 200));
    ledger.check(slow, || wait(workshop));
}

/// Words of each line, behind its number.
const WORDS: u32 = 5;
/// Bytes of each line.
const LINE: usize = 8 + 1 + 8 * WORDS as usize + 1;

/// Writes so many lines to the UART and switches itself off: each has its number, a space and five pseudo-random words (xorshift,
/// whose first state is `seed`), all in hexadecimal.
fn program(lines: u16, seed: u16) -> [u32; 36] {
    let movz = |register: u32, value: u16| 0x5280_0000 | u32::from(value) << 5 | register;
    [
        0xd2a1_2013,            // mov x19, #0x09000000
        movz(20, lines),        // mov w20, #lines
        movz(21, seed),         // mov w21, #seed
        0x5280_0016,            // mov w22, #0
        0x2a16_03e0,            // mov w0, w22
        0x9400_0014,            // bl to the mov w1
        0x5280_0400,            // mov w0, #' '
        0xb900_0260,            // str w0, [x19]
        movz(23, WORDS as u16), // mov w23, #5
        0x4a15_36b5,            // eor w21, w21, w21, lsl #13
        0x4a55_46b5,            // eor w21, w21, w21, lsr #17
        0x4a15_16b5,            // eor w21, w21, w21, lsl #5
        0x2a15_03e0,            // mov w0, w21
        0x9400_000c,            // bl to the mov w1
        0x7100_06f7,            // subs w23, w23, #1
        0x54ff_ff41,            // b.ne to the first eor
        0x5280_0140,            // mov w0, #'\n'
        0xb900_0260,            // str w0, [x19]
        0x1100_06d6,            // add w22, w22, #1
        0x6b14_02df,            // cmp w22, w20
        0x54ff_fe01,            // b.ne to the mov w0, w22
        0x5280_0100,            // mov w0, #8
        0x72b0_8000,            // movk w0, #0x8400, lsl #16: SYSTEM_OFF
        0xd400_0003,            // smc #0
        0x1400_0000,            // b .
        0x5280_0101,            // mov w1, #8
        0x1380_7000,            // ror w0, w0, #28
        0x1200_0c02,            // and w2, w0, #0xf
        0x7100_245f,            // cmp w2, #9
        0x1100_c043,            // add w3, w2, #'0'
        0x1101_5c42,            // add w2, w2, #'a' - 10
        0x1a82_9062,            // csel w2, w3, w2, ls
        0xb900_0262,            // str w2, [x19]
        0x7100_0421,            // subs w1, w1, #1
        0x54ff_ff01,            // b.ne to the ror
        0xd65f_03c0,            // ret
    ]
}

/// Writes a byte of a line without end 16 times a second: as seldom as it may, so that it keeps its turn as long as it may.
const SLOW: [u32; 11] = [
    0xd2a1_2013, // mov x19, #0x09000000
    0xd53b_e014, // mrs x20, cntfrq_el0
    0xd344_fe94, // lsr x20, x20, #4
    0x5280_0f00, // mov w0, #'x'
    0xb900_0260, // str w0, [x19]
    0xd53b_e041, // mrs x1, cntvct_el0
    0x8b14_0021, // add x1, x1, x20
    0xd53b_e040, // mrs x0, cntvct_el0
    0xeb01_001f, // cmp x0, x1
    0x54ff_ffc3, // b.lo to the second mrs of cntvct_el0
    0x17ff_fff9, // b to the mov w0
];

/// What the first program writes.
fn lines(lines: u16, seed: u16) -> String {
    let mut state = u32::from(seed);
    let mut text = String::new();
    for number in 0..lines {
        // A string takes everything.
        let _ = write!(text, "{number:08x} ");
        for _ in 0..WORDS {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            let _ = write!(text, "{state:08x}");
        }
        text.push('\n');
    }
    text
}

/// A table of a guest of this program.
fn table(workshop: &Workshop, name: &str, code: &[u32]) -> Result<String> {
    let kernel = workshop.output(&format!("several-lines-{name}.bin"))?;
    let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    write_if_new(&kernel, &bytes)?;
    Ok(format!(
        "[[guest]]\nname = \"{name}\"\nkernel = {kernel:?}\nmemory = \"64M\"\n"
    ))
}

/// A guest that has two lines to write waits for three that are slow: six seconds for each, which is three times as long as a pCPU
/// may show no life.
fn wait(workshop: &Workshop) -> Result<String> {
    let mut tables = vec![table(workshop, "waits", &program(2, 1))? + "on-off = \"machine-off\"\n"];
    for name in ["slow-1", "slow-2", "slow-3"] {
        tables.push(table(workshop, name, &SLOW)?);
    }
    let log = workshop.output("several-slow.log")?;
    let path = log.display().to_string();
    let (code, _, errors) = start(workshop, &tables, &["--log", &path])?;
    ensure!(code == Some(0), "the exit code is {code:?}\n{errors}");
    let wire = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let wire = String::from_utf8_lossy(&wire);
    ensure!(
        !wire.contains("@hv-stuck"),
        "somebody is called stuck\n{wire}"
    );
    let said = written(&log)?.into_iter().next().unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    ensure!(said == lines(2, 1), "it has written {said:?}\n{wire}");
    Ok(String::new())
}

fn print(workshop: &Workshop, guests: u16, count: u16) -> Result<String> {
    let mut tables = Vec::new();
    for number in 1..=guests {
        tables.push(table(
            workshop,
            &format!("g{number}"),
            &program(count, number),
        )?);
    }
    let log = workshop.output("several-lines.log")?;
    let path = log.display().to_string();
    let (code, _, errors) = start(workshop, &tables, &["--log", &path])?;
    ensure!(code == Some(0), "the exit code is {code:?}\n{errors}");
    let consoles = written(&log)?;
    for (number, said) in (1..=guests).zip(&consoles) {
        let expected = lines(count, number);
        let differs = said.iter().zip(expected.bytes());
        let same = differs.take_while(|(one, other)| **one == *other).count();
        ensure!(
            said == expected.as_bytes(),
            "guest {number} has {} bytes on its console, not {}, of which {same} are right, and then {:?}",
            said.len(),
            expected.len(),
            String::from_utf8_lossy(&said[same..said.len().min(same + 2 * LINE)])
        );
    }
    ensure!(
        consoles.len() == usize::from(guests),
        "{} consoles",
        consoles.len()
    );
    let wire = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let turns = wire.windows(2).filter(|pair| **pair == [RS, US]).count();
    let all = usize::from(guests) * usize::from(count);
    let words = format!("{turns} turns for {all} lines");
    // Each is announced by eight bytes at most, which together are less than half of what was written.
    ensure!((all..3 * all).contains(&turns), "{words}");
    Ok(words)
}
