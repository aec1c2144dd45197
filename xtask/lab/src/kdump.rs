//! `cargo xtask kdump`: the main job.

mod asked;
mod beforehand;
mod capture_kernel;
mod checks;
mod document;
mod files;
mod fit;
mod fixture;
mod from_tree;
mod kept;
mod report;
mod saving;
mod series;
mod together;
mod told;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::cpulist::CpuList;
use crate::place::Place;
use crate::plan::{Fate, Plan, Scenario};
use crate::scenario::Wedges;
use crate::usage;
use debian::archive;
use debian::progress::Progress;
use debian::stock::Release;
use machine::board::Board;
use machine::el3::El3;
use machine::guest::{Options, Reclaim, Switch, firmware};
use machine::port;
use machine::qemu::DEFAULT_CPU;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

use crate::results::{About, Format};
use asked::Asked;
use document::KernelId;
use from_tree::FromTree;
use told::Told;

pub use crate::watch::matters;
pub use asked::Extras;
pub use beforehand::TreeKernel;
pub use checks::check_run;
pub use fixture::{Care, Lab, Request, System};
pub use kept::quote;
pub use report::Report;
pub use saving::Saving;
pub use together::{Beside, Together};
pub use told::remove_old;

/// A job is given up after so many seconds if nothing else is said.
const TIMEOUT_SECONDS: u64 = 300;

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
    /// Number of CPUs; with raspi4b so many of its four [default: 4].
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
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
    ///
    /// [default: kdump; panic with --stock]
    #[arg(long, value_enum)]
    scenario: Option<Scenario>,
    /// Where CPUs are that are wedged: in the kernel, with `--scenario nmi` in programs (where the hypervisor's test image masks
    /// their interrupts), in the handler of an interrupt, or in the kernel with a stack pointer that leads nowhere.
    #[arg(long, value_enum, value_name = "WHERE", default_value = "el1")]
    place: Place,
    /// Whether the guest is offered SDEI. With `off` the wedged CPUs must be missing, and this fails [default: on].
    #[arg(long, value_name = "on|off")]
    sdei: Option<Switch>,
    /// Whose firmware the guest meets: a list of names from docs/firmware.md, joined by commas.
    ///
    /// Releases such as tfa-2.12, and faults such as off-in-event-keeps-priority or signal-lost=3;
    /// what fails with them fails here.
    ///
    /// [default: spec]
    #[arg(long, value_name = "NAME", value_parser = firmware)]
    firmware: Option<String>,
    /// Let CPU_ON take back a CPU that is parked in an event; the capture kernel then gets all CPUs,
    /// and every one must come back.
    #[arg(long)]
    reclaim: bool,
    /// Have Linux mask interrupts by their priority (`irqchip.gicv3_pseudo_nmi=1`): its stop ladder then has a rung between IPI and SDEI.
    #[arg(long)]
    pseudo_nmi: bool,
    /// Count instructions: 32 nanoseconds of the machine's time for each, whatever the host does.
    ///
    /// With many CPUs that spin this shows how long a stop takes them, and not how busy the host is.
    #[arg(long)]
    icount: bool,
    /// Which machine QEMU plays [default: virt].
    #[arg(long, value_enum, value_name = "WHICH")]
    machine: Option<Board>,
    /// What runs below the hypervisor, at EL3 [default: none].
    #[arg(long, value_enum, value_name = "WHAT")]
    el3: Option<El3>,
    /// How a CPU ends that SDEI stopped; the capture kernel then gets all CPUs, and each must be as
    /// it is to be.
    ///
    /// After the endings with CPU_OFF every CPU must come back in the capture kernel, run a task,
    /// take timer interrupts and IPIs, and take event 0 again. After the others, the CPUs that
    /// SDEI stopped stay away, and all others come back. All but `park` need a kernel with
    /// guest-tests/linux/sdei-ending.patch, which ours then is.
    #[arg(long, value_enum)]
    ending: Option<Fate>,
    /// Another kernel than ours, an Image or a packed one.
    ///
    /// What the job needs of its configuration is looked for in itself (CONFIG_IKCONFIG) or in the .config beside it, and what is
    /// missing is said before anything boots. guest-tests/linux/kernel.config has all that any job needs.
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// The vmlinux of that kernel [default: the file of that name beside it].
    #[arg(long, value_name = "PATH", requires = "kernel", conflicts_with_all = ["stock", "tree"])]
    vmlinux: Option<PathBuf>,
    /// A kernel as Debian ships it, with its own modules and kexec_load, instead of ours: debian-12 (Linux 6.1), debian-13 (6.12), or
    /// backports (the newest for Debian 13); debian-13-16k and backports-16k have pages of 16 KiB.
    ///
    /// Nothing is compiled but the hypervisor. Such a kernel has nothing that wedges a CPU, so no CPU is wedged, but with
    /// `--scenario nmi` and `assisted` all: the hypervisor's test image, with fault injection, masks their interrupts, and says before the
    /// NMI or the dump where each is.
    #[arg(long, value_name = "RELEASE", value_parser = release, conflicts_with_all = ["kernel", "ending"])]
    stock: Option<Release>,
    #[command(flatten)]
    from_tree: FromTree,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    saving: Saving,
    /// Hold the dump, page by page, against what memory was when the crash kernel began, and say who has written to it since.
    ///
    /// The hypervisor refuses to execute the crash kernel, which is at a place of its own (`crashkernel=SIZE@ADDRESS`), and has the guest
    /// stand still at its first instruction: its memory is saved (truth.elf with --keep). From then on the first write to each other page is
    /// recorded (writers.json). A page of the dump that is different, or missing and required, fails.
    #[arg(long, conflicts_with = "beside")]
    oracle: bool,
    /// Run the guests of this guest file beside Linux, on CPUs and in memory of their own: they must run on, whatever becomes of it.
    #[arg(long, value_name = "FILE.toml")]
    beside: Option<PathBuf>,
    /// How what comes of it is written to standard output: for people, or while it runs as KTAP or JSON, or at its end as JUnit's XML.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "human")]
    format: Format,
    /// Write all that was found, of each run, to this file, as JSON: docs/report.md.
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// Write the same to this file as a page for a browser, which needs nothing else: the ladder as a timeline, CPUs, registers, pages
    /// and the console.
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Leave vmcore, serial log and bundle in this folder; with --repeat, those of the last run.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Do it so many times in a row, with one line for each, and stop at the first that fails.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Give up after so many seconds [default: 300].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Print the guest's whole console, not only what matters.
    #[arg(long, short)]
    verbose: bool,
}

