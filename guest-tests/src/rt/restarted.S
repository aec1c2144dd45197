// A CPU that siblings switch on again and again, without an MMU. x0 = Shared (restarted.rs), which outlives the image.

    .section .text.restarted, "ax"
    .global restarted_entry
restarted_entry:
    ldr     x1, [x0, #{is_end_near}]
    cbnz    x1, 2f
    ldr     x1, [x0, #{starts}]
    add     x1, x1, #1
    str     x1, [x0, #{starts}]
    mov     w0, #(({CPU_OFF}) & 0xffff)
    movk    w0, #(({CPU_OFF}) >> 16), lsl #16
    smc     #0
1:  b       1b                                  // CPU_OFF was refused
// The machine is about to be reset: counts for as long as it runs.
2:  ldr     x1, [x0, #{turns}]
    add     x1, x1, #1
    str     x1, [x0, #{turns}]
    b       2b
