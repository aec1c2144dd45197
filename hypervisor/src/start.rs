//! Bring-up, in numbered stages. Each says what may not be touched yet.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use hv_bundle::{Loaded, Places, find_home, identity};
use hv_core::entry::Features;
use hv_core::id::{Mpidr, PcpuId, VcpuId};
use hv_core::vm::Vcpu;
use hv_core::{idreg, time::Instant};
use platform::{Clock, Console, Gic, Machine, Range, Start, UartKind};
use spin::Once;

use crate::gic;
use crate::memory::{self, BLOCK_SIZE, HV_BASE};
use crate::percpu;
use crate::run::{self, OwnIntids};
use crate::vm::{VMS, Vm};
use crate::{
    boot, crash_record, fault_injection, firmware, heap, log, operator, reset, sdei_client, stage2,
    stop, sysregs, uart, videocore,
};

mod guests;
mod words;

use guests::build_vms;

/// What the pCPUs need to know once they are up.
struct Board {
    machine: Machine,
    own: OwnIntids,
    ppis: Vec<u32>,
}

static BOARD: Once<Board> = Once::new();
/// pCPUs that are ready for their vCPU.
static READY: AtomicUsize = AtomicUsize::new(0);

/// How long a pCPU may take to come up, in microseconds: QEMU on a busy machine needs tens of
/// milliseconds.
const START_LIMIT_US: u64 = 5_000_000;

/// Instead of stage 1, entered at another level than EL2: says so, if the machine has a UART to say it on.
///
/// Limitations: as in `relocate`, and at EL1 no register of EL2 is there.
pub extern "C" fn wrong_el(dtb: u64, image: u64, level: u64) -> ! {
    memory::set_image_pa(image);
    heap::start_early();
    report_no_boot(devicetree(dtb), level)
}

/// Says that the level is wrong, or that there is no devicetree.
fn report_no_boot(blob: Option<&[u8]>, level: u64) -> ! {
    if start_console(blob, |_| ()) {
        let mend = match (level, blob) {
            (2, _) => "have the loader pass the address of one in x0",
            (3, None) => "load the Image, not the ELF file",
            (3, _) => "have firmware run first and hand over at EL2",
            _ => "have the loader hand over at EL2; for QEMU that is -machine virtualization=on",
        };
        let what = if level == 2 {
            "without a devicetree"
        } else {
            "not at EL2"
        };
        for line in [
            format_args!("@hv-crash pcpu=0 cause=start"),
            format_args!("cannot start: entered at EL{level}, {what}; {mend}"),
            format_args!("@hv-crash-end"),
        ] {
            crate::console::write_line_of(0, line);
        }
    }
    loop {
        sysregs::wait_for_interrupt();
    }
}

