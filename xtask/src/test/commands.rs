//! `cargo xtask run` as its user meets it: exit codes, and what goes to which stream.

mod alive;
mod payloads;

use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::own;
use crate::ledger::Ledger;
use machine::build::{self, Program};
use machine::workshop::Workshop;
use payloads::{Kernel, file};

/// One call of `run`.
struct Case {
    name: &'static str,
    kernel: Kernel,
    arguments: &'static [&'static str],
    code: i32,
    /// What standard output must have.
    output: &'static str,
    /// What standard error must have.
    errors: &'static str,
}

const CASES: [Case; 30] = [
    Case {
        name: "run/power-off-is-0",
        kernel: Kernel::Image,
        arguments: &["--append", "list", "--cpus", "2", "--memory", "256M"],
        code: 0,
        output: "\nDONE\r\n",
        errors: "the guest powered off",
    },
    Case {
        name: "run/gzipped-image",
        kernel: Kernel::Gzipped,
        arguments: &["--append", "list", "--cpus", "1"],
        code: 0,
        output: "\nDONE\r\n",
        errors: "the guest powered off",
    },
    // Image, stacks, tables of EL2 and of the guest: its home.
    Case {
        name: "run/el2-takes-2-mib-with-4-cpus",
        kernel: Kernel::Image,
        arguments: &["--append", "list", "--cpus", "4"],
        code: 0,
        output: "\nDONE\r\n",
        errors: ", 2048 KiB\n",
    },
    Case {
        name: "run/flat-binary-and-time-out-is-5",
        kernel: Kernel::Spin,
        arguments: &["--timeout", "5"],
        code: 5,
        output: "",
        errors: "the time was over",
    },
    Case {
        name: "run/kernel-panic-is-3",
        kernel: Kernel::Panic,
        arguments: &["--cpus", "1", "--memory", "256M", "--timeout", "60"],
        code: 3,
        output: "Kernel panic - not syncing: test",
        errors: "the guest crashed (Kernel panic - not syncing: test)",
    },
    Case {
        name: "run/abort-on-a-walk-is-told",
        kernel: Kernel::LostTables,
        arguments: &["--cpus", "1", "--memory", "256M", "--timeout", "60"],
        code: 3,
        output: "",
        errors: ": its translation tables lead to where it has no memory; firmware",
    },
    Case {
        name: "run/xen-is-told-that-it-needs-el2",
        kernel: Kernel::Xen,
        arguments: &[],
        code: 1,
        output: "",
        errors: ": it is Xen, which needs EL2, and a guest has EL1",
    },
    Case {
        name: "run/endless-fault-is-3",
        kernel: Kernel::Nowhere,
        arguments: &["--cpus", "1", "--memory", "256M", "--timeout", "60"],
        code: 3,
        output: "",
        errors: "] vCPU 0 faults for ever at pc 0x200, address 0x200: there is no memory",
    },
    Case {
        name: "run/first-external-abort-is-told",
        kernel: Kernel::Nowhere,
        arguments: &["--memory", "256M", "--timeout", "60"],
        code: 3,
        output: "",
        errors: "] vCPU 0 takes an external abort at pc 0x0, address 0x0: there is no memory",
    },
    Case {
        name: "run/pvpanic-is-3",
        kernel: Kernel::Pvpanic,
        arguments: &["--timeout", "60"],
        code: 3,
        output: "",
        errors: "] vCPU 0 says by pvpanic: it has panicked\n",
    },
    Case {
        name: "run/flash-of-a-wrong-size-is-named",
        kernel: Kernel::WrongFlash,
        arguments: &[],
        code: 2,
        output: "",
        errors: "flash = \"3M\" is no size of a flash, which is a power of two from 256K to 64M",
    },
    Case {
        name: "run/flash-begins-with-a-file",
        kernel: Kernel::Flash,
        arguments: &["--memory", "256M", "--timeout", "60"],
        code: 0,
        output: "the flash begins with its file\r\n",
        errors: "the guest powered off",
    },
    Case {
        name: "run/flash-of-no-file-is-named",
        kernel: Kernel::MissingFlash,
        arguments: &[],
        code: 2,
        output: "",
        errors: "flash = \"/nonexistent/flash\" is no size and no file",
    },
    // EL2 sees none of its exceptions; and another vCPU faults where it does.
    Case {
        name: "run/endless-fault-of-two-is-3",
        kernel: Kernel::Vector,
        arguments: &["--cpus", "4", "--memory", "256M", "--timeout", "60"],
        code: 3,
        output: "",
        errors: "] vCPU 0 faults for ever at pc 0x80000200, address 0x80000200: its translation tables have nothing there",
    },
    Case {
        name: "run/silent-guest-gets-a-hint",
        kernel: Kernel::Spin,
        arguments: &["--timeout", "20"],
        code: 5,
        output: "",
        errors: "xtask: nothing has come out of the guest in the 10 s since it started",
    },
    Case {
        name: "run/hypervisor-crash-is-4",
        kernel: Kernel::Image,
        arguments: &["--fault-injection", "--hv-append", "break=panic"],
        code: 4,
        output: "",
        errors: "the hypervisor crashed",
    },
    Case {
        name: "run/faults-need-the-test-image",
        kernel: Kernel::Image,
        arguments: &["--hv-append", "break=panic"],
        code: 2,
        output: "",
        errors: "`break=panic` injects faults, which only the test image does; add --fault-injection",
    },
    Case {
        name: "run/unknown-word-is-named",
        kernel: Kernel::Image,
        arguments: &["--fault-injection", "--hv-append", "wedge=99:spin"],
        code: 2,
        output: "",
        errors: "`wedge=99:spin` names pCPU 99; there are pCPUs 0 to 3",
    },
    Case {
        name: "run/bare-has-no-firmware",
        kernel: Kernel::Image,
        arguments: &["--bare", "--firmware", "tfa-2.12"],
        code: 2,
        output: "",
        errors: "--firmware is for the hypervisor, which --bare leaves out",
    },
    Case {
        name: "run/icount",
        kernel: Kernel::Image,
        arguments: &["--icount", "--append", "list", "--cpus", "2"],
        code: 0,
        output: "\nDONE\r\n",
        errors: "the guest powered off",
    },
    Case {
        name: "run/icount-of-the-users",
        kernel: Kernel::Image,
        arguments: &[
            "--qemu-arg=-icount",
            "--qemu-arg=shift=4",
            "--append",
            "list",
        ],
        code: 0,
        output: "\nDONE\r\n",
        errors: "the guest powered off",
    },
    Case {
        name: "run/features-of-the-cpu-are-the-users",
        kernel: Kernel::Image,
        arguments: &["--cpu", "max,sve=off", "--append", "list"],
        code: 0,
        output: "\nDONE\r\n",
        errors: "the guest powered off",
    },
    Case {
        name: "run/resets-are-shown",
        kernel: Kernel::Image,
        arguments: &[
            "--append",
            "test=system_reset_boots_the_machine_again_and_again",
        ],
        code: 0,
        output: "\nDONE\r\n",
        errors: "] guest reset (2)\n",
    },
    Case {
        name: "run/elf-is-refused",
        kernel: Kernel::Elf,
        arguments: &[],
        code: 1,
        output: "",
        errors: "ELF",
    },
    Case {
        name: "run/unknown-key-is-named",
        kernel: Kernel::BadKey,
        arguments: &[],
        code: 2,
        output: "",
        errors: "line 1: there is no key `cors`; there are kernel, ",
    },
    Case {
        name: "run/unknown-firmware-is-named",
        kernel: Kernel::Image,
        arguments: &["--firmware", "tfa-2.12,signal-lsot=3"],
        code: 2,
        output: "",
        errors: "`signal-lsot=3` is no firmware",
    },
    Case {
        name: "run/firmware-and-reclaim-are-taken",
        kernel: Kernel::Image,
        arguments: &["--firmware", "tfa-2.12", "--reclaim", "--append", "list"],
        code: 0,
        output: "\nDONE\r\n",
        errors: "the guest powered off",
    },
    Case {
        name: "run/missing-disk-is-named",
        kernel: Kernel::Image,
        arguments: &["--disk", "/no/such/disk"],
        code: 2,
        output: "",
        errors: "there is no disk /no/such/disk",
    },
    Case {
        name: "run/usage-is-2",
        kernel: Kernel::Nothing,
        arguments: &["--no-such-option"],
        code: 2,
        output: "",
        errors: "--no-such-option",
    },
    Case {
        name: "run/dry-run-prints-the-command",
        kernel: Kernel::Image,
        arguments: &["--dry-run", "--cpu", "cortex-a72", "--cpus", "3"],
        code: 0,
        output: "-cpu cortex-a72 -smp 3",
        errors: "",
    },
];

