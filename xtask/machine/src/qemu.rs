//! QEMU: the command line of a machine.

mod accelerator;
mod attached;
mod loaded;
mod monitor;
mod session;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::board::Board;
use crate::board::HYPERVISOR_PA;
use crate::board::raspi4b as pi;
use crate::firmware::Firmware;
use crate::guest::Net;
use crate::raspi4b::{self, devicetree::Handover};

pub use monitor::Monitor;
pub use session::{Event, Leave, Session};

/// A machine and what it boots.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The emulator.
    pub qemu: PathBuf,
    /// Which of its machines.
    pub board: Board,
    /// CPU model, as QEMU names it, with properties if wanted; a board has its own.
    pub cpu: String,
    /// Number of CPUs; a board has as many as it has.
    pub cpus: u32,
    /// Size of RAM in MiB; of a board's, so much is shown, but no less than it can be told.
    pub memory_mib: u64,
    /// Whether the machine has EL2, which the hypervisor needs. Without it, a reset reboots.
    pub el2: bool,
    /// Whether the machine boots again when it is reset; if not, that is its end.
    pub reboots: bool,
    /// What runs at EL3 and starts the kernel; without it there is no EL3.
    pub firmware: Option<Firmware>,
    /// The devicetree that QEMU, which has none for it, hands a board's kernel.
    pub devicetree: Option<PathBuf>,
    /// What QEMU loads as the kernel.
    pub kernel: PathBuf,
    /// What QEMU loads as the initrd.
    pub initrd: Option<PathBuf>,
    /// The command line of that kernel.
    pub append: String,
    /// Raw disk images, each a virtio-blk device; on a board the one SD card.
    pub disks: Vec<PathBuf>,
    /// Networks, each with a virtio-net device; a board has none.
    pub nets: Vec<Net>,
    /// The transports that the first of disks and, after them, networks have, by number from the lowest address on; the others
    /// have the lowest that are left, in their order.
    pub slots: Vec<u32>,
    /// Whether a board's console is its mini-UART, and not its PL011.
    pub mini_uart: bool,
    /// Count instructions: one per nanosecond of machine time, unless `icount_shift` says otherwise,
    /// on one host thread, and alike in every run.
    pub icount: bool,
    /// With `icount`, the nanoseconds of an instruction as a power of two.
    pub icount_shift: u32,
    /// Interrupts are taken between any two instructions, not only at the end of a block.
    pub steps: bool,
    /// Wait for a debugger on this TCP port before the first instruction.
    pub gdb: Option<u16>,
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
            devicetree: None,
            kernel: kernel.to_owned(),
            initrd: None,
            append: String::new(),
            disks: Vec::new(),
            nets: Vec::new(),
            slots: Vec::new(),
            mini_uart: false,
            icount: false,
            icount_shift: 0,
            steps: false,
            gdb: None,
            extra: Vec::new(),
        }
    }

    /// The emulator's arguments.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut line = Arguments::default();
        line.option("-machine", self.machine());
        match self.board {
            Board::Virt | Board::VirtGicv2 => {
                line.option("-cpu", &self.cpu);
                line.option("-smp", self.cpus.to_string());
                line.option("-m", format!("{}M", self.memory_mib));
            }
            Board::Raspi4b => {
                line.option("-smp", pi::CPUS.to_string());
                line.option("-m", format!("{}M", pi::MEMORY_MIB));
                // So that a tick is an instruction if those are counted.
                let hz = if self.icount {
                    1_000_000_000
                } else {
                    pi::COUNTER_HZ
                };
                let model = pi::MODEL;
                line.option("-global", format!("{model}-arm-cpu.cntfrq={hz}"));
            }
        }
        self.accelerate(&mut line);
        line.flag("-nodefaults");
        line.option("-display", "none");
        if self.el2 && !self.reboots {
            // The hypervisor resets its guests itself; the machine's own reset is the end.
            line.flag("-no-reboot");
        }
        line.option("-chardev", "stdio,id=console,signal=off");
        if self.mini_uart {
            // QEMU's first is the PL011.
            line.option("-serial", "null");
        }
        line.option("-serial", CONSOLE);
        match &self.firmware {
            None => self.boot_by_qemu(&mut line),
            Some(firmware) => self.boot_by(firmware, &mut line),
        }
        self.attach(&mut line);
        if let Some(port) = self.gdb {
            line.option("-gdb", format!("tcp:127.0.0.1:{port}"));
            line.flag("-S");
            // A debugger reaches QEMU's monitor, which can run commands on the host.
            line.0.extend(NO_PROGRAMS.map(Into::into));
        }
        line.0.extend(self.extra.iter().cloned());
        line.0
    }

    /// The kernel, which QEMU loads and starts itself.
    fn boot_by_qemu(&self, line: &mut Arguments) {
        line.option("-kernel", &self.kernel);
        if let Some(tree) = &self.devicetree {
            line.option("-dtb", tree);
        }
        if let Some(initrd) = &self.initrd {
            line.option("-initrd", initrd);
        }
        if !self.append.is_empty() {
            line.option("-append", &self.append);
        }
    }

    /// The same by firmware: QEMU loads a kernel itself only where it is the firmware.
    fn boot_by(&self, firmware: &Firmware, line: &mut Arguments) {
        let (kernel, initrd) = self.places();
        match self.board {
            Board::Virt | Board::VirtGicv2 => {
                line.option("-serial", with_path("file:", &firmware.log));
                line.option("-bios", &firmware.bios);
                line.option("-dtb", &firmware.devicetree);
            }
            Board::Raspi4b => {
                line.option("-device", loaded(&firmware.bios, pi::STUB_PA));
                let tree = pi::DEVICETREE_PA.into();
                line.option("-device", loaded(&firmware.devicetree, tree));
            }
        }
        line.option("-device", loaded(&self.kernel, kernel));
        if let Some(file) = &self.initrd {
            line.option("-device", loaded(file, initrd));
        }
    }

    /// Where kernel and initrd are loaded below firmware.
    const fn places(&self) -> (u64, u64) {
        match self.board {
            Board::Virt | Board::VirtGicv2 => (KERNEL_PA, INITRD_PA),
            Board::Raspi4b => (pi::KERNEL_PA, pi::INITRD_PA),
        }
    }

    /// The machine itself.
    fn machine(&self) -> String {
        if self.board == Board::Raspi4b {
            return "raspi4b".to_owned();
        }
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
        let (_, initrd_pa) = self.places();
        let initrd = match &self.initrd {
            Some(initrd) => Some(initrd_pa..initrd_pa + std::fs::metadata(initrd)?.len()),
            None => None,
        };
        if let Some(stock) = &firmware.own_devicetree {
            let handover = Handover {
                memory_mib: self.memory_mib.max(pi::LEAST_MIB),
                bootargs: &self.append,
                initrd,
                mini_uart: self.mini_uart,
            };
            return raspi4b::devicetree::complete(stock, &firmware.devicetree, &handover);
        }
        let dumped = firmware.devicetree.with_extension("qemu.dtb");
        self.dump_devicetree(Some(&firmware.bios), &dumped)?;
        firmware.write_devicetree(&dumped, &self.append, initrd)?;
        std::fs::remove_file(&dumped)?;
        Ok(())
    }

    /// Has QEMU write the devicetree that it makes.
    pub(crate) fn dump_devicetree(&self, bios: Option<&Path>, dumped: &Path) -> Result<()> {
        let dump = format!("{},dumpdtb=", self.machine());
        let mut command = supervisor::command(&self.qemu);
        command
            .arg("-machine")
            .arg(with_path(&dump, dumped))
            .args(["-cpu", &self.cpu, "-smp", &self.cpus.to_string()])
            .args(["-m", &format!("{}M", self.memory_mib)])
            .args(["-nodefaults", "-display", "none"]);
        if let Some(bios) = bios {
            command.arg("-bios").arg(bios);
        }
        let output = command.output().with_context(|| self.cannot_start())?;
        ensure!(
            output.status.success(),
            "QEMU does not write its devicetree: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// The devicetree that the hypervisor will find, once all files are written. QEMU writes its own to `dumped`.
    pub(crate) fn found_devicetree(&self, dumped: &Path) -> Result<Vec<u8>> {
        if let Some(firmware) = &self.firmware {
            return Ok(std::fs::read(&firmware.devicetree)?);
        }
        let output = supervisor::command(&self.qemu)
            .args(self.arguments())
            .arg("-machine")
            .arg(with_path("dumpdtb=", dumped))
            .output()
            .with_context(|| self.cannot_start())?;
        ensure!(
            output.status.success(),
            "QEMU: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let blob = std::fs::read(dumped).context("QEMU does not write its devicetree")?;
        std::fs::remove_file(dumped)?;
        Ok(blob)
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
        let mut command = supervisor::command(&self.qemu);
        command.args(self.arguments());
        Session::spawn(command, timeout).with_context(|| self.cannot_start())
    }
}

/// QEMU may start no program.
const NO_PROGRAMS: [&str; 2] = ["-sandbox", "on,spawn=deny"];

/// The device that the first serial line is connected to.
const CONSOLE: &str = "chardev:console";

/// A command line that grows.
#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.extend([name.into(), value.into()]);
    }

    fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }
}

