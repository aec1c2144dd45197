//! Bring-up, in numbered stages. Each says what may not be touched yet.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use hv_bundle::{Bundle, GuestSpec, Kernel, Layout, build_guest_dtb};
use hv_core::entry::Features;
use hv_core::id::{IntId, Mpidr, PcpuId, VcpuId, VmId};
use hv_core::sdei;
use hv_core::vgic::affinity::Affinities;
use hv_core::vgic::{Config, Vgic};
use hv_core::vm::{GuestMap, IpaRange, Vcpu};
use hv_core::{idreg, time::Instant};
use platform::{DeviceKind, Gic, Machine, Range, Start, Uart, UartKind};
use spin::Once;

use crate::gic::v3;
use crate::memory::{self, BLOCK_SIZE, HV_BASE, Identity};
use crate::percpu;
use crate::run::Runner;
use crate::vm::{GuestImage, VMS, Vm};
use crate::{boot, fault, firmware, heap, log, stage2, sysregs};

/// What the pCPUs need to know once they are up.
struct Board {
    machine: Machine,
    maintenance: u32,
    ppis: Vec<u32>,
}

static BOARD: Once<Board> = Once::new();
/// pCPUs that are ready for their vCPU.
static READY: AtomicUsize = AtomicUsize::new(0);

/// How long a pCPU may take to come up, in microseconds: QEMU on a busy machine needs tens of
/// milliseconds.
const START_LIMIT_US: u64 = 5_000_000;

/// Stage 1, wherever the loader put us: find a home and move there.
///
/// Limitations: early tables, of which few are left; the heap is a small static area; one pCPU. Nothing
/// is mapped but the image and the devicetree.
pub extern "C" fn scout(dtb: u64, image: u64, _region: u64) -> ! {
    memory::set_image_pa(image);
    heap::start_early();
    let blob = devicetree(dtb);
    start_console(blob);
    let machine = discover(blob);
    let size = memory::home_size(machine.cpus.len());
    let taken = [
        Range::new(image, memory::image_size()),
        Range::new(dtb, blob.len() as u64),
        machine.initrd.unwrap_or(Range::new(0, 0)),
    ];
    let Some(home) = highest_free(&machine, &taken, size) else {
        refuse(format_args!(
            "no {} MiB of RAM are free for the hypervisor; give the machine more memory",
            size >> 20
        ));
    };
    // SAFETY: one pCPU, early tables, and `home` is free RAM by the devicetree.
    if !unsafe { boot::early_map(home, memory::image_size(), false) } {
        refuse(format_args!("no early table is left to map {home:#x}"));
    }
    let length = memory::loaded_size();
    let from = core::ptr::with_exposed_provenance::<u8>(HV_BASE as usize);
    let to = core::ptr::with_exposed_provenance_mut::<u8>(home as usize);
    // SAFETY: the image is mapped at HV_BASE, `home` one to one just above; they do not overlap.
    unsafe { core::ptr::copy_nonoverlapping(from, to, length as usize) };
    sysregs::clean_to_poc(home, memory::image_size());
    // SAFETY: the copy is complete and clean, and `home` holds nothing else.
    unsafe { boot::restart(home, dtb, size, image) }
}

