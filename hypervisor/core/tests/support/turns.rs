//! A virtual GIC with two vCPUs, and the list registers of one of them.

use hv_core::id::{IntId, Mpidr, VcpuId, VcpuSet};
use hv_core::vgic::{Config, Effects, Entry, Frame, ListReg, LrSource, LrState, Model, Vgic};

pub const V0: VcpuId = VcpuId(0);
pub const V1: VcpuId = VcpuId(1);
pub const TIMER: IntId = IntId(27);
/// Emulated, level sensitive.
pub const UART: IntId = IntId(33);
/// Passed through, edge triggered.
pub const EDGE: IntId = IntId(48);
/// Passed through, level sensitive.
pub const LEVEL: IntId = IntId(49);

/// Two vCPUs with everything enabled, in group 1, on vCPU 0.
pub fn vgic() -> Vgic {
    let mut vgic = Vgic::new(&Config {
        mpidrs: &[Mpidr::new(0), Mpidr::new(1)],
        last: VcpuSet::only(V1),
        spis: 64,
        passed_through: &[TIMER, EDGE, LEVEL],
        priority_bits: 5,
        list_regs: 4,
        model: Model::V3,
    });
    let mut set = |frame, offset, value| drop(vgic.write(frame, offset, 4, value));
    set(Frame::Distributor, 0x84, 0xffff_ffff);
    set(Frame::Distributor, 0xc0c, 0b10);
    set(Frame::Distributor, 0x104, 0xffff_ffff);
    for vcpu in [V0, V1] {
        set(Frame::Redistributor(vcpu), 0x1_0080, 0xffff_ffff);
        set(Frame::Redistributor(vcpu), 0x1_0100, 0xffff_ffff);
    }
    set(Frame::Distributor, 0, 0b10);
    vgic
}

/// The list registers of one vCPU.
pub struct Hardware(pub [ListReg; 4]);

impl Hardware {
    pub fn new() -> Self {
        Self([ListReg::EMPTY; 4])
    }

    pub fn populate(&mut self, vgic: &mut Vgic, vcpu: VcpuId) -> (Entry, Effects) {
        vgic.populate(vcpu, &mut self.0, 0)
    }

    /// What lies in them: INTID, state, source.
    pub fn contents(&self) -> Vec<(IntId, LrState, LrSource)> {
        let used = self.0.iter().filter(|lr| lr.state != LrState::Invalid);
        used.map(|lr| (IntId(lr.vintid), lr.state, lr.source))
            .collect()
    }

    pub fn set(&mut self, intid: IntId, state: LrState) {
        let lr = self.0.iter_mut().find(|lr| lr.vintid == intid.0);
        lr.expect("in a list register").state = state;
    }
}

pub fn hardware(intid: IntId) -> LrSource {
    LrSource::Hardware { pintid: intid.0 }
}

pub fn deactivated(effects: &Effects) -> Vec<IntId> {
    effects.deactivate.iter().collect()
}

pub fn write_bit(vgic: &mut Vgic, bank: u64, intid: IntId) -> Effects {
    let (frame, base) = if intid.is_private() {
        (Frame::Redistributor(V0), 0x1_0000)
    } else {
        (Frame::Distributor, 0)
    };
    let offset = base + bank + u64::from(intid.0 / 32) * 4;
    vgic.write(frame, offset, 4, 1 << (intid.0 % 32))
}

pub const DISABLE: u64 = 0x180;