/// Where a kernel is loaded below firmware on `virt`, which starts it there, and its initrd. The devicetree is at
/// the start of RAM, 2 MiB below.
const KERNEL_PA: u64 = HYPERVISOR_PA;
const INITRD_PA: u64 = KERNEL_PA + (2 << 20);

/// How long an instruction of Linux lasts if they are counted, a power of two of nanoseconds: in the seconds that Linux
/// and our init wait, CPUs that spin execute them all.
pub const ICOUNT_SHIFT: u32 = 5;

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

    /// The options of a machine with `extra` arguments that begin so, and their values.
    fn values(icount: bool, extra: &[&str], names: &[&str]) -> Vec<String> {
        let mut machine = machine();
        machine.icount = icount;
        machine.extra = extra.iter().map(Into::into).collect();
        let arguments = machine.arguments();
        let text = |argument: &OsString| argument.to_string_lossy().into_owned();
        let pairs = arguments.windows(2).filter(|pair| {
            let name = text(&pair[0]);
            names.contains(&name.as_str())
        });
        pairs.map(|pair| text(&pair[1])).collect()
    }

    #[test]
    fn an_accelerator_of_the_users_is_the_only_one() {
        let accelerators = |icount, extra: &[&str]| {
            let names = ["-accel", "--accel", "-machine", "-M"];
            let mut values = values(icount, extra, &names);
            values.remove(0);
            values
        };
        assert_eq!(accelerators(false, &[]), ["tcg,thread=multi"]);
        assert_eq!(accelerators(true, &[]), ["tcg,thread=single"]);
        for icount in [false, true] {
            assert_eq!(accelerators(icount, &["-accel", "kvm"]), ["kvm"]);
            assert_eq!(accelerators(icount, &["--accel", "kvm"]), ["kvm"]);
            assert_eq!(
                accelerators(icount, &["-M", "mte=on,accel=kvm"]),
                ["mte=on,accel=kvm"]
            );
            assert_eq!(accelerators(icount, &["-enable-kvm"]), [""; 0]);
        }
        // It is none.
        let others = accelerators(false, &["-machine", "mte=on"]);
        assert_eq!(others, ["tcg,thread=multi", "mte=on"]);
    }

    #[test]
    fn a_count_of_the_users_is_the_only_one() {
        let counts = |icount, extra: &[&str]| values(icount, extra, &["-icount", "-accel"]);
        let users = ["-icount", "shift=4"];
        // It goes with one thread only, which is then QEMU's own choice.
        assert_eq!(counts(false, &users), ["shift=4"]);
        assert_eq!(counts(true, &users), ["tcg,thread=single", "shift=4"]);
        let ours = counts(true, &[]);
        assert_eq!(ours, ["tcg,thread=single", "shift=0,sleep=off"]);
    }

    #[test]
    fn each_disk_is_a_modern_virtio_device() {
        let mut machine = machine();
        machine.disks = vec!["a,b.img".into(), "c.img".into()];
        let line = machine.command_line();
        assert!(line.contains("-global virtio-mmio.force-legacy=false"));
        // Linux's /dev/vda is the first of them.
        for device in [
            "id=disk0,file=a,,b.img -device virtio-blk-device,drive=disk0,bus=virtio-mmio-bus.0 ",
            "id=disk1,file=c.img -device virtio-blk-device,drive=disk1,bus=virtio-mmio-bus.1",
        ] {
            assert!(line.contains(device), "{line}");
        }
        machine.slots = vec![1];
        let line = machine.command_line();
        assert!(
            line.contains("drive=disk0,bus=virtio-mmio-bus.1 "),
            "{line}"
        );
        assert!(line.contains("drive=disk1,bus=virtio-mmio-bus.0"), "{line}");
    }

    #[test]
    fn each_network_has_a_card_behind_the_disks() {
        let mut machine = machine();
        machine.nets = vec!["user".to_owned().try_into().unwrap(); 2];
        let line = machine.command_line();
        assert!(line.contains("-global virtio-mmio.force-legacy=false"));
        assert!(line.contains("-netdev user,id=net1 -device virtio-net-device,netdev=net1"));
        machine.disks = vec!["a.img".into()];
        machine.slots = vec![0, 1, 8];
        let line = machine.command_line();
        assert!(
            line.contains("drive=disk0,bus=virtio-mmio-bus.0 "),
            "{line}"
        );
        assert!(
            line.contains("netdev=net0,bus=virtio-mmio-bus.1 "),
            "{line}"
        );
        assert!(
            line.ends_with("netdev=net1,bus=virtio-mmio-bus.8"),
            "{line}"
        );
    }

    #[test]
    fn firmware_starts_the_kernel_where_it_is_loaded() {
        let mut machine = machine();
        machine.initrd = Some("/t/a,b.itb".into());
        machine.firmware = Some(Firmware {
            bios: "/t/flash.bin".into(),
            own_devicetree: None,
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
    fn a_raspberry_pi_has_all_in_its_ram_and_a_card_in_its_slot() {
        let mut machine = machine();
        machine.board = Board::Raspi4b;
        machine.initrd = Some("/t/a.itb".into());
        machine.disks = vec!["/t/card.img".into()];
        machine.firmware = Some(Firmware {
            bios: "/t/stub.bin".into(),
            own_devicetree: Some("/t/stock.dtb".into()),
            devicetree: "/t/el3.dtb".into(),
            log: "/t/el3.log".into(),
        });
        let line = machine.command_line();
        assert!(
            line.contains(" -machine raspi4b -smp 4 -m 2048M "),
            "{line}"
        );
        assert!(line.contains("-global cortex-a72-arm-cpu.cntfrq=54000000 "));
        for (pa, file) in [
            ("0x0", "stub.bin"),
            ("0x200000", "Image"),
            ("0x2e000000", "el3.dtb"),
            ("0x8000000", "a.itb"),
        ] {
            let loaded = format!("loader,addr={pa},force-raw=on,file=/t/{file}");
            assert!(line.contains(&loaded), "{loaded}");
        }
        assert!(line.contains("-drive if=sd,format=raw,file=/t/card.img"));
        assert!(
            !line.contains("virtio") && !line.contains("-cpu "),
            "{line}"
        );
    }

    #[test]
    fn extra_arguments_come_last_and_as_they_are() {
        let mut machine = machine();
        machine.gdb = Some(1234);
        machine.extra = vec!["-d".into(), "int,cpu_reset".into()];
        let line = machine.command_line();
        assert!(line.ends_with(" -d int,cpu_reset"));
    }

    #[test]
    fn a_debugger_comes_from_this_host_and_starts_nothing_there() {
        let mut machine = machine();
        machine.gdb = Some(4321);
        let line = machine.command_line();
        assert!(line.ends_with(" -gdb tcp:127.0.0.1:4321 -S -sandbox on,spawn=deny"));
    }

    #[test]
    fn a_missing_emulator_is_named_with_the_mend() {
        let mut machine = machine();
        machine.qemu = "/no/such/qemu".into();
        let error = machine.start(None).err().unwrap().to_string();
        assert!(error.contains("/no/such/qemu") && error.contains("doctor"));
    }
}
