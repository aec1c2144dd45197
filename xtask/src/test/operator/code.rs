//! Guests of a few instructions.

use std::path::PathBuf;

use anyhow::Result;

use crate::offer::offered;
use debian::paths;
use machine::payload::{Capture, Payload};
use machine::run_dir::RunDir;

/// A bundle in `folder` with a guest that is this program.
pub fn bundle(folder: &RunDir, program: &[u32]) -> Result<PathBuf> {
    let kernel = folder.file("program.bin");
    let bytes: Vec<u8> = program.iter().flat_map(|word| word.to_le_bytes()).collect();
    paths::write_if_new(&kernel, &bytes)?;
    let bundle = folder.file("program.itb");
    Payload {
        kernel: &kernel,
        initrd: None,
        flash: None,
        capture: Capture::default(),
        config: offered(""),
    }
    .write(&bundle)?;
    Ok(bundle)
}

/// MSR DAIFSet, #15, and a branch to itself (DDI0487 C6.2.26, C6.2.247).
pub const SPIN: [u32; 2] = [0xd503_4fdf, 0x1400_0000];

/// SYSTEM_RESET (DEN0022 5.1.15).
pub const RESET: [u32; 4] = [
    0x5280_0120, // mov w0, #9
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0003, // smc #0
    0x1400_0000, // b .
];

/// Where EL1's vectors are in [`takes_serror`], and in them that of an SError from the same level (DDI0487 D1.3.1).
const VECTORS: usize = 0x800;
const SERROR: usize = 0x380;

/// Waits with everything masked but SErrors; says, of one that comes, the three lower bytes of ESR_EL1 on the UART, and
/// switches the machine off.
pub fn takes_serror() -> Vec<u32> {
    let mut code = vec![
        0x1000_4000, // adr x0, VECTORS
        0xd518_c000, // msr vbar_el1, x0
        0xd503_4fdf, // msr daifset, #15
        0xd503_44ff, // msr daifclr, #4
        0x1400_0000, // b .
    ];
    code.resize((VECTORS + SERROR) / 4, 0x1400_0000);
    code.extend([
        0xd538_5200, // mrs x0, esr_el1
        0xd2a1_2001, // mov x1, #0x09000000
        0xb900_0020, // str w0, [x1]
        0xd348_fc00, // lsr x0, x0, #8
        0xb900_0020, // str w0, [x1]
        0xd348_fc00, // lsr x0, x0, #8
        0xb900_0020, // str w0, [x1]
        0x5280_0100, // mov w0, #8
        0x72b0_8000, // movk w0, #0x8400, lsl #16: SYSTEM_OFF
        0xd400_0003, // smc #0
        0x1400_0000, // b .
    ]);
    code
}

/// Registers event 0x100 and enables it, unmasks the PE and spins with everything masked; the event's handler writes E on the UART
/// and switches the machine off (DEN0054, "SDEI interfaces").
pub const EVENT: [u32; 23] = [
    0x1000_0202, // adr x2, the handler
    0xd280_0420, // mov x0, #0x21
    0xf2b8_8000, // movk x0, #0xc400, lsl #16: SDEI_EVENT_REGISTER
    0xd280_2001, // mov x1, #0x100
    0xd280_0003, // mov x3, #0
    0xd280_0004, // mov x4, #0
    0xd280_0005, // mov x5, #0
    0xd400_0003, // smc #0
    0xd280_0440, // mov x0, #0x22
    0xf2b8_8000, // movk x0, #0xc400, lsl #16: SDEI_EVENT_ENABLE
    0xd280_2001, // mov x1, #0x100
    0xd400_0003, // smc #0
    0xd280_0580, // mov x0, #0x2c
    0xf2b8_8000, // movk x0, #0xc400, lsl #16: SDEI_PE_UNMASK
    0xd400_0003, // smc #0
    0x1400_0000, // b .
    0xd2a1_2001, // mov x1, #0x09000000
    0x5280_08a0, // mov w0, #'E'
    0xb900_0020, // str w0, [x1]
    0x5280_0100, // mov w0, #8
    0x72b0_8000, // movk w0, #0x8400, lsl #16: SYSTEM_OFF
    0xd400_0003, // smc #0
    0x1400_0000, // b .
];

