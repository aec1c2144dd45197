//! The instant of a crash kernel: a guest jumps into the memory that is its crash kernel's, and its CPUs and devices write to the rest.

use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use hv_abi::operator::Verb;
use hv_bundle::{GuestConfig, parse_crashkernel};

use crate::instant;
use crate::offer::offered;
use debian::tools;
use machine::build;
use machine::console::Record;
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

/// What [`DRIVER`] writes to after the instant, by way of the device's mediator, of the device, and of a walk.
const USED: u64 = 0x4180_1000;
const BUFFER: u64 = 0x4180_2000;
const TABLE: u64 = 0x4190_0000;

/// Puts a buffer into a queue, and an entry without the access flag into a table of translations; copies what is behind it into [`CRASH`] and
/// jumps there. That sets up the device of the first transport (virtio 1.2, 3.1), has it fill the buffer, and loads by way of the entry,
/// where the hardware is to set the flag (TCR_EL1.HA). It says D if the device has filled the buffer, A if the flag is set, and switches
/// the guest off.
const DRIVER: [u32; 94] = [
    0xd2a8_3009, // mov x9, #0x41800000
    0xd2a8_320c, // mov x12, #0x41900000
    0xd2a8_2001, // mov x1, #0x41000000
    0xd284_000b, // mov x11, #0x2000
    0x8b09_016b, // add x11, x11, x9
    0xf900_012b, // str x11, [x9]
    0xd280_0102, // mov x2, #0x8
    0xf2c0_0042, // movk x2, #0x2, lsl #32
    0xf900_0522, // str x2, [x9, #8]
    0x52a0_0022, // mov w2, #0x10000
    0xb901_0122, // str w2, [x9, #256]
    0xd280_8022, // mov x2, #0x401
    0xf900_0182, // str x2, [x12]
    0xd2a8_0003, // mov x3, #0x40000000
    0xd280_e0a2, // mov x2, #0x705
    0xaa03_0042, // orr x2, x2, x3
    0xf900_0582, // str x2, [x12, #8]
    0x9275_f842, // and x2, x2, #0xfffffffffffffbff
    0xf900_0982, // str x2, [x12, #16]
    0x1000_01a2, // adr x2, 80
    0xd280_0003, // mov x3, #0x0
    0xf863_6844, // ldr x4, [x2, x3]
    0xf823_6824, // str x4, [x1, x3]
    0x9100_2063, // add x3, x3, #0x8
    0xf104_007f, // cmp x3, #0x100
    0x54ff_ff81, // b.ne 54
    0xd503_3b9f, // dsb ish
    0xd508_751f, // ic iallu
    0xd503_3b9f, // dsb ish
    0xd503_3fdf, // isb
    0xd61f_0020, // br x1
    0xd503_201f, // nop
    0xd2a1_400d, // mov x13, #0xa000000
    0xb900_71bf, // str wzr, [x13, #112]
    0x5280_0022, // mov w2, #0x1
    0xb900_71a2, // str w2, [x13, #112]
    0x5280_0063, // mov w3, #0x3
    0xb900_71a3, // str w3, [x13, #112]
    0xb900_25bf, // str wzr, [x13, #36]
    0xb900_21bf, // str wzr, [x13, #32]
    0xb900_25a2, // str w2, [x13, #36]
    0xb900_21a2, // str w2, [x13, #32]
    0x5280_0163, // mov w3, #0xb
    0xb900_71a3, // str w3, [x13, #112]
    0xb900_31bf, // str wzr, [x13, #48]
    0x5280_0103, // mov w3, #0x8
    0xb900_39a3, // str w3, [x13, #56]
    0xb900_81a9, // str w9, [x13, #128]
    0xb900_85bf, // str wzr, [x13, #132]
    0x1104_0123, // add w3, w9, #0x100
    0xb900_91a3, // str w3, [x13, #144]
    0xb900_95bf, // str wzr, [x13, #148]
    0x9140_052a, // add x10, x9, #0x1, lsl #12
    0xb900_a1aa, // str w10, [x13, #160]
    0xb900_a5bf, // str wzr, [x13, #164]
    0xb900_45a2, // str w2, [x13, #68]
    0x5280_01e3, // mov w3, #0xf
    0xb900_71a3, // str w3, [x13, #112]
    0xd503_3f9f, // dsb sy
    0xb900_51bf, // str wzr, [x13, #80]
    0x7940_0544, // ldrh w4, [x10, #2]
    0x34ff_ffe4, // cbz w4, f0
    0xd288_8003, // mov x3, #0x4400
    0xd518_a203, // msr mair_el1, x3
    0xd286_a323, // mov x3, #0x3519
    0xf2a0_1003, // movk x3, #0x80, lsl #16
    0xf2c0_1023, // movk x3, #0x81, lsl #32
    0xd518_2043, // msr tcr_el1, x3
    0xd518_200c, // msr ttbr0_el1, x12
    0xd503_3f9f, // dsb sy
    0xd508_871f, // tlbi vmalle1
    0xd503_3f9f, // dsb sy
    0xd503_3fdf, // isb
    0xd538_1005, // mrs x5, sctlr_el1
    0xb240_00a6, // orr x6, x5, #0x1
    0xd518_1006, // msr sctlr_el1, x6
    0xd503_3fdf, // isb
    0xd2b0_2003, // mov x3, #0x81000000
    0xb940_0064, // ldr w4, [x3]
    0xf940_0984, // ldr x4, [x12, #16]
    0xd518_1005, // msr sctlr_el1, x5
    0xd503_3fdf, // isb
    0xd2a1_2008, // mov x8, #0x9000000
    0xf940_0165, // ldr x5, [x11]
    0x5280_0883, // mov w3, #0x44
    0xb400_0045, // cbz x5, 15c
    0xb900_0103, // str w3, [x8]
    0x5280_0823, // mov w3, #0x41
    0x3650_0044, // tbz w4, #10, 168
    0xb900_0103, // str w3, [x8]
    0x5280_0100, // mov w0, #0x8
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0003, // smc #0x0
    0x1400_0000, // b 174
];

