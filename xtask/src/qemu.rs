//! QEMU: the command line of a `virt` machine.

mod session;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::board::Board;
use crate::el3::{Firmware, HYPERVISOR_PA};

pub use session::{Happening, Leave, Session};

/// A `virt` machine and what it boots.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The emulator.
    pub qemu: PathBuf,
    /// Which of its machines.
    pub board: Board,
    /// CPU model, as QEMU names it, with properties if wanted.
    pub cpu: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// Size of RAM in MiB.
    pub memory_mib: u64,
    /// Whether the machine has EL2, which the hypervisor needs. Without it, a reset reboots.
    pub el2: bool,
    /// Whether the machine boots again when it is reset; if not, that is its end.
    pub reboots: bool,
    /// What runs at EL3 and starts the kernel; without it there is no EL3.
    pub firmware: Option<Firmware>,
    /// What QEMU loads as the kernel.
    pub kernel: PathBuf,
    /// What QEMU loads as the initrd.
    pub initrd: Option<PathBuf>,
    /// The command line of that kernel.
    pub append: String,
    /// Raw disk images, each a virtio-blk device.
    pub disks: Vec<PathBuf>,
    /// Count instructions: one per nanosecond of machine time, unless `icount_shift` says otherwise,
    /// on one host thread, and alike in every run.
    pub icount: bool,
    /// With `icount`, the nanoseconds of an instruction as a power of two.
    pub icount_shift: u32,
    /// Interrupts are taken between any two instructions, not only at the end of a block.
    pub steps: bool,
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
            board: Board::Virt,
            cpu: DEFAULT_CPU.to_owned(),
            cpus: 4,
            memory_mib: 1024,
            el2: true,
            reboots: false,
            firmware: None,
            kernel: kernel.to_owned(),
            initrd: None,
            append: String::new(),
            disks: Vec::new(),
            icount: false,
            icount_shift: 0,
            steps: false,
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
        push("-machine", self.virt().into());
        push("-cpu", self.cpu.clone().into());
        push("-smp", self.cpus.to_string().into());
        push("-m", format!("{}M", self.memory_mib).into());
        if self.icount {
            push("-accel", "tcg,thread=single".into());
            let shift = self.icount_shift;
            push("-icount", format!("shift={shift},sleep=off").into());
            push("-rtc", "clock=vm".into());
            push("-seed", "1".into());
        } else {
            let steps = if self.steps {
                ",one-insn-per-tb=on"
            } else {
                ""
            };
            push("-accel", format!("tcg,thread=multi{steps}").into());
        }
        push("-nodefaults", "".into());
        push("-display", "none".into());
        if self.el2 && !self.reboots {
            // The hypervisor resets its guests itself; the machine's own reset is the end.
            push("-no-reboot", "".into());
        }
        push("-chardev", "stdio,id=console,signal=off".into());
        push("-serial", "chardev:console".into());
        match &self.firmware {
            None => {
                push("-kernel", self.kernel.clone().into());
                if let Some(initrd) = &self.initrd {
                    push("-initrd", initrd.clone().into());
                }
                if !self.append.is_empty() {
                    push("-append", self.append.clone().into());
                }
            }
            // QEMU loads a kernel itself only where it is the firmware.
            Some(firmware) => {
                push("-serial", with_path("file:", &firmware.log));
                push("-bios", firmware.bios.clone().into());
                push("-dtb", firmware.devicetree.clone().into());
                push("-device", loaded(&self.kernel, KERNEL_PA));
                if let Some(initrd) = &self.initrd {
                    push("-device", loaded(initrd, INITRD_PA));
                }
            }
        }
        if !self.disks.is_empty() {
            push("-global", "virtio-mmio.force-legacy=false".into());
        }
        for (number, disk) in self.disks.iter().enumerate() {
            let drive = format!("if=none,format=raw,werror=report,id=disk{number},file=");
            push("-drive", with_path(&drive, disk));
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

    /// The machine itself.
    fn virt(&self) -> String {
        let secure = if self.firmware.is_some() {
            ",secure=on"
        } else {
            ""
        };
        let el2 = if self.el2 { "on" } else { "off" };
        let fixed = if self.icount {
            ",dtb-randomness=off"
        } else {
            ""
        };
        let gic = self.board.gic();
        format!("virt{secure},virtualization={el2},gic-version={gic}{fixed}")
    }

    /// Writes the files that the command line names and that depend on the machine.
    pub fn write_files(&self) -> Result<()> {
        let Some(firmware) = &self.firmware else {
            return Ok(());
        };
        let dumped = firmware.devicetree.with_extension("qemu.dtb");
        let dump = format!("{},dumpdtb=", self.virt());
        let output = Command::new(&self.qemu)
            .arg("-machine")
            .arg(with_path(&dump, &dumped))
            .args(["-cpu", &self.cpu, "-smp", &self.cpus.to_string()])
            .args(["-m", &format!("{}M", self.memory_mib)])
            .args(["-nodefaults", "-display", "none"])
            .arg("-bios")
            .arg(&firmware.bios)
            .output()
            .with_context(|| self.cannot_start())?;
        ensure!(
            output.status.success(),
            "QEMU does not write its devicetree: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let initrd = match &self.initrd {
            Some(initrd) => Some(INITRD_PA..INITRD_PA + std::fs::metadata(initrd)?.len()),
            None => None,
        };
        firmware.write_devicetree(&dumped, &self.append, initrd)?;
        std::fs::remove_file(&dumped)?;
        Ok(())
    }

    fn cannot_start(&self) -> String {
        let qemu = self.qemu.display();
        format!("cannot start {qemu}; `cargo xtask doctor` says how to get QEMU")
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
        self.write_files()?;
        let mut command = Command::new(&self.qemu);
        command.args(self.arguments());
        Session::spawn(command, timeout).with_context(|| self.cannot_start())
    }
}

