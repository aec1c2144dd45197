// Excursions to EL0: code that runs at an alias its own level may use, and the way back.

    .section .text.user, "ax"

// x0 = where to enter EL0, x1 = SPSR, x2 = a number for the program: comes back by user_return, at EL1h with SP as it is now.
    .global user_enter
user_enter:
    stp     x29, x30, [sp, #-96]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    msr     elr_el1, x0
    msr     spsr_el1, x1
    mov     x0, x2
    mov     x1, xzr
    mov     x2, xzr
    mov     x4, #4
    mov     x17, #17
    mov     x18, #18
    eret

    .global user_return
user_return:
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #96
    ret

// What runs at EL0. Each but the loop ends in an exception.
    .global user_smc, user_hvc, user_svc, user_spin, user_count
user_smc:
    mov     w0, #0x84000000
    smc     #0
user_hvc:
    mov     w0, #0x84000000
    hvc     #0
user_svc:
    svc     #0
user_spin:
    b       user_spin
// x1 counts, one for two instructions.
user_count:
    add     x1, x1, #1
    b       user_count

// The same in A32 and T32, by encoding: this assembler knows neither (DDI0487 F5).
    .balign 4
    .global user_spin_a32, user_count_t32
user_spin_a32:
    .inst   0xeafffffe              // b .
// r1 counts to r0, r2 to one less in IT blocks; then SVC.
user_count_t32:
    .short  0x3101                  // 0:  adds r1, #1
    .short  0x4281                  // 2:  cmp r1, r0
    .short  0xbf18                  // 4:  it ne
    .short  0x3201                  // 6:  addne r2, #1
    .short  0xd1fa                  // 8:  bne 0b
    .short  0xdf00                  // 10: svc #0
