//! A guest of three dozen instructions: every vCPU runs, and calls for its TRNG for ever or spins.

use super::{Cause, Place, Plan};

/// MOVZ x11, #0 (DDI0487 C6.2.225), whose immediate is which vCPUs spin.
const SPINNERS: usize = 4;
/// MOVZ w0, #0, whose immediate is the function that the first vCPU calls in the end; 0 is PSCI_VERSION.
const LAST_CALL: usize = 33;
/// Where a vCPU spins, in instructions from the start.
pub const SPIN: u64 = 41;
/// Who called it there, say its frame records; innermost first.
pub const CALLERS: [u32; 2] = [0x0123_4568, 0x89ab_cdf0];
/// Behind the code: a byte for each vCPU, which it sets when it runs, or as the last thing before it spins; and what
/// they are when all do.
const ALL: usize = 46;

/// What the encodings say stands beside them.
#[rustfmt::skip]
const PROGRAM: [u32; 58] = [
    0xd538_00a9, // mrs x9, mpidr_el1
    0x9240_1d29, // and x9, x9, #0xff
    0x1000_0502, // adr x2, flags
    0x5280_0023, // mov w3, #1
    0xd280_000b, // movz x11, #SPINNERS
    0x9ac9_256b, // lsr x11, x11, x9
    0x3700_03eb, // tbnz w11, #0, spin
    0x3829_6843, // strb w3, [x2, x9]
    0xb500_0129, // cbnz x9, ready
    0xd280_002a, // mov x10, #1
    0x5280_0060, // on: movz w0, #0x0003            CPU_ON of the others, until there is none
    0x72b8_8000, // movk w0, #0xc400, lsl #16
    0xaa0a_03e1, // mov x1, x10
    0x10ff_fe62, // adr x2, start
    0xd400_0002, // hvc #0
    0x9100_054a, // add x10, x10, #1
    0x34ff_ff40, // cbz w0, on
    0x1000_0322, // ready: adr x2, flags
    0xd503_203f, // wait: yield                     until all run or spin that can: no call before
    0xa940_1043, // ldp x3, x4, [x2]
    0xa941_1845, // ldp x5, x6, [x2, #16]
    0xeb05_007f, // cmp x3, x5
    0xfa46_0080, // ccmp x4, x6, #0, eq
    0x54ff_ff61, // b.ne wait
    0x5280_fa0c, // loop: movz w12, #2000           a pause, or an emulator has no turn for the others
    0x5100_058c, // pause: sub w12, w12, #1
    0x35ff_ffec, // cbnz w12, pause
    0x5280_0a00, // movz w0, #0x50                  TRNG_VERSION
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xaa1f_03e1, // mov x1, xzr
    0xd400_0002, // hvc #0
    0xb5ff_ff29, // cbnz x9, loop
    0xb5ff_ff01, // cbnz x1, loop                   until all are stuck that are to be
    0x5280_0000, // movz w0, #LAST_CALL
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0002, // hvc #0
    0x17ff_fff4, // b loop
    0x1000_01bd, // spin: adr x29, record           all is masked, as since reset
    0x9100_43aa, // add x10, x29, #16
    0xf900_03aa, // str x10, [x29]                  the second record is behind the first
    0x3829_6843, // strb w3, [x2, x9]
    0x1400_0000, // b .
    // The flags, and what they are in the end.
    0, 0, 0, 0, 0, 0, 0, 0,
    // Frame records.
    0, 0, CALLERS[0], 0,
    0, 0, CALLERS[1], 0,
];

/// The program for `plan`.
pub fn program(plan: &Plan) -> Vec<u8> {
    let mut program = PROGRAM;
    let wedges = plan.wedges.iter();
    let spinners = wedges.filter(|(_, place)| *place == Place::Guest);
    let mask = spinners.fold(0, |mask, (pcpu, _)| mask | 1 << pcpu);
    let function = match plan.cause {
        Cause::GuestOff => 8,
        Cause::GuestReset => 9,
        _ => 0,
    };
    let never_start = |pcpu| plan.wedges.contains(&(pcpu, Place::Spin));
    for pcpu in (0..plan.cpus).filter(|&pcpu| !never_start(pcpu)) {
        program[ALL + pcpu as usize / 4] |= 1 << (8 * (pcpu % 4));
    }
    // MOVZ has its immediate in bits 20 to 5.
    program[SPINNERS] |= mask << 5;
    program[LAST_CALL] |= function << 5;
    program.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_spins_and_what_is_called_last_stand_in_the_program() {
        let plan = Plan {
            wedges: vec![(1, Place::Guest), (2, Place::Spin), (3, Place::Guest)],
            cause: Cause::GuestOff,
            ..Plan::default()
        };
        let program = program(&plan);
        let word = |n: usize| u32::from_le_bytes(program[4 * n..4 * n + 4].try_into().unwrap());
        assert_eq!(word(SPINNERS), 0xd280_000b | 0b1010 << 5);
        assert_eq!(word(LAST_CALL), 0x5280_0000 | 8 << 5);
        assert_eq!(word(SPIN as usize), 0x1400_0000);
        assert_eq!(word(ALL), 0x0100_0101, "all but the one that never starts");
    }
}
