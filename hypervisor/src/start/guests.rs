//! From the bundle to VMs that are ready to be loaded: what `hv_bundle::plan` decided is built here.

use alloc::boxed::Box;
use alloc::vec::Vec;

use hv_abi::virtio::TRANSPORT_SIZE;
use hv_bundle::{
    Bundle, CapturePlan, Error, Host, Keep, Mediated, Piece, Pieces, REDISTRIBUTOR_SIZE, Secret,
    VmPlan, plan,
};
use hv_core::id::{IntId, Mpidr, VmId};
use hv_core::sdei::Board;
use hv_core::vgic::affinity::Affinities;
use hv_core::vgic::{Config, Vgic};
use hv_core::virtio::{Area, Mediator};
use hv_core::vm::{
    self, GuestMap, GwdtConfig, IpaRange, OwnDevices, Transport, last_redistributors,
};
use hv_core::{ladder, watch};
use platform::{Machine, Range};

use crate::dump::Dump;
use crate::virtio::Registers;
use crate::vm::{GuestImage, Sdei, Vm, VmParts};
use crate::{crc, entropy, gic, guest_ram, log, operator, stage2, sysregs, virtio};

const _: () = assert!(REDISTRIBUTOR_SIZE == vm::REDISTRIBUTOR_SIZE);

/// Reads the bundle, keeps a copy of it out of the guests' reach, and makes the VMs it describes.
pub fn build_vms(machine: &Machine, dtb: &[u8], home: Range, spis: u32) -> Result<Vec<Vm>, Error> {
    let dtb_place = Range::new(dtb.as_ptr().addr() as u64, dtb.len() as u64);
    let keep = Keep::find(machine, &[home, dtb_place], stage2::limit())?;
    let bundle = Bundle::parse(keep_bundle(keep), &*crc::fastest())?;
    // The command line was obeyed before: it narrows what the machine's owner sealed into the bundle, and does not widen it.
    operator::confine(bundle.operator);
    let host = Host {
        dtb,
        taken: &[home, keep.to],
        limit: stage2::limit(),
        spis,
        secret: Secret::gather(&machine.seed, &entropy::fresh()),
        transport: virtio::identity,
    };
    let plans = plan(machine, bundle, &host)?;
    Ok(plans.into_iter().map(|plan| build(plan, spis)).collect())
}

/// Makes a VM of its plan.
fn build(plan: VmPlan<'static>, spis: u32) -> Vm {
    let config = &plan.guest.config;
    log!(
        "vm{} ({}): {} vCPUs, {}, SDEI {}",
        plan.id,
        config.name,
        plan.cpus.len(),
        Pieces(&plan.ram),
        if config.sdei { "on" } else { "off" }
    );
    if let Some(capture) = &plan.capture {
        let Piece { ipa, size, .. } = capture.memory;
        let held = [Range::new(ipa, size)];
        log!("vm{}: a capture kernel, {}", plan.id, Pieces(&held));
    }
    if plan.reaches_all {
        log!("vm{}: its devices can reach all memory", plan.id);
    }
    let mediators = mediators(&plan);
    let stage2 = map(&plan);
    let all = |mpidrs: &[u64]| -> Vec<Mpidr> { mpidrs.iter().copied().map(Mpidr::new).collect() };
    let (pcpus, mpidrs) = (all(&plan.cpus), all(&plan.affinities));
    let deactivate = plan.cpu_interface.map(|interface| interface.deactivate);
    let redistributors: Vec<_> = plan.redistributors.iter().copied().map(ipa).collect();
    let passed_through: Vec<IntId> = plan.interrupts.iter().copied().map(IntId).collect();
    let (list_regs, priority_bits) = gic::virtual_interface();
    let vgic = Vgic::new(&Config {
        model: gic::model(),
        mpidrs: &mpidrs,
        last: last_redistributors(&redistributors, pcpus.len()),
        spis,
        passed_through: &passed_through,
        priority_bits,
        list_regs,
    });
    let vcpus = pcpus.len();
    let ticks = |ms: u32| sysregs::counter_frequency().ticks_in_us(1000 * u64::from(ms));
    let map = GuestMap {
        affinities: Affinities::new(&mpidrs),
        ram: plan.ram.iter().copied().map(ipa).collect(),
        held: plan.capture.as_ref().map_or(IpaRange::default(), held),
        uart: ipa(plan.uart),
        distributor: ipa(plan.distributor),
        gic: gic::model(),
        deactivate: ipa(deactivate.unwrap_or_default()),
        policy: config.policy,
        nmi: ladder::Config {
            event: config.nmi.event,
            limit: ticks(config.nmi.limit_ms),
            last: config.nmi.last,
        },
        watchdog: config.watchdog.map(|watchdog| watch::Config {
            limit: ticks(watchdog.limit_ms),
            one: watchdog.one,
            all: watchdog.all,
        }),
        published: vgic.published().clone(),
        redistributors,
        board: Board::new(pcpus.len()),
        has_debug_calls: config.debug_calls,
        own: OwnDevices {
            flash: ipa(plan.own.flash),
            pvpanic: ipa(plan.own.pvpanic),
            gwdt: plan.own.gwdt.map(ipa),
            gwdt_config: config.gwdt.map(|act| GwdtConfig {
                intid: IntId(plan.own.gwdt_intid),
                act,
            }),
        },
        mediated: plan.mediated.iter().map(transport).collect(),
    };
    let sdei = Sdei {
        firmware: config.firmware(),
        events: config.events.clone(),
    };
    Vm::new(VmParts {
        id: VmId(plan.id),
        map,
        pcpus,
        uart_intid: IntId(plan.uart_intid),
        image: GuestImage {
            kernel: plan.guest.kernel,
            ramdisk: plan.guest.ramdisk,
            dtb: plan.dtb,
            seeding: plan.seeding,
            layout: plan.layout,
        },
        sdei,
        reclaim: config.reclaim,
        backing: plan.backing,
        transports: plan.transports,
        mediators,
        vgic,
        stage2,
        reaches_all: plan.reaches_all,
        flash: plan.own.flash_ram,
        flash_contents: plan.guest.flash.unwrap_or_default(),
        is_watched: config.crashkernel.is_some(),
        dump: plan.capture.map(|capture| Dump::new(capture, vcpus)),
    })
}

