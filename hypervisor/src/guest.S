// Into the guest and back. A guest is a function call: guest_enter returns when the guest has exited and a handler
// says that it is to be left. An exit first saves what a call may change, and calls the handler for its vector: that is its
// short way. x20 to x28 are still the guest's then; the handler's functions keep them as any caller's (AAPCS64 6.1.1).
// SPSR_EL2 stays what it is, and where the handler changes no pc, ELR_EL2, too: on the short way EL2 takes no exception that it
// comes back from, but for events of EL3, which leaves both alone. (An exception that vectors.S fixes up changes both. What may
// raise one is not called on the short way.)
//
// While the guest runs, SP_EL2 points at the frame guest_enter made:
//   [sp, #0]    x19 .. x30 of the hypervisor (12 registers)
//   [sp, #96]   the vCPU, which begins with its GuestRegs
//   [sp, #104]  the handlers: for a synchronous exception, an IRQ, and others.
//               handler(vCPU, pc, vector) answers whether the guest goes on; the first two have no need of the vector
// FP and SIMD belong to the guest throughout: the hypervisor is compiled without them.

    .macro speculation_barrier
    dsb     nsh                                 // nothing behind an ERET is to be executed
    isb
    .endm

// From the vectors of a lower level. x0 and x1 are on the stack. Calls the handler at [sp, #\handler].
    .macro exit_short handler
    ldr     x0, [sp, #(16 + 96)]
    stp     x2, x3, [x0, #({X} + 16)]
    stp     x4, x5, [x0, #({X} + 32)]
    stp     x6, x7, [x0, #({X} + 48)]
    stp     x8, x9, [x0, #({X} + 64)]
    stp     x10, x11, [x0, #({X} + 80)]
    stp     x12, x13, [x0, #({X} + 96)]
    stp     x14, x15, [x0, #({X} + 112)]
    stp     x16, x17, [x0, #({X} + 128)]
    stp     x18, x19, [x0, #({X} + 144)]
    stp     x29, x30, [x0, #({X} + 232)]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0, #{X}]
    mrs     x1, elr_el2
    mrs     x2, spsr_el2
    stp     x1, x2, [x0, #{PC}]
    add     x29, sp, #80                        // the frame record of guest_enter's caller
    ldr     x3, [sp, #\handler]
    .endm

// The handler has answered in w0. Back, with x20 to x28 as the guest has them, or left.
    .macro return_short sets_pc
    tbz     w0, #0, guest_left
    ldr     x0, [sp, #96]
    .if \sets_pc
    ldr     x1, [x0, #{PC}]
    msr     elr_el2, x1
    .endif
    ldp     x2, x3, [x0, #({X} + 16)]
    ldp     x4, x5, [x0, #({X} + 32)]
    ldp     x6, x7, [x0, #({X} + 48)]
    ldp     x8, x9, [x0, #({X} + 64)]
    ldp     x10, x11, [x0, #({X} + 80)]
    ldp     x12, x13, [x0, #({X} + 96)]
    ldp     x14, x15, [x0, #({X} + 112)]
    ldp     x16, x17, [x0, #({X} + 128)]
    ldp     x18, x19, [x0, #({X} + 144)]
    ldp     x29, x30, [x0, #({X} + 232)]
    ldp     x0, x1, [x0, #{X}]
    eret
    speculation_barrier
    .endm

    .section .text.guest, "ax"

// x0 = vCPU, x1 to x3 = handlers for synchronous exceptions, IRQs and others.
    .global guest_enter
    .type guest_enter, %function
    .balign 64
    .global guest_switch
guest_switch:
guest_enter:
    str     x0, [x0, #{IS_PARTIAL}]             // anything but 0, until all is saved
    enter_guest
    eret
    speculation_barrier

    .global guest_synchronous
    .type guest_synchronous, %function
    .balign 64
guest_synchronous:
    exit_short 104
    blr     x3
    return_short 1

    .global guest_irq
    .type guest_irq, %function
    .balign 64
guest_irq:
    exit_short 112
    blr     x3
    return_short 0

    .global guest_fiq
    .type guest_fiq, %function
guest_fiq:
    exit_short 120
    mov     w2, #{FIQ}
    blr     x3
    return_short 0

    .global guest_serror
    .type guest_serror, %function
guest_serror:
    exit_short 120
    mov     w2, #{SERROR}
    blr     x3
    return_short 0

// The general way: all is saved.
guest_left:
    ldr     x0, [sp, #96]
    stp     x20, x21, [x0, #({X} + 160)]
    stp     x22, x23, [x0, #({X} + 176)]
    stp     x24, x25, [x0, #({X} + 192)]
    stp     x26, x27, [x0, #({X} + 208)]
    str     x28, [x0, #({X} + 224)]
    str     xzr, [x0, #{IS_PARTIAL}]
    ldp     x19, x20, [sp, #0]
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    add     sp, sp, #128
    ret
    .global guest_switch_end
guest_switch_end:

    .purgem enter_guest
    .purgem exit_short
    .purgem return_short