/// Reads the UART until LF comes, and writes back what it has read; then switches the machine off.
pub const ECHO: [u32; 11] = [
    0xd2a1_2001, // mov x1, #0x09000000
    0xb940_1822, // ldr w2, [x1, #0x18]
    0x3727_ffe2, // tbnz w2, #4, .-4
    0xb940_0020, // ldr w0, [x1]
    0xb900_0020, // str w0, [x1]
    0x7100_281f, // cmp w0, #10
    0x54ff_ff61, // b.ne to the load of UARTFR
    0x5280_0100, // mov w0, #8
    0x72b0_8000, // movk w0, #0x8400, lsl #16: SYSTEM_OFF
    0xd400_0003, // smc #0
    0x1400_0000, // b .
];

/// Writes x on the UART without end.
pub const FLOOD: [u32; 4] = [
    0xd2a1_2001, // mov x1, #0x09000000
    0x5280_0f00, // mov w0, #'x'
    0xb900_0020, // str w0, [x1]
    0x17ff_ffff, // b .-4
];

/// Fills 4096 bytes behind the code with the address of each doubleword, with the MMU off, and spins.
pub const FILL: [u32; 8] = [
    0x1000_8000, // adr x0, .+0x1000
    0xaa00_03e1, // mov x1, x0
    0x9140_0402, // add x2, x0, #1, lsl #12
    0xf800_8420, // str x0, [x1], #8
    0x9100_2000, // add x0, x0, #8
    0xeb02_003f, // cmp x1, x2
    0x54ff_ffa3, // b.lo to the store
    0x1400_0000, // b .
];

