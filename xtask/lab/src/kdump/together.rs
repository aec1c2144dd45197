//! Runs of Linux among several guests of one machine.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hv_abi::operator::Access;
use hv_abi::policy::{After, Policy};
use hv_bundle::GuestConfig;

use super::fixture::Lab;
use super::kept;
use super::report::Report;
use crate::given::Given;
use crate::plan::{self, Plan};
use crate::watch::watch;
use machine::board::Board;
use machine::guest::{Options, reclaim};
use machine::payload::{Payload, write_all};
use machine::qemu::Machine;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// MiB of the machine's memory besides its guests'.
const OWN_MIB: u64 = 256;

/// A guest that runs beside the main job, and is not to notice it.
pub struct Beside {
    options: Options,
    given: Given,
}

impl Beside {
    /// Those of a guest file.
    pub fn read(path: &Path, workshop: &Workshop) -> Result<Vec<Self>> {
        let make = |options| {
            let given = Given::of(&options, workshop)?;
            Ok(Self { options, given })
        };
        Self::options(path)?.into_iter().map(make).collect()
    }

    /// What such a file says of each.
    ///
    /// # Errors
    ///
    /// Names what it says that cannot be.
    pub fn options(path: &Path) -> Result<Vec<Options>> {
        let options = Options::read(path)?;
        let about = || format!("the guest file {}, for a guest beside", path.display());
        let mut all = options.each().with_context(about)?;
        for options in &mut all {
            ensure!(
                options.disks.is_empty() && options.nets.is_empty(),
                "a guest beside the main job has no disks and no nets; leave them out"
            );
            // An only guest's usual ones are all there are.
            options.cpus.get_or_insert(1.into());
            options.memory.get_or_insert("512M".to_owned());
            options.devices.get_or_insert_default();
            options.name.get_or_insert("beside".to_owned());
        }
        Ok(all)
    }

    /// How many CPUs it has.
    pub fn cpus(&self) -> Result<u32> {
        self.options.cpus()
    }

    fn payload(&self) -> Result<Payload<'_>> {
        Ok(Payload {
            kernel: &self.given.kernel,
            initrd: self.given.initrd.as_deref(),
            flash: self.options.flash_file(),
            capture: self.given.capture(),
            config: self.options.config_of_many(&self.given.bootargs)?,
        })
    }
}

/// Several runs that are asked for at once.
pub struct Together<'a> {
    /// What to do, in a guest each.
    pub plans: &'a [Plan],
    /// Who runs beside; the machine then goes off with the only plan's guest.
    pub beside: &'a [Beside],
    /// How many of those come before the plans' guests: their VMs have lower numbers, and lower CPUs and memory.
    pub before: u8,
    /// Give up after this.
    pub timeout: Duration,
    /// Where to leave everything, if it is to be left.
    pub keep: Option<&'a Path>,
}

impl Lab {
    /// Runs them and judges each. An error is what kept them from being judged.
    pub fn run_together(
        &self,
        together: &Together<'_>,
        mut show: impl FnMut(u8, &str),
    ) -> Result<Vec<Report>> {
        let plans = together.plans;
        ensure!(
            together.beside.is_empty() || plans.len() == 1,
            "guests run beside one main job at most"
        );
        let mut folder = RunDir::create(together.keep)?;
        let machine = self.machine_together(together, &folder)?;
        let all: Vec<&Plan> = plans.iter().collect();
        let log = folder.file("serial.log");
        let all = (together.before, &all[..]);
        let seen = watch(all, &machine, together.timeout, &log, &mut show)?;
        let mut reports = Vec::new();
        for (number, (plan, run)) in plans.iter().zip(seen.runs).enumerate() {
            let judged = self.judge(plan, &files(&folder, number), &run);
            let mut report = Report::of(plan, run, judged);
            let others = seen.disturbed.iter();
            report
                .faults
                .extend(others.map(|line| format!("a guest beside did not run on: {line}")));
            report.passed = report.faults.is_empty();
            if !report.passed {
                self.explain(&mut report, &machine, &mut folder);
            }
            reports.push(report);
        }
        if let Some(kept) = together.keep {
            kept::complete(kept, self.vmlinux().ok())?;
        }
        Ok(reports)
    }

    fn machine_together(&self, together: &Together<'_>, folder: &RunDir) -> Result<Machine> {
        let (plans, beside) = (together.plans, together.beside);
        let first = plans.first().context("there is nothing to do")?;
        let is_pi = self.board() == Board::Raspi4b;
        ensure!(
            !is_pi || plans.len() == 1,
            "a raspi4b has one card, so that one guest can save a dump; choose --machine virt or virt-gicv2"
        );
        let (mut cpus, mut memory_mib) = (0, OWN_MIB);
        let mut payloads = Vec::new();
        let mut disks = Vec::new();
        for (number, plan) in plans.iter().enumerate() {
            let disk = files(folder, number).1;
            plan::create_dump_disk(&disk, 2 * self.memory_mib())?;
            disks.push(disk);
            cpus += plan.cpus;
            memory_mib += self.memory_mib();
            payloads.push(Payload {
                config: self.config_together(plan, number, !beside.is_empty()),
                ..self.payload()
            });
        }
        let bootargs: Vec<String> = plans.iter().map(Plan::bootargs).collect();
        for (payload, bootargs) in payloads.iter_mut().zip(bootargs) {
            payload.config.bootargs = self.words(&bootargs);
        }
        for (number, other) in beside.iter().enumerate() {
            cpus += other.cpus()?;
            memory_mib += other.options.own_memory_mib()?;
            let place = match number < usize::from(together.before) {
                true => number,
                false => payloads.len(),
            };
            payloads.insert(place, other.payload()?);
        }
        self.board().check(cpus, Default::default())?;
        let bundle = folder.file("bundle.itb");
        for needs in write_all(&payloads, &bundle, memory_mib, Access::Full)? {
            needs.check(self.board(), memory_mib, false)?;
        }
        let mut machine = self.bare_machine(first, bundle, folder);
        machine.cpus = cpus;
        machine.memory_mib = memory_mib;
        if !is_pi {
            machine.slots = (0..).take(disks.len()).collect();
        }
        machine.disks = disks;
        Ok(machine)
    }

    fn config_together(&self, plan: &Plan, number: usize, has_others: bool) -> GuestConfig {
        let is_pi = self.board() == Board::Raspi4b;
        let on_off = if has_others {
            After::MachineOff
        } else {
            After::Stop
        };
        GuestConfig {
            name: format!("main-{number}"),
            vcpus: plan.cpus,
            memory: self.memory_mib() << 20,
            // Nothing keeps a card's controller from memory.
            trusted: is_pi,
            devices: Some(vec![if is_pi {
                "all".to_owned()
            } else {
                format!("virtio:{number}")
            }]),
            sdei: plan.sdei,
            firmware: plan.firmware.clone(),
            reclaim: reclaim(plan.reclaim),
            watchdog: plan.watchdog(),
            policy: Policy {
                on_off,
                ..Policy::USUAL
            },
            ..GuestConfig::default()
        }
    }
}

/// Where the dump of guest `number` is found, and its disk.
fn files(folder: &RunDir, number: usize) -> (std::path::PathBuf, std::path::PathBuf) {
    let file = |name: &str| folder.file(&format!("{name}-{number}"));
    (file("vmcore"), file("disk.img"))
}
