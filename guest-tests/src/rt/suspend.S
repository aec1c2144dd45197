// SYSTEM_SUSPEND and the way back: what a compiler keeps across a call goes into a record, and comes back
// from it at an entry where the MMU is off.

    .section .text.suspend, "ax"

// x0 = Record, x1 = function, x2 = conduit is SMC. Returns what a refused call answers, or 1 once awake.
    .global suspend_system
suspend_system:
    stp     x19, x20, [x0, #{callee}]
    stp     x21, x22, [x0, #{callee} + 16]
    stp     x23, x24, [x0, #{callee} + 32]
    stp     x25, x26, [x0, #{callee} + 48]
    stp     x27, x28, [x0, #{callee} + 64]
    stp     x29, x30, [x0, #{callee} + 80]
    mov     x3, sp
    str     x3, [x0, #{callee} + 96]
    mov     x3, x2
    mov     x2, x0
    mov     x0, x1
    adr     x1, wake_up
    dsb     sy
    cbnz    x3, 1f
    hvc     #0
    ret
1:  smc     #0
    ret

// x0 = Record, as the call's context.
wake_up:
    mrs     x10, sctlr_el1
    mrs     x11, daif
    mrs     x12, currentel
    mrs     x13, spsel
    mov     x19, x0
    bl      start_mmu_on
    str     x10, [x19, #{sctlr}]
    str     x11, [x19, #{daif}]
    str     x12, [x19, #{current_el}]
    str     x13, [x19, #{spsel}]
    mov     x0, x19
    ldp     x19, x20, [x0, #{callee}]
    ldp     x21, x22, [x0, #{callee} + 16]
    ldp     x23, x24, [x0, #{callee} + 32]
    ldp     x25, x26, [x0, #{callee} + 48]
    ldp     x27, x28, [x0, #{callee} + 64]
    ldp     x29, x30, [x0, #{callee} + 80]
    ldr     x3, [x0, #{callee} + 96]
    mov     sp, x3
    mov     x0, #1
    ret