/// Where a kernel is loaded below firmware, which starts it there, and its initrd. The devicetree is at
/// the start of RAM, 2 MiB below.
const KERNEL_PA: u64 = HYPERVISOR_PA;
const INITRD_PA: u64 = KERNEL_PA + (2 << 20);

/// The CPU model used when none is asked for.
pub const DEFAULT_CPU: &str = "neoverse-n1";

/// QEMU's loader device: `file` as it is, at `pa`.
fn loaded(file: &Path, pa: u64) -> OsString {
    with_path(&format!("loader,addr={pa:#x},force-raw=on,file="), file)
}

/// QEMU's comma-separated options with `path` as the last value; a comma in it is written twice.
fn with_path(options: &str, path: &Path) -> OsString {
    let mut value = OsString::from(options);
    match path.to_str() {
        Some(text) => value.push(text.replace(',', ",,")),
        None => value.push(path),
    }
    value
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
    fn a_board_says_which_gic() {
        let mut machine = machine();
        assert!(machine.command_line().contains(",gic-version=3 "));
        machine.board = Board::VirtGicv2;
        assert!(machine.command_line().contains(",gic-version=2 "));
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
    fn firmware_starts_the_kernel_where_it_is_loaded() {
        let mut machine = machine();
        machine.initrd = Some("/t/a,b.itb".into());
        machine.firmware = Some(Firmware {
            bios: "/t/flash.bin".into(),
            devicetree: "/t/el3.dtb".into(),
            log: "/t/el3.log".into(),
        });
        let line = machine.command_line();
        assert!(line.contains("-machine virt,secure=on,virtualization=on,"));
        assert!(line.contains("-bios /t/flash.bin -dtb /t/el3.dtb"));
        assert!(line.contains("loader,addr=0x40200000,force-raw=on,file=/t/Image"));
        assert!(line.contains("loader,addr=0x40400000,force-raw=on,file=/t/a,,b.itb"));
        assert!(!line.contains("-kernel") && !line.contains("-append"));
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