/// Stage 2, at home: our own tables, then off the boot stack.
///
/// Limitations: as in `scout`, but the heap has the home region.
pub extern "C" fn home(dtb: u64, image: u64, region: u64) -> ! {
    memory::set_image_pa(image);
    heap::start_early();
    // SAFETY: the region behind the image is mapped by the early tables and ours alone.
    unsafe { heap::extend(memory::heap_range(region)) };
    let blob = devicetree(dtb);
    start_console(blob);
    log!(
        "halligan {} at {image:#x}, {} KiB",
        env!("CARGO_PKG_VERSION"),
        region >> 10
    );
    let machine = discover(blob);
    let home = Range::new(image, region);

    let mut identity: Vec<Identity> = Vec::new();
    for bank in &machine.ram {
        for part in without(*bank, home) {
            identity.push(normal(part));
        }
    }
    identity.push(device(machine.console.base));
    let (distributor, redistributors, maintenance) = match &machine.gic {
        Gic::V3 {
            dist,
            redists,
            maintenance,
            ..
        } => (*dist, redists.clone(), *maintenance),
        Gic::V2 { .. } => refuse(format_args!(
            "this machine has a GICv2, which is not driven yet; use gic-version=3"
        )),
    };
    identity.push(device(distributor));
    identity.extend(redistributors.iter().copied().map(device));
    for transport in &machine.devices {
        identity.extend(transport.mmio.iter().copied().map(device));
    }
    let tables = memory::Tables::build(region, machine.cpus.len(), &identity);
    // SAFETY: they map the window as it is and the boot page one to one.
    unsafe { boot::switch_tables(tables.ttbr(), image) };
    let entry = boot::prepare_secondaries(tables.ttbr(), image);
    // They are in force for good.
    core::mem::forget(tables);

    firmware::set_psci(machine.psci);
    let regions: Vec<(u64, u64)> = redistributors.iter().map(|r| (r.start, r.size)).collect();
    // SAFETY: the devicetree says that they are there; the tables above map them as device memory.
    let gic = unsafe { v3::start(distributor.start, &regions) };
    let timers = &machine.timers;
    let ppis = vec![timers.virt, timers.physical, maintenance];

    let vms = match build_vms(
        &machine,
        blob,
        home,
        gic.spis(),
        (distributor, &redistributors),
    ) {
        Ok(vms) => vms,
        Err(error) => refuse(format_args!("{error}")),
    };
    VMS.call_once(|| vms);
    let boot_pcpu = sysregs::mpidr();
    let index = machine
        .cpus
        .iter()
        .position(|cpu| Mpidr::new(cpu.mpidr) == boot_pcpu)
        .unwrap_or(0);
    BOARD.call_once(|| Board {
        machine,
        maintenance,
        ppis,
    });
    start_pcpus(index, entry);
    let top = memory::stack_top(index);
    // SAFETY: the final tables map this stack, and it is this pCPU's.
    unsafe { boot::on_stack(top, main_pcpu, index) }
}

/// Stage 3, on every pCPU: its block, its part of the GIC, its vCPU.
pub extern "C" fn secondary(index: usize) -> ! {
    run_pcpu(index)
}

extern "C" fn main_pcpu(index: usize) -> ! {
    run_pcpu(index)
}

fn run_pcpu(index: usize) -> ! {
    let percpu = percpu::install(PcpuId(index as u8));
    let Some(board) = BOARD.get() else {
        panic!("pCPU {index} started before the machine was known");
    };
    let gic = v3::get();
    gic.start_pcpu(percpu.mpidr, &board.ppis);
    let vms = VMS.get().map_or(&[][..], Vec::as_slice);
    let mine = vms.iter().find_map(|vm| {
        let vcpu = vm.pcpus.iter().position(|&pcpu| pcpu == percpu.mpidr)?;
        Some((vm, VcpuId(vcpu as u8)))
    });
    let Some((vm, id)) = mine else {
        READY.fetch_add(1, Ordering::Release);
        fault::park();
    };
    let config = if vm.has_sdei {
        sdei::Config::default()
    } else {
        sdei::Config::OFF
    };
    let vcpu = Vcpu::new(id, features(), &config);
    let runner = Runner::new(vm, percpu, vcpu, board.maintenance);
    let ready = READY.fetch_add(1, Ordering::AcqRel) + 1;
    if ready == board.machine.cpus.len() {
        // The last one opens the doors.
        let (used, total) = heap::usage();
        log!("heap: {} of {} KiB used", used >> 10, total >> 10);
        log!("@ready vms={}", vms.len());
        for vm in vms {
            gic.enable_spi(vm.uart_intid, vm.pcpus[0]);
            vm.load();
        }
        crate::console::set_receive(true);
    }
    runner.run()
}

