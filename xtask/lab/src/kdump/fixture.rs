//! The fixture of runs of Linux: what they need, built once; and each run from its machine to the judgement of its dump.

mod judge;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use hv_abi::watchdog::{Nmi, Watchdog};
use hv_bundle::{DumpConfig, GuestConfig, parse_crashkernel};

use super::asked::Extras;
use super::capture_kernel::CaptureFiles;
use super::document::KernelId;
use super::files::{join, joined, unpack};
use super::kept;
use super::report::Report;
use super::saving::Saving;
use crate::build_id;
use crate::instant::Oracle;
use crate::patch::{self, PANIC_EVENT};
use crate::plan::{self, Plan};
use crate::symbolize::annotate_tail;
use crate::symbols::Symbols;
use crate::watch::watch;
use debian::initramfs::{self, Guest};
use debian::kernel::{self, KernelVariant};
use debian::stock::{self, Release};
use debian::tools;
use machine::board::Board;
use machine::build::{self, Built, Program};
use machine::firmware::Firmware;
use machine::guest::reclaim;
use machine::payload::{self, Payload};
use machine::port;
use machine::qemu::{ICOUNT_SHIFT, Machine};
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// What every run needs, built once.
#[derive(Clone)]
pub struct Lab {
    qemu: PathBuf,
    board: Board,
    firmware: Option<Firmware>,
    hypervisor: Built,
    kernel: PathBuf,
    /// The same with its symbols, if it is there.
    vmlinux: Option<PathBuf>,
    initramfs: PathBuf,
    /// The kernel that the hypervisor starts to save memory, if it is another.
    capture: Option<CaptureFiles>,
    /// The functions of the guest kernel, if it comes with its symbols.
    symbols: Option<Symbols>,
    /// What the machine has, unless the board says.
    memory_mib: u64,
    /// How dumps are saved.
    saving: Saving,
    /// What the machine and the guest have besides.
    extras: Extras,
}

/// The guest kernel.
pub enum System {
    /// One of ours.
    Ours(KernelVariant),
    /// Debian's, as it is.
    Stock(Release),
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

/// What the hypervisor does about a guest.
#[derive(Debug, Default)]
pub struct Care<'a> {
    /// The watchdog over it.
    pub watchdog: Option<Watchdog>,
    /// The kernel that saves its memory.
    pub dump: Option<(DumpConfig, payload::Capture<'a>)>,
}

impl Lab {
    /// Builds the hypervisor, and the guest unless it is there.
    pub fn prepare(workshop: &Workshop, system: &System) -> Result<Self> {
        Self::prepare_with(workshop, system, Program::Hypervisor)
    }

    /// The same with that image of the hypervisor.
    pub fn prepare_with(workshop: &Workshop, system: &System, program: Program) -> Result<Self> {
        Self::prepare_saving(workshop, system, program, &Saving::default())
    }

    /// The same, whose dumps are saved like this.
    pub fn prepare_saving(
        workshop: &Workshop,
        system: &System,
        program: Program,
        saving: &Saving,
    ) -> Result<Self> {
        let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
        let hypervisor = build::build(workshop, program)?;
        let (cache, progress) = (&workshop.cache, &workshop.progress);
        let mut shipped = None;
        let (kernel, vmlinux) = match system {
            System::Stock(release) => {
                let stock = shipped.insert(stock::ensure(cache, *release, progress)?);
                (unpack(workshop, &stock.vmlinuz, None)?, None)
            }
            System::Other { kernel, vmlinux } => {
                let image = unpack(workshop, kernel, Some(vmlinux))?;
                (image, Some(vmlinux.clone()))
            }
            System::Ours(edition) => {
                let ours = kernel::ensure(cache, *edition, progress)?;
                (ours.image, Some(ours.vmlinux))
            }
        };
        let guest = match &shipped {
            Some(stock) => Guest::Shipped {
                image: &kernel,
                modules: &stock.modules,
                suite: stock.suite,
            },
            None => Guest::Ours(&kernel),
        };
        let initramfs = initramfs::ensure_with(cache, guest, &saving.saver(), progress)?;
        let suite = shipped
            .as_ref()
            .map_or(initramfs::SUITE, |stock| stock.suite);
        let capture = saving.capture_kernel;
        let capture = capture.map(|kernel| kernel.ensure(workshop, &saving.saver(), suite));
        let capture = capture.transpose()?;
        let step = progress.lazily("read the kernel's symbols");
        let symbols = vmlinux.as_deref().map(Symbols::load).transpose()?;
        step.done();
        Ok(Self {
            qemu,
            board: workshop.board,
            firmware: Firmware::of(workshop)?,
            hypervisor,
            kernel,
            vmlinux,
            initramfs,
            capture,
            symbols,
            memory_mib: match &shipped {
                // Such a kernel has several times the size of ours, and is in the initramfs once more.
                Some(_) => 1024,
                None => 512,
            },
            saving: saving.clone(),
            extras: Extras::default(),
        })
    }

