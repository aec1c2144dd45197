//! Stacks made by hand. Functions are of 256 bytes.

use super::*;
use crate::memory::tests::Pieces;

const STACK_AT: u64 = 0x4000_0000;
const OTHER: u64 = 0x4010_0000;
/// Code, of which bit 55 is set.
const CODE: u64 = 0xffff_8000_8000_0000;

/// The MMU is off: only how an address is stripped depends on the registers.
fn regime() -> Regime {
    Regime {
        tcr: 16 << 16 | 0b10 << 30 | 16,
        ..Regime::default()
    }
}

fn memory() -> Pieces {
    let mut memory = Pieces::default();
    memory.put(STACK_AT, &[0; 0x4000]);
    memory.put(OTHER, &[0; 0x4000]);
    memory
}

fn record(memory: &mut Pieces, at: u64, next: u64, address: u64) {
    memory.put_u64(at, next);
    memory.put_u64(at + 8, address);
}

fn registers() -> Registers {
    Registers {
        pc: CODE + 0x110,
        sp: STACK_AT + 0x100,
        frame: STACK_AT + 0x100,
        link: CODE + 0x108,
    }
}

fn seen(memory: &mut Pieces, registers: &Registers) -> (Vec<(u64, By)>, End) {
    let function = |_: &mut dyn Memory, address: u64| {
        let is_code = (CODE..CODE + 0x10_0000).contains(&address);
        Ok(is_code.then_some(address & !0xff))
    };
    let (frames, end) = unwind(memory, &regime(), registers, function).unwrap();
    let frames = frames
        .iter()
        .map(|frame| (frame.address.wrapping_sub(CODE), frame.by));
    (frames.collect(), end)
}

#[test]
fn frames_are_followed_to_the_last_and_signed_addresses_are_stripped() {
    let mut memory = memory();
    let signed = (CODE + 0x204) & !(0x7f << 48) | 0x2b << 48;
    record(&mut memory, STACK_AT + 0x100, STACK_AT + 0x140, signed);
    record(
        &mut memory,
        STACK_AT + 0x140,
        STACK_AT + 0x200,
        CODE + 0x308,
    );
    // A thread's first function.
    record(&mut memory, STACK_AT + 0x200, 0, CODE + 0x40c);
    let (frames, end) = seen(&mut memory, &registers());
    // x30 is of a call that has returned.
    let expected = [
        (0x110, By::Pc),
        (0x204, By::Record),
        (0x308, By::Record),
        (0x40c, By::Record),
    ];
    assert_eq!(frames, expected);
    assert_eq!(end, End::Whole);
}

#[test]
fn a_function_without_a_record_is_called_by_whom_x30_names() {
    let mut memory = memory();
    record(&mut memory, STACK_AT + 0x100, 0, CODE + 0x304);
    let mut registers = registers();
    registers.link = CODE + 0x208;
    let (frames, _) = seen(&mut memory, &registers);
    assert_eq!(
        frames,
        [(0x110, By::Pc), (0x208, By::Link), (0x304, By::Record)]
    );
    // Its record is there, and it has called nobody yet.
    registers.link = CODE + 0x304;
    let (frames, _) = seen(&mut memory, &registers);
    assert_eq!(frames, [(0x110, By::Pc), (0x304, By::Record)]);
    // The instruction before is the last one of a function that does not return.
    registers.link = CODE + 0x200;
    let (frames, _) = seen(&mut memory, &registers);
    assert_eq!(
        frames.len(),
        2,
        "it is in the function of the pc: {frames:x?}"
    );
}

#[test]
fn an_exception_leads_on_to_what_it_interrupted() {
    for before in PT_REGS_RECORD {
        let mut memory = memory();
        let at = STACK_AT + 0x400;
        record(&mut memory, STACK_AT + 0x100, at, CODE + 0x204);
        record(&mut memory, at, 0, 0);
        memory.put_u64(at + 16, PT_REGS);
        let regs = at - before;
        memory.put_u64(regs + PT_REGS_PC, CODE + 0x500);
        memory.put_u64(regs + PT_REGS_FRAME, STACK_AT + 0x600);
        memory.put_u64(regs + PT_REGS_LINK, CODE + 0x704);
        record(
            &mut memory,
            STACK_AT + 0x600,
            STACK_AT + 0x700,
            CODE + 0x804,
        );
        // The entry from user space is the outermost one.
        record(&mut memory, STACK_AT + 0x700, 0, 0);
        memory.put_u64(STACK_AT + 0x710, FINAL);
        let (frames, end) = seen(&mut memory, &registers());
        let expected = [
            (0x110, By::Pc),
            (0x204, By::Record),
            (0x500, By::Exception),
            (0x704, By::Link),
            (0x804, By::Record),
        ];
        assert_eq!((&frames[..], end), (&expected[..], End::Whole));
    }
}

#[test]
fn a_stack_that_leads_nowhere_is_said() {
    let mut memory = memory();
    record(&mut memory, STACK_AT + 0x100, 0, CODE + 0x204);
    // Destroyed: the MMU is on, and nothing is mapped there.
    let mut registers = registers();
    registers.sp = 0xdead;
    let regime = Regime {
        sctlr: 1,
        ttbr0: OTHER,
        ttbr1: OTHER,
        ..regime()
    };
    let function = |_: &mut dyn Memory, address: u64| Ok(Some(address & !0xff));
    let (frames, end) = unwind(&mut memory, &regime, &registers, function).unwrap();
    assert_eq!(frames.len(), 1);
    assert!(
        matches!(&end, End::Sp(why) if why.contains("0xdead is not mapped")),
        "{end:?}"
    );

    let ended = |memory: &mut Pieces, frame| {
        let registers = Registers {
            frame,
            ..self::registers()
        };
        seen(memory, &registers).1
    };
    assert_eq!(
        ended(&mut memory, STACK_AT + 0x101),
        End::Wrong(STACK_AT + 0x101)
    );
    assert!(matches!(ended(&mut memory, 0x100), End::Unreadable(_)));
    record(&mut memory, STACK_AT + 0x100, STACK_AT + 0x140, 0x1234);
    assert_eq!(ended(&mut memory, STACK_AT + 0x100), End::NoCode(0x1234));
}

#[test]
fn other_stacks_are_named_and_circles_end() {
    let mut memory = memory();
    record(&mut memory, STACK_AT + 0x100, OTHER + 0x100, CODE + 0x204);
    record(&mut memory, OTHER + 0x100, STACK_AT + 0x100, CODE + 0x304);
    let (frames, end) = seen(&mut memory, &registers());
    assert_eq!(end, End::Wrong(OTHER + 0x100));
    let stacks: Vec<By> = frames[1..].iter().map(|(_, by)| *by).collect();
    let other = By::OtherStack;
    assert_eq!(stacks, [By::Record, other, other, other, other]);
    // One stack on which a record leads a little further on for ever.
    for at in (0..0x3000).step_by(16) {
        record(&mut memory, OTHER + at, OTHER + at + 16, CODE + 0x204);
    }
    let registers = Registers {
        sp: OTHER,
        frame: OTHER,
        ..registers()
    };
    let (frames, end) = seen(&mut memory, &registers);
    assert_eq!((frames.len(), end), (MOST, End::TooMany));
}