/// The PSTATE bits of this pCPU: what an exception does to them does not depend on what a guest is told.
fn features() -> Features {
    let [pfr0, pfr1, mmfr1] =
        [(4, 0), (4, 1), (7, 1)].map(|(crm, op2)| sysregs::id_register(crm, op2));
    idreg::features(pfr0, pfr1, mmfr1)
}

/// Wakes the other pCPUs; those that do not come are reported, and then nothing starts.
fn start_pcpus(boot_index: usize, entry: u64) {
    let Some(board) = BOARD.get() else {
        return;
    };
    for (index, cpu) in board.machine.cpus.iter().enumerate() {
        if index == boot_index {
            continue;
        }
        match cpu.start {
            Start::Psci => {
                if let Err(status) = firmware::cpu_on(cpu.mpidr, entry, index as u64) {
                    refuse(format_args!(
                        "firmware refuses to start the CPU with MPIDR {:#x} (PSCI status {status})",
                        cpu.mpidr
                    ));
                }
            }
            Start::SpinTable { .. } | Start::Running => refuse(format_args!(
                "the CPU with MPIDR {:#x} is not started by PSCI, which is the only way so far",
                cpu.mpidr
            )),
        }
    }
    let others = board.machine.cpus.len() - 1;
    let limit = sysregs::counter_frequency().ticks_in_us(START_LIMIT_US);
    let deadline = Instant(sysregs::now().0.saturating_add(limit));
    while READY.load(Ordering::Acquire) < others {
        if sysregs::now() > deadline {
            refuse(format_args!(
                "only {} of {others} other CPUs have started",
                READY.load(Ordering::Relaxed)
            ));
        }
        core::hint::spin_loop();
    }
}

