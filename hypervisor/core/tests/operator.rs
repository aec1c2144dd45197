//! The operator, against a machine in memory: what is typed reaches the guest, what is asked is done once, and a VM that is paused
//! loses nothing.

use hv_abi::console::RS;
use hv_abi::operator::{Access, END, MOST, OPENING, Request, Span, Typed, Verb};
use hv_abi::policy::{After, Policy};
use hv_core::id::IntId;
use hv_core::operator::{Asked, Came, HELD, OperatorLine, Question, TypeAhead};
use hv_core::vm::{Refusal, Stand};
use hv_testbed::{
    Built, DISTRIBUTOR, Machine, Place, RAM, Told, Transfer, UART, exit_of, ram_byte,
};

const UARTDR: u64 = UART;
const UARTFR: u64 = UART + 0x18;
const RX_EMPTY: u64 = 1 << 4;
const CPU_ON: u32 = 0xc400_0003;

fn request(id: u32, verb: Verb, vcpu: u8) -> Request {
    Request::new(id, verb, 0, vcpu)
}

fn memory(id: u32, ipa: u64, length: u16) -> Request {
    Request {
        span: Span { ipa, length },
        ..request(id, Verb::Memory, 0)
    }
}

fn hashes(id: u32, ipa: u64, length: u16) -> Request {
    Request {
        verb: Verb::Hashes,
        ..memory(id, ipa, length)
    }
}

fn say(machine: &mut Machine, request: Request) {
    for byte in [RS, b'@'].into_iter().chain(format!("{request}\n").bytes()) {
        machine.receive(byte);
    }
}

fn typing(id: u32, vm: u8, bytes: &[u8]) -> Request {
    Request {
        typed: Typed::of(bytes),
        ..Request::new(id, Verb::Type, vm, 0)
    }
}

fn request_of(came: Came) -> Option<Asked> {
    match came {
        Came::Request(asked) => Some(asked),
        Came::Nothing | Came::Typed(..) => None,
    }
}

/// The answers to a request that everybody has had time for.
fn ask(machine: &mut Machine, request: Request) -> Vec<Told> {
    say(machine, request);
    machine.settle();
    machine.answers()
}

fn of_vm(id: u32, is_paused: bool) -> Told {
    Told::Vm {
        id,
        is_again: false,
        is_refused: false,
        is_unknown: false,
        is_paused,
        is_held: false,
        refusal: None,
        is_off: false,
    }
}

/// Those that answer a request; what goes on record unasked has number 0.
fn stands(told: &[Told]) -> Vec<(u8, Stand)> {
    let stand = |told: &Told| match told {
        Told::Vcpu {
            id: 1..,
            vcpu,
            stand,
            ..
        } => Some((*vcpu, *stand)),
        Told::Vcpu { .. }
        | Told::Vm { .. }
        | Told::Memory { .. }
        | Told::Health { .. }
        | Told::Gwdt { .. }
        | Told::Nmi { .. } => None,
    };
    told.iter().filter_map(stand).collect()
}

/// Three vCPUs that are on and one that is off.
fn machine() -> Machine {
    let mut machine = Built::new(4).start();
    machine.turn_on(0, 1);
    machine.turn_on(0, 2);
    machine
}

/// What the guest finds in its UART until that is empty.
fn read_all(machine: &mut Machine, n: u8) -> Vec<u8> {
    let mut read = Vec::new();
    while machine.load(n, UARTFR, 4).unwrap() & RX_EMPTY == 0 {
        read.push(machine.load(n, UARTDR, 4).unwrap() as u8);
    }
    read
}

#[test]
fn what_is_typed_comes_through_beside_requests_also_when_the_uart_is_full() {
    let mut machine = machine();
    let text: Vec<u8> = (0..200u8).filter(|&byte| byte != RS).collect();
    for (at, &byte) in text.iter().enumerate() {
        machine.receive(byte);
        if at % 50 == 0 {
            // The guest reads nothing, and its UART takes one byte without FIFO.
            let told = ask(&mut machine, request(at as u32, Verb::Status, 0));
            assert_eq!(told.first(), Some(&of_vm(at as u32, false)), "byte {at}");
        }
    }
    machine.settle();
    assert_eq!(read_all(&mut machine, 1), text);
    assert_eq!(read_all(&mut machine, 1), []);
}