/// Twice, as the guest resets itself: the first instruction of the crash kernel is the instant, the guest stands still until it is thawed, and
/// then each page that somebody writes to is named once.
pub fn find(workshop: &Workshop) -> Result<String> {
    let program = Program {
        words: &PROGRAM,
        cpus: 2,
        has_device: false,
    };
    let Seen {
        instants,
        written,
        said,
    } = program.run(workshop, stand_still)?;
    let by_vcpu = |&(ipa, by): &(u64, By)| match by {
        By::Vcpu(vcpu) => Ok((ipa, vcpu)),
        By::Mediator => Err(anyhow!("there is no mediator")),
    };
    let written: Result<Vec<(u64, u64)>> = written.iter().map(by_vcpu).collect();
    let written = written?;
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

/// The mediator of a device is named where it writes, and so is a vCPU whose walk of its tables sets a flag there; a device that writes is not.
pub fn name(workshop: &Workshop) -> Result<String> {
    let program = Program {
        words: &DRIVER,
        cpus: 1,
        has_device: true,
    };
    let seen = program.run(workshop, |operator| {
        let before = operator.read(BUFFER, 8)?;
        ensure!(before == [0; 8], "{before:x?}");
        operator.ask(Verb::Thaw, 0)?;
        Ok(())
    })?;
    ensure!(seen.instants == [[0, START]], "{:x?}", seen.instants);
    let said = String::from_utf8_lossy(&seen.said);
    ensure!(said == "DA", "it says {said:?}");
    let pages: Vec<(u64, By)> = seen
        .written
        .iter()
        .map(|&(ipa, by)| (ipa & !0xfff, by))
        .collect();
    ensure!(
        pages == [(USED, By::Mediator), (TABLE, By::Vcpu(0))],
        "{:x?}",
        seen.written
    );
    Ok(String::new())
}

/// Who wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Vcpu(u64),
    Mediator,
}

/// What a guest has as its kernel, without a header.
struct Program<'a> {
    words: &'a [u32],
    cpus: u32,
    /// It has a source of entropy in the first transport, which is mediated.
    has_device: bool,
}

/// What was seen of it.
#[derive(Default)]
struct Seen {
    /// Each instant: which vCPU, and where.
    instants: Vec<[u64; 2]>,
    /// What was written to afterwards.
    written: Vec<(u64, By)>,
    said: Vec<u8>,
}

impl Program<'_> {
    /// Runs it to its end; at each instant `still` looks at it and thaws it.
    fn run(
        &self,
        workshop: &Workshop,
        still: impl Fn(&Operator) -> Result<()> + Copy + Send + 'static,
    ) -> Result<Seen> {
        let folder = RunDir::create(None)?;
        let kernel = folder.file("program.bin");
        let bytes: Vec<u8> = self.words.iter().flat_map(|it| it.to_le_bytes()).collect();
        std::fs::write(&kernel, bytes)?;
        let bundle = folder.file("program.itb");
        let devices = self.has_device.then(|| vec!["virtio:0".to_owned()]);
        Payload {
            kernel: &kernel,
            initrd: None,
            flash: None,
            capture: Capture::default(),
            config: GuestConfig {
                crashkernel: Some(parse_crashkernel(CRASH)?),
                devices,
                ..offered("")
            },
        }
        .write(&bundle)?;
        let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
        let hypervisor = build::build(workshop, build::Program::Hypervisor)?;
        let mut machine = Machine::new(&qemu, &hypervisor.image);
        // It has flags in tables that the hardware sets (FEAT_HAFDBS).
        machine.cpu = "max".to_owned();
        machine.cpus = self.cpus;
        machine.memory_mib = 256;
        machine.initrd = Some(bundle);
        if self.has_device {
            let device = "virtio-rng-device,bus=virtio-mmio-bus.0";
            let modern = "virtio-mmio.force-legacy=false";
            let words = ["-global", modern, "-device", device];
            machine.extra.extend(words.map(Into::into));
        }
        let mut seen = Seen::default();
        instant::run(&machine, LIMIT, still, |event| {
            match event {
                Event::Guest { bytes, .. } => seen.said.extend(bytes),
                Event::Line(line) => {
                    if let Some(record) = line.record().transpose()? {
                        seen.note(&record)?;
                    }
                }
                Event::TimedOut => {
                    bail!("it never ends; {:x?}, {:x?}", seen.instants, seen.written)
                }
                Event::Complaint(_) | Event::Ended(_) | Event::Left => {}
            }
            Ok(())
        })?;
        Ok(seen)
    }
}

impl Seen {
    fn note(&mut self, record: &Record) -> Result<()> {
        match record.name.as_str() {
            "kexec" => self
                .instants
                .push([record.number("vcpu")?, record.number("pc")?]),
            "write" => {
                let ipa = record.number("ipa")?;
                ensure!(!self.instants.is_empty(), "before the instant: {ipa:#x}");
                let by = match record.word("by")? {
                    "vcpu" => By::Vcpu(record.number("vcpu")?),
                    "mediator" => By::Mediator,
                    other => bail!("{other} has written to {ipa:#x}"),
                };
                self.written.push((ipa, by));
            }
            _ => {}
        }
        Ok(())
    }
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