/// Two users of one checkout.
const SIDE_BY_SIDE: &str = "run/side-by-side";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    let cases = CASES.iter().map(|case| case.name);
    cases.chain([SIDE_BY_SIDE]).chain(alive::names())
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    for case in &CASES {
        ledger.check(case.name, || check(workshop, case).map(|()| String::new()));
    }
    ledger.check(SIDE_BY_SIDE, || {
        side_by_side(workshop).map(|()| String::new())
    });
    alive::run(workshop, ledger);
}

/// Each of two runs that begin together boots its own guest, and neither leaves its files behind.
fn side_by_side(workshop: &Workshop) -> Result<()> {
    let image = build::build(workshop, Program::GuestTests)?.image;
    let start = |test: &str| {
        own::xtask()?
            .args(["run", "--cpus", "2", "--memory", "256M"])
            .arg("--kernel")
            .arg(&image)
            .arg(format!("--append=test={test}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run xtask")
    };
    const TESTS: [&str; 2] = ["psci_version_is_1_3", "no_trusted_os_needs_migration"];
    let runs = TESTS.map(start);
    for (run, test) in runs.into_iter().zip(TESTS) {
        let run = run?;
        let folder = workshop.output("runs")?.join(format!("{}-0", run.id()));
        let output = run.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let passed = text
            .lines()
            .any(|line| line.trim_end() == format!("PASS {test}"));
        ensure!(
            output.status.success() && passed,
            "the run of {test}: {}\n{text}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        ensure!(!folder.exists(), "{} stayed behind", folder.display());
    }
    Ok(())
}

fn check(workshop: &Workshop, case: &Case) -> Result<()> {
    let mut command = own::xtask()?;
    command.arg("run");
    command.args(["--el3", workshop.el3.name()]);
    match case.kernel {
        Kernel::Nothing => {}
        Kernel::BadKey
        | Kernel::Pvpanic
        | Kernel::WrongFlash
        | Kernel::Flash
        | Kernel::MissingFlash => {
            command.arg("--guest").arg(file(workshop, case.kernel)?);
        }
        _ => {
            command.arg("--kernel").arg(file(workshop, case.kernel)?);
        }
    }
    let output = command
        .args(case.arguments)
        .output()
        .context("cannot run xtask")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let both = format!("standard output:\n{text}\nstandard error:\n{errors}");
    ensure!(
        output.status.code() == Some(case.code),
        "the exit code is not {} but: {}\n{both}",
        case.code,
        output.status
    );
    // A guest that does nothing any more ends the run at once.
    ensure!(
        case.code != 3 || !errors.contains("when the time was over"),
        "it ended at its time-out\n{both}"
    );
    ensure!(
        text.contains(case.output),
        "{:?} is missing\n{both}",
        case.output
    );
    ensure!(
        errors.contains(case.errors),
        "{:?} is missing\n{both}",
        case.errors
    );
    ensure!(
        case.code != 0 || !errors.contains('@'),
        "records are for programs:\n{errors}"
    );
    ensure!(
        !text.contains("halligan 0.") && !text.contains('\x1e'),
        "standard output is not the guest's alone\n{both}"
    );
    Ok(())
}