#[test]
fn the_status_is_told_by_each_vcpu_itself() {
    let mut machine = machine();
    machine.regs(2).pc = 0x4123_4560;
    let told = ask(&mut machine, request(9, Verb::Status, 0));
    assert_eq!(told[0], of_vm(9, false));
    let stands = stands(&told);
    assert_eq!(stands.len(), 4);
    for (vcpu, stand) in stands {
        assert_eq!(
            stand,
            if vcpu == 3 { Stand::Off } else { Stand::On },
            "vCPU {vcpu}"
        );
    }
    let is_its_pc = |told: &Told| {
        matches!(
            told,
            Told::Vcpu {
                vcpu: 2,
                pc: Some(0x4123_4560),
                ..
            }
        )
    };
    assert!(told.iter().any(is_its_pc), "{told:?}");
}

#[test]
fn a_vcpu_that_does_not_take_its_doorbell_keeps_nobody_from_answering() {
    let mut machine = machine();
    say(&mut machine, request(9, Verb::Status, 0));
    machine.interrupt(0);
    machine.interrupt(1);
    assert_eq!(stands(&machine.answers()), [(0, Stand::On), (1, Stand::On)]);
    machine.settle();
    assert_eq!(stands(&machine.answers()).len(), 2);
}

#[test]
fn an_nmi_is_sent_once_however_often_it_is_asked_for() {
    let mut machine = machine();
    let told = ask(&mut machine, request(5, Verb::Nmi, 2));
    assert_eq!(told[0], of_vm(5, false));
    assert_eq!(stands(&told), [(2, Stand::On)]);
    let told = ask(&mut machine, request(5, Verb::Nmi, 2));
    assert!(matches!(
        told[0],
        Told::Vm {
            id: 5,
            is_again: true,
            ..
        }
    ));
    // The answer that was lost comes again.
    assert_eq!(stands(&told), [(2, Stand::On)]);
    assert_eq!([0, 1, 2, 3].map(|n| machine.nmis(n)), [0, 0, 1, 0]);
    let _ = ask(&mut machine, request(6, Verb::Nmi, 2));
    assert_eq!(machine.nmis(2), 2);
}

#[test]
fn who_does_not_exist_or_is_off_gets_no_nmi() {
    let mut machine = machine();
    let told = ask(&mut machine, request(5, Verb::Nmi, 4));
    assert!(matches!(
        told[..],
        [Told::Vm {
            is_unknown: true,
            ..
        }]
    ));
    let of_another = Request {
        vm: 1,
        ..request(6, Verb::Nmi, 0)
    };
    let told = ask(&mut machine, of_another);
    assert!(matches!(
        told[..],
        [Told::Vm {
            is_unknown: true,
            ..
        }]
    ));
    let told = ask(&mut machine, request(7, Verb::Nmi, 3));
    assert_eq!(stands(&told), [(3, Stand::Off)]);
    machine.turn_on(0, 3);
    assert_eq!([0, 1, 2, 3].map(|n| machine.nmis(n)), [0; 4]);
}

