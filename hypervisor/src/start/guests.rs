//! From the bundle to VMs that are ready to be loaded.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use hv_bundle::{
    Bundle, GuestSpec, Kernel, Layout, build_guest_dtb, free_blocks, highest_free, take_lowest,
};
use hv_core::id::{IntId, Mpidr, VmId};
use hv_core::sdei::Board;
use hv_core::vgic::affinity::Affinities;
use hv_core::vgic::{Config, Vgic};
use hv_core::vm::{GuestMap, IpaRange};
use platform::{DeviceKind, Gic, Machine, Range};

use crate::memory::{BLOCK_SIZE, IDENTITY_END};
use crate::vm::{GuestImage, Sdei, Vm};
use crate::{crc, gic, log, stage2};

/// Reads the bundle, keeps a copy of it out of the guests' reach, and makes the VMs it describes.
pub fn build_vms(
    machine: &Machine,
    blob: &[u8],
    home: Range,
    spis: u32,
) -> Result<Vec<Vm>, String> {
    let Some(initrd) = machine.initrd else {
        return Err(
            "there is no guest: /chosen has no linux,initrd-start; load a bundle as the initrd"
                .into(),
        );
    };
    let dtb = Range::new(blob.as_ptr().addr() as u64, blob.len() as u64);
    let size = initrd.size.next_multiple_of(BLOCK_SIZE);
    let Some(kept) = highest_free(machine, &[home, initrd, dtb], IDENTITY_END, size) else {
        return Err("no RAM is left to keep the bundle in; give the machine more memory".into());
    };
    let bytes = keep_bundle(initrd, kept);
    let bundle = Bundle::parse(bytes, &*crc::fastest()).map_err(|error| error.to_string())?;
    let [guest] = bundle.guests.as_slice() else {
        return Err("the bundle has several guests; one is supported so far".into());
    };

    let kept = Range::new(kept, size);
    let most = match guest.config.memory {
        0 => u64::MAX,
        bytes => bytes,
    };
    let mut free = free_blocks(machine, &[home, kept], IDENTITY_END);
    let ram = take_lowest(&mut free, most);
    let bytes: u64 = ram.iter().map(|part| part.size).sum();
    guest
        .config
        .check_against(machine.cpus.len() as u32, bytes)
        .map_err(|error| error.to_string())?;
    let Some(&main) = ram.iter().max_by_key(|part| part.size) else {
        return Err("no RAM is left for the guest; give the machine more memory".into());
    };
    let vcpus = match guest.config.vcpus as usize {
        0 => machine.cpus.len(),
        count => count,
    };
    let affinities: Vec<u64> = machine.cpus.iter().take(vcpus).map(|c| c.mpidr).collect();
    let pcpus: Vec<Mpidr> = affinities.iter().map(|&mpidr| Mpidr::new(mpidr)).collect();

    let mut stage2 = stage2::Tables::new();
    for part in &ram {
        stage2.map_ram(part.start, part.size);
    }
    let interface = gic::shown(&machine.gic);
    if let Some(shown) = interface {
        stage2.map_device_at(shown.ipa, shown.gicv.start, shown.gicv.size);
    }
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
        ram: &ram,
        cpus: &affinities,
        bootargs: &guest.config.bootargs,
        initrd,
        sdei: guest.config.sdei,
        conduit: platform::Conduit::Smc,
        console: &machine.shown.path,
        devices: &paths,
    };
    // The tree says where the ramdisk is, and where that is depends on the tree's size: build it twice.
    let ramdisk_size = guest.ramdisk.map(|ramdisk| ramdisk.len() as u64);
    let placeholder = ramdisk_size.map(|size| Range::new(main.start, size));
    let draft = build_guest_dtb(blob, &spec(placeholder)).map_err(|error| error.to_string())?;
    let kernel = Kernel::recognise(guest.kernel).map_err(|error| error.to_string())?;
    let layout = Layout::place(main, &kernel, ramdisk_size, draft.len() as u64)
        .map_err(|error| error.to_string())?;
    let dtb = build_guest_dtb(blob, &spec(layout.ramdisk)).map_err(|error| error.to_string())?;

    let ipa = |range: Range| IpaRange {
        start: range.start,
        size: range.size,
    };
    let (distributor, redistributors) = match &machine.gic {
        Gic::V3 { dist, redists, .. } => (*dist, redists.as_slice()),
        Gic::V2 { dist, .. } => (*dist, &[][..]),
    };
    let map = GuestMap {
        affinities: Affinities::new(&pcpus),
        ram: ram.iter().copied().map(ipa).collect(),
        uart: ipa(machine.shown.base),
        distributor: ipa(distributor),
        gic: gic::model(),
        deactivate: interface.map_or(IpaRange::default(), |shown| ipa(shown.deactivate)),
        redistributors: redistributors.iter().copied().map(ipa).collect(),
        board: Board::new(vcpus),
        has_debug_calls: guest.config.debug_calls,
    };
    let (list_regs, priority_bits) = gic::virtual_interface();
    let vgic = Vgic::new(&Config {
        model: gic::model(),
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
        bytes >> 20,
        main.start,
        paths.len(),
        if guest.config.sdei { "on" } else { "off" }
    );
    let intids = [machine.shown.intid, machine.console.intid];
    let identity = (map, pcpus, intids);
    let sdei = Sdei {
        firmware: guest.config.firmware(),
        events: guest.config.events.clone(),
    };
    let payload = (image, sdei, guest.config.reclaim);
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
