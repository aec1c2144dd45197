// Where a CPU begins: the Image header, relocation, the MMU, a stack, Rust.
// The MMU is on before the first Rust instruction, on every CPU.

    .section .head, "ax"
    .global guest_image
guest_image:
    // arm64 Image header (Linux Documentation/arch/arm64/booting.rst, section 4).
    b       start_boot_cpu
    .long   0
    .quad   0                       // text_offset: none
    .quad   __image_size
    .quad   0b1010                  // little endian, 4K pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

    .section .text.start, "ax"

// x0 = devicetree. MMU off, caches off, DAIF masked.
start_boot_cpu:
    mrs     x21, cntpct_el0         // first of all: when the CPU came up
    mov     x19, x0
    mrs     x20, currentel
    msr     daifset, #0xf

    // Relocate: every entry is R_AARCH64_RELATIVE (1027), addend + load address, link address 0.
    adrp    x0, __image_start
    add     x0, x0, :lo12:__image_start
    adrp    x1, __rela_start
    add     x1, x1, :lo12:__rela_start
    adrp    x2, __rela_end
    add     x2, x2, :lo12:__rela_end
1:  cmp     x1, x2
    b.hs    2f
    ldp     x3, x4, [x1], #16
    ldr     x5, [x1], #8
    cmp     x4, #1027
    b.ne    1b
    add     x5, x5, x0
    str     x5, [x0, x3]
    b       1b
2:
    adrp    x1, __bss_start
    add     x1, x1, :lo12:__bss_start
    adrp    x2, __bss_end
    add     x2, x2, :lo12:__bss_end
3:  stp     xzr, xzr, [x1], #16
    cmp     x1, x2
    b.lo    3b

    bl      start_fill_tables
    bl      start_mmu_on
    adrp    x0, {stacks} + {stack_bytes}
    add     x0, x0, :lo12:{stacks} + {stack_bytes}
    mov     sp, x0
    mov     x0, x19
    mov     x1, x20
    mov     x2, x21
    mov     x29, xzr
    mov     x30, xzr
    b       {main}

// x0 = this CPU's BootRecord, as CPU_ON's context. Notes how the CPU came up, first of all the time.
    .global start_secondary_cpu
start_secondary_cpu:
    mrs     x9, cntvct_el0
    mrs     x10, sctlr_el1
    mrs     x11, daif
    mrs     x12, currentel
    mrs     x13, spsel
    mov     x19, x0
    bic     x1, x10, #1 << 25       // EE: whatever the caller's byte order, ours is little
    msr     sctlr_el1, x1
    isb
    bl      start_mmu_on
    str     x9, [x19, #{rec_first}]
    str     x10, [x19, #{rec_sctlr}]
    str     x11, [x19, #{rec_daif}]
    str     x12, [x19, #{rec_el}]
    str     x13, [x19, #{rec_spsel}]
    ldr     x0, [x19, #{rec_stack}]
    mov     sp, x0
    mov     x0, x19
    mov     x29, xzr
    mov     x30, xzr
    b       {secondary}

// Calls by SMC as a big-endian caller: x0 to x3 as for the call. The tables are little endian, so the MMU is
// off for that time, and no data is touched.
    .global call_big_endian
call_big_endian:
    mrs     x9, sctlr_el1
    orr     x10, x9, #1 << 25       // EE
    bic     x10, x10, #1 << 0       // M
    bic     x10, x10, #1 << 2       // C
    dsb     sy
    msr     sctlr_el1, x10
    isb
    smc     #0
    msr     sctlr_el1, x9
    isb
    ret

// Entry for tests of CPU_ON's context: keeps x0 as it came, then CPU_OFF by the conduit noted there.
    .global start_context_probe
start_context_probe:
    adrp    x1, {probe}
    add     x1, x1, :lo12:{probe}
    str     x0, [x1, #{probe_context}]
    adr     x2, start_context_probe
    str     x2, [x1, #{probe_pc}]
    dmb     sy
    mov     x3, #1
    str     x3, [x1, #{probe_done}]
    dsb     sy
    ldr     x2, [x1, #{probe_smc}]
    ldr     w0, ={cpu_off}
    cbnz    x2, 1f
    hvc     #0
1:  smc     #0
    b       .

// Level 1 of a 39-bit address space, 1 GiB blocks, identity: devices below the image's gigabyte, write-back
// memory from there on; of a machine whose memory begins at 0, a Raspberry Pi, devices in the fourth. Attribute bits: DDI0487 D8.3.1 (VMSAv8-64 descriptors).
start_fill_tables:
    adrp    x1, {table}
    add     x1, x1, :lo12:{table}
    adr     x2, start_fill_tables
    lsr     x2, x2, #30
    mov     x3, xzr
    ldr     x4, =0x0060000000000401 // XN, AF, Attr0 device, block
    ldr     x5, =0x0000000000000705 // AF, inner shareable, Attr1 write-back, block
1:  cmp     x3, x2
    csel    x6, x4, x5, lo
    eor     x7, x3, #3
    orr     x7, x7, x2
    cmp     x7, #0
    csel    x6, x4, x6, eq
    orr     x6, x6, x3, lsl #30
    str     x6, [x1, x3, lsl #3]
    add     x3, x3, #1
    cmp     x3, #512
    b.lo    1b
    dsb     ish
    ret

// Turns stage 1 and the caches on; uses x0-x2 only.
    .global start_mmu_on
start_mmu_on:
    ldr     x0, =0xff00             // Attr0 Device-nGnRnE, Attr1 Normal write-back
    msr     mair_el1, x0
    ldr     x0, ={tcr}
    msr     tcr_el1, x0
    adrp    x0, {table}
    add     x0, x0, :lo12:{table}
    msr     ttbr0_el1, x0
    msr     ttbr1_el1, xzr
    mov     x0, #3 << 20            // CPACR_EL1.FPEN: the register tests use FP
    msr     cpacr_el1, x0
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    ldr     x0, ={sctlr}
    msr     sctlr_el1, x0
    isb
    ret

    .ltorg