#[test]
fn only_ram_is_read_and_all_of_it() {
    let mut machine = machine();
    let end = RAM.start + RAM.size;
    let read = |machine: &mut Machine, ipa, length| {
        let told = ask(machine, memory(8, ipa, length));
        match told.as_slice() {
            [
                Told::Memory {
                    id: 8,
                    ipa: at,
                    data,
                },
            ] if *at == ipa => data.clone(),
            other => panic!("{other:?}"),
        }
    };
    for (ipa, length) in [
        (RAM.start, 1),
        (RAM.start + 5, MOST),
        (end - u64::from(MOST), MOST),
        (end - 1, 1),
    ] {
        let expected: Vec<u8> = (ipa..).take(length.into()).map(ram_byte).collect();
        assert_eq!(read(&mut machine, ipa, length), Ok(expected), "{ipa:#x}");
    }
    for (ipa, length, outside) in [
        (RAM.start - 1, 2, RAM.start - 1),
        (end - 1, 2, end),
        (end - 8, MOST, end),
        (end, 1, end),
        (UART, 4, UART),
        (DISTRIBUTOR, 1, DISTRIBUTOR),
        (0, 8, 0),
        (u64::MAX, 2, u64::MAX),
        (u64::MAX - 1, 1, u64::MAX - 1),
    ] {
        assert_eq!(read(&mut machine, ipa, length), Err(outside), "{ipa:#x}");
    }
    // Also of a paused guest, and by whoever takes the request.
    let _ = ask(&mut machine, request(9, Verb::Freeze, 0));
    assert_eq!(
        read(&mut machine, RAM.start, 1),
        Ok(vec![ram_byte(RAM.start)])
    );
    let told = ask(
        &mut machine,
        Request {
            vm: 1,
            ..memory(10, RAM.start, 1)
        },
    );
    let is_unknown = |told: &Told| {
        matches!(
            told,
            Told::Vm {
                is_unknown: true,
                ..
            }
        )
    };
    assert!(
        matches!(told.as_slice(), [one] if is_unknown(one)),
        "{told:?}"
    );
}

#[test]
fn a_paused_vm_runs_nowhere_and_loses_nothing() {
    let mut machine = machine();
    let entries = |machine: &Machine| [0, 1, 2].map(|n| machine.entries(n));
    let told = ask(&mut machine, request(1, Verb::Freeze, 0));
    assert_eq!(told[0], of_vm(1, true));
    assert_eq!(stands(&told).len(), 4);
    assert_eq!([0, 1, 2].map(|n| machine.place(n)), [Place::Asleep; 3]);
    let before = entries(&machine);
    // What others ask of it meanwhile is kept, and the operator is answered.
    let told = ask(&mut machine, request(2, Verb::Registers, 1));
    assert_eq!(stands(&told), [(1, Stand::On)]);
    let told = ask(&mut machine, request(3, Verb::Nmi, 2));
    assert_eq!((stands(&told), machine.nmis(2)), (vec![(2, Stand::On)], 1));
    machine.receive(b'k');
    machine.settle();
    assert_eq!(entries(&machine), before);
    let told = ask(&mut machine, request(4, Verb::Thaw, 0));
    assert_eq!(told[0], of_vm(4, false));
    assert_eq!([0, 1, 2].map(|n| machine.is_on(n)), [true; 3]);
    assert_eq!(read_all(&mut machine, 0), b"k");
}

#[test]
fn an_sgi_that_comes_while_the_vm_is_paused_is_taken_after_it() {
    let mut machine = machine();
    let sgis = machine.place_of(IntId(3), 1);
    // GICR_IGROUPR0, GICR_ISENABLER0, GICD_CTLR (IHI0069 12.9, 12.11).
    machine.store(1, sgis + 0x80, 4, 1 << 3);
    machine.store(1, sgis + 0x100, 4, 1 << 3);
    machine.store(0, DISTRIBUTOR, 4, 0b10);
    machine.settle();
    // vCPU 1 has left the guest, and vCPU 2 has not: it sends an SGI before it takes its doorbell.
    say(&mut machine, request(1, Verb::Freeze, 0));
    machine.interrupt(0);
    machine.interrupt(1);
    assert_eq!(machine.place(1), Place::Asleep);
    machine.send_sgi(2, 3, 1 << 1);
    machine.settle();
    let _ = machine.answers();
    assert_eq!(machine.place(1), Place::Asleep);
    let _ = ask(&mut machine, request(2, Verb::Thaw, 0));
    assert!(machine.is_on(1));
    assert_eq!(
        machine.acknowledge(1).map(|taken| taken.intid),
        Some(IntId(3))
    );
}

#[test]
fn who_is_switched_on_while_the_vm_is_paused_begins_after_it() {
    let mut machine = machine();
    say(&mut machine, request(1, Verb::Freeze, 0));
    machine.interrupt(0);
    // vCPU 2 has not taken its doorbell: it switches a sibling on.
    assert!(machine.is_on(2));
    let _ = machine.call(2, CPU_ON, &[3, RAM.start, 0]);
    machine.settle();
    assert!(!machine.is_on(3));
    let _ = machine.answers();
    let _ = ask(&mut machine, request(2, Verb::Thaw, 0));
    assert_eq!(machine.regs(2).x[0], 0, "CPU_ON");
    assert_eq!([0, 1, 2, 3].map(|n| machine.is_on(n)), [true; 4]);
}

