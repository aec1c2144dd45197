// One page of code that executes what stands in a page of slots, one instruction at a time, each with registers of
// its own, and is back afterwards whatever that did. It is copied in front of each CPU's block (`Block`), which it finds
// by its own address, and needs no stack. x0 to x5 are its registers; those of an instruction that is through are kept.

    .set    data, assault_begin + {data}

    .section .text.assault, "ax"
    .balign 4096
    .global assault_begin
assault_begin:
.macro assault_vector slot
    .balign 128
    msr     tpidr_el0, x0
    mov     x0, #\slot
    b       assault_out
.endm
    .irp    slot, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    assault_vector \slot
    .endr

    .balign 128
    // Behind an instruction that did not fault.
    .global assault_done
assault_done:
    msr     tpidr_el0, x0
    mov     x0, #{completed}
    b       assault_out

    // Behind an event, which may have come before the instruction, behind it or in the code that follows.
    .global assault_interrupted
assault_interrupted:
    msr     tpidr_el0, x0
    mov     x0, #{interrupted}

    // x0 = why, itself in TPIDR_EL0. First the registers without which no memory can be reached, without memory:
    // written only where they differ, as an emulator forgets all translations for each.
assault_out:
    msr     daifset, #0xf
    msr     tpidrro_el0, x1
    msr     tpidr_el1, x2
    adr     x1, assault_begin
    msr     vbar_el1, x1
    movz    x1, #{cpacr_16}, lsl #16
    msr     cpacr_el1, x1
    msr     mdscr_el1, xzr
    movz    x1, #{tcr_0}
    movk    x1, #{tcr_16}, lsl #16
    movk    x1, #{tcr_32}, lsl #32
    mrs     x2, tcr_el1
    cmp     x1, x2
    b.eq    1f
    msr     tcr_el1, x1
1:  movz    x1, #0xff00
    mrs     x2, mair_el1
    cmp     x1, x2
    b.eq    1f
    msr     mair_el1, x1
1:  adr     x1, assault_begin + {tables}
    mrs     x2, ttbr0_el1
    cmp     x1, x2
    b.eq    1f
    msr     ttbr0_el1, x1
1:  isb
    movz    x1, #{sctlr_0}
    movk    x1, #{sctlr_16}, lsl #16
    mrs     x2, sctlr_el1
    cmp     x1, x2
    b.eq    1f
    msr     sctlr_el1, x1