/// The memory that is held back for a capture kernel, as that finds it.
fn held(capture: &CapturePlan<'_>) -> IpaRange {
    let Piece { ipa, size, .. } = capture.memory;
    IpaRange { start: ipa, size }
}

/// The transport of a mediated device, as the guest finds it.
fn transport(it: &Mediated) -> Transport {
    Transport {
        registers: ipa(Range::new(it.transport, TRANSPORT_SIZE)),
        intid: IntId(it.intid),
    }
}

/// The mediated devices of a VM, each with its part of the memory for queues.
fn mediators(plan: &VmPlan<'_>) -> Vec<Mediator> {
    let mut left = guest_ram::own(plan.queues, 0, &[]);
    let mut pa = plan.queues.start;
    let mut mediators = Vec::new();
    for it in &plan.mediated {
        let (id, kind) = (plan.id, it.kind.name);
        log!("vm{id}: mediates a {kind} device at {:#x}", it.transport);
        let bytes = it.queue_bytes();
        let (words, rest) = left.split_at(bytes as usize / size_of::<u32>());
        let device = Box::new(Registers::at(it.transport));
        mediators.push(Mediator::new(it.kind, device, Area { words, pa }));
        (left, pa) = (rest, pa + bytes);
    }
    mediators
}

/// Stage 2 with what the VM may reach.
fn map(plan: &VmPlan<'_>) -> stage2::Tables {
    let mut tables = stage2::Tables::new(plan.tables, plan.guest.config.crashkernel);
    for piece in plan.backing.pieces() {
        tables.map_ram(piece);
    }
    if let Some(interface) = plan.cpu_interface {
        let gicv = interface.gicv;
        tables.map_device_at(interface.at, gicv.start, gicv.size);
    }
    for range in &plan.registers {
        tables.map_device(range.start, range.size);
    }
    tables
}

fn ipa(range: Range) -> IpaRange {
    IpaRange {
        start: range.start,
        size: range.size,
    }
}

/// Copies the bundle and returns the copy.
fn keep_bundle(keep: Keep) -> &'static [u8] {
    let size = keep.from.size as usize;
    let from = core::ptr::with_exposed_provenance::<u8>(keep.from.start as usize);
    let to = core::ptr::with_exposed_provenance_mut::<u8>(keep.to.start as usize);
    // SAFETY: `Keep::find` found both in RAM below the end of the identity map, and a place for the copy that is free
    // and does not overlap the original.
    unsafe { core::ptr::copy_nonoverlapping(from, to, size) };
    // SAFETY: the copy is initialised, in no guest's RAM, and never written again.
    unsafe { core::slice::from_raw_parts(to, size) }
}