/// Reads the bundle, keeps a copy of it out of the guests' reach, and makes the VMs it describes.
fn build_vms(
    machine: &Machine,
    blob: &[u8],
    home: Range,
    spis: u32,
    (distributor, redistributors): (Range, &[Range]),
) -> Result<Vec<Vm>, alloc::string::String> {
    let Some(initrd) = machine.initrd else {
        return Err(
            "there is no guest: /chosen has no linux,initrd-start; load a bundle as the initrd"
                .into(),
        );
    };
    let dtb = Range::new(blob.as_ptr().addr() as u64, blob.len() as u64);
    let size = initrd.size.next_multiple_of(BLOCK_SIZE);
    let Some(kept) = highest_free(machine, &[home, initrd, dtb], size) else {
        return Err("no RAM is left to keep the bundle in; give the machine more memory".into());
    };
    let bytes = keep_bundle(initrd, kept);
    let bundle = Bundle::parse(bytes).map_err(|error| error.to_string())?;
    let [guest] = bundle.guests.as_slice() else {
        return Err("the bundle has several guests; one is supported so far".into());
    };

    let kept = Range::new(kept, size);
    let Some(ram) = guest_ram(machine, &[home, kept]) else {
        return Err("no RAM is left for the guest; give the machine more memory".into());
    };
    let ram = match guest.config.memory {
        0 => ram,
        bytes => Range::new(ram.start, ram.size.min(bytes)),
    };
    guest
        .config
        .check_against(machine.cpus.len() as u32, ram.size)
        .map_err(|error| error.to_string())?;
    let vcpus = match guest.config.vcpus as usize {
        0 => machine.cpus.len(),
        count => count,
    };
    let affinities: Vec<u64> = machine.cpus.iter().take(vcpus).map(|c| c.mpidr).collect();
    let pcpus: Vec<Mpidr> = affinities.iter().map(|&mpidr| Mpidr::new(mpidr)).collect();

    let mut stage2 = stage2::Tables::new();
    stage2.map_ram(ram.start, ram.size);
    let mut passed = vec![IntId(machine.timers.virt), IntId(machine.timers.physical)];
    let mut paths = Vec::new();
    let mut transports = Vec::new();
    for device in &machine.devices {
        for range in &device.mmio {
            stage2.map_device(range.start, range.size);
        }
        passed.extend(device.spis.iter().map(|spi| IntId(spi.intid)));
        paths.push(device.path.as_str());
        if device.kind == DeviceKind::VirtioMmio {
            transports.extend(device.mmio.iter().map(|range| range.start));
        }
    }

    let spec = |initrd| GuestSpec {
        ram: core::slice::from_ref(&ram),
        cpus: &affinities,
        bootargs: &guest.config.bootargs,
        initrd,
        sdei: guest.config.sdei,
        conduit: platform::Conduit::Smc,
        console: &machine.console.path,
        devices: &paths,
    };
    // The tree says where the ramdisk is, and where that is depends on the tree's size: build it twice.
    let ramdisk_size = guest.ramdisk.map(|ramdisk| ramdisk.len() as u64);
    let placeholder = ramdisk_size.map(|size| Range::new(ram.start, size));
    let draft = build_guest_dtb(blob, &spec(placeholder)).map_err(|error| error.to_string())?;
    let kernel = Kernel::recognise(guest.kernel).map_err(|error| error.to_string())?;
    let layout = Layout::place(ram, &kernel, ramdisk_size, draft.len() as u64)
        .map_err(|error| error.to_string())?;
    let dtb = build_guest_dtb(blob, &spec(layout.ramdisk)).map_err(|error| error.to_string())?;

    let ipa = |range: Range| IpaRange {
        start: range.start,
        size: range.size,
    };
    let map = GuestMap {
        affinities: Affinities::new(&pcpus),
        ram: vec![ipa(ram)],
        uart: ipa(machine.console.base),
        distributor: ipa(distributor),
        redistributors: redistributors.iter().copied().map(ipa).collect(),
    };
    let (list_regs, priority_bits) = sysregs::virtual_interface();
    let vgic = Vgic::new(&Config {
        mpidrs: &pcpus,
        last: map.last_redistributors(vcpus),
        spis,
        passed_through: &passed,
        priority_bits,
        list_regs,
    });
    let image = GuestImage {
        kernel: guest.kernel,
        ramdisk: guest.ramdisk,
        dtb,
        layout,
    };
    log!(
        "vm0 ({}): {vcpus} vCPUs, {} MiB at {:#x}, {} devices, SDEI {}",
        guest.config.name,
        ram.size >> 20,
        ram.start,
        paths.len(),
        if guest.config.sdei { "on" } else { "off" }
    );
    let identity = (map, pcpus, machine.console.intid);
    let payload = (image, guest.config.sdei);
    Ok(vec![Vm::new(
        VmId(0),
        identity,
        payload,
        transports,
        vgic,
        stage2,
    )])
}

/// Copies the bundle to `kept` and returns the copy.
fn keep_bundle(initrd: Range, kept: u64) -> &'static [u8] {
    let from = core::ptr::with_exposed_provenance::<u8>(initrd.start as usize);
    let to = core::ptr::with_exposed_provenance_mut::<u8>(kept as usize);
    // SAFETY: both are RAM in the identity map, `kept` is free and does not overlap the initrd.
    unsafe { core::ptr::copy_nonoverlapping(from, to, initrd.size as usize) };
    // SAFETY: the copy is initialised, in no guest's RAM, and never written again.
    unsafe { core::slice::from_raw_parts(to, initrd.size as usize) }
}