1:  isb
    adr     x1, data
    mrs     x2, tpidr_el1
    stp     x2, x3, [x1, #{temporary}]
    ldr     x2, [x1, #{index}]
    add     x3, x1, #{outputs}, lsl #12
    add     x3, x3, x2, lsl #8
    stp     x4, x5, [x3, #32]
    stp     x6, x7, [x3, #48]
    stp     x8, x9, [x3, #64]
    stp     x10, x11, [x3, #80]
    stp     x12, x13, [x3, #96]
    stp     x14, x15, [x3, #112]
    stp     x16, x17, [x3, #128]
    stp     x18, x19, [x3, #144]
    stp     x20, x21, [x3, #160]
    stp     x22, x23, [x3, #176]
    stp     x24, x25, [x3, #192]
    stp     x26, x27, [x3, #208]
    stp     x28, x29, [x3, #224]
    str     x30, [x3, #240]
    ldp     x4, x5, [x1, #{temporary}]
    stp     x4, x5, [x3, #16]
    mrs     x4, tpidr_el0
    mrs     x5, tpidrro_el0
    stp     x4, x5, [x3]
    mrs     x4, esr_el1
    orr     x0, x4, x0, lsl #56
    str     x0, [x3, #248]
    add     x2, x2, #1
    str     x2, [x1, #{index}]

    // x1 = data, x2 = index
assault_next:
    ldr     x4, [x1, #{count}]
    cmp     x2, x4
    b.hs    assault_finish
    add     x3, x1, #{inputs}, lsl #12
    add     x3, x3, x2, lsl #8
    ldr     x4, [x1, #{slots}]
    add     x4, x4, x2, lsl #3
    msr     elr_el1, x4
    ldr     x4, [x3, #248]
    mov     w5, w4
    msr     spsr_el1, x5
    ldr     x5, [x3, #232]
    msr     spsel, #1
    mov     sp, x5
    tbz     x4, #63, 1f
    mrs     x5, sctlr_el1           // without the MMU
    bic     x5, x5, #1
    msr     sctlr_el1, x5
    isb
1:  ldp     x29, x30, [x3, #232]
    ldp     x27, x28, [x3, #216]
    ldp     x25, x26, [x3, #200]
    ldp     x23, x24, [x3, #184]
    ldp     x21, x22, [x3, #168]
    ldp     x19, x20, [x3, #152]
    ldp     x17, x18, [x3, #136]
    ldp     x15, x16, [x3, #120]
    ldp     x13, x14, [x3, #104]
    ldp     x11, x12, [x3, #88]
    ldp     x9, x10, [x3, #72]
    ldp     x7, x8, [x3, #56]
    ldp     x5, x6, [x3, #40]
    ldr     x4, [x3, #32]
    ldp     x0, x1, [x3]
    ldr     x2, [x3, #16]
    ldr     x3, [x3, #24]
    eret

    // All done: no event from here on, the tables of the runtime, and back to who called.
assault_finish:
    movz    w0, #{pe_mask_0}
    movk    w0, #{pe_mask_16}, lsl #16
    hvc     #0
    adr     x1, data
    ldr     x4, [x1, #{ttbr0}]
    msr     ttbr0_el1, x4
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    ldr     x4, [x1, #{vbar}]
    msr     vbar_el1, x4
    ldr     x4, [x1, #{tpidr}]
    msr     tpidr_el1, x4
    msr     spsel, #1
    ldr     x4, [x1, #{stack}]
    mov     sp, x4
    ldp     x19, x20, [x1, #{saved}]
    ldp     x21, x22, [x1, #{saved} + 16]
    ldp     x23, x24, [x1, #{saved} + 32]
    ldp     x25, x26, [x1, #{saved} + 48]
    ldp     x27, x28, [x1, #{saved} + 64]
    ldp     x29, x30, [x1, #{saved} + 80]
    isb
    ret

    // The C function: executes what stands in the slots, from the index on.
    .global assault_run
assault_run:
    adr     x1, data
    stp     x19, x20, [x1, #{saved}]
    stp     x21, x22, [x1, #{saved} + 16]
    stp     x23, x24, [x1, #{saved} + 32]
    stp     x25, x26, [x1, #{saved} + 48]
    stp     x27, x28, [x1, #{saved} + 64]
    stp     x29, x30, [x1, #{saved} + 80]
    mov     x4, sp
    str     x4, [x1, #{stack}]
    mrs     x4, ttbr0_el1
    str     x4, [x1, #{ttbr0}]
    mrs     x4, vbar_el1
    str     x4, [x1, #{vbar}]
    mrs     x4, tpidr_el1
    str     x4, [x1, #{tpidr}]
    mrs     x4, mpidr_el1
    str     x4, [x1, #{owner}]
    msr     daifset, #0xf
    adr     x4, assault_begin
    msr     vbar_el1, x4
    adr     x4, assault_begin + {tables}
    dsb     ish
    msr     ttbr0_el1, x4
    isb
    tlbi    vmalle1
    ic      iallu
    dsb     nsh
    isb
    ldr     x2, [x1, #{index}]
    b       assault_next

    // A handler of events: what was interrupted is given up, on the CPU whose block this is.
    .global assault_handler
assault_handler:
    adr     x1, data
    ldr     x2, [x1, #{owner}]
    mrs     x3, mpidr_el1
    cmp     x2, x3
    b.ne    assault_park
    adr     x1, assault_interrupted
    movz    w0, #{resume_0}
    movk    w0, #{resume_16}, lsl #16
    hvc     #0
    // Where a CPU ends that must not go on.
    .global assault_park
assault_park:
    movz    w0, #{cpu_off_0}
    movk    w0, #{cpu_off_16}, lsl #16
    hvc     #0
    b       assault_park
    .global assault_end
assault_end:
