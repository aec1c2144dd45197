//! The operator against a hypervisor made of a thread.

use std::collections::BTreeMap;
use std::sync::mpsc::{Sender, channel};

use hv_abi::operator::{Base64, Demux, Input, Span, crc};

use super::*;

/// A console that hands what it gets to a thread.
struct Wire(Sender<Vec<u8>>);

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn sealed(text: &str) -> Line {
    Line::parse(&format!(
        "[    1.000000 p0] {text} crc={:#x}",
        crc(text.as_bytes())
    ))
}

fn of_vm(id: u32, room: usize) -> Line {
    sealed(&format!(
        "@answer id={id:#x} vm=0 vcpus=2 state=running room={room}"
    ))
}

fn of_vcpu(id: u32, vcpu: u8) -> Line {
    sealed(&format!(
        "@answer id={id:#x} vm=0 vcpu={vcpu} state=on pc=0x40 pstate=0x3c5 serror=1 x0=0x7"
    ))
}

/// An operator, and `serve`, which is told what came over its line, one after the other, in a thread of its own.
fn operator(mut serve: impl FnMut(&Operator, Input) + Send + 'static) -> Operator {
    let (sender, bytes): (_, Receiver<Vec<u8>>) = channel();
    let operator = Operator::new(Wire(sender), false);
    operator.hear(&Line::parse("[    0.100000 p0] @ready vms=1"));
    let own = operator.clone();
    std::thread::spawn(move || {
        let mut demux = Demux::new();
        for byte in bytes.into_iter().flatten() {
            match demux.push(byte) {
                Input::Nothing => {}
                input => serve(&own, input),
            }
        }
    });
    operator
}

#[test]
fn a_request_is_repeated_until_all_have_answered() {
    let mut ids = Vec::new();
    let operator = operator(move |operator, input| {
        let Input::Request(request) = input else {
            panic!("{input:?}")
        };
        ids.push(request.id);
        assert!(
            ids.iter().all(|id| *id == request.id),
            "a repetition is the same request"
        );
        match ids.len() {
            // Lost, then damaged, then half of it.
            1 => {}
            2 => operator.hear(&Line::parse(&format!(
                "@answer id={:#x} vm=0 vcpus=1 state=running room=9 crc=0x0",
                request.id
            ))),
            3 => {
                operator.hear(&of_vm(request.id, 9));
                operator.hear(&of_vcpu(request.id, 1));
            }
            _ => operator.hear(&of_vcpu(request.id, 0)),
        }
    });
    let answers = operator.ask(Verb::Status, 0).unwrap();
    assert_eq!(answers.vcpus.len(), 2);
    assert!(answers.missing().is_empty());
    let vcpu = &answers.vcpus[&1];
    assert_eq!((vcpu.pc, vcpu.has_serror), (Some(0x40), true));
    assert_eq!(vcpu.registers, BTreeMap::from([("x0".to_owned(), 7)]));
}

#[test]
fn nothing_is_asked_before_the_hypervisor_listens() {
    let (sender, bytes) = channel();
    let operator = Operator::new(Wire(sender), false);
    let own = operator.clone();
    let asked = std::thread::spawn(move || own.ask(Verb::Status, 0));
    operator.type_bytes(b"early").unwrap();
    assert_eq!(bytes.recv().unwrap(), b"early");
    operator.end();
    assert!(asked.join().unwrap().is_err());
    assert!(bytes.try_recv().is_err(), "a request was sent");
}

fn of_memory(request: &Request, data: &[u8]) -> Line {
    sealed(&format!(
        "@answer id={:#x} vm=0 ipa={:#x} data={}",
        request.id,
        request.span.ipa,
        Base64(data)
    ))
}

#[test]
fn memory_is_read_in_parts_that_each_come_through() {
    let content = |ipa: u64| (ipa ^ ipa >> 8) as u8;
    let (mut turn, end) = (0, 0x4000_1000);
    let operator = operator(move |operator, input| {
        let Input::Request(request) = input else {
            panic!("{input:?}")
        };
        let Span { ipa, length } = request.span;
        let data: Vec<u8> = (ipa..).take(length.into()).map(content).collect();
        let id = request.id;
        turn += 1;
        match turn {
            // Too short, of another place, and no base64: none of them is the answer.
            1 => {
                operator.hear(&of_memory(&request, &data[1..]));
                let mut other = request;
                other.span.ipa ^= 8;
                operator.hear(&of_memory(&other, &data));
                operator.hear(&sealed(&format!(
                    "@answer id={id:#x} vm=0 ipa={ipa:#x} data=Zm9="
                )));
            }
            _ if ipa + u64::from(length) > end => operator.hear(&sealed(&format!(
                "@answer id={id:#x} vm=0 ipa={ipa:#x} error=unmapped at={end:#x}"
            ))),
            _ => operator.hear(&of_memory(&request, &data)),
        }
    });
    let expected: Vec<u8> = (0x4000_0003..).take(3000).map(content).collect();
    assert_eq!(operator.read(0x4000_0003, 3000).unwrap(), expected);
    assert!(operator.read(0x4000_0000, 0).unwrap().is_empty());
    let error = operator.read(0x4000_0ff0, 17).unwrap_err().to_string();
    assert!(
        error.starts_with("the guest has no RAM at 0x40001000;"),
        "{error}"
    );
    assert!(operator.read(u64::MAX, 2).is_err());
}

