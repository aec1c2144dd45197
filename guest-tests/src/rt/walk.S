// An access whose instruction EL2 has to read, while the tables by which it was fetched are no tables any more. All is in one
// page, which the CPU goes on knowing by its TLB; the device is reached by TTBR1_EL1, through the good tables.

    .section .text.walk, "ax"
    .balign 4096
walk_vectors:
    .skip   0x200
    // Synchronous, from this level with SP_EL1 (DDI0487 D1.3.1.2).
    mrs     x0, esr_el1
    b       2f

// x0 = TTBR0_EL1 for the access, x1 = the device in the upper half, x2 = TCR_EL1 that has both halves. Returns ESR_EL1 of the
// abort in x0, 0 without one.
    .balign 0x80
    .global walk_without_tables
walk_without_tables:
    mrs     x9, ttbr0_el1
    mrs     x10, vbar_el1
    mrs     x11, daif
    mrs     x12, tcr_el1
    msr     daifset, #0xf
    adr     x3, walk_vectors
    msr     vbar_el1, x3
    msr     ttbr1_el1, x9
    msr     tcr_el1, x2
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    // Once with the tables.
    mov     x4, x0
    ldp     w5, w6, [x1]
    msr     ttbr0_el1, x4
    isb
    mov     x0, xzr
    ldp     w5, w6, [x1]
2:  msr     ttbr0_el1, x9
    isb
    msr     tcr_el1, x12
    msr     ttbr1_el1, xzr
    msr     vbar_el1, x10
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    msr     daif, x11
    ret
