//! What the hypervisor will make of a bundle on a machine, asked before that starts: its own rules, on the devicetree that it
//! will find.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use hv_bundle::{Backing, Bundle, Crc32Table, Host, Image, Keep, Places, find_home, plan};

use crate::build::Header;
use crate::qemu::Machine;

/// Addresses end here at the latest: what the hypervisor's own tables map at their own addresses. A CPU may have less.
const LIMIT: u64 = 1 << 39;
/// So many SPIs a GIC has at most (IHI0069 12.9.38). A machine may have less.
const MOST_SPIS: u32 = 988;

/// Version and DeviceID of a disk (virtio 1.2, 4.2.2 and 5).
const MODERN: u32 = 2;
const BLOCK: u32 = 2;

/// Checks that `machine`, whose initrd is a bundle, has what its guests ask for. Its devicetree goes through the file `dumped`. Answers
/// where the RAM of each guest will be.
///
/// # Errors
///
/// If the hypervisor would refuse the bundle, with what it would say. What only a running machine tells (the addresses of its CPUs,
/// its SPIs, its virtio devices) is not known here, and may still make the hypervisor refuse it.
pub fn check(machine: &Machine, dumped: &Path) -> Result<BTreeMap<u8, Backing>> {
    machine.write_files()?;
    let dtb = machine.found_devicetree(dumped)?;
    let image = fs::read(&machine.kernel).context("cannot read the hypervisor")?;
    let size = Header::read(&image)?.image_size;
    let path = machine.initrd.as_deref().context("there is no bundle")?;
    let bundle = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    plan_all(&dtb, size, &bundle).map_err(|said| anyhow!("the hypervisor would not start: {said}"))
}

/// The hypervisor's way from a devicetree to the plan of its guests. An image of it takes `size` bytes of memory.
fn plan_all(dtb: &[u8], size: u64, bundle: &[u8]) -> Result<BTreeMap<u8, Backing>, String> {
    let machine = platform::Machine::discover(dtb).map_err(|error| error.to_string())?;
    let refused = |error: hv_bundle::Error| error.to_string();
    Places::check(&machine, LIMIT).map_err(refused)?;
    let image = Image {
        size,
        record: hv_abi::crash::SIZE as u64,
    };
    // What else is loaded lies low in RAM, and this as high as it can.
    let taken = [machine.initrd.unwrap_or_default()];
    let home = find_home(&machine, image, &taken, LIMIT).map_err(refused)?;
    let keep = Keep::find(&machine, &[home], LIMIT).map_err(refused)?;
    let bundle = Bundle::parse(bundle, &Crc32Table::new()).map_err(refused)?;
    let host = Host {
        dtb,
        taken: &[home, keep.to],
        limit: LIMIT,
        spis: MOST_SPIS,
        secret: None,
        // Only the running machine tells what is behind a transport.
        transport: |_| [MODERN, BLOCK],
    };
    let plans = plan(&machine, bundle, &host).map_err(refused)?;
    Ok(plans
        .into_iter()
        .map(|plan| (plan.id, plan.backing))
        .collect())
}