#[test]
fn answers_to_another_request_are_no_answers() {
    let operator = operator(|operator, input| {
        if let Input::Request(request) = input {
            operator.hear(&of_vm(request.id ^ 1, 1));
            operator.hear(&of_vm(request.id, 2));
        }
    });
    let room = |operator: &Operator| operator.ask(Verb::Room, 0).unwrap().vm.unwrap().room;
    assert_eq!(room(&operator), 2);
    assert_eq!(room(&operator), 2);
}

#[test]
fn what_is_not_done_is_an_error_that_says_why() {
    let operator = operator(|operator, input| {
        if let Input::Request(request) = input {
            let error = if request.vcpu == 5 {
                "unknown"
            } else {
                "refused"
            };
            operator.hear(&sealed(&format!(
                "@answer id={:#x} vm=0 vcpus=2 state=running room=1 error={error}",
                request.id
            )));
        }
    });
    let error = |vcpu| operator.ask(Verb::Nmi, vcpu).unwrap_err().to_string();
    assert_eq!(error(5), "there is no vCPU 5; there are 0 to 1");
    assert!(error(0).contains("operator=read"), "{}", error(0));
}

#[test]
fn nobody_waits_for_a_machine_that_has_ended() {
    let operator = operator(|operator, _| operator.end());
    let error = operator.ask(Verb::Status, 0).unwrap_err();
    assert_eq!(error.to_string(), "the machine has ended");
}

#[test]
fn typed_bytes_never_exceed_the_room_there_is() {
    let (done, came) = channel();
    let mut held: Vec<u8> = Vec::new();
    let mut all = Vec::new();
    let operator = operator(move |operator, input| match input {
        Input::Guest(byte) => {
            held.push(byte);
            assert!(held.len() <= 1024, "more than there is room for");
            if all.len() + held.len() == 5000 {
                all.append(&mut held);
                done.send(all.clone()).unwrap();
            }
        }
        Input::Request(request) => {
            // The guest has read some of it.
            let left = held.split_off(held.len().min(300));
            all.append(&mut held);
            held = left;
            operator.hear(&of_vm(request.id, 1024 - held.len()));
        }
        other => panic!("{other:?}"),
    });
    let text: Vec<u8> = (0..5000u32).map(|n| (n % 251) as u8).collect();
    assert!(text.contains(&RS));
    operator.type_bytes(&text).unwrap();
    assert_eq!(came.recv().unwrap(), text);
}

#[test]
fn of_several_guests_each_gets_what_is_typed_to_it_by_requests() {
    let (done, came) = channel();
    let mut held: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    let (mut turn, mut seen) = (0, 0);
    let operator = operator(move |operator, input| {
        let Input::Request(request) = input else {
            panic!("{input:?}")
        };
        turn += 1;
        // The first time each third request, or its answer, is lost.
        let bytes = held.entry(request.vm).or_default();
        let is_new = seen != request.id;
        if turn % 3 == 0 && is_new {
            return;
        }
        if request.verb == Verb::Type && is_new {
            bytes.extend(request.typed.bytes());
            assert!(bytes.len() <= 30, "more than there is room for");
        }
        seen = request.id;
        let (vm, id, room) = (request.vm, request.id, 30 - bytes.len());
        // Who asks how much room there is finds that the guest has read it.
        if request.verb == Verb::Room {
            done.send((vm, std::mem::take(bytes))).unwrap();
        }
        operator.hear(&sealed(&format!(
            "@answer id={id:#x} vm={vm} vcpus=1 state=running room={room}"
        )));
    });
    operator.hear(&Line::parse("[    0.100000 p0] @ready vms=2"));
    let text: Vec<u8> = (0..70).collect();
    for vm in [1, 0] {
        operator.of(vm).type_bytes(&text).unwrap();
        operator.of(vm).ask(Verb::Room, 0).unwrap();
        let mut read = Vec::new();
        while let Ok((whose, bytes)) = came.try_recv() {
            assert_eq!(whose, vm);
            read.extend(bytes);
        }
        assert_eq!(read, text);
    }
}

