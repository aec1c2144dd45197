// From the loader to Rust, at EL2, with the MMU and the caches on before the first Rust instruction.
//
// This page is mapped twice: at its link address and at its physical one, so that it can run while the
// MMU goes on, off, or to another table. It holds no data but the header and its literals.
//
// The image boots twice. First where the loader put it: Rust finds the top of RAM and copies the image
// there (`relocate`). Then, in its home region, it boots again with the rest of that region behind it (`init`).
//
// Registers kept through boot_common: x20 devicetree pa, x21 size of the home region (0: not there yet),
// x22 pa of the image, x23 the exception level of the entry, x24 pa of the image that this one is a copy of.
//
// Entered at EL1 or EL3 the way is the same as far as the MMU and a stack, so that Rust can say what is wrong.

    .section .boot, "ax"

// The arm64 Image header (Linux Documentation/arch/arm64/booting.rst).
    .global boot_header
boot_header:
    b       boot_primary
    .word   0
    .quad   0                                   // text_offset: any 2 MiB boundary
    .quad   __image_size                        // image_size, bss included
    .quad   0b1010                              // little endian, 4 KiB pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .word   0

// Loader's contract: x0 = pa of the devicetree, MMU off, EL2.
boot_primary:
    mov     x20, x0
    mov     x21, xzr
boot_common:
    msr     daifset, #0xf
    mrs     x23, CurrentEL
    lsr     x23, x23, #2
    cmp     x23, #3
    b.eq    boot_leave_el3                      // comes back to the next line at EL2 or EL1
boot_below_el3:
    mrs     x0, CurrentEL
    cmp     x0, #(2 << 2)
    b.ne    0f
    bl      boot_reset_el2
0:  adrp    x22, boot_header

// The tables: forget stale cache lines, clear, fill, and forget again what a prefetch may have brought in
// (stores with the MMU off go around the caches: DDI0487 D8.2.12).
    adrp    x0, __boot_tables
    adrp    x1, __boot_tables_end
    bl      boot_invalidate
    mov     x2, x0
