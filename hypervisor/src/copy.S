// memcpy and memset in pairs of registers. The compiler's own are loops of one register each, as long as the target
// says "strict-align"; and as it has no vector registers, it calls them for all that is longer than 32 bytes: the
// registers that an event interrupts, the list registers. Alignment does not matter: EL2's memory is Normal, and
// SCTLR_EL2.A is 0 (DDI0487 B2.8.2).
//
// The names are the macro's arguments, so that a test can have copies of its own.

    .macro copy_functions copy, fill

// x0 = to, x1 = from, x2 = bytes, which do not overlap. Returns x0. Clobbers x1 to x7.
    .global \copy
    .type \copy, %function
    .balign 64
\copy:
    mov     x3, x0
    subs    x2, x2, #32
    b.lo    2f
1:  ldp     x4, x5, [x1], #16
    ldp     x6, x7, [x1], #16
    stp     x4, x5, [x3], #16
    stp     x6, x7, [x3], #16
    subs    x2, x2, #32
    b.hs    1b
2:  tbz     x2, #4, 3f                          // 0 to 31 bytes are left: 32 less do not change bits 4 to 0
    ldp     x4, x5, [x1], #16
    stp     x4, x5, [x3], #16
3:  tbz     x2, #3, 4f
    ldr     x4, [x1], #8
    str     x4, [x3], #8
4:  tbz     x2, #2, 5f
    ldr     w4, [x1], #4
    str     w4, [x3], #4
5:  tbz     x2, #1, 6f
    ldrh    w4, [x1], #2
    strh    w4, [x3], #2
6:  tbz     x2, #0, 7f
    ldrb    w4, [x1]
    strb    w4, [x3]
7:  ret
    .size \copy, . - \copy

// x0 = to, w1 = the byte, x2 = bytes. Returns x0. Clobbers x1 to x4.
    .global \fill
    .type \fill, %function
    .balign 64
\fill:
    mov     x3, x0
    mov     x4, #0x0101010101010101
    and     x1, x1, #0xff
    mul     x1, x1, x4                          // the byte in all eight places
    subs    x2, x2, #32
    b.lo    2f
1:  stp     x1, x1, [x3], #16
    stp     x1, x1, [x3], #16
    subs    x2, x2, #32
    b.hs    1b
2:  tbz     x2, #4, 3f                          // as above
    stp     x1, x1, [x3], #16
3:  tbz     x2, #3, 4f
    str     x1, [x3], #8
4:  tbz     x2, #2, 5f
    str     w1, [x3], #4
5:  tbz     x2, #1, 6f
    strh    w1, [x3], #2
6:  tbz     x2, #0, 7f
    strb    w1, [x3]
7:  ret
    .size \fill, . - \fill

    .endm
