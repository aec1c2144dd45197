//! A UART behind a bus with `interrupt-map` (Devicetree Specification 2.4.3), as Arm's models have it.

use anyhow::{Result, ensure};

use crate::ledger::Ledger;
use debian::tools;
use machine::board::Board;
use machine::build::{self, Program};
use machine::crafted;
use machine::el3::El3;
use machine::ending::{Ending, Watch};
use machine::payload::{Capture, Payload};
use machine::qemu::{Event, Machine};
use machine::workshop::Workshop;
use std::time::Duration;

use crate::offer::offered;

const NAME: &str = "run/interrupt-map";

/// The guest's console interrupts it.
const TEST: &str = "the_console_interrupts_when_it_can_take_more";

/// How long a boot may take, with other work on the host.
const LIMIT: Duration = Duration::from_secs(120);

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [NAME].into_iter()
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    if workshop.board == Board::Virt && workshop.el3 == El3::None {
        ledger.check(NAME, || boot(workshop));
    }
}

fn boot(workshop: &Workshop) -> Result<String> {
    let hypervisor = build::build(workshop, Program::Hypervisor)?;
    let guest = build::build(workshop, Program::GuestTests)?;
    let bundle = workshop.output("interrupt-map.itb")?;
    Payload {
        kernel: &guest.image,
        initrd: None,
        flash: None,
        capture: Capture::default(),
        config: offered(&format!("test={TEST}")),
    }
    .write(&bundle)?;
    let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
    let mut machine = Machine::new(&qemu, &hypervisor.image);
    machine.cpus = 2;
    machine.memory_mib = 256;
    machine.initrd = Some(bundle);
    let file = workshop.output("interrupt-map.dtb")?;
    devicetree(&machine, &file)?;
    machine.extra = vec!["-dtb".into(), file.into()];
    let mut session = machine.start(Some(LIMIT))?;
    let mut watch = Watch::default();
    let mut console = Vec::new();
    let timed_out = loop {
        match session.next_event()? {
            Event::Guest { bytes, .. } => console.extend(bytes),
            Event::Line(line) => watch.follow(&line, &mut session)?,
            Event::Complaint(_) => {}
            Event::Ended(_) | Event::Left => break false,
            Event::TimedOut => break true,
        }
    };
    let ending = watch.ending(timed_out);
    let console = String::from_utf8_lossy(&console);
    ensure!(
        matches!(ending, Ending::PowerOff) && console.contains(&format!("PASS {TEST}")),
        "{ending}\n{console}\n{}\nQEMU was: {}",
        session.tail().join("\n"),
        machine.command_line()
    );
    Ok(String::new())
}

/// QEMU's devicetree with the console behind a bus that maps its interrupt 1 to the GIC's SPI 1.
fn devicetree(machine: &Machine, file: &std::path::Path) -> Result<()> {
    /// The GIC's phandle, which QEMU numbers as it likes.
    const GIC: u32 = 0x7000;
    const CONSOLE: &str = "/bus@9000000/uart@9000000";
    let cells = |cells: &[u32]| -> Vec<u8> {
        let bytes = cells.iter().flat_map(|cell| cell.to_be_bytes());
        bytes.collect()
    };
    let text = |text: &str| [text.as_bytes(), b"\0"].concat();
    let bus = "/bus@9000000";
    let edits = [
        ("/", "interrupt-parent", cells(&[GIC])),
        ("/platform-bus@c000000", "interrupt-parent", cells(&[GIC])),
        ("/intc@8000000", "phandle", cells(&[GIC])),
        ("/pl011@9000000", "status", text("disabled")),
        ("/chosen", "stdout-path", text(CONSOLE)),
        (bus, "compatible", text("simple-bus")),
        (bus, "#address-cells", cells(&[2])),
        (bus, "#size-cells", cells(&[2])),
        (bus, "ranges", Vec::new()),
        (bus, "#interrupt-cells", cells(&[1])),
        (bus, "interrupt-map-mask", cells(&[0, 0, 0xff])),
        (bus, "interrupt-map", cells(&[0, 0, 1, GIC, 0, 0, 0, 1, 4])),
        (CONSOLE, "compatible", text("arm,pl011")),
        (CONSOLE, "reg", cells(&[0, 0x0900_0000, 0, 0x1000])),
        (CONSOLE, "interrupts", cells(&[1])),
    ];
    crafted::devicetree(machine, file, &edits)
}
