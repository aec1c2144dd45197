// Every register holds a known pattern while one instruction, or a loop, makes the machine exit.
// SP points at the Held block: exceptions taken meanwhile use the room below it.

    .arch_extension fp
    .arch_extension simd
    .section .text.patterns, "ax"

// x0 = Held. Saves the caller's registers and SP, then loads everything.
.macro patterns_load
    stp     x29, x30, [sp, #-96]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    mov     x1, sp
    str     x1, [x0, #{saved_sp}]
    mov     sp, x0
    ldr     x0, [sp, #{before} + {nzcv}]
    msr     nzcv, x0
    ldr     x0, [sp, #{before} + {fpcr}]
    msr     fpcr, x0
    ldr     x0, [sp, #{before} + {fpsr}]
    msr     fpsr, x0
    ldr     x0, [sp, #{before} + {sp_el0}]
    msr     sp_el0, x0
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ldr     q\n, [sp, #{before} + {q} + 16 * \n]
    .endr
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    ldr     x\n, [sp, #{before} + {x} + 8 * \n]
    .endr
.endm

// Stores everything and returns to the caller.
.macro patterns_store
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    str     x\n, [sp, #{after} + {x} + 8 * \n]
    .endr
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    str     q\n, [sp, #{after} + {q} + 16 * \n]
    .endr
    mrs     x0, nzcv
    str     x0, [sp, #{after} + {nzcv}]
    mrs     x0, fpcr
    str     x0, [sp, #{after} + {fpcr}]
    mrs     x0, fpsr
    str     x0, [sp, #{after} + {fpsr}]
    mrs     x0, sp_el0
    str     x0, [sp, #{after} + {sp_el0}]
    mrs     x0, daif
    mov     x1, sp
    ldr     x2, [sp, #{saved_sp}]
    mov     sp, x2
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #96
    ret
.endm

// Returns DAIF in x0 and SP in x1 as they were after the instruction.
.macro patterns_across name, instruction:vararg
    .balign 16
    .global patterns_\name
patterns_\name:
    patterns_load
    \instruction
    patterns_store
.endm

    patterns_across nothing, nop
    patterns_across hvc, hvc #0
    patterns_across smc, smc #0
    patterns_across identification, mrs x5, id_aa64pfr0_el1
    patterns_across load, ldr w1, [x0]
    patterns_across load_high, ldr w30, [x29]
    patterns_across load_zero, ldr wzr, [x18]
    patterns_across store, str w1, [x0]
    patterns_across store_high, str w30, [x29]
    patterns_across load_64, ldr x1, [x0]
    patterns_across sgi, msr icc_sgi1r_el1, x0
    patterns_across wfi, wfi
    patterns_across yield, yield

// Spins until an interrupt or an event moves it to the end label.
    .balign 16
    .global patterns_spin, patterns_spin_here, patterns_spin_end
patterns_spin:
    patterns_load
patterns_spin_here:
    b       patterns_spin_here
patterns_spin_end:
    patterns_store

// Asks for PSCI_VERSION x28 times, and adds the answers to x27.
    .balign 16
    .global patterns_calls
patterns_calls:
    patterns_load
1:  movz    w0, #0x8400, lsl #16
    hvc     #0
    add     x27, x27, x0
    sub     x28, x28, #1
    cbnz    x28, 1b
    patterns_store
