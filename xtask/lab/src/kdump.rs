//! `cargo xtask kdump`: the main job.

mod checks;
mod report;
mod series;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use hv_bundle::GuestConfig;

use crate::build_id;
use crate::capture::Capture;
use crate::cpulist::CpuList;
use crate::ladder::Ladder;
use crate::plan::{self, Fate, GuestRun, Plan, Scenario};
use crate::symbolize::annotate_tail;
use crate::symbols::Symbols;
use crate::verdict::{Evidence, Verdict};
use crate::vmcore::{self, Vmcore};
use debian::cache;
use debian::initramfs;
use debian::kernel::{self, KernelVariant};
use debian::paths;
use debian::progress::Progress;
use debian::tools;
use machine::board::Board;
use machine::build::{self, Built, Program};
use machine::el3::El3;
use machine::firmware::Firmware;
use machine::guest::{Switch, firmware, reclaim};
use machine::payload::{self, Payload};
use machine::qemu::{DEFAULT_CPU, ICOUNT_SHIFT, Machine};
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

use checks::check_backtraces;
pub use checks::check_run;
use report::Judged;
pub use report::Report;

/// Wedge CPUs of a Linux guest, let another panic, and verify the dump register by register.
///
/// Builds everything, boots Linux on the hypervisor on QEMU, wedges CPUs with interrupts masked and
/// panics from another. Then prints the stop ladder as it happened and the verdict for each CPU: its
/// registers must be in the vmcore, and those of a CPU that was stopped by SDEI must be, one by one,
/// what the hypervisor recorded when it interrupted it.
///
/// Exit codes: 0 all is as it must be, 1 something is not (which is named), 2 wrong usage.
#[derive(Args)]
pub struct Kdump {
    /// Number of CPUs.
    #[arg(long, value_name = "N", default_value_t = 4)]
    cpus: u32,
    /// CPUs to wedge, such as 2 or 1,3-5; with `--scenario nmi` all are [default: 2, or the last of fewer than 3].
    #[arg(long, value_name = "LIST")]
    wedge: Option<CpuList>,
    /// CPU that panics or asks for backtraces [default: the first that is not wedged].
    #[arg(long, value_name = "CPU")]
    panic: Option<u32>,
    /// CPU model as QEMU names it [default: neoverse-n1; raspi4b has its own].
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// What is done to the guest.
    #[arg(long, value_enum, default_value = "kdump")]
    scenario: Scenario,
    /// Whether the guest is offered SDEI. With `off` the wedged CPUs must be missing, and this fails.
    #[arg(long, value_name = "on|off", default_value = "on")]
    sdei: Switch,
    /// Whose firmware the guest meets: a list of names from docs/firmware.md, joined by commas.
    ///
    /// Releases such as tfa-2.12, and faults such as off-in-event-keeps-priority or signal-lost=3;
    /// what fails with them fails here.
    #[arg(long, value_name = "NAME", default_value = "spec", value_parser = firmware)]
    firmware: String,
    /// Let CPU_ON take back a CPU that is parked in an event; the capture kernel then gets all CPUs,
    /// and every one must come back.
    #[arg(long)]
    reclaim: bool,
    /// Count instructions: 32 nanoseconds of the machine's time for each, whatever the host does.
    ///
    /// With many CPUs that spin this shows how long a stop takes them, and not how busy the host is.
    #[arg(long)]
    icount: bool,
    /// Which machine QEMU plays.
    #[arg(long, value_enum, value_name = "WHICH", default_value = "virt")]
    machine: Board,
    /// What runs below the hypervisor, at EL3.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "none")]
    el3: El3,
    /// How a CPU ends that SDEI stopped; the capture kernel then gets all CPUs, and each must be as
    /// it is to be.
    ///
    /// After the endings with CPU_OFF every CPU must come back in the capture kernel, run a task,
    /// take timer interrupts and IPIs, and take event 0 again. After the others, the CPUs that
    /// SDEI stopped stay away, and all others come back. All but `park` need a kernel with
    /// guest-tests/linux/sdei-ending.patch, which ours then is.
    #[arg(long, value_enum)]
    ending: Option<Fate>,
    /// Another kernel than ours; it needs what guest-tests/linux/kernel.config asks for.
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// The vmlinux of that kernel [default: the file of that name beside it].
    #[arg(long, value_name = "PATH", requires = "kernel")]
    vmlinux: Option<PathBuf>,
    /// Write all that was found to this file, as JSON; with --repeat, what the last run found.
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// Leave vmcore, serial log and bundle in this folder; with --repeat, those of the last run.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Do it so many times in a row, with one line for each, and stop at the first that fails.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Give up after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Print the guest's whole console, not only what matters.
    #[arg(long, short)]
    verbose: bool,
}

