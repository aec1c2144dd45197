//! A guest's own watchdog, as the guest drives it, and what its user sees when the guest does not refresh it.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::boot::{Boot, LIMIT, spin};
use debian::paths;
use machine::workshop::Workshop;

/// Switches its watchdog on, which is at 0xb01_0000 and 0xb02_0000, the first pages from there on where QEMU's `virt` has nothing, with
/// a 64th of a second; and lets the first signal come three times, each time the SPI of the highest number, not too early, and gone
/// once it has refreshed. It says W on the UART then, or a digit as soon as something is not so, and spins. GICv3.
const GWDT: [u32; 73] = [
    0xd2a1_2012, // mov x18, #0x9000000
    0xd2a1_6031, // mov x17, #0xb010000
    0xd2a1_6050, // mov x16, #0xb020000
    0xd2a1_0001, // mov x1, #0x8000000
    0x5280_0240, // mov w0, #0x12
    0xb900_0020, // str w0, [x1]
    0x1280_0000, // mov w0, #0xffffffff
    0xb900_a020, // str w0, [x1, #160]
    0xb901_2020, // str w0, [x1, #288]
    0xd2a1_0153, // mov x19, #0x80a0000
    0xb940_1660, // ldr w0, [x19, #20]
    0x121e_7800, // and w0, w0, #0xfffffffd
    0xb900_1660, // str w0, [x19, #20]
    0xd280_00e0, // mov x0, #0x7
    0xd518_cca0, // msr icc_sre_el1, x0
    0xd503_3fdf, // isb
    0xd280_1fe0, // mov x0, #0xff
    0xd518_4600, // msr icc_pmr_el1, x0
    0xd280_0020, // mov x0, #0x1
    0xd518_cce0, // msr icc_igrpen1_el1, x0
    0xd503_3fdf, // isb
    0x5280_0617, // mov w23, #0x30
    0xb94f_ce20, // ldr w0, [x17, #4044]
    0xb94f_ce01, // ldr w1, [x16, #4044]
    0x52a0_0022, // mov w2, #0x10000
    0x6b02_001f, // cmp w0, w2
    0x5400_05a1, // b.ne .+180
    0x6b02_003f, // cmp w1, w2
    0x5400_0561, // b.ne .+172
    0xd53b_e019, // mrs x25, cntfrq_el0
    0xd346_ff39, // lsr x25, x25, #6
    0xb900_0a39, // str w25, [x17, #8]
    0xd53b_e058, // mrs x24, cntvct_el0
    0x5280_0020, // mov w0, #0x1
    0xb900_0220, // str w0, [x17]
    0xd280_0075, // mov x21, #0x3
    0xd538_cc09, // mrs x9, icc_iar1_el1
    0xf10f_fd3f, // cmp x9, #0x3ff
    0x54ff_ffc0, // b.eq .-8
    0xd503_3fdf, // isb
    0xd53b_e04a, // mrs x10, cntvct_el0
    0x5280_0657, // mov w23, #0x32
    0xd280_23e0, // mov x0, #0x11f
    0xeb00_013f, // cmp x9, x0
    0x5400_0361, // b.ne .+108
    0x5280_0677, // mov w23, #0x33
    0xb940_0220, // ldr w0, [x17]
    0x7100_0c1f, // cmp w0, #0x3
    0x5400_02e1, // b.ne .+92
    0x5280_0697, // mov w23, #0x34
    0x8b19_0318, // add x24, x24, x25
    0xeb18_015f, // cmp x10, x24
    0x5400_0263, // b.lo .+76
    0xf940_0a20, // ldr x0, [x17, #16]
    0xeb18_001f, // cmp x0, x24
    0x5400_0203, // b.lo .+64
    0xd53b_e058, // mrs x24, cntvct_el0
    0xb900_021f, // str wzr, [x16]
    0x5280_06b7, // mov w23, #0x35
    0xb940_0220, // ldr w0, [x17]
    0x7100_041f, // cmp w0, #0x1
    0x5400_0141, // b.ne .+40
    0xd518_cc29, // msr icc_eoir1_el1, x9
    0xd503_3fdf, // isb
    0x5280_06d7, // mov w23, #0x36
    0xd538_cc09, // mrs x9, icc_iar1_el1
    0xf10f_fd3f, // cmp x9, #0x3ff
    0x5400_0081, // b.ne .+16
    0xd100_06b5, // sub x21, x21, #0x1
    0xb5ff_fbf5, // cbnz x21, .-132
    0x5280_0af7, // mov w23, #0x57
    0xb900_0257, // str w23, [x18]
    0x1400_0000, // b .
];

const SENTENCE: &str = "the guest has not refreshed its sbsa-gwdt; ";

fn boot(workshop: &Workshop, act: &str) -> Result<Boot> {
    let file = workshop.output(&format!("operator-gwdt-{act}.toml"))?;
    let text = format!("sbsa-gwdt = \"{act}\"\nnmi = {{ limit = \"400ms\" }}\n");
    paths::write_if_new(&file, text.as_bytes())?;
    let file = file.display().to_string();
    let log = workshop.output(&format!("operator-gwdt-{act}.log"))?;
    // Of an earlier run.
    let _ = std::fs::remove_file(&log);
    let log = log.display().to_string();
    // The guest's time is what it executes: a busy host does not keep it from refreshing.
    let arguments = ["--icount", "--guest", &file, "--log", &log];
    Boot::start(workshop, "gwdt", &GWDT, &arguments)
}

/// Waits until so many such records are in the log.
fn wait_for(workshop: &Workshop, act: &str, record: &str, count: usize) -> Result<()> {
    let log = workshop.output(&format!("operator-gwdt-{act}.log"))?;
    let until = Instant::now() + LIMIT;
    loop {
        let text = std::fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        if text.matches(record).count() >= count {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "not {count} times `{record}`: {text}"
        );
        std::thread::yield_now();
    }
}

/// One guest for each thing that can be done.
pub fn bark(workshop: &Workshop) -> Result<()> {
    let (output, errors, code) = boot(workshop, "off")?.end()?;
    ensure!(
        code == Some(0)
            && output == "W"
            && errors.contains(&format!("{SENTENCE}it is switched off")),
        "{code:?} {output:?}\n{errors}"
    );

    let mut reset = boot(workshop, "reset")?;
    wait_for(workshop, "reset", "@vm-reset vm=0", 2)?;
    reset.ctl(&["off"])?;
    let (output, errors, _) = reset.end()?;
    ensure!(
        output.starts_with("WW") && errors.contains(&format!("{SENTENCE}it is reset")),
        "{output:?}\n{errors}"
    );

    // It has no vectors, and SErrors masked.
    let mut nmi = boot(workshop, "nmi")?;
    wait_for(workshop, "nmi", "@vm-nmi vm=0 vcpu=0 rung=last", 1)?;
    spin(&mut nmi.client()?)?;
    nmi.ctl(&["off"])?;
    let (output, errors, _) = nmi.end()?;
    ensure!(
        output == "W"
            && errors.contains(&format!("{SENTENCE}an NMI is sent"))
            && errors.contains("NMI on vCPU 0: the SError waits: PSTATE.A is set"),
        "{output:?}\n{errors}"
    );

    let mut frozen = boot(workshop, "freeze")?;
    frozen.status(|status| status["vm"]["state"] == "paused")?;
    frozen.ctl(&["off"])?;
    let (output, errors, _) = frozen.end()?;
    ensure!(
        output == "W" && errors.contains(&format!("{SENTENCE}it is paused")),
        "{output:?}\n{errors}"
    );
    Ok(())
}