#[test]
fn the_operator_resets_a_vm_whatever_its_vcpus_do() {
    for is_paused in [false, true] {
        for is_boot_vcpu_off in [false, true] {
            let mut machine = machine();
            if is_boot_vcpu_off {
                machine.turn_off(0);
            }
            if is_paused {
                let _ = ask(&mut machine, request(1, Verb::Freeze, 0));
            }
            machine.regs(1).pc = 0x4777_0000;
            say(&mut machine, request(2, Verb::Reset, 0));
            machine.interrupt(0);
            machine.finish_end();
            machine.settle();
            let _ = machine.answers();
            let on = [0, 1, 2, 3].map(|n| machine.is_on(n));
            assert_eq!(
                on,
                [true, false, false, false],
                "{is_paused} {is_boot_vcpu_off}"
            );
            let told = ask(&mut machine, request(3, Verb::Status, 0));
            assert_eq!(told[0], of_vm(3, false));
            // The same request again does not do it again.
            machine.turn_on(0, 1);
            let told = ask(&mut machine, request(2, Verb::Reset, 0));
            let is_again = matches!(
                told[0],
                Told::Vm {
                    id: 2,
                    is_again: true,
                    ..
                }
            );
            assert!(is_again && machine.is_on(1), "{told:?}");
        }
    }
}

#[test]
fn a_request_is_done_once_and_by_who_may() {
    let mut line = OperatorLine::new();
    let push = |line: &mut OperatorLine, request: Request| -> Asked {
        let bytes = [RS, b'@']
            .into_iter()
            .chain(format!("{request}\n").into_bytes());
        let asked: Vec<Asked> = bytes
            .filter_map(|byte| request_of(line.push(byte)))
            .collect();
        let &[asked] = &asked[..] else {
            panic!("{asked:?}")
        };
        asked
    };
    let reset = request(7, Verb::Reset, 0);
    assert!(!push(&mut line, reset).is_again);
    // What looks comes between, and does not count.
    assert!(!push(&mut line, request(8, Verb::Status, 0)).is_again);
    assert!(push(&mut line, reset).is_again);
    for (access, allowed) in [
        (Access::Off, &[Verb::Room, Verb::Type][..]),
        (
            Access::Read,
            &[
                Verb::Room,
                Verb::Type,
                Verb::Status,
                Verb::Registers,
                Verb::Memory,
                Verb::Hashes,
            ],
        ),
    ] {
        let mut line = OperatorLine::new();
        line.allow(access);
        for (_, verb) in Verb::ALL {
            let asked = match verb {
                Verb::Memory => memory(9, RAM.start, 1),
                Verb::Hashes => hashes(9, RAM.start, 1),
                Verb::Type => typing(8, 0, b"a"),
                _ => request(9, verb, 0),
            };
            let is_refused = push(&mut line, asked).is_refused;
            assert_eq!(is_refused, !allowed.contains(&verb), "{access:?} {verb:?}");
        }
        // What was refused was not done: with the same number it is the first.
        line.allow(Access::Full);
        assert!(!push(&mut line, request(9, Verb::Nmi, 0)).is_again);
    }
}

#[test]
fn what_confines_the_operator_never_allows_more() {
    let all = [Access::Full, Access::Read, Access::Off];
    for (first, second) in all.iter().flat_map(|a| all.iter().map(move |b| (a, b))) {
        let mut line = OperatorLine::new();
        line.allow(*first);
        line.confine(*second);
        for (_, verb) in Verb::ALL {
            let asked = match verb {
                Verb::Memory => memory(9, RAM.start, 1),
                Verb::Hashes => hashes(9, RAM.start, 1),
                Verb::Type => typing(8, 0, b"a"),
                _ => request(9, verb, 0),
            };
            let text = format!("\x1e@{asked}\n");
            let came = text
                .bytes()
                .filter_map(|byte| request_of(line.push(byte)))
                .last();
            let may = first.allows(verb) && second.allows(verb);
            assert_eq!(
                came.map(|asked| asked.is_refused),
                Some(!may),
                "{first:?} {second:?} {verb:?}"
            );
        }
    }
}

