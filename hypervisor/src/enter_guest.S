// The way into the guest, up to its ERET: x0 to x3 as of guest_enter. guest.S says what is where on the stack. The test image has
// it twice: there, and in a function that never reaches the guest (fault_injection.S).

    .macro enter_guest
    sub     sp, sp, #128
    stp     x19, x20, [sp, #0]
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    stp     x0, x1, [sp, #96]
    stp     x2, x3, [sp, #112]

    ldp     x1, x2, [x0, #{PC}]
    msr     elr_el2, x1
    msr     spsr_el2, x2

    ldp     x2, x3, [x0, #({X} + 16)]
    ldp     x4, x5, [x0, #({X} + 32)]
    ldp     x6, x7, [x0, #({X} + 48)]
    ldp     x8, x9, [x0, #({X} + 64)]
    ldp     x10, x11, [x0, #({X} + 80)]
    ldp     x12, x13, [x0, #({X} + 96)]
    ldp     x14, x15, [x0, #({X} + 112)]
    ldp     x16, x17, [x0, #({X} + 128)]
    ldp     x18, x19, [x0, #({X} + 144)]
    ldp     x20, x21, [x0, #({X} + 160)]
    ldp     x22, x23, [x0, #({X} + 176)]
    ldp     x24, x25, [x0, #({X} + 192)]
    ldp     x26, x27, [x0, #({X} + 208)]
    ldp     x28, x29, [x0, #({X} + 224)]
    ldr     x30, [x0, #({X} + 240)]
    ldp     x0, x1, [x0, #{X}]
    .endm