impl Kdump {
    /// Runs the scenario and says what came of it.
    pub fn execute(mut self) -> Result<ExitCode> {
        let (plan, extras) = self.settle().map_err(usage::wrong)?;
        extras.gdb.map_or(Ok(()), port::check)?;
        let (board, el3) = (self.board(), self.el3.unwrap_or_default());
        let mut reports = self.report.iter().chain(&self.html);
        reports.try_for_each(|old| told::remove_old(old))?;
        let system = self.system(&plan)?;
        if let System::Other { kernel, vmlinux } = &system {
            fit::check(&plan, board, kernel, vmlinux, &Progress::new())?;
        }
        let workshop = Workshop::open()?.above(el3).on(board);
        let lab = Lab::prepare_saving(&workshop, &system, plan.program(), &self.saving)?;
        let lab = lab.giving(&workshop, extras)?;
        archive::say_fetched(&workshop.progress);
        let beside = match &self.beside {
            Some(path) => Beside::read(path, &workshop)?,
            None => Vec::new(),
        };
        let request = Request {
            plan,
            timeout: Duration::from_secs(self.timeout.unwrap_or(TIMEOUT_SECONDS)),
            keep: self.keep.as_deref(),
        };
        let about = About::now(board, el3);
        let wanted = self.report.is_some() || self.html.is_some();
        let kernel = match self.format == Format::Human && !wanted {
            // For people it is in what comes of the run.
            true => KernelId::default(),
            false => lab.kernel_id()?,
        };
        let told = Told::begin(self.format, about, kernel, self.repeat)?;
        // Of one run among many, its line is enough.
        let (verbose, terse) = (self.verbose, self.repeat > 1);
        let run = || {
            let step = Progress::new().lazily("the guest runs, and its dump is judged");
            let show = |line: &str| {
                if verbose || (!terse && matters(line)) {
                    step.around(|| told.note(line));
                }
            };
            let report = if beside.is_empty() {
                lab.run(&request, show)?
            } else {
                let together = Together {
                    plans: std::slice::from_ref(&request.plan),
                    beside: &beside,
                    before: 0,
                    timeout: request.timeout,
                    keep: request.keep,
                };
                let show = |vm: u8, line: &str| {
                    // Of the others what they write is theirs to know.
                    if vm == 0 {
                        show(line);
                    }
                };
                let reports = lab.run_together(&together, show)?;
                reports.into_iter().next().context("nothing was judged")?
            };
            drop(step);
            told.run(&report, self.report.as_deref(), self.html.as_deref())?;
            if !report.passed && self.format == Format::Human {
                println!("  {}", again(self.asked.waits()));
            }
            Ok(report)
        };
        let passed = if terse {
            series::run(self.repeat, run, &mut told.series())?
        } else {
            run()?.passed
        };
        told.end()?;
        Ok(if passed {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    const fn board(&self) -> Board {
        match self.machine {
            Some(board) => board,
            None => Board::Virt,
        }
    }

    /// Takes from a guest file what the command line does not say.
    fn hear(&mut self, file: &Options) -> Result<()> {
        if file.cpus.is_some() && self.cpus.is_none() {
            self.cpus = Some(file.cpus()?);
        }
        self.kernel = self.kernel.take().or_else(|| file.kernel.clone());
        self.cpu = self.cpu.take().or_else(|| file.cpu.clone());
        self.firmware = self.firmware.take().or_else(|| file.firmware.clone());
        self.sdei = self.sdei.or(file.sdei);
        self.machine = self.machine.or(file.machine);
        self.el3 = self.el3.or(file.el3);
        self.timeout = self.timeout.or(file.timeout);
        self.reclaim |= file.reclaim == Some(Reclaim::Parked);
        Ok(())
    }

    /// That it can be done as it is asked for, with so many disks besides its own.
    fn check(&self, plan: &Plan, disks: usize) -> Result<()> {
        plan.check()?;
        self.saving.check(plan.scenario.dumps())?;
        ensure!(
            self.stock.is_none()
                || matches!(
                    plan.scenario,
                    Scenario::Panic | Scenario::Nmi | Scenario::Assisted
                ),
            "Debian's kernels have no LKDTM, which wedges CPUs here; have none wedged by --scenario panic, or all by --scenario nmi or assisted, or leave --stock out"
        );
        ensure!(
            self.stock.is_none() || !plan.pseudo_nmi,
            "Debian's kernels have no pseudo-NMIs (CONFIG_ARM64_PSEUDO_NMI); leave --pseudo-nmi or --stock out"
        );
        ensure!(
            self.saving.capture_kernel.is_none() || plan.scenario == Scenario::Assisted,
            "the hypervisor starts a kernel to save the dump with --scenario assisted only; choose that, or leave --capture-kernel out"
        );
        // A board has as many as it has, and the guest so many of them.
        let board = self.board();
        let machine_has = board.cpus(plan.cpus).max(plan.cpus);
        board.check(machine_has, self.el3.unwrap_or_default())?;
        board.check_parts(self.cpu.as_deref(), 1 + disks)?;
        ensure!(
            !self.oracle
                || plan.scenario == Scenario::Assisted
                || matches!(board, Board::Virt | Board::VirtGicv2),
            "where the crash kernel can be is known on QEMU's virt only; choose --machine virt or virt-gicv2, or leave --oracle out"
        );
        ensure!(
            !self.oracle || plan.scenario.dumps(),
            "with this scenario there is no dump to be held against memory; leave --oracle out"
        );
        ensure!(
            !plan.pseudo_nmi || board == Board::Virt,
            "pseudo-NMIs need a GICv3; leave --pseudo-nmi out, or choose --machine virt"
        );
        ensure!(
            plan.scenario != Scenario::Suspend || board != Board::Raspi4b,
            "a raspi4b has no clock that wakes it; choose another --scenario, or --machine virt or virt-gicv2"
        );
        ensure!(
            self.beside.is_none() || !plan.changes_kernel(),
            "instructions of the kernel are changed for this, which is done for a guest alone; leave --beside out, or choose another --scenario or --place"
        );
        ensure!(
            self.beside.is_none() || plan.scenario != Scenario::NestedPanic,
            "when it has come to that the machine is ended, whoever runs beside; leave --beside out, or choose another --scenario"
        );
        ensure!(
            self.beside.is_none() || plan.scenario != Scenario::Assisted,
            "a guest with a capture kernel runs alone here; leave --beside out, or choose another --scenario"
        );
        RunDir::check(self.keep.as_deref())
    }

    fn system(&self, plan: &Plan) -> Result<System> {
        if let Some(release) = self.stock {
            return Ok(System::Stock(release));
        }
        if let Some(built) = self.from_tree.build(plan, self.board())? {
            return Ok(built);
        }
        Ok(match &self.kernel {
            Some(kernel) => System::Other {
                kernel: kernel.clone(),
                vmlinux: beside(kernel, self.vmlinux.as_deref())?,
            },
            None => System::Ours(plan.kernel_variant()),
        })
    }

    fn plan(&self) -> Plan {
        let cpus = self.cpus.unwrap_or(4);
        let last = cpus.saturating_sub(1);
        let usual = match self.stock {
            Some(_) => Scenario::Panic,
            None => Scenario::Kdump,
        };
        let scenario = self.scenario.unwrap_or(usual);
        let wedge = self
            .wedge
            .clone()
            .unwrap_or_else(|| match scenario.wedges() {
                Wedges::All => (0..cpus).collect(),
                Wedges::None => CpuList::default(),
                Wedges::Some => [last.min(2)].into_iter().collect(),
            });
        let first_left = (0..cpus).find(|&cpu| !wedge.contains(cpu));
        Plan {
            scenario,
            cpus,
            model: self
                .cpu
                .clone()
                .unwrap_or_else(|| self.board().model().unwrap_or(DEFAULT_CPU).to_owned()),
            panic: self.panic.or(first_left).unwrap_or(0),
            wedge,
            sdei: self.sdei != Some(Switch::Off),
            fate: self.ending,
            firmware: self.firmware.clone().unwrap_or("spec".to_owned()),
            reclaim: self.reclaim,
            pseudo_nmi: self.pseudo_nmi,
            icount: self.icount,
            is_stock: self.stock.is_some(),
            place: self.place,
            by_event: false,
            nmi_limit_ms: None,
            oracle: self.oracle,
            writes: false,
        }
    }
}

/// The command that we were called by, that waits for a debugger unless it does.
fn again(waits: bool) -> String {
    let words = std::env::args().skip(1);
    let words: Vec<String> = words.map(|word| kept::quote(&word)).collect();
    let gdb = if waits { "" } else { " --gdb" };
    format!("cargo xtask {}{gdb}", words.join(" "))
}

fn release(name: &str) -> Result<Release, String> {
    Release::named(name).ok_or_else(|| {
        let known = Release::ALL.map(Release::name).join(", ");
        format!("there is no such release; there are {known}")
    })
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