#[test]
fn the_room_is_what_can_be_typed_without_loss() {
    let mut held = TypeAhead::new();
    assert_eq!(held.room(), HELD);
    let text: Vec<u8> = (0..HELD + 5).map(|n| (n % 7) as u8 + b'a').collect();
    for part in text.chunks(3) {
        held.hold(&Typed::of(part));
    }
    assert_eq!(held.room(), 0);
    let came: Vec<u8> = std::iter::from_fn(|| held.take()).collect();
    assert_eq!(came, text[..HELD]);
    assert_eq!(held.room(), HELD);
}

// Two guests.

/// Two machines in memory that are the two VMs of one; the first one's pCPUs take what comes over the line.
fn two() -> [Machine; 2] {
    let both = [machine(), machine()];
    let [first, second] = &both;
    first.stand_beside(second);
    both
}

fn say_to_one(both: &mut [Machine; 2], request: Request) -> [Vec<Told>; 2] {
    let [first, second] = both;
    say(first, request);
    first.settle();
    second.settle();
    [first.answers(), second.answers()]
}

#[test]
fn what_is_typed_goes_to_the_guest_that_it_is_for() {
    let mut both = two();
    let [of_line, of_guest] = say_to_one(&mut both, typing(1, 1, b"to the second\r"));
    assert!(
        matches!(
            of_line[..],
            [Told::Vm {
                id: 1,
                is_unknown: false,
                ..
            }]
        ),
        "{of_line:?}"
    );
    assert_eq!(of_guest, []);
    let _ = say_to_one(&mut both, typing(2, 0, b"to the first\r"));
    // The same again is typed once.
    let _ = say_to_one(&mut both, typing(2, 0, b"to the first\r"));
    let [told, _] = say_to_one(&mut both, typing(3, 7, b"to nobody\r"));
    assert!(
        matches!(
            told[..],
            [Told::Vm {
                is_unknown: true,
                ..
            }]
        ),
        "{told:?}"
    );
    let [first, second] = &mut both;
    assert_eq!(read_all(second, 2), b"to the second\r");
    assert_eq!(read_all(first, 0), b"to the first\r");
}

#[test]
fn more_than_the_uart_holds_comes_to_the_second_guest_as_it_reads() {
    let mut both = two();
    let text: Vec<u8> = (0..200u8).collect();
    for (id, part) in (1..).zip(text.chunks(20)) {
        let _ = say_to_one(&mut both, typing(id, 1, part));
    }
    let [first, second] = &mut both;
    assert_eq!(read_all(second, 1), text);
    assert_eq!(read_all(first, 0), []);
}

#[test]
fn plain_bytes_go_where_a_person_has_said_and_nowhere_once_a_program_types() {
    let mut both = two();
    let [first, second] = &mut both;
    for &byte in b"a\x1e1b\x1e\x05\x1e9c\x1e0d" {
        first.receive(byte);
    }
    first.settle();
    second.settle();
    assert_eq!(read_all(first, 0), b"ad");
    assert_eq!(read_all(second, 0), b"b\x1e\x05");
    let _ = say_to_one(&mut both, typing(1, 1, b"x"));
    let [first, second] = &mut both;
    first.receive(b'y');
    first.settle();
    assert_eq!(
        (read_all(first, 0), read_all(second, 0)),
        (vec![], b"x".to_vec())
    );
}

