//! What a guest costs EL2 while others attack: no more instructions on its pCPU than without them. Counted by a plugin of QEMU's, as all
//! guests share the machine's time.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use debian::paths::write_if_new;

use super::guest;
use crate::bench::boot_counted;
use crate::ledger::Ledger;
use crate::run;
use crate::test::operator::code::RESET;
use machine::build::{self, Program};
use machine::guest::Options;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// The names of these tests.
pub const NAMES: [&str; 2] = [
    "several/a-neighbour-costs-the-same-under-attack",
    "several/a-guest-costs-the-same-beside-three",
];

/// What EL2 may execute for the guest beside others, in thousandths of what it executes otherwise (docs/isolation.md).
const BOUND: std::ops::RangeInclusive<u64> = 995..=1005;
/// How long it may take, with other work on the host.
const LIMIT: Duration = Duration::from_secs(900);

/// Runs those that are named: what timers cost depends on what else the host does.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let [attacked, beside] = NAMES;
    if ledger.names(attacked) {
        ledger.check(attacked, || under_attack(workshop));
    }
    if ledger.names(beside) {
        ledger.check(beside, || beside_three(workshop));
    }
}

/// 4000 rounds, between marks 1 and 2 and a second after the start: PSCI_VERSION, a read and a write of the distributor, an SGI to
/// itself and an interrupt of the virtual timer a millisecond later, each of which ends WFI. Then it switches itself off. GICv3.
const ROUNDS: [u32; 64] = [
    0xd2a1_0013, // mov x19, #0x8000000
    0x5280_0240, // mov w0, #0x12
    0xb900_0260, // str w0, [x19]
    0xd2a1_0154, // mov x20, #0x80a0000
    0xb940_1680, // ldr w0, [x20, #20]
    0x121e_7800, // and w0, w0, #0xfffffffd
    0xb900_1680, // str w0, [x20, #20]
    0x9140_4294, // add x20, x20, #0x10, lsl #12
    0x1280_0000, // mov w0, #-1
    0xb900_8280, // str w0, [x20, #128]
    0x52a1_0000, // mov w0, #0x8000000
    0x321f_0000, // orr w0, w0, #2
    0xb901_0280, // str w0, [x20, #256]
    0xd280_00e0, // mov x0, #7
    0xd518_cca0, // msr icc_sre_el1, x0
    0xd503_3fdf, // isb
    0xd280_1fe0, // mov x0, #0xff
    0xd518_4600, // msr icc_pmr_el1, x0
    0xd280_0020, // mov x0, #1
    0xd518_cce0, // msr icc_igrpen1_el1, x0
    0xd2a0_2017, // mov x23, #0x1000000
    0xf280_0037, // movk x23, #1
    0xd53b_e000, // mrs x0, cntfrq_el0
    0xd280_0021, // mov x1, #1
    0x9ac1_0800, // udiv x0, x0, x1
    0xd53b_e041, // mrs x1, cntvct_el0
    0x8b01_0000, // add x0, x0, x1
    0xd53b_e041, // mrs x1, cntvct_el0
    0xeb00_003f, // cmp x1, x0
    0x54ff_ffc3, // b.lo to the mrs
    0xd53b_e018, // mrs x24, cntfrq_el0
    0xd280_7d01, // mov x1, #1000
    0x9ac1_0b18, // udiv x24, x24, x1
    0xd281_f415, // mov x21, #4000
    0xd289_803f, // mov xzr, #0x4c01: mark 1
    0x52b0_8000, // mov w0, #0x84000000: PSCI_VERSION
    0xd400_0003, // smc #0
    0xb940_0a60, // ldr w0, [x19, #8]
    0xb901_0660, // str w0, [x19, #260]
    0xd518_cbb7, // msr icc_sgi1r_el1, x23
    0x9400_000e, // bl to the wfi
    0xaa18_03e0, // mov x0, x24: a millisecond
    0xd51b_e300, // msr cntv_tval_el0, x0
    0xd280_0020, // mov x0, #1
    0xd51b_e320, // msr cntv_ctl_el0, x0
    0x9400_0009, // bl to the wfi
    0xd51b_e33f, // msr cntv_ctl_el0, xzr
    0xf100_06b5, // subs x21, x21, #1
    0x54ff_fe61, // b.ne to the PSCI_VERSION
    0xd289_805f, // mov xzr, #0x4c02: mark 2
    0x5280_0100, // mov w0, #8
    0x72b0_8000, // movk w0, #0x8400, lsl #16: SYSTEM_OFF
    0xd400_0003, // smc #0
    0x1400_0000, // b .
    0xd503_207f, // wfi
    0xd538_cc00, // mrs x0, icc_iar1_el1
    0xf10f_f01f, // cmp x0, #1020
    0x54ff_ffa2, // b.hs to the wfi
    0xf100_6c1f, // cmp x0, #27
    0x5400_0041, // b.ne to the msr icc_eoir1_el1
    0xd51b_e33f, // msr cntv_ctl_el0, xzr
    0xd518_cc20, // msr icc_eoir1_el1, x0
    0xd503_3fdf, // isb
    0xd65f_03c0, // ret
];

