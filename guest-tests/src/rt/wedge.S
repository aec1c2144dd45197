// Ways to be stuck. x19 = Escape: where the caller's registers wait for the handler that gets us out by
// COMPLETE_AND_RESUME at wedge_escape. Each loop lies between its name and name_end.

    .section .text.wedge, "ax"

.macro wedge_begin name
    .balign 16
    .global wedge_into_\name, wedge_\name, wedge_\name\()_end
wedge_into_\name:
    stp     x19, x20, [x0, #0]
    stp     x21, x22, [x0, #16]
    stp     x23, x24, [x0, #32]
    stp     x25, x26, [x0, #48]
    stp     x27, x28, [x0, #64]
    stp     x29, x30, [x0, #80]
    mov     x2, sp
    mrs     x3, daif
    stp     x2, x3, [x0, #96]
    mov     x19, x0
    msr     daifset, #0xf
.endm

// DAIF masked, a branch to itself.
    wedge_begin spin
wedge_spin:
    b       wedge_spin
wedge_spin_end:

// A lock nobody releases.
    wedge_begin lock
    add     x1, x19, #{lock}
    mov     w3, #1
    str     w3, [x1]
wedge_lock:
    ldaxr   w2, [x1]
    cbz     w2, wedge_lock_end
    yield
    b       wedge_lock
wedge_lock_end:
    b       .

// Waits for an interrupt with everything masked.
    wedge_begin wfi
    dsb     sy
wedge_wfi:
    wfi
    b       wedge_wfi
wedge_wfi_end:

// Waits for an event that nobody sends.
    wedge_begin wfe
wedge_wfe:
    wfe
    b       wedge_wfe
wedge_wfe_end:

// The stack pointer is no address at all, and misaligned.
    wedge_begin stack
    ldr     x1, =0xdead5ead00000001
    mov     sp, x1
wedge_stack:
    b       wedge_stack
wedge_stack_end:

// MMU and data cache off, as in early boot.
    wedge_begin mmu
    dsb     sy
    mrs     x1, sctlr_el1
    bic     x1, x1, #1 << 0
    bic     x1, x1, #1 << 2
    msr     sctlr_el1, x1
    isb
wedge_mmu:
    b       wedge_mmu
wedge_mmu_end:

// Calls the hypervisor for ever: x1 = function, x2 = by SMC.
    wedge_begin call
    mov     x4, x1
    ldr     x5, [x19, #{by_smc}]
wedge_call:
    mov     x0, x4
    cbnz    x5, 1f
    hvc     #0
    b       wedge_call
1:  smc     #0
    b       wedge_call
wedge_call_end:

// Signals event 0 to itself for ever: x1 = its affinity.
    wedge_begin signal
    mov     x4, x1
    ldr     x5, [x19, #{by_smc}]
wedge_signal:
    ldr     w0, ={signal}
    mov     x1, xzr
    mov     x2, x4
    cbnz    x5, 1f
    hvc     #0
    b       wedge_signal
1:  smc     #0
    b       wedge_signal
wedge_signal_end:

// Vectors where nothing is: every fetch of the first one aborts to the first one. x1 = VBAR_EL1.
    wedge_begin vectors
    msr     vbar_el1, x1
    isb
wedge_vectors:
    udf     #0
wedge_vectors_end:

// Stays in EL1t, on the other stack pointer.
    wedge_begin thread
    msr     spsel, #0
wedge_thread:
    b       wedge_thread
wedge_thread_end:

// The way out: x19 = Escape, EL1h, DAIF masked.
    .balign 16
    .global wedge_escape
wedge_escape:
    mrs     x1, sctlr_el1
    tbnz    x1, #0, 1f
    orr     x1, x1, #1 << 0
    orr     x1, x1, #1 << 2
    msr     sctlr_el1, x1
    isb
1:  mov     x0, x19
    ldp     x2, x3, [x0, #96]
    mov     sp, x2
    msr     daif, x3
    ldp     x19, x20, [x0, #0]
    ldp     x21, x22, [x0, #16]
    ldp     x23, x24, [x0, #32]
    ldp     x25, x26, [x0, #48]
    ldp     x27, x28, [x0, #64]
    ldp     x29, x30, [x0, #80]
    ret

    .ltorg