/// A bit that flips, a byte that is lost or doubled: what a program types comes to its guest or not at all.
#[test]
fn damage_has_nothing_typed_to_another_guest() {
    let framed = |request: Request| [&OPENING[..], request.to_string().as_bytes(), &END].concat();
    let request = typing(2, 1, b"poweroff\r");
    let sent = framed(request);
    let mut broken = Vec::new();
    for at in 0..sent.len() {
        broken.extend((0..8).map(|bit| {
            let mut flipped = sent.clone();
            flipped[at] ^= 1 << bit;
            flipped
        }));
        let (mut lost, mut doubled) = (sent.clone(), sent.clone());
        lost.remove(at);
        doubled.insert(at, sent[at]);
        broken.extend([lost, doubled]);
    }
    for bytes in broken {
        let mut line = OperatorLine::new();
        let before = framed(typing(1, 1, b"a"));
        for byte in before.into_iter().chain(bytes.clone()) {
            match line.push(byte) {
                Came::Typed(vm, typed) => panic!("{typed:?} to {vm:?}: {bytes:x?}"),
                // Hexadecimal digits of the other case say the same.
                Came::Request(Asked { request: came, .. }) if came.id == 2 => {
                    assert_eq!(came, request)
                }
                Came::Request(_) | Came::Nothing => {}
            }
        }
    }
}

#[test]
fn the_second_guest_is_looked_at_paused_and_reset_and_the_first_is_not() {
    let mut both = two();
    both[1].regs(2).pc = 0x4123_4560;
    let of_second = |id, verb, vcpu| Request::new(id, verb, 1, vcpu);
    let [line, guest] = say_to_one(&mut both, of_second(1, Verb::Status, 0));
    assert_eq!(line, [of_vm(1, false)]);
    assert_eq!(stands(&guest).len(), 4);
    let is_its_pc = |told: &Told| {
        matches!(
            told,
            Told::Vcpu {
                vcpu: 2,
                pc: Some(0x4123_4560),
                ..
            }
        )
    };
    assert!(guest.iter().any(is_its_pc), "{guest:?}");
    // Memory is read by whoever takes the request, and is the other guest's.
    let [line, _] = say_to_one(
        &mut both,
        Request {
            vm: 1,
            ..memory(2, RAM.start, 4)
        },
    );
    let expected: Vec<u8> = (RAM.start..).take(4).map(|at| ram_byte(at) ^ 1).collect();
    assert!(
        matches!(&line[..], [Told::Memory { id: 2, data: Ok(data), .. }] if *data == expected),
        "{line:?}"
    );
    let _ = say_to_one(&mut both, of_second(3, Verb::Nmi, 2));
    assert_eq!((both[0].nmis(2), both[1].nmis(2)), (0, 1));
    let [line, guest] = say_to_one(&mut both, of_second(4, Verb::Freeze, 0));
    assert_eq!(
        (&line[..], stands(&guest).len()),
        (&[of_vm(4, true)][..], 4)
    );
    assert_eq!([0, 1, 2].map(|n| both[1].place(n)), [Place::Asleep; 3]);
    assert_eq!([0, 1, 2].map(|n| both[0].is_on(n)), [true; 3]);
    let _ = say_to_one(&mut both, of_second(5, Verb::Thaw, 0));
    assert_eq!([0, 1, 2].map(|n| both[1].is_on(n)), [true; 3]);
    say(&mut both[0], of_second(6, Verb::Reset, 0));
    both[0].settle();
    // Any of its vCPUs ends it: here the last, as the others do not take their doorbells.
    both[1].interrupt(3);
    both[1].finish_end();
    both[1].settle();
    assert_eq!(
        [0, 1, 2, 3].map(|n| both[1].is_on(n)),
        [true, false, false, false]
    );
    assert_eq!([0, 1, 2].map(|n| both[0].is_on(n)), [true; 3]);
}

#[test]
fn a_guest_is_reset_once_however_late_its_vcpus_learn_of_it() {
    let mut both = two();
    say(&mut both[0], Request::new(1, Verb::Reset, 1, 0));
    both[0].settle();
    both[1].interrupt(1);
    both[1].finish_end();
    both[1].settle();
    both[1].turn_on(0, 2);
    both[1].settle();
    assert_eq!(
        [0, 1, 2, 3].map(|n| both[1].is_on(n)),
        [true, false, true, false]
    );
}

