//! The operator's line as the hypervisor has it: what nobody sends who means well, between what somebody does.

use std::io::Write;
use std::process::ChildStdin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use hv_abi::operator::Verb;

use super::code::{self, ECHO};
use debian::tools;
use machine::build::{self, Program};
use machine::operator::Operator;
use machine::qemu::{Event, Machine};
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// Nothing takes so long, on a busy host either, but what is long itself.
const LIMIT: Duration = Duration::from_secs(600);
/// So many bytes come over the line in a second at least.
const SLOWEST: u64 = 10_000;

/// The numbers of requests that are no whole ones.
const DAMAGED: [u64; 3] = [0x12, 0x77, 0x78];

/// QEMU's input, for one who asks and one who sends anything.
#[derive(Clone)]
struct Wire(Arc<Mutex<ChildStdin>>);

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut input = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        input.write_all(bytes)?;
        input.flush()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Half a request, one of `length` bytes, and requests that are damaged: none is done or answered, nothing of them is typed to the
/// guest, and each time the next one is answered. Then the guest repeats what is typed, and switches off.
pub fn abuse(workshop: &Workshop, length: usize) -> Result<String> {
    let folder = RunDir::create(None)?;
    let bundle = code::bundle(&folder, &ECHO)?;
    let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
    let hypervisor = build::build(workshop, Program::Hypervisor)?;
    let mut machine = Machine::new(&qemu, &hypervisor.image);
    machine.cpus = 2;
    machine.memory_mib = 256;
    machine.initrd = Some(bundle);
    let limit = LIMIT + Duration::from_secs(length as u64 / SLOWEST);
    let mut session = machine.start(Some(limit))?;
    let wire = session.take_input().context("QEMU has no input")?;
    let wire = Wire(Arc::new(Mutex::new(wire)));
    let operator = Operator::new(wire.clone(), false);
    let leave = session.leave();
    let talker = std::thread::spawn({
        let operator = operator.clone();
        move || {
            let talked = talk(&operator, wire, length);
            if talked.is_err() {
                leave.leave();
            }
            talked
        }
    });
    let mut written = Vec::new();
    let mut answers = 0;
    loop {
        match session.next_event()? {
            Event::Guest { bytes, .. } => written.extend(bytes),
            Event::Line(line) => {
                operator.hear(&line);
                if let Some(record) = line.record().transpose()?
                    && record.name == "answer"
                {
                    let id = record.number("id")?;
                    ensure!(!DAMAGED.contains(&id), "{id:#x} is answered");
                    answers += 1;
                }
            }
            Event::Complaint(_) => {}
            Event::Ended(_) | Event::Left | Event::TimedOut => break,
        }
    }
    operator.end();
    let asked = talker
        .join()
        .map_err(|_| anyhow!("who talks has panicked"))??;
    ensure!(
        written == b"ok\n",
        "the guest was typed {:?}",
        String::from_utf8_lossy(&written)
    );
    // Of the VM and of two vCPUs each, and again if one was repeated.
    ensure!(
        answers >= 3 * asked,
        "{answers} answers to {asked} requests"
    );
    Ok(format!("a request of {length} bytes"))
}

/// How many requests were answered.
fn talk(operator: &Operator, mut wire: Wire, length: usize) -> Result<usize> {
    let look = || -> Result<()> {
        let status = operator.ask(Verb::Status, 0)?;
        let is_on = status.vcpus.get(&0).is_some_and(|vcpu| vcpu.pc.is_some());
        ensure!(status.missing().is_empty() && is_on, "{status:?}");
        Ok(())
    };
    look()?;
    let mut asked = 1;
    let long: Vec<u8> = b"\x1e@"
        .iter()
        .copied()
        .chain((0..length).map(|n| b' ' + (n % 90) as u8))
        .collect();
    for damaged in [
        &b"\x1e@12 s 0 "[..],
        b"\x1e@",
        // An NMI and a reset, whose checksums are of something else.
        b"\x1e@77 n 0 0 12345678\n",
        b"\x1e@78 b 0 0 0\n\x1e@\n\x1e@ \n",
        &long,
    ] {
        wire.write_all(damaged)?;
        look()?;
        asked += 1;
    }
    operator.type_bytes(b"ok\n")?;
    Ok(asked)
}
