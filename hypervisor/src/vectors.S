// The exception table of EL2 (DDI0487 D1.3.1.2). A guest's exceptions go to guest.S; EL2's own
// are all fatal and are reported (fault.rs).

    .macro guest_vector exit
    .balign 128
    stp     x0, x1, [sp, #-16]!
    b       \exit
    .endm

// No register is free and the stack may be gone: x0 and SP wait in the guest's thread registers, which
// nobody will need again.
    .macro fault_vector slot
    .balign 128
    msr     tpidr_el0, x0
    mov     x0, sp
    msr     tpidrro_el0, x0
    mov     x0, #\slot
    b       fault_entry
    .endm

    .section .vectors, "ax"
    .balign 2048
    .global vectors
vectors:
    fault_vector 0                              // current EL, SP_EL0: synchronous
    fault_vector 1                              //                     IRQ
    fault_vector 2                              //                     FIQ
    fault_vector 3                              //                     SError
    fault_vector 4                              // current EL, SP_EL2: synchronous
    fault_vector 5                              //                     IRQ
    fault_vector 6                              //                     FIQ
    fault_vector 7                              //                     SError
    guest_vector guest_synchronous              // lower EL, AArch64
    guest_vector guest_irq
    guest_vector guest_fiq
    guest_vector guest_serror
    guest_vector guest_synchronous              // lower EL, AArch32 (EL0 of a guest)
    guest_vector guest_irq
    guest_vector guest_fiq
    guest_vector guest_serror
    .balign 128
    .global vectors_end
vectors_end:

// x0 = slot. Builds a FaultFrame on this pCPU's emergency stack, and no other: SP may be anything.
    .section .text.fault, "ax"
    .type fault_entry, %function
fault_entry:
    msr     spsel, #1
    mov     sp, x0                              // the slot, for as long as x0 is needed
    mrs     x0, tpidr_el2
    cbz     x0, 1f
    ldr     x0, [x0, #{EMERGENCY_TOP}]
    b       2f
1:  adrp    x0, {EARLY_STACK}                   // before this pCPU has a block of its own
    add     x0, x0, #{EARLY_STACK_SIZE}
2:  sub     x0, x0, #{FRAME_SIZE}
    stp     x2, x3, [x0, #({FRAME_X} + 16)]
    stp     x4, x5, [x0, #({FRAME_X} + 32)]
    stp     x6, x7, [x0, #({FRAME_X} + 48)]
    stp     x8, x9, [x0, #({FRAME_X} + 64)]
    stp     x10, x11, [x0, #({FRAME_X} + 80)]
    stp     x12, x13, [x0, #({FRAME_X} + 96)]
    stp     x14, x15, [x0, #({FRAME_X} + 112)]
    stp     x16, x17, [x0, #({FRAME_X} + 128)]
    stp     x18, x19, [x0, #({FRAME_X} + 144)]
    stp     x20, x21, [x0, #({FRAME_X} + 160)]
    stp     x22, x23, [x0, #({FRAME_X} + 176)]
    stp     x24, x25, [x0, #({FRAME_X} + 192)]
    stp     x26, x27, [x0, #({FRAME_X} + 208)]
    stp     x28, x29, [x0, #({FRAME_X} + 224)]
    str     x30, [x0, #({FRAME_X} + 240)]
    mrs     x2, tpidr_el0
    stp     x2, x1, [x0, #{FRAME_X}]
    mov     x1, sp                              // the slot
    mov     sp, x0
    mrs     x2, tpidrro_el0
    str     x2, [x0, #{FRAME_SP}]
    mrs     x2, elr_el2
    str     x2, [x0, #{FRAME_PC}]
    mrs     x2, spsr_el2
    str     x2, [x0, #{FRAME_PSTATE}]
    mrs     x2, esr_el2
    str     x2, [x0, #{FRAME_ESR}]
    mrs     x2, far_el2
    str     x2, [x0, #{FRAME_FAR}]
    str     x1, [x0, #{FRAME_SLOT}]
    mov     x29, xzr
    mov     x30, xzr
    b       {report}