/// Computes until a byte is typed, and then writes P on the UART and switches the machine off; F as soon as something is not as it
/// is to be. In each round: the same products in general registers and in SIMD registers, floating point that counts exactly, a
/// pointer signed and taken back (FEAT_PAuth), a counter that never goes back, an SGI to itself and an interrupt of the virtual
/// timer, each of which must come. x21 has the rounds. GICv3.
pub const COMPUTE: [u32; 102] = [
    0xd2a1_2016, // mov x22, #150994944
    0xd2a1_0001, // mov x1, #134217728
    0x5280_0240, // mov w0, #18
    0xb900_0020, // str w0, [x1]
    0xd2a1_0153, // mov x19, #134873088
    0xb940_1660, // ldr w0, [x19, #20]
    0x121e_7800, // and w0, w0, #0xfffffffd
    0xb900_1660, // str w0, [x19, #20]
    0x9140_4273, // add x19, x19, #16, lsl #12
    0x1280_0000, // mov w0, #-1
    0xb900_8260, // str w0, [x19, #128]
    0x52a1_0000, // mov w0, #134217728
    0x321d_0000, // orr w0, w0, #0x8
    0xb901_0260, // str w0, [x19, #256]
    0xd280_00e0, // mov x0, #7
    0xd518_cca0, // msr ICC_SRE_EL1, x0
    0xd503_3fdf, // isb
    0xd280_1fe0, // mov x0, #255
    0xd518_4600, // msr ICC_PMR_EL1, x0
    0xd280_0020, // mov x0, #1
    0xd518_cce0, // msr ICC_IGRPEN1_EL1, x0
    0xd289_85ba, // mov x26, #19501
    0xf2be_85ba, // movk x26, #62509, lsl #16
    0xf2cf_e5ba, // movk x26, #32557, lsl #32
    0xf2eb_0a3a, // movk x26, #22609, lsl #48
    0xd2a0_0600, // mov x0, #3145728
    0xd518_1040, // msr CPACR_EL1, x0
    0xd518_211a, // msr S3_0_C2_C1_0, x26
    0xd518_2136, // msr S3_0_C2_C1_1, x22
    0xd538_1000, // mrs x0, SCTLR_EL1
    0xb261_0000, // orr x0, x0, #0x80000000
    0xd518_1000, // msr SCTLR_EL1, x0
    0xd503_3fdf, // isb
    0xd538_00a0, // mrs x0, MPIDR_EL1
    0x9240_0c00, // and x0, x0, #0xf
    0xd280_0039, // mov x25, #1
    0x9ac0_2339, // lsl x25, x25, x0
    0xb268_0739, // orr x25, x25, #0x3000000
    0xd280_0034, // mov x20, #1
    0x4e08_0e80, // dup v0.2d, x20
    0x1e6e_1008, // fmov d8, #1.00000000
    0x1e6e_1009, // fmov d9, #1.00000000
    0x1e60_410a, // fmov d10, d8
    0xd53b_e057, // mrs x23, CNTVCT_EL0
    0x9b1a_7e94, // mul x20, x20, x26
    0x9100_0694, // add x20, x20, #1
    0xaa14_03e4, // mov x4, x20
    0x4e08_0e81, // dup v1.2d, x20
    0x4e18_1c80, // mov v0.d[1], x4
    0x4e18_3c05, // mov x5, v0.d[1]
    0x4e08_3c26, // mov x6, v1.d[0]
    0xeb14_00bf, // cmp x5, x20
    0x5400_0601, // b.ne .+192
    0xeb14_00df, // cmp x6, x20
    0x5400_05c1, // b.ne .+184
    0x1e69_2908, // fadd d8, d8, d9
    0x9100_06b5, // add x21, x21, #1
    0x9e63_02ab, // ucvtf d11, x21
    0x1e6a_390c, // fsub d12, d8, d10
    0x1e6c_2160, // fcmp d11, d12
    0x5400_0501, // b.ne .+160
    0xaa16_03e7, // mov x7, x22
    0xdac1_23e7, // paciza x7
    0xdac1_33e7, // autiza x7
    0xeb16_00ff, // cmp x7, x22
    0x5400_0461, // b.ne .+140
    0xd53b_e048, // mrs x8, CNTVCT_EL0
    0xeb17_011f, // cmp x8, x23
    0x5400_0403, // b.lo .+128
    0xaa08_03f7, // mov x23, x8
    0xd518_cbb9, // msr ICC_SGI1R_EL1, x25
    0xd503_3fdf, // isb
    0xd538_cc09, // mrs x9, ICC_IAR1_EL1
    0xf10f_fd3f, // cmp x9, #1023
    0x54ff_ffc0, // b.eq .-8
    0xf100_0d3f, // cmp x9, #3
    0x5400_0301, // b.ne .+96
    0xd518_cc29, // msr ICC_EOIR1_EL1, x9
    0xd280_0200, // mov x0, #16
    0xd51b_e300, // msr CNTV_TVAL_EL0, x0
    0xd280_0020, // mov x0, #1
    0xd51b_e320, // msr CNTV_CTL_EL0, x0
    0xd503_3fdf, // isb
    0xd538_cc09, // mrs x9, ICC_IAR1_EL1
    0xf10f_fd3f, // cmp x9, #1023
    0x54ff_ffc0, // b.eq .-8
    0xf100_6d3f, // cmp x9, #27
    0x5400_01a1, // b.ne .+52
    0xd51b_e33f, // msr CNTV_CTL_EL0, xzr
    0xd503_3fdf, // isb
    0xd518_cc29, // msr ICC_EOIR1_EL1, x9
    0xd503_3fdf, // isb
    0xb940_1ac2, // ldr w2, [x22, #24]
    0x3727_f9e2, // tbnz w2, #4, .-196
    0x5280_0a00, // mov w0, #80
    0xb900_02c0, // str w0, [x22]
    0x5280_0100, // mov w0, #8
    0x72b0_8000, // movk w0, #33792, lsl #16
    0xd400_0003, // smc #0
    0x1400_0000, // b .
    0x5280_08c0, // mov w0, #70
    0x17ff_fffa, // b .-24
];

/// Has the virtual timer's interrupt wait with everything masked but SErrors. GICv3.
pub fn wedge() -> Vec<u32> {
    // Sets up the GIC, up to ICC_IGRPEN1_EL1.
    let mut code = COMPUTE[1..21].to_vec();
    code.extend([
        0xd280_0000, // mov x0, #0
        0xd51b_e340, // msr cntv_cval_el0, x0
        0xd503_4fdf, // msr daifset, #15
        0xd503_44ff, // msr daifclr, #4
        0xd280_0020, // mov x0, #1
        0xd51b_e320, // msr cntv_ctl_el0, x0
        0x1400_0000, // b .
    ]);
    code
}