#[test]
fn guests_are_found_by_name_and_by_number() {
    let operator = Operator::new(Vec::new(), false);
    operator.hear(&Line::parse(
        "[    0.100000 p0] vm1 (other): 2 vCPUs, 512 MiB of memory at 0x40000000, SDEI on",
    ));
    operator.hear(&Line::parse("[    0.100000 p0] @ready vms=3"));
    let found = |guest| operator.find(guest).map(|found| found.vm()).ok();
    assert_eq!(
        [found("other"), found("1"), found("vm0"), found("2")],
        [Some(1), Some(1), Some(0), Some(2)]
    );
    let error = operator.find("3").err().map(|error| error.to_string());
    let expected = "there is no guest `3`; there are vm0 (0), other (1) and vm2 (2)";
    assert_eq!(error.as_deref(), Some(expected));
    assert_eq!(operator.of(1).ram(), [(0x4000_0000, 512 << 20)]);
    assert_eq!(
        (operator.ram(), operator.of(1).name()),
        (vec![], "other".to_owned())
    );
}

#[test]
fn on_the_bare_machine_bytes_go_as_they_are_and_nobody_is_asked() {
    let (sender, bytes) = channel();
    let operator = Operator::new(Wire(sender), true);
    operator.type_bytes(&[RS; 2000]).unwrap();
    assert_eq!(bytes.recv().unwrap(), [RS; 2000]);
    assert!(operator.ask(Verb::Status, 0).is_err());
}

#[test]
fn what_the_guest_writes_is_heard_by_all_who_keep_up() {
    let operator = Operator::new(Vec::new(), true);
    let (first, slow, gone) = (operator.listen(), operator.listen(), operator.listen());
    drop(gone);
    for listener in [&first, &slow] {
        operator.hear_guest(0, b"a");
        assert_eq!(listener.next().unwrap(), b"a");
    }
    assert_eq!(first.next().unwrap(), b"a");
    for _ in 0..=WAITING {
        operator.hear_guest(0, b"b");
        assert_eq!(first.next().unwrap(), b"b");
    }
    // What it has not taken comes still, and nothing after that.
    let left = std::iter::from_fn(|| slow.next()).count();
    assert_eq!(left, WAITING, "it is let go");
    drop(slow);
    let shows = std::thread::spawn(move || std::iter::from_fn(|| first.next()).count());
    operator.hear_guest(0, b"last");
    operator.end();
    assert_eq!(
        lock(&operator.shared.pending).listening,
        0,
        "its last words are shown"
    );
    assert_eq!(shows.join().unwrap(), 1);
}

#[test]
fn rungs_and_what_was_put_on_record_before_are_kept_for_who_waits() {
    let operator = operator(|_, _| {});
    assert_eq!(operator.known_rungs(), 0);
    operator.hear(&sealed(
        "@answer id=0x0 vm=0 vcpu=3 state=on pc=0x40 pstate=0x3c5 serror=0 x0=0x7 callers=0x10,0x20,0",
    ));
    operator.hear(&Line::parse(
        "[    1.000000 p0] @vm-nmi vm=0 vcpu=3 rung=serror answer=pending",
    ));
    operator.hear(&Line::parse("[    1.000000 p0] @vm-reset vm=0"));
    let (rungs, is_over) = operator.rungs(0);
    let told: Vec<_> = rungs
        .iter()
        .map(|rung| (rung.to_string(), rung.is_last()))
        .collect();
    assert_eq!(
        told,
        [
            (
                "NMI on vCPU 3: the SError waits: PSTATE.A is set".to_owned(),
                false
            ),
            ("the guest is reset".to_owned(), true)
        ]
    );
    assert!(!is_over);
    assert_eq!(operator.rungs(1).0, rungs[1..]);
    let recorded = operator.recorded(0);
    let answer = &recorded[&3];
    assert_eq!(
        (&answer.callers[..], answer.registers["x0"]),
        (&[0x10, 0x20][..], 7)
    );
    assert!(operator.recorded(1).is_empty());
    // The last ones are kept, and all are counted.
    for _ in 0..2000 {
        operator.hear(&Line::parse("[    1.000000 p0] @vm-reset vm=0"));
    }
    assert_eq!(operator.known_rungs(), 2002);
    assert_eq!(operator.rungs(2001).0, rungs[1..]);
    assert_eq!(operator.rungs(0).0.len(), 1000);
    let waits = operator.clone();
    let waiter = std::thread::spawn(move || {
        loop {
            if waits.rungs(2002).1 {
                break;
            }
        }
    });
    operator.end();
    waiter.join().unwrap();
}