    /// The same, whose machine and guest have these, too.
    pub fn giving(mut self, workshop: &Workshop, extras: Extras) -> Result<Self> {
        if extras.options.memory.is_some() {
            self.memory_mib = extras.options.memory_mib()?;
        }
        if let Some(first) = &extras.options.initrd {
            self.initramfs = joined(workshop, first, &self.initramfs)?;
        }
        if let Some(port) = extras.gdb {
            port::check(port)?;
            workshop
                .progress
                .say(&format!("waiting for `target remote 127.0.0.1:{port}`"));
        }
        self.extras = extras;
        Ok(self)
    }

    /// The same on another machine.
    pub fn on(self, board: Board) -> Self {
        Self { board, ..self }
    }

    /// The guest kernel with its symbols; an error if that kernel is shipped without.
    pub fn vmlinux(&self) -> Result<&Path> {
        let vmlinux = self.vmlinux.as_deref();
        vmlinux.context("this kernel comes without its vmlinux")
    }

    /// What the guest kernel says that it is.
    pub(super) fn kernel_id(&self) -> Result<KernelId> {
        let image = fs::read(&self.kernel)
            .with_context(|| format!("cannot read {}", self.kernel.display()))?;
        let build_id = self.vmlinux.as_deref().map(build_id::of_elf).transpose()?;
        Ok(KernelId::of(&image, build_id.flatten().as_deref()))
    }

    /// Runs a scenario and judges it. An error is what kept it from being judged.
    pub fn run(&self, request: &Request<'_>, mut show: impl FnMut(&str)) -> Result<Report> {
        let plan = &request.plan;
        let mut folder = RunDir::create(request.keep)?;
        let machine = self.machine(plan, &plan.bootargs(), &folder)?;
        let log = folder.file("serial.log");
        let only = (0, &[plan][..]);
        let seen = watch(only, &machine, request.timeout, &log, |_, line| show(line))?;
        let instant = seen.instant;
        let seen = seen.runs.into_iter().next().context("nothing was seen")?;
        let files = (folder.file("vmcore"), folder.file("disk.img"));
        let judged = self.judge(plan, &files, &seen);
        let mut report = Report::of(plan, seen, judged);
        if let Some(instant) = instant.filter(|_| plan.oracle) {
            let range = plan.crashkernel().map(|text| parse_crashkernel(&text));
            let reserve = range.transpose()?.map(|range| (range.start, range.size));
            let symbols = self.symbols.as_ref();
            let path = log.parent().context("the log has no folder")?;
            report
                .hear(instant.and_then(|seen| Oracle::ask(seen, path, &files.0, symbols, reserve)));
        }
        if !report.passed {
            self.explain(&mut report, &machine, &mut folder);
        }
        if let Some(kept) = request.keep {
            kept::complete(kept, self.vmlinux.as_deref())?;
        }
        Ok(report)
    }

    /// Says of a run that has not passed what helps to find out why.
    pub(super) fn explain(&self, report: &mut Report, machine: &Machine, folder: &mut RunDir) {
        report.console = annotate_tail(
            &report.console,
            &self.hypervisor.elf,
            self.vmlinux.as_deref(),
        );
        if let Some(symbols) = &self.symbols {
            let stood = report.stood.iter_mut().flatten();
            stood.for_each(|cpu| cpu.name(symbols));
        }
        report.command = Some(machine.command_line());
        let folder = folder.keep().to_owned();
        let crashed = report.is_hypervisors;
        report.next = kept::next(&folder, self.vmlinux.as_deref(), crashed);
        report.folder = Some(folder);
    }

    pub(super) const fn board(&self) -> Board {
        self.board
    }

    /// What a guest has, and a machine with one, unless the board says.
    pub(super) const fn memory_mib(&self) -> u64 {
        self.memory_mib
    }

    /// The guest's parts, of a configuration that says nothing.
    pub(super) fn payload(&self) -> Payload<'_> {
        Payload {
            kernel: &self.kernel,
            initrd: Some(&self.initramfs),
            flash: self.extras.options.flash_file(),
            capture: payload::Capture::default(),
            config: GuestConfig::default(),
        }
    }

    /// A machine with this bundle and no disks.
    pub(super) fn bare_machine(&self, plan: &Plan, bundle: PathBuf, folder: &RunDir) -> Machine {
        let mut machine = Machine::new(&self.qemu, &self.hypervisor.image);
        machine.board = self.board;
        machine.cpu = plan.model.clone();
        machine.cpus = self.board.cpus(plan.cpus);
        machine.initrd = Some(bundle);
        let firmware = self.firmware.clone();
        machine.firmware = firmware.map(|firmware| firmware.within(folder));
        let options = &self.extras.options;
        machine.append = join(&plan.faults(), options.hv_append.as_deref());
        machine.gdb = self.extras.gdb;
        machine.extra = options.qemu_args.iter().map(Into::into).collect();
        machine.nets.clone_from(&options.nets);
        machine.icount = plan.icount;
        machine.icount_shift = ICOUNT_SHIFT;
        machine
    }

