// Lines of `name=hex`, one a fact; see the macros for those of memory and devicetree. No stack: x30 is the only link.
//
// x19 where the program is, x20 the devicetree, x18 the UART, x28 whether an instruction has faulted.

    .equ VIRT_UART, 0x09000000          // QEMU hw/arm/virt.c
    .equ PI_UART, 0xfe201000            // BCM2711 ARM Peripherals 1.2.4 and 11.5
    .equ UARTFR, 0x18                   // DDI0183 3.2
    .equ UARTFR_TXFF_BIT, 5
    .equ PAGE, 0x1000
    .equ MOST_FAULTS, 0x8000            // pages without memory in a row, 128 MiB, that end the search
    .equ SYSTEM_OFF, 0x84000008         // DEN0022 5.1.9

    .section .flat, "ax"
    .global flat
flat:
    // TPIDR_EL1 has nothing yet that anybody wants.
    msr     tpidr_el1, x30
    adr     x30, frame
    stp     x0, x1, [x30]
    stp     x2, x3, [x30, #16]
    stp     x4, x5, [x30, #32]
    stp     x6, x7, [x30, #48]
    stp     x8, x9, [x30, #64]
    stp     x10, x11, [x30, #80]
    stp     x12, x13, [x30, #96]
    stp     x14, x15, [x30, #112]
    stp     x16, x17, [x30, #128]
    stp     x18, x19, [x30, #144]
    stp     x20, x21, [x30, #160]
    stp     x22, x23, [x30, #176]
    stp     x24, x25, [x30, #192]
    stp     x26, x27, [x30, #208]
    stp     x28, x29, [x30, #224]
    mrs     x0, tpidr_el1
    mov     x1, sp
    stp     x0, x1, [x30, #240]
    mrs     x0, currentel
    mrs     x1, daif
    stp     x0, x1, [x30, #256]
    ldr     x0, =flat                   // where it is linked
    adr     x19, flat
    stp     x0, x19, [x30, #272]
    ldr     x20, [x30]
    add     x30, x30, #288
    .irp    name, spsel, nzcv, sctlr_el1, cpacr_el1, ttbr0_el1, ttbr1_el1, tcr_el1, mair_el1, amair_el1, vbar_el1, contextidr_el1, esr_el1, far_el1, afsr0_el1, afsr1_el1, elr_el1, spsr_el1, sp_el0, tpidr_el0, tpidrro_el0, par_el1, mdscr_el1, csselr_el1, cntkctl_el1, cntv_ctl_el0, cntv_cval_el0, cntp_ctl_el0, cntp_cval_el0, osdlr_el1, oslsr_el1
    mrs     x0, \name
    str     x0, [x30], #8
    .endr

    adr     x0, vectors
    mrs     x1, currentel
    tbnz    x1, #3, 1f                  // EL2 is 0b10, from bit 2 on (DDI0487 C5.2.1)
    msr     vbar_el1, x0
    b       2f
1:  msr     vbar_el2, x0
2:  isb

    // Below 1 GiB this is a Raspberry Pi.
    ldr     x18, =PI_UART
    lsr     x0, x19, #30
    cbz     x0, 3f
    ldr     x18, =VIRT_UART
3:

    // The words of the frame, each with its name.
    adr     x21, names
    adr     x22, frame
4:  mov     x0, x21
    bl      puts
    mov     x21, x0
    ldr     x0, [x22], #8
    bl      put_hex
    bl      put_end
    ldrb    w0, [x21]
    cbnz    w0, 4b

    // What its own address in a word leads to: `absolute` is what is there if it is where it is linked.
    ldr     x0, =flat
    cmp     x0, x19
    b.ne    5f
    adr     x0, word_absolute
    bl      puts
    ldr     x0, =flat
    ldr     w0, [x0]
    adr     x1, flat
    ldr     w1, [x1]
    cmp     w0, w1
    cset    x0, eq
    bl      put_hex
    bl      put_end
5:

    // The devicetree: its magic number and size are big-endian (Devicetree Specification 5.2).
    mov     x28, #0
    ldr     w0, [x20]
    cbnz    x28, 9f
    rev     w0, w0
    ldr     w1, =0xd00dfeed
    cmp     w0, w1
    b.ne    9f
    // Up to where its structure and its strings end, which is less than its size says where room is left.
    ldp     w0, w1, [x20, #8]           // off_dt_struct, off_dt_strings
    ldp     w2, w3, [x20, #32]          // size_dt_strings, size_dt_struct
    rev     w0, w0
    rev     w1, w1
    rev     w2, w2
    rev     w3, w3
    add     w0, w0, w3
    add     w1, w1, w2
    cmp     w0, w1
    csel    w21, w0, w1, hi
    add     x21, x20, x21
    mov     x22, x20
6:  adr     x0, word_dtb
    bl      puts
    add     x23, x22, #64
7:  ldrb    w24, [x22], #1
    lsr     w0, w24, #4
    bl      put_digit
    and     w0, w24, #15
    bl      put_digit
    cmp     x22, x21
    b.eq    8f
    cmp     x22, x23
    b.ne    7b
    bl      put_end
    b       6b
8:  bl      put_end
9:

    // Each page of memory from the start of its GiB on can be read and written: `ram=first-end`.
    and     x10, x19, #~0x3fffffff
    mov     x12, #0                     // whether the page before was memory
    mov     x13, #0                     // how many were not
1:  mov     x28, #0
    ldr     w14, [x10]
    cbnz    x28, 2f
    str     w14, [x10]
    cbnz    x28, 2f
    mov     x13, #0
    cbnz    x12, 3f
    mov     x11, x10
    mov     x12, #1
    b       3f
2:  add     x13, x13, #1
    cbz     x12, 3f
    mov     x12, #0
    adr     x0, word_ram
    bl      puts
    mov     x0, x11
    bl      put_hex
    mov     w0, #'-'
    bl      put
    mov     x0, x10
    bl      put_hex
    bl      put_end
3:  add     x10, x10, #PAGE
    cmp     x13, #(MOST_FAULTS >> 12), lsl #12
    b.ne    1b

    adr     x0, word_done
    bl      puts
    bl      put_end
    // One of them is undefined on the bare machine.
    ldr     w0, =SYSTEM_OFF
    smc     #0
    ldr     w0, =SYSTEM_OFF
    hvc     #0
4:  wfi
    b       4b

// Writes w0.
put:
    ldr     w9, [x18, #UARTFR]
    tbnz    w9, #UARTFR_TXFF_BIT, put
    str     w0, [x18]
    ret

// Writes the last digit of w0.
put_digit:
    add     w1, w0, #'0'
    add     w2, w0, #('a' - 10)
    cmp     w0, #10
    csel    w0, w1, w2, lo
    b       put

put_end:
    mov     w0, #'\n'
    b       put

// Writes x0 in hexadecimal.
put_hex:
    mov     x8, x30
    mov     x7, x0
    mov     x6, #60
1:  lsr     x0, x7, x6
    cbnz    x0, 2f
    subs    x6, x6, #4
    b.gt    1b
2:  lsr     x0, x7, x6
    and     x0, x0, #15
    bl      put_digit
    subs    x6, x6, #4
    b.ge    2b
    ret     x8

// Writes the text at x0, which then is what is behind it.
puts:
    mov     x8, x30
    mov     x7, x0
1:  ldrb    w0, [x7], #1
    cbz     w0, 2f
    bl      put
    b       1b
2:  mov     x0, x7
    ret     x8

    .balign 8
frame:
    .skip   (36 + 30) * 8

names:
    .asciz  "x0="
    .asciz  "x1="
    .asciz  "x2="
    .asciz  "x3="
    .asciz  "x4="
    .asciz  "x5="
    .asciz  "x6="
    .asciz  "x7="
    .asciz  "x8="
    .asciz  "x9="
    .asciz  "x10="
    .asciz  "x11="
    .asciz  "x12="
    .asciz  "x13="
    .asciz  "x14="
    .asciz  "x15="
    .asciz  "x16="
    .asciz  "x17="
    .asciz  "x18="
    .asciz  "x19="
    .asciz  "x20="
    .asciz  "x21="
    .asciz  "x22="
    .asciz  "x23="
    .asciz  "x24="
    .asciz  "x25="
    .asciz  "x26="
    .asciz  "x27="
    .asciz  "x28="
    .asciz  "x29="
    .asciz  "x30="
    .asciz  "sp="
    .asciz  "el="
    .asciz  "daif="
    .asciz  "linked="
    .asciz  "at="
    .irp    name, spsel, nzcv, sctlr_el1, cpacr_el1, ttbr0_el1, ttbr1_el1, tcr_el1, mair_el1, amair_el1, vbar_el1, contextidr_el1, esr_el1, far_el1, afsr0_el1, afsr1_el1, elr_el1, spsr_el1, sp_el0, tpidr_el0, tpidrro_el0, par_el1, mdscr_el1, csselr_el1, cntkctl_el1, cntv_ctl_el0, cntv_cval_el0, cntp_ctl_el0, cntp_cval_el0, osdlr_el1, oslsr_el1
    .asciz  "\name="
    .endr
    .byte   0
word_absolute:
    .asciz  "absolute="
word_dtb:
    .asciz  "dtb="
word_ram:
    .asciz  "ram="
word_done:
    .asciz  "done=1"

    // DDI0487 D1.3: what faults at the level that it is taken to, with its own stack pointer. The instruction is skipped.
    .balign 0x800
vectors:
    .skip   0x200
    mov     x28, #1
    mrs     x29, currentel
    tbnz    x29, #3, 1f
    mrs     x29, elr_el1
    add     x29, x29, #4
    msr     elr_el1, x29
    eret
1:  mrs     x29, elr_el2
    add     x29, x29, #4
    msr     elr_el2, x29
    eret
