// Where event 0 enters: everything the handler sees goes into its Slot (x1, the registration argument),
// then Rust decides on a stack of its own. SP_EL1, and the MMU, may be anything.

    .section .text.sdei, "ax"

// All that the handler found, into the Slot in x1, and that into x19.
.macro sdei_note
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    str     x\n, [x1, #{x} + 8 * \n]
    .endr
    mov     x19, x1
    mov     x0, sp
    str     x0, [x19, #{sp}]
    mrs     x0, nzcv
    str     x0, [x19, #{nzcv}]
    mrs     x0, daif
    str     x0, [x19, #{daif}]
    mrs     x0, currentel
    str     x0, [x19, #{current_el}]
    mrs     x0, spsel
    str     x0, [x19, #{spsel}]
    mrs     x0, elr_el1
    str     x0, [x19, #{elr}]
    mrs     x0, spsr_el1
    str     x0, [x19, #{spsr}]
.endm

    .balign 16
    .global sdei_entry
sdei_entry:
    // x0 is the event number. With the MMU off, turn it on before the first store: M, C and I.
    msr     tpidrro_el0, x0
    mrs     x0, sctlr_el1
    msr     tpidr_el0, x0
    tbnz    x0, #0, 1f
    orr     x0, x0, #1 << 0
    orr     x0, x0, #1 << 2
    orr     x0, x0, #1 << 12
    msr     sctlr_el1, x0
    isb
1:
    mrs     x0, tpidrro_el0
    sdei_note
    mrs     x0, tpidr_el0
    str     x0, [x19, #{sctlr}]
    b       sdei_run

// The same for critical events, which may come while the above runs: with the MMU on, and no register of
// the system in between.
    .balign 16
    .global sdei_entry_critical
sdei_entry_critical:
    sdei_note
    mrs     x0, sctlr_el1
    str     x0, [x19, #{sctlr}]

sdei_run:
    msr     spsel, #1
    ldr     x0, [x19, #{stack_top}]
    mov     sp, x0
    mov     x0, x19
    mov     x29, xzr
    mov     x30, xzr
    bl      {handle}

    // Back as it was, by the call that the slot in x19 names. The dispatcher restores x0 to x17.
    .global sdei_end
sdei_end:
    mov     x1, x19
    ldr     x0, [x1, #{sctlr}]
    tbnz    x0, #0, 2f
    dsb     sy
    msr     sctlr_el1, x0
    isb
2:
    .irp    n, 18,19,20,21,22,23,24,25,26,27,28,29,30
    ldr     x\n, [x1, #{x} + 8 * \n]
    .endr
    ldr     x0, [x1, #{sp}]
    mov     sp, x0
    ldr     x2, [x1, #{by_smc}]
    ldr     x0, [x1, #{function}]
    mov     x3, x1
    ldr     x1, [x1, #{parameter}]
    cbnz    x2, 3f
    hvc     #0
    b       4f
3:  smc     #0
4:  // Still here: refused. A stack again, and Rust reports x0.
    ldr     x1, [x3, #{stack_top}]
    mov     sp, x1
    b       {refused}

// x0 = Frame of an exception in a handler that changed nothing yet, x1 = conduit is SMC, x2 = function:
// completes the event from there.
    .global sdei_complete_from_frame
sdei_complete_from_frame:
    .irp    n, 18,19,20,21,22,23,24,25,26,27,28,29,30
    ldr     x\n, [x0, #{frame_x} + 8 * \n]
    .endr
    ldr     x3, [x0, #{frame_sp}]
    mov     sp, x3
    mov     x0, x2
    cbnz    x1, 5f
    mov     x1, xzr
    hvc     #0
5:  mov     x1, xzr
    smc     #0
    b       .

// x0 = Slot, x1 = x0-x17 to call with, x2 = conduit is SMC: completes with these registers.
    .global sdei_complete_raw
sdei_complete_raw:
    .irp    n, 18,19,20,21,22,23,24,25,26,27,28,29,30
    ldr     x\n, [x0, #{x} + 8 * \n]
    .endr
    ldr     x3, [x0, #{sp}]
    mov     sp, x3
    mov     x17, x1
    cmp     x2, #0
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17
    ldr     x\n, [x17, #8 * \n]
    .endr
    b.ne    6f
    hvc     #0
6:  smc     #0
    b       .