/// Stage 1, wherever the loader put us: find a home region and move there.
///
/// Limitations: early tables, of which few are left; the heap is a small static area; one pCPU. Nothing
/// is mapped but the image and the devicetree.
pub extern "C" fn relocate(dtb: u64, image: u64, _region: u64) -> ! {
    memory::set_image_pa(image);
    heap::start_early();
    let blob = early_console(dtb, |model| {
        log!("halligan on {model}: entered at EL2, loaded at {image:#x}");
    });
    let machine = discover(blob);
    let limit = stage2::limit();
    let loaded = Loaded {
        image: Range::new(image, memory::image_size()),
        dtb: Range::new(dtb, blob.len() as u64),
    };
    let placed = Places::check(&machine, limit).and_then(|places| places.check_loaded(&loaded));
    if let Err(error) = placed {
        refuse(format_args!("{error}"));
    }
    let taken = [loaded.image, loaded.dtb, machine.initrd.unwrap_or_default()];
    let Range { start: home, size } = match find_home(&machine, memory::image(), &taken, limit) {
        Ok(home) => home,
        Err(error) => refuse(format_args!("{error}")),
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

/// Stage 2, in the home region: our own tables, then off the boot stack. `loaded` is where the loader put the image.
///
/// Limitations: as in `relocate`, but the heap has the home region.
pub extern "C" fn init(dtb: u64, image: u64, region: u64, loaded: u64) -> ! {
    memory::set_image_pa(image);
    heap::start_early();
    // SAFETY: the region behind the image is mapped by the early tables and ours alone.
    unsafe { heap::extend(memory::heap_range(region)) };
    let blob = early_console(dtb, |_| ());
    log!(
        "halligan {} at {image:#x}, {} KiB",
        env!("CARGO_PKG_VERSION"),
        region >> 10
    );
    // SAFETY: the end of the home region, which the heap was not given.
    let has_crashed = unsafe { crash_record::open(memory::record_area(region)) };
    let machine = discover(blob);
    for path in &machine.left_out {
        log!("{path}: its interrupts do not lead to the GIC; no guest gets it");
    }
    stop::set_count(machine.cpus.len());
    words::obey(&machine, has_crashed);
    let home = Range::new(image, region);

    // What is at these addresses was checked before the image moved here.
    let identity = identity(&machine, home, stage2::limit());
    let tables = memory::Tables::build(region, machine.cpus.len(), &identity);
    // SAFETY: they map the window as it is and the boot page one to one.
    unsafe { boot::switch_tables(tables.ttbr(), image) };
    let entry = boot::prepare_secondaries(tables.ttbr(), image);
    // They are in force for good.
    core::mem::forget(tables);

    firmware::discover(machine.psci);
    // SAFETY: as the devicetree says, and the tables above map it.
    unsafe { reset::start(machine.power) };
    // SAFETY: the devicetree says that they are there; the tables above map them as device memory.
    let gic = unsafe { gic::start(&machine.gic) };
    sdei_client::discover();
    let timers = &machine.timers;
    let alarm = timers.hyp_physical;
    let (Gic::V3 { maintenance, .. } | Gic::V2 { maintenance, .. }) = machine.gic;
    let ppis = vec![timers.virt, timers.physical, maintenance, alarm];

    let vms = match build_vms(&machine, blob, home, gic.spis()) {
        Ok(vms) => vms,
        Err(error) => refuse(format_args!("{error}")),
    };
    let stale = [
        Range::new(loaded, memory::image_size()),
        Range::new(dtb, blob.len() as u64),
        machine.initrd.unwrap_or_default(),
    ];
    for range in stale {
        // SAFETY: `Places::check_loaded` found it in RAM, which the identity map shows, and `relocate` a home apart from it.
        // The devicetree and the bundle were read for the last time above, the bundle's copy is elsewhere, nothing runs in
        // the image that was copied, and no other pCPU runs.
        unsafe { erase(range) };
    }
    if vms.len() > 1 {
        crate::console::share();
    }
    VMS.call_once(|| vms);
    let boot_pcpu = sysregs::mpidr();
    let index = machine
        .cpus
        .iter()
        .position(|cpu| Mpidr::new(cpu.mpidr) == boot_pcpu)
        .unwrap_or(0);
    let console = machine.console.intid;
    BOARD.call_once(|| Board {
        machine,
        own: OwnIntids {
            maintenance,
            alarm,
            console,
        },
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
    let gic = gic::get();
    gic.start_pcpu(percpu.mpidr, &board.ppis);
    let armed = sdei_client::arm(percpu);
    stop::come_online(percpu, armed);
    let vms = VMS.get().map_or(&[][..], Vec::as_slice);
    let mine = vms.iter().find_map(|vm| {
        let vcpu = vm.pcpus.iter().position(|&pcpu| pcpu == percpu.mpidr)?;
        Some((vm, VcpuId(vcpu as u8)))
    });
    let vcpu = mine.map(|(vm, id)| {
        let vcpu = Vcpu::new(id, features(), &vm.sdei.config());
        run::take_over(vm, percpu, vcpu, board.own)
    });
    let ready = READY.fetch_add(1, Ordering::AcqRel) + 1;
    if ready == board.machine.cpus.len() {
        // The last one opens the doors.
        let (used, total) = heap::usage();
        log!(
            "the hypervisor uses {} of its {} KiB of data",
            used >> 10,
            total >> 10
        );
        log!("@ready vms={}", vms.len());
        fault_injection::at_ready();
        if let Some(vm) = vms.first() {
            gic.enable_spi(board.own.console, vm.pcpus[0]);
            operator::listens(vm.pcpus[0], board.own.console);
        }
        for vm in vms {
            for transport in &vm.map.mediated {
                gic.enable_spi(transport.intid.0, vm.pcpus[0]);
            }
        }
        // One that ends at once is not the last while others are about to start.
        let starting = || vms.iter().filter(|vm| !vm.map.policy.is_manual);
        starting().for_each(Vm::expect_start);
        for vm in starting() {
            run::load(vm, percpu, board.own);
        }
        crate::console::set_receive(true);
    }
    let Some(mut vcpu) = vcpu else {
        stop::retire(percpu);
    };
    fault_injection::at_start(percpu.id);
    vcpu.run()
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
    let limit = sysregs::counter_frequency().ticks_in_us(START_LIMIT_US);
    let deadline = Instant(sysregs::now().0.saturating_add(limit));
    let others = board.machine.cpus.len() - 1;
    let await_ready = |wanted| {
        while READY.load(Ordering::Acquire) < wanted {
            if sysregs::now() > deadline {
                refuse(format_args!(
                    "only {} of {others} other CPUs have started",
                    READY.load(Ordering::Relaxed)
                ));
            }
            core::hint::spin_loop();
        }
    };
    let mut started = 0;
    for (index, cpu) in board.machine.cpus.iter().enumerate() {
        if index == boot_index {
            continue;
        }
        started += 1;
        match cpu.start {
            Start::Psci => {
                if let Err(status) = firmware::cpu_on(cpu.mpidr, entry, index as u64) {
                    refuse(format_args!(
                        "firmware refuses to start the CPU with MPIDR {:#x} (PSCI status {status})",
                        cpu.mpidr
                    ));
                }
            }
            Start::SpinTable { release_pa } => {
                // SAFETY: the devicetree says that a pCPU waits for this doubleword, which is in RAM; they are
                // released one by one, so that each finds its own number.
                unsafe { boot::release(release_pa, index) };
                await_ready(started);
            }
            // Of several CPUs none is (`Machine::discover`).
            Start::Running => {}
        }
    }
    await_ready(others);
}

/// The devicetree, and a console to talk on; without both there may be nobody to tell.
fn early_console(dtb: u64, greet: impl FnOnce(&str)) -> &'static [u8] {
    let blob = devicetree(dtb);
    match blob {
        Some(blob) if start_console(Some(blob), greet) => blob,
        _ => report_no_boot(blob, 2),
    }
}

/// The devicetree the loader handed over, which `boot.S` has mapped.
fn devicetree(pa: u64) -> Option<&'static [u8]> {
    let start = core::ptr::with_exposed_provenance::<u8>(pa as usize);
    // `boot.S` maps 4 MiB from its block on, at their own addresses if those can be mapped.
    let is_mapped = pa.saturating_add(2 * BLOCK_SIZE) <= stage2::limit();
    if pa == 0 || !pa.is_multiple_of(8) || !is_mapped {
        return None;
    }
    // SAFETY: at least 2 MiB from the blob's block on are mapped, so its header is.
    let header = unsafe { core::slice::from_raw_parts(start, 40) };
    let size = platform::dtb_size(header).ok()?;
    if size > BLOCK_SIZE as usize {
        return None;
    }
    // SAFETY: the boot protocol limits a tree to 2 MiB, and that much is mapped from its start on.
    Some(unsafe { core::slice::from_raw_parts(start, size) })
}

/// Overwrites what the loader put into memory, which is a guest's from now on: the devicetree has the machine's seeds in it,
/// the bundle is other guests' too, and the image that was copied has the stack and the tables of its boot. A guest that
/// reads with its caches off is not to find it either.
///
/// # Safety
///
/// It is RAM that is mapped read-write at its own address, and nobody uses it any more.
unsafe fn erase(range: Range) {
    let start = core::ptr::with_exposed_provenance_mut::<u8>(range.start as usize);
    // SAFETY: the caller answers for it.
    unsafe { start.write_bytes(0, range.size as usize) };
    sysregs::clean_to_poc(range.start, range.size);
}

/// Finds the console alone, so that what else is wrong with the machine can be said, and greets. False if there is
/// none. Without a devicetree that of a Raspberry Pi 4, if it is one.
fn start_console(blob: Option<&[u8]>, greet: impl FnOnce(&str)) -> bool {
    let console = match blob {
        Some(blob) => Console::locate(blob, stage2::limit()).ok(),
        None => Console::of_peripherals_at(sysregs::peripherals()),
    };
    let Some(console) = console else {
        return false;
    };
    let base = console.base;
    // SAFETY: one pCPU, early tables, and the devicetree says that a UART is there.
    let is_mapped = unsafe { boot::early_map(base.start, base.size.max(memory::PAGE_SIZE), true) };
    if is_mapped {
        // SAFETY: just mapped as device memory; the console's only start in this boot of the image.
        unsafe { uart::start(&console, || clock_rate(&console)) };
        greet(&console.model);
    }
    is_mapped
}

/// How many Hz the clock of the console's UART has, asked of the firmware where only that knows.
fn clock_rate(console: &Console) -> Option<u32> {
    let clock = match console.kind {
        UartKind::Pl011 => videocore::Clock::Uart,
        UartKind::MiniUart => videocore::Clock::Core,
    };
    match console.clock {
        Clock::Fixed(rate) => Some(rate),
        Clock::Mailbox(range) => {
            // SAFETY: one pCPU, early tables, and the devicetree says that a mailbox is there.
            let is_mapped = unsafe { boot::early_map(range.start, videocore::SIZE, true) };
            if !is_mapped {
                return None;
            }
            // SAFETY: just mapped as device memory, and this is the only pCPU so far.
            unsafe { videocore::clock_rate(range.start, clock) }
        }
        Clock::Unknown => None,
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
    reset::off();
    stop::halt_here()
}
