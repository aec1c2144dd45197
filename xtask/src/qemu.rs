//! QEMU: the command line of a `virt` machine.

mod session;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

pub use session::{Happening, Leave, Session};

/// A `virt` machine and what it boots.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The emulator.
    pub qemu: PathBuf,
    /// CPU model, as QEMU names it, with properties if wanted.
    pub cpu: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// Size of RAM in MiB.
    pub memory_mib: u64,
    /// Whether the machine has EL2, which the hypervisor needs. Without it, a reset reboots.
    pub el2: bool,
    /// What QEMU loads as the kernel.
    pub kernel: PathBuf,
    /// What QEMU loads as the initrd.
    pub initrd: Option<PathBuf>,
    /// The command line of that kernel.
    pub append: String,
    /// Raw disk images, each a virtio-blk device.
    pub disks: Vec<PathBuf>,
    /// Count instructions: one per nanosecond of machine time, on one host thread, and alike in
    /// every run.
    pub icount: bool,
    /// Wait for a debugger on TCP port 1234 before the first instruction.
    pub gdb: bool,
    /// Arguments passed on as they are.
    pub extra: Vec<OsString>,
}

impl Machine {
    /// A machine with 4 CPUs, 1 GiB and nothing attached, which boots `kernel`.
    pub fn new(qemu: &Path, kernel: &Path) -> Self {
        Self {
            qemu: qemu.to_owned(),
            cpu: DEFAULT_CPU.to_owned(),
            cpus: 4,
            memory_mib: 1024,
            el2: true,
            kernel: kernel.to_owned(),
            initrd: None,
            append: String::new(),
            disks: Vec::new(),
            icount: false,
            gdb: false,
            extra: Vec::new(),
        }
    }

    /// The emulator's arguments.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut push = |name: &str, value: OsString| {
            arguments.push(name.into());
            if !value.is_empty() {
                arguments.push(value);
            }
        };
        let el2 = if self.el2 { "on" } else { "off" };
        let fixed = if self.icount {
            ",dtb-randomness=off"
        } else {
            ""
        };
        push(
            "-machine",
            format!("virt,virtualization={el2},gic-version=3{fixed}").into(),
        );
        push("-cpu", self.cpu.clone().into());
        push("-smp", self.cpus.to_string().into());
        push("-m", format!("{}M", self.memory_mib).into());
        if self.icount {
            push("-accel", "tcg,thread=single".into());
            push("-icount", "shift=0,sleep=off".into());
            push("-rtc", "clock=vm".into());
            push("-seed", "1".into());
        } else {
            push("-accel", "tcg,thread=multi".into());
        }
        push("-nodefaults", "".into());
        push("-display", "none".into());
        if self.el2 {
            // The hypervisor resets its guests itself; the machine's own reset is the end.
            push("-no-reboot", "".into());
        }
        push("-chardev", "stdio,id=console,signal=off".into());
        push("-serial", "chardev:console".into());
        push("-kernel", self.kernel.clone().into());
        if let Some(initrd) = &self.initrd {
            push("-initrd", initrd.clone().into());
        }
        if !self.append.is_empty() {
            push("-append", self.append.clone().into());
        }
        if !self.disks.is_empty() {
            push("-global", "virtio-mmio.force-legacy=false".into());
        }
        for (number, disk) in self.disks.iter().enumerate() {
            let mut drive: OsString =
                format!("if=none,format=raw,werror=report,id=disk{number},file=").into();
            drive.push(doubled_commas(disk));
            push("-drive", drive);
            push(
                "-device",
                format!("virtio-blk-device,drive=disk{number}").into(),
            );
        }
        if self.gdb {
            push("-s", "".into());
            push("-S", "".into());
        }
        arguments.extend(self.extra.iter().cloned());
        arguments
    }

    /// The command as one line that a shell understands.
    pub fn command_line(&self) -> String {
        let mut line = quoted(&self.qemu.to_string_lossy());
        for argument in self.arguments() {
            line.push(' ');
            line.push_str(&quoted(&argument.to_string_lossy()));
        }
        line
    }

    /// Starts the machine. It is killed when the session is dropped.
    pub fn start(&self, timeout: Option<Duration>) -> Result<Session> {
        let mut command = Command::new(&self.qemu);
        command.args(self.arguments());
        Session::spawn(command, timeout).with_context(|| {
            format!(
                "cannot start {}; `cargo xtask doctor` says how to get QEMU",
                self.qemu.display()
            )
        })
    }
}

/// The CPU model used when none is asked for.
pub const DEFAULT_CPU: &str = "neoverse-n1";

/// `path` as a value inside QEMU's comma-separated options, where a comma is written twice.
fn doubled_commas(path: &Path) -> OsString {
    match path.to_str() {
        Some(text) => text.replace(',', ",,").into(),
        None => path.as_os_str().to_owned(),
    }
}

/// `word` in single quotes if a shell would not take it as it is.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=/.,:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine::new(Path::new("qemu-system-aarch64"), Path::new("/t/Image"))
    }

    #[test]
    fn command_line_is_quoted_for_a_shell() {
        let mut machine = machine();
        machine.append = "console=ttyAMA0 it's".into();
        let line = machine.command_line();
        assert!(line.starts_with("qemu-system-aarch64 -machine virt,virtualization=on,"));
        assert!(
            line.ends_with(r"-append 'console=ttyAMA0 it'\''s'"),
            "{line}"
        );
    }

    #[test]
    fn each_disk_is_a_modern_virtio_device() {
        let mut machine = machine();
        machine.disks = vec!["a,b.img".into(), "c.img".into()];
        let line = machine.command_line();
        assert!(line.contains("-global virtio-mmio.force-legacy=false"));
        assert!(line.contains("id=disk0,file=a,,b.img -device virtio-blk-device,drive=disk0"));
        assert!(line.contains("id=disk1,file=c.img -device virtio-blk-device,drive=disk1"));
    }

    #[test]
    fn extra_arguments_come_last_and_as_they_are() {
        let mut machine = machine();
        machine.gdb = true;
        machine.extra = vec!["-d".into(), "int,cpu_reset".into()];
        assert!(machine.command_line().ends_with(" -s -S -d int,cpu_reset"));
    }

    #[test]
    fn a_missing_emulator_is_named_with_the_mend() {
        let mut machine = machine();
        machine.qemu = "/no/such/qemu".into();
        let error = machine.start(None).err().unwrap().to_string();
        assert!(error.contains("/no/such/qemu") && error.contains("doctor"));
    }
}
