// Where a pCPU is stuck among registers that are the guest's, or an exception's (fault_injection.rs).

    .section .text.fault_injection, "ax"

// x0 = GuestRegs, x1 = how many are to be stuck and are not, a byte. Stuck where everything is the guest's already.
    .global guest_enter_stuck
    .type guest_enter_stuck, %function
guest_enter_stuck:
1:  ldxrb   w2, [x1]
    sub     w2, w2, #1
    stlxrb  w3, w2, [x1]
    cbnz    w3, 1b
    enter_guest
    b       .
    .size guest_enter_stuck, . - guest_enter_stuck

    .purgem enter_guest

// From now on this pCPU gets stuck at whatever exception it takes, without a word. Clobbers x0.
    .global break_vectors
    .type break_vectors, %function
break_vectors:
    adrp    x0, broken_vectors
    add     x0, x0, :lo12:broken_vectors
    msr     vbar_el2, x0
    isb
    ret
    .size break_vectors, . - break_vectors

// Every exception comes to a branch to itself, with its registers live.
    .section .text.broken_vectors, "ax"
    .balign 2048
    .global broken_vectors
    .type broken_vectors, %function
broken_vectors:
    .rept 16
    b       .
    .balign 128
    .endr
    .size broken_vectors, . - broken_vectors