#[test]
fn a_guest_that_is_off_is_started_and_one_that_runs_is_not() {
    let mut both = two();
    let of_second = |id, verb| Request::new(id, verb, 1, 0);
    let refused = |told: &[Told]| match told {
        [
            Told::Vm {
                refusal, is_off, ..
            },
            ..,
        ] => (*refusal, *is_off),
        other => panic!("{other:?}"),
    };
    let [line, _] = say_to_one(&mut both, of_second(1, Verb::Start));
    assert_eq!(refused(&line), (Some(Refusal::On), false));
    say(&mut both[0], of_second(2, Verb::Off));
    both[0].settle();
    both[1].interrupt(2);
    both[1].finish_end();
    both[1].settle();
    assert_eq!([0, 1, 2, 3].map(|n| both[1].is_on(n)), [false; 4]);
    assert_eq!(
        (both[1].finished(), both[0].finished()),
        (vec![After::Stop], vec![])
    );
    let _ = both[0].answers();
    // The answer was lost: it is off already, and that was asked for.
    let [line, _] = say_to_one(&mut both, of_second(2, Verb::Off));
    assert_eq!(refused(&line), (None, true));
    for (id, verb) in [
        (3, Verb::Off),
        (4, Verb::Reset),
        (5, Verb::Freeze),
        (6, Verb::Thaw),
        (7, Verb::Nmi),
        (13, Verb::FreezeClock),
    ] {
        let [line, guest] = say_to_one(&mut both, of_second(id, verb));
        assert_eq!(
            (refused(&line), guest),
            ((Some(Refusal::Off), true), vec![]),
            "{verb:?}"
        );
    }
    let [line, guest] = say_to_one(&mut both, of_second(8, Verb::Status));
    assert_eq!((refused(&line), stands(&guest).len()), ((None, true), 4));
    for (id, refusal) in [(9, None), (9, None), (10, Some(Refusal::On))] {
        let [line, _] = say_to_one(&mut both, of_second(id, Verb::Start));
        assert_eq!(refused(&line).0, refusal, "{id}");
        assert_eq!(
            [0, 1, 2, 3].map(|n| both[1].is_on(n)),
            [true, false, false, false]
        );
    }
    assert_eq!([0, 1, 2].map(|n| both[0].is_on(n)), [true; 3]);
}

#[test]
fn a_guest_that_resets_itself_meanwhile_is_switched_off_all_the_same() {
    const SYSTEM_RESET: u32 = 0x8400_0009;
    for (verb, is_off) in [(Verb::Off, true), (Verb::Reset, false)] {
        let mut both = two();
        both[1].regs(0).x[0] = SYSTEM_RESET.into();
        both[1].exit(0, exit_of(Transfer::Smc));
        assert_eq!(both[1].place(0), Place::Waiting);
        say(&mut both[0], Request::new(1, verb, 1, 0));
        both[0].settle();
        both[1].finish_end();
        both[1].settle();
        assert_eq!(both[1].is_on(0), !is_off, "{verb:?}");
        assert_eq!(both[1].finished().len(), usize::from(is_off), "{verb:?}");
        // Nothing of it is left: it starts, and stays.
        let _ = say_to_one(&mut both, Request::new(2, Verb::Start, 1, 0));
        let _ = say_to_one(&mut both, Request::new(3, Verb::Status, 1, 0));
        assert!(both[1].is_on(0), "{verb:?}");
    }
}

#[test]
fn what_is_ordered_while_a_guest_ends_is_done_when_it_has() {
    const SYSTEM_RESET: u32 = 0x8400_0009;
    for (verb, is_off) in [(Verb::Off, true), (Verb::Reset, false)] {
        let mut both = two();
        both[1].regs(0).x[0] = SYSTEM_RESET.into();
        both[1].exit(0, exit_of(Transfer::Smc));
        // It has left its guest, and looks at what the operator wants while the others have not.
        both[1].interrupt(1);
        say(&mut both[0], Request::new(1, verb, 1, 0));
        both[0].settle();
        both[1].interrupt(1);
        assert_eq!(both[1].place(0), Place::Waiting);
        both[1].finish_end();
        both[1].settle();
        assert_eq!(both[1].is_on(0), !is_off, "{verb:?}");
        assert_eq!(both[1].finished().len(), usize::from(is_off), "{verb:?}");
    }
}

