//! A guest that is no Linux is dumped, and what is started beside its memory reads that and cannot change it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use hv_abi::operator::Verb;
use hv_abi::policy::After;
use hv_bundle::{DumpConfig, GuestConfig};

use super::Check;
use crate::offer::offered;
use debian::tools;
use machine::build::{self, Program};
use machine::operator::Operator;
use machine::payload::{Capture, Payload};
use machine::qemu::{Event, ICOUNT_SHIFT, Machine};
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// The rows.
pub const TESTS: [(&str, Check); 2] = [
    (
        "operator/a-capture-kernel-cannot-change-what-it-reads",
        refuse,
    ),
    ("operator/who-searches-a-dead-guest-is-not-stuck", search),
];

const LIMIT: Duration = Duration::from_secs(120);

/// Writes M to 0x41000000, says G on the UART, and stays where it is.
const GUEST: [u32; 7] = [
    0xd2a8_2001, // mov x1, #0x41000000
    0x5280_09a2, // mov w2, #0x4d
    0xb900_0022, // str w2, [x1]
    0xd2a1_2008, // mov x8, #0x9000000
    0x5280_08e3, // mov w3, #0x47
    0xb900_0103, // str w3, [x8]
    0x1400_0000, // b 0x18
];

/// An Image (Documentation/arch/arm64/booting.rst) of 4 KiB, for any place, and what it does from [`ENTRY`] on: it says what is at
/// 0x41000000, writes 0 there, says W and switches itself off.
const HEADER: [u32; 16] = [
    0x1400_0010, // b 0x40
    0,
    0,
    0,
    0x1000,
    0,
    0xa,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0x644d_5241, // the magic number
    0,
];
const ENTRY: usize = 0x40;
const KERNEL: [u32; 14] = [
    0x1000_3e00, // adr x0, 0x800
    0xd518_c000, // msr vbar_el1, x0
    0xd503_3fdf, // isb
    0xd2a1_2008, // mov x8, #0x9000000
    0xd2a8_2001, // mov x1, #0x41000000
    0xb940_0022, // ldr w2, [x1]
    0xb900_0102, // str w2, [x8]
    0xb900_003f, // str wzr, [x1]
    0x5280_0ae2, // mov w2, #0x57
    0xb900_0102, // str w2, [x8]
    0x5280_0100, // mov w0, #0x8
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0003, // smc #0x0
    0x1400_0000, // b 0x74
];
/// Its vector for synchronous exceptions of EL1: it says what is there now, A if it is here for an external abort (DDI0487 D24.2.40, ESR_EL1:
/// EC 0x25, DFSC 0x10), and switches itself off.
const VECTOR: usize = 0xa00;
const HANDLER: [u32; 11] = [
    0xb940_0022, // ldr w2, [x1]
    0xb900_0102, // str w2, [x8]
    0xd538_5203, // mrs x3, esr_el1
    0x1200_1464, // and w4, w3, #0x3f
    0x531a_7c63, // lsr w3, w3, #26
    0x7100_947f, // cmp w3, #0x25
    0x7a50_0880, // ccmp w4, #0x10, #0x0, eq
    0x5280_0822, // mov w2, #0x41
    0x54ff_b241, // b.ne 0x68
    0xb900_0102, // str w2, [x8]
    0x17ff_fd90, // b 0x68
];

/// Switches itself off.
const OFF: [u32; 4] = [
    0x5280_0100, // mov w0, #0x8
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0003, // smc #0x0
    0x1400_0000, // b 0xc
];

/// A machine with a guest that does this, and has a kernel for its dump.
fn machine(
    workshop: &Workshop,
    folder: &RunDir,
    guest: &[u32],
    mut config: GuestConfig,
) -> Result<Machine> {
    let (image, kernel) = (folder.file("guest.bin"), folder.file("capture.img"));
    write(&image, &[(0, guest)])?;
    write(
        &kernel,
        &[(0, &HEADER), (ENTRY, &KERNEL), (VECTOR, &HANDLER)],
    )?;
    let bundle = folder.file("guest.itb");
    config.dump = Some(DumpConfig {
        memory: 64 << 20,
        bootargs: String::new(),
    });
    Payload {
        kernel: &image,
        initrd: None,
        flash: None,
        capture: Capture {
            kernel: Some(&kernel),
            initrd: None,
        },
        config,
    }
    .write(&bundle)?;
    let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
    let hypervisor = build::build(workshop, Program::Hypervisor)?;
    let mut machine = Machine::new(&qemu, &hypervisor.image);
    machine.memory_mib = 256;
    machine.initrd = Some(bundle);
    Ok(machine)
}