    /// The machine of `plan`, whose files lie in `folder`; its kernel gets `bootargs`.
    pub fn machine(&self, plan: &Plan, bootargs: &str, folder: &RunDir) -> Result<Machine> {
        let care = Care {
            watchdog: plan.watchdog(),
            dump: plan
                .capture()
                .map(|config| (self.leave_out(config), self.capture())),
        };
        self.machine_with(plan, bootargs, folder, &care)
    }

    /// The same, with this care of the guest.
    pub fn machine_with(
        &self,
        plan: &Plan,
        bootargs: &str,
        folder: &RunDir,
        care: &Care<'_>,
    ) -> Result<Machine> {
        let held = care.dump.as_ref().map_or(0, |(config, _)| config.memory);
        let held_mib = held >> 20;
        // What a board shows at least, so that the dump is no larger than need be.
        let memory_mib = self
            .board
            .memory_mib()
            .filter(|_| self.extras.options.memory.is_none())
            .map_or(self.memory_mib + held_mib, |own| *own.start());
        let kernel = self.kernel_of(plan, folder)?;
        let usual = self.extras.options.config("");
        let (events, nmi) = match plan.panics_by_event() {
            true => (vec![PANIC_EVENT], patch::panic_nmi()),
            false => (usual.events.clone(), usual.nmi),
        };
        let crashkernel = plan.crashkernel();
        let crashkernel = crashkernel.map(|text| parse_crashkernel(&text));
        let crashkernel = crashkernel.transpose()?;
        let limit_ms = plan.nmi_limit_ms.unwrap_or(nmi.limit_ms);
        let nmi = Nmi { limit_ms, ..nmi };
        let bundle = folder.file("bundle.itb");
        Payload {
            kernel: &kernel,
            config: GuestConfig {
                bootargs: self.words(bootargs),
                sdei: plan.sdei,
                firmware: plan.firmware.clone(),
                reclaim: reclaim(plan.reclaim),
                watchdog: care.watchdog,
                dump: care.dump.as_ref().map(|(config, _)| config.clone()),
                crashkernel,
                // A board has as many CPUs as it has, and a guest may have fewer.
                vcpus: plan.cpus,
                events,
                nmi,
                ..usual
            },
            capture: care
                .dump
                .as_ref()
                .map(|(_, capture)| *capture)
                .unwrap_or_default(),
            ..self.payload()
        }
        .write(&bundle)?
        .check(self.board, memory_mib, self.firmware.is_some())?;
        let disk = folder.file("disk.img");
        // Room for the whole memory, should it have to be copied as it is. An SD card's size is a power of 2.
        plan::create_dump_disk(&disk, 2 * memory_mib)?;
        let mut machine = self.bare_machine(plan, bundle, folder);
        machine.memory_mib = memory_mib;
        machine.disks = vec![disk];
        machine
            .disks
            .extend(self.extras.options.disks.iter().cloned());
        Ok(machine)
    }

    /// The kernel that saves the guest's memory: without a choice the guest's own, with the initial ramdisk of that.
    fn capture(&self) -> payload::Capture<'_> {
        match &self.capture {
            Some(files) => payload::Capture {
                kernel: Some(&files.kernel),
                initrd: Some(&files.initramfs),
            },
            None => payload::Capture {
                kernel: None,
                initrd: Some(&self.initramfs),
            },
        }
    }

    /// The same capture kernel, whose dump has the level that is asked for; with room for any, if it is not the guest's own.
    fn leave_out(&self, config: DumpConfig) -> DumpConfig {
        DumpConfig {
            bootargs: self.saving.level(&config.bootargs),
            memory: match &self.capture {
                Some(_) => plan::HELD_FOR_STOCK,
                None => config.memory,
            },
        }
    }

    /// `bootargs`, and how dumps are saved.
    pub(super) fn words(&self, bootargs: &str) -> String {
        let own = self.extras.options.append.as_deref();
        join(&self.saving.words(bootargs), own)
    }

    /// The kernel that is wedged: ours, or that with some of its instructions changed.
    fn kernel_of(&self, plan: &Plan, folder: &RunDir) -> Result<PathBuf> {
        if !plan.changes_kernel() {
            return Ok(self.kernel.clone());
        }
        let symbols = self.symbols.as_ref();
        let symbols = symbols.context("this kernel comes without its vmlinux")?;
        let mut image = fs::read(&self.kernel)
            .with_context(|| format!("cannot read {}", self.kernel.display()))?;
        plan.place.patch(&mut image, symbols)?;
        if plan.writes {
            patch::write_while_wedged(&mut image, symbols)?;
        }
        if plan.panics_by_event() {
            patch::panic_by_event(&mut image, symbols)?;
        }
        if plan.panics_together() {
            patch::panic_together(&mut image, symbols)?;
        }
        let path = folder.file("wedged.img");
        fs::write(&path, image).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}
