//! The instant of a crash kernel: a guest jumps into the memory that is its crash kernel's, and its CPUs write to the rest.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use hv_abi::operator::Verb;
use hv_bundle::{GuestConfig, parse_crashkernel};

use crate::offer::offered;
use debian::tools;
use machine::build::{self, Program};
use machine::operator::Operator;
use machine::payload::{Capture, Payload};
use machine::qemu::{Event, Machine};
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

const LIMIT: Duration = Duration::from_secs(120);

/// The crash kernel's memory.
const CRASH: &str = "2M@0x41000000";
const START: u64 = 0x4100_0000;
/// Where the other vCPU counts.
const COUNTER: u64 = 0x41a0_0000;
/// What is written to after the instant, and by which vCPU; the last twice, and the second by an instruction that no syndrome describes.
const WRITTEN: [(u64, u64); 4] = [
    (0x4180_0000, 0),
    (0x4180_1010, 0),
    (COUNTER, 1),
    (0x41b0_0000, 0),
];

/// Switches on vCPU 1, which counts, copies what is behind it into [`CRASH`] and jumps there. That writes to the pages of [`WRITTEN`] and to
/// its own memory, says K on the UART if the second has what was written, and waits until vCPU 1 has counted on. The first time
/// it resets the guest, and the second time switches it off.
const PROGRAM: [u32; 51] = [
    0xd2a8_3009, // mov x9, #0x41800000
    0xd2a8_340a, // mov x10, #0x41a00000
    0xd2a8_360b, // mov x11, #0x41b00000
    0xd280_0060, // mov x0, #0x3
    0xf2b8_8000, // movk x0, #0xc400, lsl #16
    0xd280_0021, // mov x1, #0x1
    0x1000_0242, // adr x2, 0x60
    0xd280_0003, // mov x3, #0x0
    0xd400_0003, // smc #0x0
    0xf940_0147, // ldr x7, [x10]
    0xb4ff_ffe7, // cbz x7, 24
    0xd2a8_2001, // mov x1, #0x41000000
    0x1000_0202, // adr x2, 0x70
    0xd280_0003, // mov x3, #0x0
    0xf863_6844, // ldr x4, [x2, x3]
    0xf823_6824, // str x4, [x1, x3]
    0x9100_2063, // add x3, x3, #0x8
    0xf102_007f, // cmp x3, #0x80
    0x54ff_ff81, // b.ne 38
    0xd503_3b9f, // dsb ish
    0xd508_751f, // ic iallu
    0xd503_3b9f, // dsb ish
    0xd503_3fdf, // isb
    0xd61f_0020, // br x1
    0xd2a8_340a, // mov x10, #0x41a00000
    0x9100_04c6, // add x6, x6, #0x1
    0xf900_0146, // str x6, [x10]
    0x17ff_fffe, // b 0x64
    0x5280_0026, // mov w6, #0x1
    0xb900_0126, // str w6, [x9]
    0xb900_0926, // str w6, [x9, #8]
    0xf904_0026, // str x6, [x1, #2048]
    0x9140_0525, // add x5, x9, #0x1, lsl #12
    0xa981_18a6, // stp x6, x6, [x5, #16]!
    0xb940_00a7, // ldr w7, [x5]
    0x1101_28e7, // add w7, w7, #0x4a
    0xd2a1_2008, // mov x8, #0x9000000
    0xb900_0107, // str w7, [x8]
    0xf940_0144, // ldr x4, [x10]
    0xf940_0147, // ldr x7, [x10]
    0xeb04_00ff, // cmp x7, x4
    0x54ff_ffc0, // b.eq 0x9c
    0xb940_0167, // ldr w7, [x11]
    0xb900_0166, // str w6, [x11]
    0x5280_0120, // mov w0, #0x9
    0x5280_0102, // mov w2, #0x8
    0x7100_00ff, // cmp w7, #0x0
    0x1a82_0000, // csel w0, w0, w2, eq
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0003, // smc #0x0
    0x1400_0000, // b 0xc8
];

/// Twice, as the guest resets itself: the first instruction of the crash kernel is the instant, the guest stands still until it is thawed, and
/// then each page that somebody writes to is named once.
pub fn find(workshop: &Workshop) -> Result<String> {
    let folder = RunDir::create(None)?;
    let kernel = folder.file("program.bin");
    std::fs::write(&kernel, PROGRAM.map(u32::to_le_bytes).as_flattened())?;
    let bundle = folder.file("program.itb");
    Payload {
        kernel: &kernel,
        initrd: None,
        flash: None,
        capture: Capture::default(),
        config: GuestConfig {
            crashkernel: Some(parse_crashkernel(CRASH)?),
            ..offered("")
        },
    }
    .write(&bundle)?;
    let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
    let hypervisor = build::build(workshop, Program::Hypervisor)?;
    let mut machine = Machine::new(&qemu, &hypervisor.image);
    machine.cpus = 2;
    machine.memory_mib = 256;
    machine.initrd = Some(bundle);
    let mut session = machine.start(Some(LIMIT))?;
    let wire = session.take_input().context("QEMU has no input")?;
    let operator = Operator::new(wire, false);
    let (mut instants, mut written, mut said) = (Vec::new(), Vec::new(), Vec::new());
    let mut thawing = Vec::new();
    loop {
        match session.next_event()? {
            Event::Guest { bytes, .. } => said.extend(bytes),
            Event::Line(line) => {
                operator.hear(&line);
                let Some(record) = line.record().transpose()? else {
                    continue;
                };
                match record.name.as_str() {
                    "kexec" => {
                        instants.push([record.number("vcpu")?, record.number("pc")?]);
                        let (operator, leave) = (operator.clone(), session.leave());
                        thawing.push(std::thread::spawn(move || {
                            let seen = stand_still(&operator);
                            if seen.is_err() {
                                leave.leave();
                            }
                            seen
                        }));
                    }
                    "write" => {
                        ensure!(!instants.is_empty(), "before the instant: {}", line.text);
                        written.push((record.number("ipa")?, record.number("vcpu")?));
                    }
                    _ => {}
                }
            }
            Event::Complaint(_) => {}
            Event::Ended(_) | Event::Left => break,
            Event::TimedOut => bail!("it never ends; {instants:x?}, {written:x?}"),
        }
    }
    operator.end();
    for thread in thawing {
        thread
            .join()
            .map_err(|_| anyhow!("who thaws has panicked"))??;
    }
    ensure!(instants == [[0, START]; 2], "{instants:x?}");
    ensure!(said == b"KK", "{:?}", String::from_utf8_lossy(&said));
    let (first, second) = written.split_at_checked(WRITTEN.len()).unwrap_or_default();
    for pass in [first, second] {
        let mut pass = pass.to_vec();
        pass.sort_unstable();
        ensure!(pass == WRITTEN, "{written:x?}");
    }
    Ok(format!("{} pages, twice", WRITTEN.len()))
}

/// That nobody counts on, though vCPU 1 counts as fast as it can; then the guest goes on.
fn stand_still(operator: &Operator) -> Result<()> {
    // An answer of each vCPU comes when it has left the guest.
    let status = operator.ask(Verb::Freeze, 0)?;
    let state = status.vm.as_ref().map(|vm| vm.state.as_str());
    ensure!(
        state == Some("paused") && status.missing().is_empty(),
        "{status:?}"
    );
    let count = || operator.read(COUNTER, 8);
    let (first, second) = (count()?, count()?);
    ensure!(first == second, "vCPU 1 counts on: {first:x?}, {second:x?}");
    operator.ask(Verb::Thaw, 0)?;
    Ok(())
}