/// A store to the dead guest's memory is refused. There is no VMCOREINFO, which is said, and a note of its vCPU all the same.
fn refuse(workshop: &Workshop) -> Result<String> {
    let folder = RunDir::create(None)?;
    let machine = machine(workshop, &folder, &GUEST, offered(""))?;
    let mut session = machine.start(Some(LIMIT))?;
    let wire = session.take_input().context("QEMU has no input")?;
    let operator = Operator::new(wire, false);
    let (mut said, mut dumps, mut asking) = (Vec::new(), Vec::new(), None);
    while !said.ends_with(b"AG") {
        match session.next_event()? {
            Event::Guest { bytes, .. } => {
                said.extend(bytes);
                let (operator, leave) = (operator.clone(), session.leave());
                asking.get_or_insert_with(|| {
                    std::thread::spawn(move || {
                        let asked = operator.ask(Verb::Dump, 0);
                        if asked.is_err() {
                            leave.leave();
                        }
                        asked
                    })
                });
            }
            Event::Line(line) => {
                operator.hear(&line);
                if let Some(record) = line.record().transpose()?
                    && record.name == "vm-dump"
                {
                    dumps.push((
                        record.number("vcpus")?,
                        record.word("vmcoreinfo")?.to_owned(),
                    ));
                }
            }
            Event::Complaint(_) => {}
            Event::Ended(_) | Event::TimedOut | Event::Left => bail!(
                "no guest came up after its dump; it says {:?}",
                String::from_utf8_lossy(&said)
            ),
        }
    }
    drop(session);
    operator.end();
    if let Some(asking) = asking {
        let asked = asking.join();
        asked.map_err(|_| anyhow!("who asks has panicked"))??;
    }
    // The capture kernel reads M, is refused, and reads M again.
    ensure!(
        said == b"GMMAG",
        "it says {:?}",
        String::from_utf8_lossy(&said)
    );
    ensure!(dumps == [(1, "none".to_owned())], "{dumps:?}");
    Ok(String::new())
}

/// How long a pCPU may show no life, in milliseconds.
const WATCHDOG_MS: u64 = 4;

/// A pCPU that looks for VMCOREINFO in all memory of a guest that has none shows that it lives. In instructions, which no host
/// delays, and many times as long as the watchdog waits.
fn search(workshop: &Workshop) -> Result<String> {
    let folder = RunDir::create(None)?;
    let mut config = offered("");
    config.policy.on_off = After::Dump;
    let mut machine = machine(workshop, &folder, &OFF, config)?;
    machine.cpus = 2;
    machine.memory_mib = 512;
    machine.icount = true;
    machine.icount_shift = ICOUNT_SHIFT;
    machine.append = format!("watchdog=report:{WATCHDOG_MS}");
    let mut ended_us = None;
    let mut session = machine.start(Some(LIMIT))?;
    loop {
        match session.next_event()? {
            Event::Line(line) => {
                let name = line.record().transpose()?.map(|record| record.name);
                match name.as_deref() {
                    Some("hv-stuck") => bail!("who searches is taken for stuck: {line}"),
                    Some("end") => ended_us = line.time_us,
                    Some("vm-dump") => {
                        let times = line.time_us.zip(ended_us);
                        let (done, ended) = times.context("a record has no time")?;
                        let searched_ms = (done - ended) / 1000;
                        ensure!(
                            searched_ms >= 10 * WATCHDOG_MS,
                            "the search took {searched_ms} ms only"
                        );
                        return Ok(format!("{searched_ms} ms"));
                    }
                    _ => {}
                }
            }
            Event::Guest { .. } | Event::Complaint(_) => {}
            Event::Ended(_) | Event::TimedOut | Event::Left => bail!("the guest was not dumped"),
        }
    }
}

/// A file with these words at these places.
fn write(path: &Path, parts: &[(usize, &[u32])]) -> Result<()> {
    let mut bytes = Vec::new();
    for (at, words) in parts {
        bytes.resize(*at, 0);
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
