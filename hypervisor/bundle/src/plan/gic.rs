//! Where a guest finds its interrupt controller, which is emulated but for a GICv2's CPU interface.

use alloc::vec::Vec;

use platform::{Gic, Range};

use super::{CpuInterface, REDISTRIBUTOR_SIZE};
use crate::Error;

/// How many CPU interfaces a GICv2 has at most (IHI0048 2.3.1).
const MAX_INTERFACES: usize = 8;

/// Of a GICC that fills 128 KiB, the registers of its first 4 KiB repeat over the first 64, and GICC_DIR follows.
const REPEATED: u64 = 0x2_0000;
/// GICC's and GICV's registers (IHI0048 4.1.3).
const INTERFACE: u64 = 0x2000;

/// The first frames of the machine's regions, one for each vCPU. They are emulated, so it does not matter whose frames
/// the machine has there: every VM begins with the first.
pub fn redistributors(gic: &Gic, whose: &str, vcpus: usize) -> Result<Vec<Range>, Error> {
    let Gic::V3 { redists, .. } = gic else {
        return Ok(Vec::new());
    };
    let mut needed = vcpus as u64;
    let mut regions = Vec::new();
    for region in redists {
        let frames = (region.size / REDISTRIBUTOR_SIZE).min(needed);
        if frames != 0 {
            regions.push(Range::new(region.start, frames * REDISTRIBUTOR_SIZE));
        }
        needed -= frames;
    }
    if needed != 0 {
        return Err(Error::invalid(
            whose,
            "has more vCPUs than the interrupt controller's regions have redistributors",
            "ask for fewer, or correct the machine's devicetree",
        ));
    }
    Ok(regions)
}

/// What stage 2 shows of a GICv2's virtual CPU interface.
pub fn cpu_interface(gic: &Gic, whose: &str, vcpus: usize) -> Result<Option<CpuInterface>, Error> {
    let Gic::V2 { cpu, vcpu, .. } = gic else {
        return Ok(None);
    };
    if vcpus > MAX_INTERFACES {
        let what = "has more than 8 vCPUs, and a GICv2 serves no more";
        return Err(Error::invalid(whose, what, "ask for 8 or fewer"));
    }
    let size = if cpu.size >= REPEATED {
        REPEATED
    } else {
        INTERFACE
    };
    let half = size.min(vcpu.size) / 2;
    Ok(Some(CpuInterface {
        at: cpu.start,
        gicv: Range::new(vcpu.start, half),
        deactivate: Range::new(cpu.start + half, half),
    }))
}
