// The exception table of EL2 (DDI0487 D1.3.1.2). A guest's exceptions go to guest.S; EL2's own
// are fatal and are reported (fault.rs), but for those of a few instructions, which are fixed up.

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
    .balign 128                                 // current EL, SP_EL2: synchronous
    msr     tpidr_el0, x0
    msr     tpidrro_el0, x1
    mrs     x0, elr_el2
    adr     x1, fixup_begin
    sub     x1, x0, x1
    cmp     x1, #(fixup_end - fixup_begin)
    b.lo    fix_up
    mrs     x1, tpidrro_el0
    mov     x0, sp
    msr     tpidrro_el0, x0
    mov     x0, #4
    b       fault_entry
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

// An exception of one of these instructions is no fault: the instruction is passed over, and PAR_EL1 says that an address has
// no translation. They use no stack, and TPIDR_EL0 and TPIDRRO_EL0 are lost where one is passed over. x0 is their address.
    .section .text.fixup_range, "ax"
fixup_begin:
// Where EL1 would read x0 is in PAR_EL1 afterwards. A walk that meets an external abort ends in an exception (DDI0487
// D8.16, "Synchronous External abort during execution of an address translation instruction").
    .global translate_read_of_el1
    .type translate_read_of_el1, %function
translate_read_of_el1:
    mrs     x9, tpidr_el0
    mrs     x10, tpidrro_el0
    at      s12e1r, x0
    isb
    msr     tpidr_el0, x9
    msr     tpidrro_el0, x10
    ret

// The same of what stage 1 makes of it: the guest's physical address is in PAR_EL1 afterwards.
    .global translate_stage1_of_el1
    .type translate_stage1_of_el1, %function
translate_stage1_of_el1:
    mrs     x9, tpidr_el0
    mrs     x10, tpidrro_el0
    at      s1e1r, x0
    isb
    msr     tpidr_el0, x9
    msr     tpidrro_el0, x10
    ret

// What is left of self-hosted and external debug: double lock, claim tags, a request to stay powered, the debug communications channel,
// and its exceptions, as after a cold reset (DDI0487 D24.3); but for the OS lock, which is open (`hv_core::os_lock`). QEMU knows the
// claim tags and the channel's registers from version 8 on.
    .global clear_debug_registers
    .type clear_debug_registers, %function
clear_debug_registers:
    .if {IS_FAULT_INJECTION}
    udf     #0                                  // so that one is passed over, where QEMU knows all of them
    .endif
    mov     w9, #0xff
    msr     S2_0_C7_C9_6, x9                    // DBGCLAIMCLR_EL1
    msr     S2_0_C0_C0_2, xzr                   // OSDTRRX_EL1
    msr     S2_0_C0_C3_2, xzr                   // OSDTRTX_EL1
    msr     S2_0_C1_C4_4, xzr                   // DBGPRCR_EL1
    msr     S2_0_C1_C3_4, xzr                   // OSDLR_EL1
    mov     w9, #1
    msr     S2_0_C1_C0_4, x9                    // OSLAR_EL1
    isb
    msr     S2_0_C0_C6_2, xzr                   // OSECCR_EL1, while the lock is held
    msr     S2_0_C0_C2_2, xzr                   // MDSCR_EL1, with HDE and TDA
    msr     S2_0_C1_C0_4, xzr                   // OSLAR_EL1
    isb
    ret
fixup_end:

    .section .text.fix_up, "ax"
fix_up:
    add     x0, x0, #4
    msr     elr_el2, x0
    mov     x0, #1                              // PAR_EL1.F
    msr     par_el1, x0
    mrs     x1, tpidrro_el0
    mrs     x0, tpidr_el0
    eret

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