1:  stp     xzr, xzr, [x2], #16
    cmp     x2, x1
    b.lo    1b

    add     x3, x0, #(1 * 4096)                 // level 1, identity
    add     x4, x0, #(2 * 4096)                 // level 1, window
    add     x5, x0, #(3 * 4096)                 // level 2, window
    add     x6, x0, #(4 * 4096)                 // level 3, window
    orr     x7, x3, #0b11
    str     x7, [x0]                            // va 0
    orr     x7, x4, #0b11
    str     x7, [x0, #(256 * 8)]                // va 1 << 47, HV_BASE
    orr     x7, x5, #0b11
    str     x7, [x4]
    orr     x7, x6, #0b11
    str     x7, [x5]

// Window, page by page: text, then read-only data, then the rest.
    ldr     x8, ={PAGE_TEXT}
    ldr     x9, ={PAGE_RODATA}
    ldr     x10, ={PAGE_DATA}
    adrp    x11, __text_end
    adrp    x12, __rodata_end
    adrp    x13, __image_end
    cbz     x21, 2f
    add     x13, x22, #0x200000                 // in the home region the first 2 MiB are all ours
2:  mov     x14, x22
3:  mov     x15, x10
    cmp     x14, x12
    csel    x15, x9, x15, lo
    cmp     x14, x11
    csel    x15, x8, x15, lo
    orr     x15, x15, x14
    str     x15, [x6], #8
    add     x14, x14, #4096
    cmp     x14, x13
    b.lo    3b

// Window, the rest of the home region in 2 MiB blocks.
    ldr     x10, ={BLOCK_DATA}
    mov     x14, #0x200000
4:  add     x5, x5, #8
    cmp     x14, x21
    b.hs    5f
    add     x15, x22, x14
    orr     x15, x15, x10
    str     x15, [x5]
    add     x14, x14, #0x200000
    b       4b

// Identity: 4 MiB from the devicetree's block on (it may be 2 MiB long and cross), and this code.
5:  ldr     x10, ={BLOCK_RODATA}
    mov     x14, x20
    bl      boot_map_block
    add     x14, x20, #0x200000
    bl      boot_map_block
    ldr     x10, ={BLOCK_TEXT}                  // last: the two may share a block, and text is readable
    mov     x14, x22
    bl      boot_map_block
    bl      boot_invalidate

    bl      boot_mmu_on
    ldr     x1, =boot_in_window
    br      x1
boot_in_window:
    ldr     x0, =__bss_start
    ldr     x1, =__bss_end
6:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    6b
    cmp     x23, #2
    b.ne    8f
    ldr     x0, =vectors
    msr     vbar_el2, x0
    msr     tpidr_el2, xzr
    isb
    ldr     x0, =({BOOT_STACK} + {BOOT_STACK_SIZE})
    mov     sp, x0
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x20
    mov     x1, x22
    mov     x2, x21
    mov     x3, x24
    cbz     x21, 7f
    b       {init}
7:  b       {relocate}
8:  ldr     x0, =({BOOT_STACK} + {BOOT_STACK_SIZE})
    mov     sp, x0
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x20
    mov     x1, x22
    mov     x2, x23
    b       {wrong_el}

// Released from a spin table, one at a time: the number is in BOOT_ARGS, too.
    .global boot_released
boot_released:
    adrp    x1, {BOOT_ARGS}
    add     x1, x1, :lo12:{BOOT_ARGS}
    ldr     x0, [x1, #{ARGS_INDEX}]
// Powered on by firmware: x0 = index of this pCPU. What it needs is in BOOT_ARGS, written by the first.
    .global boot_secondary
boot_secondary:
    mov     x20, x0
    msr     daifset, #0xf
    mrs     x0, CurrentEL
    cmp     x0, #(2 << 2)
    b.ne    boot_wrong_level
    bl      boot_reset_el2
    adrp    x1, {BOOT_ARGS}
    add     x1, x1, :lo12:{BOOT_ARGS}
    ldr     x0, [x1, #{ARGS_TTBR}]
    ldr     x19, [x1, #{ARGS_STACKS}]
    bl      boot_mmu_on
    ldr     x1, =vectors
    msr     vbar_el2, x1
    msr     tpidr_el2, xzr
    isb
    add     x19, x19, x20, lsl #{STACK_SHIFT}
    mov     sp, x19
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x20
    ldr     x1, ={secondary}
    br      x1

// x0 = pa to go on from, x1 = devicetree pa, x2 = size of the home region, x3 = pa of the image now.
    .global boot_restart
boot_restart:
    ldr     x4, =boot_header
    adr     x5, 1f
    sub     x5, x5, x4
    add     x5, x5, x3
    br      x5
1:  bl      boot_mmu_off
    mov     x20, x1
    mov     x21, x2
    mov     x24, x3
    add     x0, x0, #(boot_common - boot_header)
    br      x0

// x0 = pa of the new level 0 table, x1 = pa of the image. Returns with the new table in force.
    .global boot_switch_tables
boot_switch_tables:
    ldr     x4, =boot_header
    mov     x6, x30
    adr     x5, 1f
    sub     x5, x5, x4
    add     x5, x5, x1
    br      x5
1:  bl      boot_mmu_off
    bl      boot_mmu_on
    ret     x6

// x0 = stack top, x1 = function that never returns, x2 = its argument.
    .global boot_on_stack
boot_on_stack:
    mov     sp, x0
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x2
    br      x1

// A pCPU that firmware starts at another level than the first: its absence is noticed.
boot_wrong_level:
    wfe
    b       boot_wrong_level

// From EL3 to non-secure EL2, or EL1 where there is no EL2 (DDI0487 D24.2, SCR_EL3 and SPSR_EL3). Clobbers x0, x1.
// Whoever loads an ELF may start every pCPU in it: the first will tell.
boot_leave_el3:
    mrs     x0, mpidr_el1
    tst     x0, #0xffffff
    b.ne    boot_wrong_level
    ldr     x0, ={SCR_BOOT}
    msr     scr_el3, x0
    mrs     x1, id_aa64pfr0_el1
    tst     x1, #(0xf << 8)                     // EL2
    mov     x0, #{SPSR_EL2H}
    mov     x1, #{SPSR_EL1H}
    csel    x0, x0, x1, ne
    msr     spsr_el3, x0
    adr     x0, boot_below_el3
    msr     elr_el3, x0
    eret

// EL2 without VHE, MMU and caches off (DDI0487 D24.2, HCR_EL2 and SCTLR_EL2). Clobbers x0.
boot_reset_el2:
    ldr     x0, ={HCR_BOOT}
    msr     hcr_el2, x0
    isb
    ldr     x0, ={SCTLR_OFF}
    msr     sctlr_el2, x0
    isb
    ret

// x0 = pa of the level 0 table. Clobbers x7, x8. The constants serve EL1 as well: what differs there is where PS
// is, that bit 23 turns TTBR1_EL1 off, and that AP[1] lets EL0 in, which does not run.
boot_mmu_on:
    mrs     x7, CurrentEL
    cmp     x7, #(1 << 2)
    b.eq    boot_mmu_on_el1
    ldr     x7, ={MAIR}
    msr     mair_el2, x7
    ldr     x7, ={TCR}
    mrs     x8, id_aa64mmfr0_el1                // PARange in [3:0]; 6 and 7 need LPA, stay at 48 bits
    and     x8, x8, #0xf
    cmp     x8, #5
    b.ls    1f
    mov     x8, #5
1:  bfi     x7, x8, #16, #3                     // TCR_EL2.PS
    msr     tcr_el2, x7
    msr     ttbr0_el2, x0
    isb
    tlbi    alle2
    dsb     nsh
    isb
    ldr     x7, ={SCTLR_ON}
    msr     sctlr_el2, x7
    isb
    ic      iallu
    dsb     nsh
    isb
    ret

boot_mmu_on_el1:
    ldr     x7, ={MAIR}
    msr     mair_el1, x7
    ldr     x7, ={TCR}
    mov     x8, #5                              // TCR_EL1.IPS
    bfi     x7, x8, #32, #3
    msr     tcr_el1, x7
    msr     ttbr0_el1, x0
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    ldr     x7, ={SCTLR_ON}
    msr     sctlr_el1, x7
    isb
    ic      iallu
    dsb     nsh
    isb
    ret

// Clobbers x7. The caller runs from the identity map.
boot_mmu_off:
    dsb     sy
    ldr     x7, ={SCTLR_OFF}
    msr     sctlr_el2, x7
    isb
    tlbi    alle2
    dsb     nsh
    isb
    ret

// Maps the 2 MiB block around x14 one to one with the attributes in x10, below 512 GiB. x3 = level 1
// table, x0 = all tables, spare level 2 ones from the fifth on. Clobbers x7, x8, x15.
boot_map_block:
    lsr     x7, x14, #30
    and     x7, x7, #0x1ff
    ldr     x8, [x3, x7, lsl #3]
    cbnz    x8, 2f
    add     x8, x0, #(5 * 4096)
1:  ldr     x15, [x8, #4088]                    // slot 511 marks a table as taken until it is used
    cbz     x15, 3f
    add     x8, x8, #4096
    b       1b
3:  mov     x15, #{SPARE_TAKEN}
    str     x15, [x8, #4088]
    orr     x8, x8, #0b11
    str     x8, [x3, x7, lsl #3]
2:  and     x8, x8, #0x0000fffffffff000
    ubfx    x7, x14, #21, #9
    and     x15, x14, #0x0000ffffffe00000
    orr     x15, x15, x10
    str     x15, [x8, x7, lsl #3]
    ret

// Invalidates the data cache over [x0, x1) to the point of coherency. Clobbers x2, x7.
boot_invalidate:
    mrs     x7, ctr_el0
    ubfx    x7, x7, #16, #4                     // DminLine: log2 of words
    mov     x2, #4
    lsl     x7, x2, x7
    mov     x2, x0
1:  dc      ivac, x2
    add     x2, x2, x7
    cmp     x2, x1
    b.lo    1b
    dsb     sy
    ret
    .ltorg