impl Kdump {
    /// Runs the scenario and says what came of it.
    pub fn execute(self) -> Result<ExitCode> {
        let plan = self.plan();
        plan.check()?;
        self.machine.check(self.cpus, self.el3)?;
        self.machine.check_parts(self.cpu.as_deref(), 1)?;
        let system = self.system(&plan)?;
        if let Some(path) = &self.report {
            paths::check_output(path, "--report")?;
        }
        let workshop = Workshop::open()?.above(self.el3).on(self.machine);
        let lab = Lab::prepare(&workshop, &system)?;
        let request = Request {
            plan,
            timeout: Duration::from_secs(self.timeout),
            keep: self.keep.as_deref(),
        };
        // Of one run among many, its line is enough.
        let (verbose, terse) = (self.verbose, self.repeat > 1);
        let run = || {
            let step = Progress::new().lazily("the guest runs, and its dump is judged");
            let report = lab.run(&request, |line| {
                if verbose || (!terse && matters(line)) {
                    step.around(|| println!("  | {line}"));
                }
            })?;
            drop(step);
            if !terse || !report.passed {
                println!("{}", report.text());
            }
            if let Some(path) = &self.report {
                let json = serde_json::to_string_pretty(&report)?;
                fs::write(path, json)
                    .with_context(|| format!("cannot write the report {}", path.display()))?;
            }
            Ok(report)
        };
        let passed = if terse {
            series::run(self.repeat, run, &mut std::io::stdout())?
        } else {
            run()?.passed
        };
        Ok(if passed {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn system(&self, plan: &Plan) -> Result<System> {
        Ok(match &self.kernel {
            Some(kernel) => System::Other {
                kernel: kernel.clone(),
                vmlinux: beside(kernel, self.vmlinux.as_deref())?,
            },
            None => System::Ours(plan.kernel_variant()),
        })
    }

    fn plan(&self) -> Plan {
        let last = self.cpus.saturating_sub(1);
        let is_left_alone = self.scenario == Scenario::Nmi;
        let wedge = self.wedge.clone().unwrap_or_else(|| match is_left_alone {
            true => (0..self.cpus).collect(),
            false => [last.min(2)].into_iter().collect(),
        });
        let first_left = (0..self.cpus).find(|&cpu| !wedge.contains(cpu));
        Plan {
            scenario: self.scenario,
            cpus: self.cpus,
            model: self
                .cpu
                .clone()
                .unwrap_or_else(|| self.machine.model().unwrap_or(DEFAULT_CPU).to_owned()),
            panic: self.panic.or(first_left).unwrap_or(0),
            wedge,
            sdei: self.sdei == Switch::On,
            fate: self.ending,
            firmware: self.firmware.clone(),
            reclaim: self.reclaim,
            icount: self.icount,
        }
    }
}

/// Whether a line of the guest's console belongs to the story.
pub fn matters(line: &str) -> bool {
    const MARKS: [&str; 10] = [
        "LAB: ",
        "sdei: ",
        "sdei_nmi: ",
        "Kernel panic",
        "SMP: ",
        "SError Interrupt",
        "hard LOCKUP",
        "NMI backtrace for cpu",
        "Starting crashdump kernel",
        "qemu: ",
    ];
    MARKS.iter().any(|mark| line.contains(mark))
}

/// What every run needs, built once.
#[derive(Clone)]
pub struct Lab {
    qemu: PathBuf,
    board: Board,
    firmware: Option<Firmware>,
    hypervisor: Built,
    kernel: PathBuf,
    vmlinux: PathBuf,
    initramfs: PathBuf,
    /// The functions of the guest kernel.
    symbols: Symbols,
}

/// The guest kernel.
pub enum System {
    /// One of ours.
    Ours(KernelVariant),
    /// Another, and the same with its symbols.
    Other {
        /// The Image, also packed.
        kernel: PathBuf,
        /// The ELF file.
        vmlinux: PathBuf,
    },
}

/// One run that is asked for.
pub struct Request<'a> {
    /// What to do.
    pub plan: Plan,
    /// Give up after this.
    pub timeout: Duration,
    /// Where to leave everything, if it is to be left.
    pub keep: Option<&'a Path>,
}

impl Lab {
    /// Builds the hypervisor, and the guest unless it is there.
    pub fn prepare(workshop: &Workshop, system: &System) -> Result<Self> {
        let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
        let hypervisor = build::build(workshop, Program::Hypervisor)?;
        let (kernel, vmlinux) = match system {
            System::Other { kernel, vmlinux } => {
                // The capture kernel is the same one, and kexec takes no packed Image.
                let step = workshop.progress.lazily("read the kernel");
                let unpacked = payload::read_kernel(kernel, payload::USUAL_MIB)?;
                build_id::check(&unpacked, kernel, vmlinux)?;
                let name = format!("kernel-{}.img", &cache::digest(&unpacked)[..16]);
                let image = workshop.output(&name)?;
                paths::write_if_new(&image, &unpacked)?;
                step.done();
                (image, vmlinux.clone())
            }
            System::Ours(edition) => {
                let ours = kernel::ensure(&workshop.cache, *edition, &workshop.progress)?;
                (ours.image, ours.vmlinux)
            }
        };
        let initramfs = initramfs::ensure(&workshop.cache, Some(&kernel), &workshop.progress)?;
        let step = workshop.progress.lazily("read the kernel's symbols");
        let symbols = Symbols::load(&vmlinux)?;
        step.done();
        Ok(Self {
            qemu,
            board: workshop.board,
            firmware: Firmware::of(workshop)?,
            hypervisor,
            kernel,
            vmlinux,
            initramfs,
            symbols,
        })
    }

    /// The same on another machine.
    pub fn on(self, board: Board) -> Self {
        Self { board, ..self }
    }

    /// The guest kernel with its symbols.
    pub fn vmlinux(&self) -> &Path {
        &self.vmlinux
    }

    /// Runs a scenario and judges it. An error is what kept it from being judged.
    pub fn run(&self, request: &Request<'_>, show: impl FnMut(&str)) -> Result<Report> {
        let plan = &request.plan;
        let mut folder = RunDir::create(request.keep)?;
        let machine = self.machine(plan, &plan.bootargs(), &folder)?;
        let seen = plan::watch(
            plan,
            &machine,
            request.timeout,
            &folder.file("serial.log"),
            show,
        )?;
        let judged = self.judge(plan, &folder, &seen);
        let mut report = Report::of(plan, seen, judged);
        if !report.passed {
            report.console =
                annotate_tail(&report.console, &self.hypervisor.elf, Some(&self.vmlinux));
            report.command = machine.command_line();
            report.folder = Some(folder.keep().to_owned());
        }
        Ok(report)
    }

    /// The machine of `plan`, whose files lie in `folder`; its kernel gets `bootargs`.
    pub fn machine(&self, plan: &Plan, bootargs: &str, folder: &RunDir) -> Result<Machine> {
        // What a board shows at least, so that the dump is no larger than need be.
        let memory_mib = self.board.memory_mib().map_or(512, |own| *own.start());
        let bundle = folder.file("bundle.itb");
        Payload {
            kernel: &self.kernel,
            initrd: Some(&self.initramfs),
            config: GuestConfig {
                bootargs: bootargs.to_owned(),
                sdei: plan.sdei,
                firmware: plan.firmware.clone(),
                reclaim: reclaim(plan.reclaim),
                ..GuestConfig::default()
            },
        }
        .write(&bundle)?
        .check(self.board, memory_mib, self.firmware.is_some())?;
        let disk = folder.file("disk.img");
        // Room for the whole memory, should it have to be copied as it is. An SD card's size is a power of 2.
        plan::create_disk(&disk, 2 * memory_mib)?;
        let mut machine = Machine::new(&self.qemu, &self.hypervisor.image);
        machine.board = self.board;
        machine.cpu = plan.model.clone();
        machine.cpus = plan.cpus;
        machine.memory_mib = memory_mib;
        machine.initrd = Some(bundle);
        machine.disks = vec![disk];
        let firmware = self.firmware.clone();
        machine.firmware = firmware.map(|firmware| firmware.within(folder));
        machine.icount = plan.icount;
        machine.icount_shift = ICOUNT_SHIFT;
        Ok(machine)
    }

    fn judge(&self, plan: &Plan, folder: &RunDir, seen: &GuestRun) -> Result<Option<Judged>> {
        check_run(plan, seen)?;
        if !plan.scenario.dumps() {
            check_backtraces(plan, &seen.story)?;
            return Ok(None);
        }
        let path = folder.file("vmcore");
        let mut disk = File::open(folder.file("disk.img"))?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let bytes = vmcore::extract(&mut disk, &mut file)?;
        let dump = Vmcore::read(&file).context("cannot read the vmcore")?;
        let ladder = Ladder::of(plan.cpus, &seen.story, &seen.drain);
        let evidence = Evidence {
            cpus: plan.cpus,
            wedge: &plan.wedge,
            story: &seen.story,
            drain: &seen.drain,
            notes: &dump.notes,
            symbols: &self.symbols,
            kaslr_offset: dump.kaslr_offset()?,
            stays_in_handler: plan.stays_in_handler(),
        };
        let verdict = Verdict::of(&evidence, &ladder);
        Ok(Some(Judged {
            format: dump.format,
            bytes,
            release: dump.release()?.to_owned(),
            capture: plan
                .captures_with_all()
                .then(|| Capture::of(plan, &seen.story, &seen.drain, &ladder)),
            ladder,
            verdict,
        }))
    }
}

/// The vmlinux that belongs to `kernel`.
fn beside(kernel: &Path, vmlinux: Option<&Path>) -> Result<PathBuf> {
    ensure!(
        kernel.is_file(),
        "there is no kernel {}; check the path",
        kernel.display()
    );
    let path = match vmlinux {
        Some(vmlinux) => vmlinux.to_owned(),
        None => kernel.with_file_name("vmlinux"),
    };
    ensure!(
        path.is_file(),
        "there is no {}; say with --vmlinux where the vmlinux of {} is",
        path.display(),
        kernel.display()
    );
    Ok(path)
}

#[cfg(test)]
pub(crate) mod tests;
