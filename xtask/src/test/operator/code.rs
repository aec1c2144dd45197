//! Guests of a few instructions.

/// MSR DAIFSet, #15, and a branch to itself (DDI0487 C6.2.26, C6.2.247).
pub const SPIN: [u32; 2] = [0xd503_4fdf, 0x1400_0000];

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
