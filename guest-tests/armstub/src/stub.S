// All CPUs of a BCM2711 start here at EL3, with MMU and caches off. Its registers lie in "low peripheral" mode.
// System registers that only the Cortex-A72 has go by their encodings (Cortex-A72 TRM, 100095, section 4.2).

    .equ LOCAL_CONTROL, 0xff800000      // BCM2711 ARM Peripherals, "ARM_LOCAL": crystal clock, steps of 1
    .equ LOCAL_PRESCALER, 0x8           // 2^31: the timer counts each tick of the 54 MHz crystal
    .equ GICD, 0xff841000               // IHI0048 4.1.2
    .equ GICC_OFFSET, 0x1000
    .equ GICD_IGROUPR, 0x80
    .equ IGROUPR_WORDS, 8               // 256 interrupts of a GIC-400 on this chip
    .equ SPIN_TABLE, 0xd8

    .section .stub, "ax"
    .global stub
stub:
    mrs     x6, mpidr_el1
    and     x6, x6, #3

    // The local timer and prescaler.
    ldr     x0, =LOCAL_CONTROL
    mov     w1, #0x80000000
    str     wzr, [x0]
    str     w1, [x0, #LOCAL_PRESCALER]

    // L2CTLR_EL1: 3 cycles for L2 data and tag RAM; CPUECTLR_EL1.SMPEN, without which nothing is coherent.
    mrs     x0, S3_1_C11_C0_2
    mov     x1, #0x22
    orr     x0, x0, x1
    msr     S3_1_C11_C0_2, x0
    mov     x0, #(1 << 6)
    msr     S3_1_C15_C2_1, x0

    // The counter's frequency, which is what software believes. A board's register does not say at first; QEMU's does,
    // and says another where instructions are counted.
    mrs     x0, cntfrq_el0
    cbnz    x0, 1f
    ldr     w0, =54000000
    msr     cntfrq_el0, x0
1:  msr     cntvoff_el2, xzr            // no offset for EL1

    // FP/SIMD does not trap to EL3 (TFP 0, the rest RES1); EL2 may write the A72's own registers (ACTLR_EL3).
    mov     x0, #0x33ff
    msr     cptr_el3, x0
    mov     x0, #0x73
    msr     actlr_el3, x0

    b       interrupts

    // The firmware fills in the last two words, and clears the magic that tells it where they are:
    // it shares its place with the slot of CPU 3.
    .org    SPIN_TABLE
    .global stub_words
stub_words:
    .quad   0, 0, 0
    .word   0x5afe570b, 0               // 0xf0: magic, version
devicetree:
    .word   0                           // 0xf8
kernel:
    .word   0                           // 0xfc

    // Every interrupt to Group 1, each CPU its own 32 first; the CPU interface forwards both groups, and takes
    // any priority: GICC_CTLR 0x1e7, GICC_PMR 0xff (IHI0048 4.4.1). CPUs but the first enable the distributor.
interrupts:
    ldr     x2, =GICD
    cbz     x6, 1f
    mov     w0, #3
    str     w0, [x2]
1:  add     x1, x2, #GICC_OFFSET
    mov     w0, #0x1e7
    str     w0, [x1]
    mov     w0, #0xff
    str     w0, [x1, #4]
    add     x1, x2, #GICD_IGROUPR
    mov     w3, #IGROUPR_WORDS
    mov     w0, #-1
2:  str     w0, [x1], #4
    sub     w3, w3, #1
    cbnz    w3, 2b

    // To EL2: RW, HCE, SMD, NS and what is RES1 (DDI0487 D24.2.118); all masked, on EL2's own stack pointer.
    mov     x0, #0x5b1
    msr     scr_el3, x0
    ldr     w0, =0x30c50830
    msr     sctlr_el2, x0
    mov     x0, #0x3c9
    msr     spsr_el3, x0
    adr     x0, 3f
    msr     elr_el3, x0
    eret

    // At EL2. The first CPU goes where the firmware said, the others where they are sent.
3:  mov     x1, xzr
    mov     x2, xzr
    mov     x3, xzr
    cbz     x6, 5f
    adr     x5, stub_words
4:  wfe
    ldr     x4, [x5, x6, lsl #3]
    cbz     x4, 4b
    mov     x0, xzr
    br      x4
5:  ldr     w4, kernel
    ldr     w0, devicetree
    br      x4
    .ltorg
