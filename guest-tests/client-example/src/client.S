// Where the client begins, and where the firmware enters it with an event.

    .equ EVENT_COMPLETE, 0xc4000025     // DEN0054 5.1.5, SDEI_EVENT_COMPLETE
    .equ SYSTEM_OFF, 0x84000008         // DEN0022 5.1.9

    .section .head, "ax"
    .global client
client:
    adrp    x0, __stack_end
    add     x0, x0, :lo12:__stack_end
    mov     sp, x0
    bl      run
    ldr     w0, =SYSTEM_OFF
    smc     #0
1:  wfi
    b       1b

// The handler: x0 the event, x1 what was given when it was registered, x2 and x3 PC and PSTATE of what is interrupted. The firmware gives
// x0 to x17 back to that when the event is completed; the handler has to leave all other registers as they were (DEN0054 4.3). The stack
// is that of what is interrupted, which needs nothing below its end.
    .text
    .global event_handler
event_handler:
    stp     x29, x30, [sp, #-32]!
    str     x18, [sp, #16]
    mov     x29, sp
    bl      handle
    ldr     x18, [sp, #16]
    ldp     x29, x30, [sp], #32
    ldr     w0, =EVENT_COMPLETE
    mov     x1, xzr
    smc     #0
2:  b       2b                          // a call that comes back has failed
