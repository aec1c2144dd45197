// From the firmware to Rust. The MMU and the data cache stay off for as long as the loader runs: what it writes
// is then where a kernel entered with its caches off looks for it.

    .section .head, "ax"
    .global chainloader_image
chainloader_image:
    // arm64 Image header (Linux Documentation/arch/arm64/booting.rst, section 4).
    b       1f
    .long   0
    .quad   0                       // text_offset: any 2 MiB boundary
    .quad   __image_size
    .quad   0b1010                  // little endian, 4K pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

// x0 = devicetree. Copies the image to where it was linked, and goes on there; what was copied is overwritten.
1:  mov     x19, x0
    msr     daifset, #0xf
    // A stub lets one CPU go; whoever loads the ELF file, all of them.
    mrs     x1, mpidr_el1
    tst     x1, #0xff
    b.ne    8f
    adr     x1, chainloader_image
    ldr     x2, =__home
    ldr     x3, =__home_copied
    mov     x4, x2
2:  ldp     x5, x6, [x1], #16
    stp     x5, x6, [x4], #16
    cmp     x4, x3
    b.lo    2b
    // What an earlier owner's caches hold of it is not what was written around them (DDI0487 B2.7.2).
    mov     x0, x2
    ldr     x1, =__home_end
    adr     x30, 3f
    b       chainloader_forget
3:  ldr     x4, =4f
    adr     x5, chainloader_image
    br      x4
    // The firmware's copy, if it is another: guests are not to find it.
4:  ldr     x0, =__home
    ldr     x1, =__home_copied
    cmp     x5, x0
    b.eq    9f
    sub     x1, x1, x0
    add     x1, x1, x5
    mov     x0, x5
0:  stp     xzr, xzr, [x5], #16
    cmp     x5, x1
    b.lo    0b
    bl      chainloader_forget
9:  ldr     x0, =__home_copied
    ldr     x1, =__home_end
5:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    5b
    mov     sp, x1
    mrs     x1, currentel
    lsr     x1, x1, #2
    cmp     x1, #2
    b.ne    6f
    adr     x2, chainloader_vectors
    msr     vbar_el2, x2
    mrs     x2, sctlr_el2
    orr     x2, x2, #1 << 12        // I: as the boot protocol allows; code runs a hundred times as fast
    msr     sctlr_el2, x2
    isb
6:  mov     x0, x19
    mov     x29, xzr
    mov     x30, xzr
    b       {enter}

// Drops the lines of the caches from x0 to x1, neither of which is in another's line. No other register but
// x2 to x4.
    .global chainloader_forget
chainloader_forget:
    mrs     x2, ctr_el0
    ubfx    x2, x2, #16, #4         // DminLine: log2 of words (DDI0487 D24.2.34)
    mov     x3, #4
    lsl     x3, x3, x2
    sub     x4, x3, #1
    bic     x0, x0, x4
    dsb     sy
7:  dc      civac, x0
    add     x0, x0, x3
    cmp     x0, x1
    b.lo    7b
    dsb     sy
    ic      iallu
    dsb     sy
    isb
    ret

// x0 = devicetree, x1 = where to go, x2 = where the devicetree ends, x3 and x4 = where the loader begins and ends, all but
// x1 multiples of 16. Overwrites the loader but for the devicetree, and goes there as the firmware would: EL2, MMU and
// caches off, x1 to x3 zero. It is copied to the end of the devicetree and runs there, so that it can overwrite itself
// where it was linked, and whoever overwrites the devicetree overwrites the rest: it is position independent.
    .balign 16
    .global chainloader_leave
chainloader_leave:
    mov     x5, x3
0:  cmp     x5, x0
    b.hs    1f
    stp     xzr, xzr, [x5], #16
    b       0b
1:  mov     x5, x2
2:  cmp     x5, x4
    b.hs    3f
    stp     xzr, xzr, [x5], #16
    b       2b
    // What instruction fetches have left of it in a unified cache is not what was written around it (DDI0487 B2.7.2).
3:  dsb     sy
    mrs     x5, ctr_el0
    ubfx    x5, x5, #16, #4         // DminLine: log2 of words (DDI0487 D24.2.34)
    mov     x6, #4
    lsl     x5, x6, x5
4:  dc      civac, x3
    add     x3, x3, x5
    cmp     x3, x4
    b.lo    4b
    dsb     sy
    mov     x4, x1
    mrs     x2, sctlr_el2
    bic     x2, x2, #1 << 12
    msr     sctlr_el2, x2
    isb
    ic      iallu
    dsb     sy
    isb
    mov     x1, xzr
    mov     x2, xzr
    mov     x3, xzr
    br      x4
    .balign 16
    .global chainloader_leave_end
chainloader_leave_end:

8:  wfe
    b       8b

    .section .text.vectors, "ax"
    .balign 2048
chainloader_vectors:
    .rept   16
    .balign 128
    mrs     x0, esr_el2
    mrs     x1, elr_el2
    mrs     x2, far_el2
    b       {fault}
    .endr
