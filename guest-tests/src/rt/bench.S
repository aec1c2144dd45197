// Measured moments: the counter is read right before the cause and first thing in the effect.

    .section .text.bench, "ax"

// Vectors whose interrupt handler notes the count in x16, silences the virtual timer and ends the
// interrupt. x16 and x17 are the measured code's to lose. All else goes to the ordinary vectors.
.macro bench_slot n
    .balign 128
    b       vectors_table + 128 * \n
.endm

.macro bench_table name, interrupt
    .balign 2048
    .global \name
\name:
    bench_slot 0
    bench_slot 1
    bench_slot 2
    bench_slot 3
    bench_slot 4
    .balign 128
    \interrupt
    bench_slot 6
    bench_slot 7
    bench_slot 8
    bench_slot 9
    bench_slot 10
    bench_slot 11
    bench_slot 12
    bench_slot 13
    bench_slot 14
    bench_slot 15
.endm

.macro bench_interrupt
    mrs     x16, cntvct_el0
    mrs     x17, icc_iar1_el1
    msr     cntv_ctl_el0, xzr
    msr     icc_eoir1_el1, x17
    eret
.endm

// With a GICv2: its interface's address is in a word, and there is a stack for one more register.
.macro bench_interrupt_v2
    mrs     x16, cntvct_el0
    msr     cntv_ctl_el0, xzr
    adrp    x17, {gicc}
    ldr     x17, [x17, :lo12:{gicc}]
    str     x0, [sp, #-16]!
    ldr     w0, [x17, #{iar}]
    str     w0, [x17, #{eoir}]
    ldr     x0, [sp], #16
    eret
.endm

    bench_table bench_vectors, bench_interrupt
    bench_table bench_vectors_v2, bench_interrupt_v2

// x0 = value for ICC_SGI1R_EL1 that names this CPU; returns ticks until its handler.
    .global bench_sgi_to_self
bench_sgi_to_self:
    mov     x16, xzr
    msr     daifclr, #2
    isb
    mrs     x9, cntvct_el0
    msr     icc_sgi1r_el1, x0
1:  cbz     x16, 1b
    msr     daifset, #2
    sub     x0, x16, x9
    ret

// x0 = value for ICC_SGI1R_EL1; returns the count right before the write.
    .global bench_send_sgi
bench_send_sgi:
    mov     x1, x0
    isb
    mrs     x0, cntvct_el0
    msr     icc_sgi1r_el1, x1
    isb
    ret

// The same with a GICv2: w0 = value for GICD_SGIR, x1 = its address.
    .global bench_sgi_to_self_v2
bench_sgi_to_self_v2:
    mov     x16, xzr
    msr     daifclr, #2
    isb
    mrs     x9, cntvct_el0
    str     w0, [x1]
7:  cbz     x16, 7b
    msr     daifset, #2
    sub     x0, x16, x9
    ret

    .global bench_send_sgi_v2
bench_send_sgi_v2:
    mov     x2, x0
    isb
    mrs     x0, cntvct_el0
    str     w2, [x1]
    isb
    ret

// x0 = where to say that this CPU waits; returns the count in the handler of the next interrupt.
    .global bench_wait_spinning
bench_wait_spinning:
    mov     x16, xzr
    mov     x1, #1
    msr     daifclr, #2
    stlr    x1, [x0]
2:  cbz     x16, 2b
    msr     daifset, #2
    mov     x0, x16
    ret

    .global bench_wait_in_wfi
bench_wait_in_wfi:
    mov     x16, xzr
    mov     x1, #1
    msr     daifclr, #2
    stlr    x1, [x0]
3:  wfi
    cbz     x16, 3b
    msr     daifset, #2
    mov     x0, x16
    ret

// x0 = how far ahead; returns ticks from the expiry of the virtual timer to its handler.
    .global bench_timer_in_wfi
bench_timer_in_wfi:
    mov     x16, xzr
    isb
    mrs     x9, cntvct_el0
    add     x9, x9, x0
    msr     cntv_cval_el0, x9
    mov     x1, #1
    msr     cntv_ctl_el0, x1
    isb
    msr     daifclr, #2
4:  wfi
    cbz     x16, 4b
    msr     daifset, #2
    sub     x0, x16, x9
    ret

// The same; returns ticks from its handler until what was interrupted goes on: the end of the interrupt.
    .global bench_timer_end
bench_timer_end:
    mov     x16, xzr
    isb
    mrs     x9, cntvct_el0
    add     x9, x9, x0
    msr     cntv_cval_el0, x9
    mov     x1, #1
    msr     cntv_ctl_el0, x1
    isb
    msr     daifclr, #2
8:  wfi
    cbz     x16, 8b
    mrs     x9, cntvct_el0
    msr     daifset, #2
    sub     x0, x9, x16
    ret

// A handler of event 0; x1 = where the count goes, followed by whether the conduit is SMC.
    .balign 16
    .global bench_sdei_entry
bench_sdei_entry:
    mrs     x3, cntvct_el0
    str     x3, [x1]
    ldr     x2, [x1, #8]
    ldr     w0, ={complete}
    mov     x1, xzr
    cbnz    x2, 5f
    hvc     #0
5:  smc     #0
    b       .

// x0 = EVENT_SIGNAL, x1 = affinity, x2 = by SMC; returns the count right before the call.
    .global bench_signal
bench_signal:
    mov     x3, x2
    mov     x2, x1
    mov     x1, xzr
    isb
    mrs     x9, cntvct_el0
    cbnz    x3, 6f
    hvc     #0
    mov     x0, x9
    ret
6:  smc     #0
    mov     x0, x9
    ret

    .ltorg
