// EL3 delivers event 0 to this pCPU (DEN0054 5.2). It may have interrupted anything: the guest, EL2, the
// first or the last instruction of a vector. ELR_EL2, SPSR_EL2, ESR_EL2 and FAR_EL2 may be live, and SP
// anything at all, so nothing here takes an exception or trusts SP. EL3 has x0 to x17, pc and PSTATE of what
// was interrupted; the rest is ours to keep.
//
// In: x0 = event, x1 = what was registered: this pCPU's block; x2 = interrupted pc, x3 = interrupted PSTATE;
// EL2h, all masked.
    .section .text.sdei_entry, "ax"
    .global sdei_entry
    .type sdei_entry, %function
    .balign 64
sdei_entry:
    ldr     x0, [x1, #{EVENT_TOP}]
    sub     x0, x0, #{FRAME_SIZE}
    stp     x2, x3, [x0, #{FRAME_PC}]
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
    mov     x2, sp
    stp     x30, x2, [x0, #({FRAME_X} + 240)]   // and sp, which follows
    mov     sp, x0
    mov     x19, x0
    mov     x29, xzr
    mov     x30, xzr
    bl      {take_event}                        // (frame, block); w0: go on, or be switched off
    tbnz    w0, #0, 1f

    ldr     x2, [x19, #({FRAME_X} + 248)]
    mov     sp, x2
    mov     x0, x19
    ldp     x18, x19, [x0, #({FRAME_X} + 144)]
    ldp     x20, x21, [x0, #({FRAME_X} + 160)]
    ldp     x22, x23, [x0, #({FRAME_X} + 176)]
    ldp     x24, x25, [x0, #({FRAME_X} + 192)]
    ldp     x26, x27, [x0, #({FRAME_X} + 208)]
    ldp     x28, x29, [x0, #({FRAME_X} + 224)]
    ldr     x30, [x0, #({FRAME_X} + 240)]
    movz    w0, #({COMPLETE} & 0xffff)
    movk    w0, #({COMPLETE} >> 16), lsl #16
    mov     x1, xzr                             // handled
    smc     #0
    b       {halt_here}                         // firmware that refuses leaves nowhere to go

// ELR_EL2 and SPSR_EL2 are lost here, and nobody needs them any more (hv_core::stop::leaving).
1:  movz    w0, #({RESUME} & 0xffff)
    movk    w0, #({RESUME} >> 16), lsl #16
    adr     x1, 2f
    smc     #0
    b       {halt_here}
2:  mrs     x0, tpidr_el2
    ldr     x0, [x0, #{EVENT_TOP}]
    mov     sp, x0
    mov     x29, xzr
    mov     x30, xzr
    b       {go_off}