/// The devicetree the loader handed over, which `boot.S` has mapped.
fn devicetree(pa: u64) -> &'static [u8] {
    let start = core::ptr::with_exposed_provenance::<u8>(pa as usize);
    if pa == 0 || !pa.is_multiple_of(8) {
        // Nobody is known to tell.
        fault::park();
    }
    // SAFETY: at least 2 MiB from the blob's block on are mapped, so its header is.
    let header = unsafe { core::slice::from_raw_parts(start, 40) };
    match platform::dtb_size(header) {
        // SAFETY: the boot protocol limits a tree to 2 MiB, and that much is mapped from its start on.
        Ok(size) if size <= BLOCK_SIZE as usize => unsafe {
            core::slice::from_raw_parts(start, size)
        },
        _ => fault::park(),
    }
}

/// Finds the console alone, so that what else is wrong with the machine can be said.
fn start_console(blob: &[u8]) {
    let Ok((UartKind::Pl011, base)) = Uart::locate(blob) else {
        fault::park();
    };
    // SAFETY: one pCPU, early tables, and the devicetree says that a UART is there.
    if unsafe { boot::early_map(base.start, base.size, true) } {
        // SAFETY: just mapped as device memory; the console's only start in this boot of the image.
        unsafe { crate::console::start(base.start) };
    }
}

fn discover(blob: &[u8]) -> Machine {
    match Machine::discover(blob) {
        Ok(machine) => machine,
        Err(error) => refuse(format_args!("{error}")),
    }
}

/// Says why there is nothing to run, and stops.
fn refuse(why: core::fmt::Arguments<'_>) -> ! {
    log!("@hv-crash pcpu=0 cause=start");
    log!("cannot start: {why}");
    log!("@hv-crash-end");
    firmware::system_off();
    fault::park()
}

fn normal(range: Range) -> Identity {
    Identity {
        start: range.start,
        size: range.size,
        device: false,
    }
}

fn device(range: Range) -> Identity {
    Identity {
        start: range.start,
        size: range.size,
        device: true,
    }
}

/// The one or two parts of `range` outside `hole`.
fn without(range: Range, hole: Range) -> impl Iterator<Item = Range> {
    let before = Range::new(
        range.start,
        hole.start.clamp(range.start, range.end()) - range.start,
    );
    let after_start = hole.end().clamp(range.start, range.end());
    let after = Range::new(after_start, range.end() - after_start);
    let parts = if range.overlaps(hole) {
        [before, after]
    } else {
        [range, Range::new(0, 0)]
    };
    parts.into_iter().filter(|part| !part.is_empty())
}

/// The highest block-aligned place for `size` bytes of RAM that meets nothing in `taken` nor what the
/// machine reserves, and lies in the identity map.
fn highest_free(machine: &Machine, taken: &[Range], size: u64) -> Option<u64> {
    let mut best = None;
    for bank in &machine.ram {
        let end = bank.end().min(memory::IDENTITY_END);
        let Some(highest) = end.checked_sub(size) else {
            continue;
        };
        let mut start = highest & !(BLOCK_SIZE - 1);
        while start >= bank.start {
            let candidate = Range::new(start, size);
            let is_taken = taken
                .iter()
                .chain(&machine.reserved)
                .any(|range| range.overlaps(candidate));
            if !is_taken {
                best = best.max(Some(start));
                break;
            }
            let Some(next) = start.checked_sub(BLOCK_SIZE) else {
                break;
            };
            start = next;
        }
    }
    best
}

/// The largest run of RAM without `ours`, in whole blocks.
fn guest_ram(machine: &Machine, ours: &[Range]) -> Option<Range> {
    let mut parts: Vec<Range> = machine.ram.clone();
    for &hole in ours {
        parts = parts
            .into_iter()
            .flat_map(|part| without(part, hole))
            .collect();
    }
    parts
        .into_iter()
        .map(|part| {
            let end = part.end().min(memory::IDENTITY_END) & !(BLOCK_SIZE - 1);
            Range::new(part.start, end.saturating_sub(part.start))
        })
        .max_by_key(|part| part.size)
        .filter(|part| !part.is_empty())
}