/// Writes to the UART without end.
const FLOOD: [u32; 4] = [
    0xd2a1_2001, // mov x1, #0x09000000
    0x5280_0f00, // mov w0, #'x'
    0xb900_0020, // str w0, [x1]
    0x17ff_ffff, // b to the str
];

/// Has all SPIs from 32 to 63 pending and enabled, and SGIs to itself, without end. GICv3.
const STORM: [u32; 12] = [
    0xd2a1_0013, // mov x19, #0x8000000
    0x5280_0240, // mov w0, #0x12
    0xb900_0260, // str w0, [x19]
    0x1280_0000, // mov w0, #-1
    0xd280_00e1, // mov x1, #7
    0xd518_cca1, // msr icc_sre_el1, x1
    0xd2a0_2017, // mov x23, #0x1000000
    0xf280_0037, // movk x23, #1
    0xb901_0660, // str w0, [x19, #260]: GICD_ISENABLER1
    0xb902_0660, // str w0, [x19, #516]: GICD_ISPENDR1
    0xd518_cbb7, // msr icc_sgi1r_el1, x23
    0x17ff_fffd, // b to the str of GICD_ISENABLER1
];

/// A table of a guest of this program.
fn flat(workshop: &Workshop, name: &str, code: &[u32]) -> Result<String> {
    let kernel = workshop.output(&format!("costs-{name}.bin"))?;
    let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    write_if_new(&kernel, &bytes)?;
    Ok(format!(
        "[[guest]]\nname = \"{name}\"\nkernel = {kernel:?}\nmemory = \"64M\"\n"
    ))
}

/// The guest whose instructions are counted; the machine goes off with it.
fn counted(workshop: &Workshop) -> Result<String> {
    Ok(flat(workshop, "counted", &ROUNDS)? + "on-off = \"machine-off\"\n")
}

/// EL2's instructions, and the guest's, on CPU 0 between both marks.
fn count(tables: &[String]) -> Result<(u64, u64)> {
    let folder = RunDir::create(None)?;
    let file = folder.file("guests.toml");
    fs::write(&file, tables.concat())?;
    let options = Options::read(&file)?;
    let mut machine = run::machine(&options, false, Program::Hypervisor, &folder)?.machine;
    let counts = folder.file("counts");
    let lines = boot_counted(&mut machine, &counts, Some(0), LIMIT)?;
    let text = fs::read_to_string(&counts).context("the plugin has written no counts")?;
    let marks = text.lines().map(|line| {
        let mut numbers = line.split(' ').map(|number| number.parse().unwrap_or(0));
        [(); 3].map(|()| numbers.next().unwrap_or(0))
    });
    let marks: Vec<[u64; 3]> = marks.collect();
    let [[1, el2, guest], [2, el2_then, guest_then]] = marks[..] else {
        let tail = &lines[lines.len().saturating_sub(20)..];
        anyhow::bail!("the marks are {marks:?}: {}", tail.join("\n"));
    };
    Ok((el2_then - el2, guest_then - guest))
}

/// Whether the guest has done its rounds both times, and what EL2 executed for it is within the bound.
fn is_bounded(beside: (u64, u64), alone: (u64, u64)) -> bool {
    let has_worked = alone.0 > 1_000_000 && alone.1 > 100_000;
    has_worked && BOUND.contains(&(beside.0 * 1000 / alone.0))
}

fn under_attack(workshop: &Workshop) -> Result<String> {
    let image = build::build(workshop, Program::GuestTests)?.image;
    let image = image.display().to_string();
    let disk = workshop.output("several-costs.img")?;
    fs::write(&disk, vec![0x33; 1 << 20])?;
    let test = |name: &str, words: &str| guest(name, &image, "2").replace("test=shared", words);
    let rings =
        "mediated times=1000000 test=rings_that_change_while_they_are_read_reach_nothing_else";
    let assault = "times=1000000 test=random_steps_of_every_kind_harm_nobody_else";
    let attackers = [
        flat(workshop, "resets", &RESET)?,
        flat(workshop, "floods", &FLOOD)?,
        flat(workshop, "storms", &STORM)?,
        test("rings", rings) + &format!("disks = [{disk:?}]\n"),
        test("assault", assault),
    ];
    // The same machine, with the others there and off.
    let manual = attackers
        .iter()
        .map(|it| format!("{it}start = \"manual\"\n"));
    let alone = count(&[&[counted(workshop)?][..], &manual.collect::<Vec<_>>()].concat())?;
    let attacked = count(&[&[counted(workshop)?][..], &attackers].concat())?;
    let words = format!(
        "{} instructions of EL2 under attack, {} without",
        attacked.0, alone.0
    );
    ensure!(is_bounded(attacked, alone), "{words}");
    Ok(words)
}

fn beside_three(workshop: &Workshop) -> Result<String> {
    let only = count(&[counted(workshop)?])?;
    let others = ["one", "two", "three"].map(|name| flat(workshop, name, &ROUNDS));
    let [one, two, three] = others;
    let among = count(&[counted(workshop)?, one?, two?, three?])?;
    let words = format!(
        "{} instructions of EL2 among four, {} alone",
        among.0, only.0
    );
    ensure!(is_bounded(among, only), "{words}");
    Ok(words)
}
