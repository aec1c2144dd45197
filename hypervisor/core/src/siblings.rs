//! Finding another vCPU of the same VM by the affinity a guest names it with.

use crate::id::{Mpidr, VcpuId};

/// The vCPUs of one VM. Nobody outside that VM can be found through it.
pub trait Siblings {
    /// The vCPU whose MPIDR_EL1 has this affinity, on or off.
    fn resolve(&self, mpidr: Mpidr) -> Option<VcpuId>;

    /// The affinity of a vCPU.
    fn affinity(&self, vcpu: VcpuId) -> Option<Mpidr>;
}

/// The affinities in vCPU order.
impl Siblings for [Mpidr] {
    fn resolve(&self, mpidr: Mpidr) -> Option<VcpuId> {
        let index = self.iter().position(|&sibling| sibling == mpidr)?;
        u8::try_from(index).ok().map(VcpuId)
    }

    fn affinity(&self, vcpu: VcpuId) -> Option<Mpidr> {
        self.get(vcpu.index()).copied()
    }
}