#[test]
fn what_a_guest_that_ends_would_lose_is_refused() {
    const SYSTEM_RESET: u32 = 0x8400_0009;
    let mut both = two();
    both[1].regs(0).x[0] = SYSTEM_RESET.into();
    both[1].exit(0, exit_of(Transfer::Smc));
    for (id, verb) in [(1, Verb::Freeze), (2, Verb::FreezeClock), (3, Verb::Nmi)] {
        let [told, _] = say_to_one(&mut both, Request::new(id, verb, 1, 0));
        let is_refused =
            matches!(told[0], Told::Vm { refusal, .. } if refusal == Some(Refusal::Ending));
        assert!(is_refused, "{verb:?}: {told:?}");
    }
    both[1].finish_end();
    both[1].settle();
    let _ = both[0].answers();
    let [told, _] = say_to_one(&mut both, Request::new(4, Verb::Freeze, 1, 0));
    assert!(
        matches!(told[0], Told::Vm { refusal: None, .. }),
        "{told:?}"
    );
}

#[test]
fn a_guest_is_given_up_only_if_one_of_its_cpus_has_not_left_it() {
    const SYSTEM_RESET: u32 = 0x8400_0009;
    for is_out in [true, false] {
        let mut machine = Built::new(2).start();
        machine.turn_on(0, 1);
        machine.settle();
        machine.regs(0).x[0] = SYSTEM_RESET.into();
        machine.exit(0, exit_of(Transfer::Smc));
        assert_eq!(machine.place(0), Place::Waiting);
        if is_out {
            machine.interrupt(1);
        }
        machine.lose_patience();
        machine.proceed(0);
        machine.settle();
        assert_eq!(machine.is_on(0), is_out);
        let finished = if is_out { vec![] } else { vec![After::Stop] };
        assert_eq!(machine.finished(), finished);
        // One that was given up stays so, whoever comes out of it.
        let expected = if is_out { Refusal::On } else { Refusal::Lost };
        let told = ask(&mut machine, request(1, Verb::Start, 0));
        let is_so =
            |told: &Told| matches!(told, Told::Vm { refusal, .. } if *refusal == Some(expected));
        assert!(is_so(&told[0]), "{told:?}");
    }
}

#[test]
fn what_a_guest_does_to_itself_has_the_consequence_that_its_configuration_says() {
    const SYSTEM_OFF: u32 = 0x8400_0008;
    const SYSTEM_RESET: u32 = 0x8400_0009;
    let all = After::ALL.map(|(_, after)| after);
    for (function, after) in [SYSTEM_OFF, SYSTEM_RESET]
        .iter()
        .flat_map(|f| all.map(|after| (*f, after)))
    {
        let mut built = Built::new(2);
        built.policy = Policy {
            on_off: if function == SYSTEM_OFF {
                after
            } else {
                After::Restart
            },
            on_reset: if function == SYSTEM_RESET {
                after
            } else {
                After::Stop
            },
            ..Policy::USUAL
        };
        let mut machine = built.start();
        machine.turn_on(0, 1);
        machine.regs(1).x[0] = function.into();
        machine.exit(1, exit_of(Transfer::Smc));
        machine.finish_end();
        machine.settle();
        // A capture kernel is a start as well.
        let restarts = matches!(after, After::Restart | After::Dump);
        assert_eq!(
            (machine.is_on(0), machine.is_on(1)),
            (restarts, false),
            "{after:?}"
        );
        let finished = if restarts { vec![] } else { vec![after] };
        assert_eq!(machine.finished(), finished);
        // What the operator orders is done as said.
        if restarts {
            let _ = ask(&mut machine, request(1, Verb::Off, 0));
            machine.finish_end();
            machine.settle();
            assert_eq!(
                (machine.is_on(0), machine.finished()),
                (false, vec![After::Stop])
            );
        }
    }
}

#[test]
fn a_question_fits_into_a_word() {
    for id in [0, 1, u32::MAX] {
        for in_full in [false, true] {
            let question = Question { id, in_full };
            assert_ne!(question.word(), 0);
            assert_eq!(Question::of_word(question.word()), Some(question));
        }
    }
    assert_eq!(Question::of_word(0), None);
}
