//! What the virtual GIC decides about physical SPIs, done by the distributor.

use hv_core::id::{IntId, Mpidr, VcpuId};
use hv_core::vgic::Physical;

/// Changes the physical distributor on behalf of a VM whose vCPUs are on these pCPUs.
#[inline(never)]
pub fn change_distributor(change: Physical, pcpus: &[Mpidr]) {
    let gic = super::get();
    let pcpu = |vcpu: VcpuId| pcpus.get(vcpu.index()).copied();
    match change {
        Physical::Enable(mask) => gic.enable(mask),
        Physical::Disable(mask) => gic.disable(mask),
        Physical::ClearPending(mask) => gic.clear_pending(mask),
        Physical::Trigger { block, edge, level } => gic.set_trigger(block, edge, level),
        Physical::Route { spi, to } => {
            if let Some(pcpu) = pcpu(to) {
                gic.route(spi, pcpu);
            }
        }
        Physical::Targets { first, to } => {
            for (spi, to) in (first.0..).map(IntId).zip(to) {
                if let Some(pcpu) = to.and_then(pcpu) {
                    gic.route(spi, pcpu);
                }
            }
        }
        Physical::Reset(mask) => {
            gic.disable(mask);
            gic.clear_pending(mask);
            gic.clear_active(mask);
            gic.set_trigger(mask.block, 0, mask.bits);
            for bit in (0..32).filter(|bit| mask.bits >> bit & 1 != 0) {
                if let Some(&boot) = pcpus.first() {
                    gic.route(IntId(mask.block * 32 + bit), boot);
                }
            }
        }
    }
}
