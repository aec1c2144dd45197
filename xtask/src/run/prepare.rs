//! What a boot needs, built: the machine, its guests and their bundle.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use hv_bundle::Backing;

use debian::tools;
use lab::given::Given;
use machine::board::Board;
use machine::build::{self, Program};
use machine::el3::El3;
use machine::firmware::Firmware;
use machine::guest::Options;
use machine::payload::{self, Payload};
use machine::preflight;
use machine::qemu::{DEFAULT_CPU, Machine};
use machine::raspi4b;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// What a boot needs.
pub struct Prepared {
    /// The machine.
    pub machine: Machine,
    /// The file that explains the guest's addresses, if there is one.
    pub vmlinux: Option<PathBuf>,
    /// Where each of several guests has its RAM.
    pub backings: BTreeMap<u8, Backing>,
}

/// How large a machine is.
pub struct Size {
    cpus: u32,
    memory_mib: u64,
}

/// The size of the machine that `options` describe, and these `guests` need.
///
/// # Errors
///
/// Says so if there is no such machine.
pub fn size(options: &Options, guests: &[Options]) -> Result<Size> {
    let cpus = options.machine_cpus(guests)?;
    let memory_mib = options.machine_memory_mib(guests)?;
    let board = options.machine.unwrap_or_default();
    board.check(cpus, options.el3.unwrap_or_default())?;
    board.check_parts(options.cpu.as_deref(), options.disks.len())?;
    Ok(Size { cpus, memory_mib })
}

/// Builds what the machine needs that `options` describe, whose files lie in `folder`.
pub fn machine(
    options: &Options,
    bare: bool,
    program: Program,
    folder: &RunDir,
) -> Result<Prepared> {
    let guests = options.each()?;
    let Size { cpus, memory_mib } = size(options, &guests)?;
    let el3 = options.el3.unwrap_or_default();
    let board = options.machine.unwrap_or_default();
    let workshop = Workshop::open()?.above(el3).on(board);
    let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
    let mut given = Vec::new();
    for guest in &guests {
        given.push(Given::of(guest, &workshop)?);
    }
    let step = workshop.progress.lazily("read and bundle the guest");
    let only = given.first().context("a machine has a guest")?;
    let mut machine = if bare {
        let given = only;
        // QEMU places it by its own rules.
        let initrd = given.initrd.as_deref();
        let (kernel, needs) = payload::bare(&given.kernel, initrd, folder, memory_mib)?;
        needs.check(board, memory_mib, false)?;
        drop(step);
        let mut machine = Machine::new(&qemu, &kernel);
        machine.el2 = false;
        machine.initrd.clone_from(&given.initrd);
        machine.append.clone_from(&given.bootargs);
        if board == Board::Raspi4b {
            machine.devicetree = Some(raspi4b::bare_devicetree(&workshop, folder, memory_mib)?);
        }
        machine
    } else {
        let bundle = folder.file("bundle.itb");
        let payloads = payloads(options, &guests, &given)?;
        for needs in payload::write_all(&payloads, &bundle, memory_mib, options.operator())? {
            needs.check(board, memory_mib, el3 != El3::None)?;
        }
        drop(step);
        let hypervisor = build::build(&workshop, program)?.image;
        let mut machine = Machine::new(&qemu, &hypervisor);
        machine.initrd = Some(bundle);
        machine.append = options.hv_append.clone().unwrap_or_default();
        let firmware = Firmware::of(&workshop)?;
        machine.firmware = firmware.map(|firmware| firmware.within(folder));
        machine
    };
    let model = board.model().unwrap_or(DEFAULT_CPU);
    machine.cpu = options.cpu.clone().unwrap_or(model.to_owned());
    machine.board = board;
    machine.cpus = cpus;
    machine.memory_mib = memory_mib;
    let mut behind_disks = Vec::new();
    for guest in &guests {
        if let Some(first) = guest.first_slot {
            let mut slots = first..;
            let of_disks = slots.by_ref().take(guest.disks.len());
            machine.slots.extend(of_disks);
            behind_disks.extend(slots.take(guest.nets.len()));
        }
        machine.disks.extend(guest.disks.iter().cloned());
        machine.nets.extend(guest.nets.iter().cloned());
    }
    machine.slots.extend(behind_disks);
    machine.extra = options.qemu_args.iter().map(Into::into).collect();
    let is_planned = guests.len() > 1 || guests.iter().any(|guest| guest.dump.is_some());
    let backings = match is_planned && !bare {
        true => preflight::check(&machine, &folder.file("preflight.dtb"))?,
        false => BTreeMap::new(),
    };
    // Several guests' addresses are not told apart.
    let vmlinux = given.pop().filter(|_| given.is_empty());
    Ok(Prepared {
        machine,
        vmlinux: vmlinux.and_then(|given| given.vmlinux),
        backings,
    })
}

/// What is in the bundle of these guests of `options`, which have `given`.
pub fn payloads<'a>(
    options: &Options,
    guests: &'a [Options],
    given: &'a [Given],
) -> Result<Vec<Payload<'a>>> {
    let mut payloads = Vec::new();
    for (guest, given) in guests.iter().zip(given) {
        let config = if options.guests.is_empty() {
            guest.config(&given.bootargs)
        } else {
            guest.config_of_many(&given.bootargs)?
        };
        payloads.push(Payload {
            kernel: &given.kernel,
            initrd: given.initrd.as_deref(),
            flash: guest.flash_file(),
            capture: given.capture(),
            config,
        });
    }
    Ok(payloads)
}
