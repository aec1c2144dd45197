//! Which vCPU an affinity names, and whom a software generated interrupt reaches. Made once per VM and
//! never changed, so it is read without a lock.

use alloc::vec::Vec;

use crate::id::{IntId, MAX_VCPUS, Mpidr, VcpuId, VcpuSet};

/// The affinities of a VM's vCPUs.
#[derive(Clone, Debug)]
pub struct Affinities {
    mpidrs: Vec<Mpidr>,
    /// Groups of 16 neighbours at Aff0, by [`neighbourhood`]; what one ICC_SGI1R_EL1 can name.
    groups: Vec<Group>,
    /// The first of them, which is the only one of most VMs.
    first: Group,
    /// The bits of a GICv2's CPU interfaces.
    interfaces: u8,
}

#[derive(Clone, Debug, Default)]
struct Group {
    key: u64,
    members: [Option<VcpuId>; 16],
}

/// Whom ICC_SGI1R_EL1 names, without the list of those in the group: IRM, Aff3, RS, Aff2 and Aff1 (IHI0069 12.2).
const NAMED: u64 = IRM | 0xff << 48 | 0xf << 44 | 0xff << 32 | 0xff << 16;
/// Everybody but the sender.
const IRM: u64 = 1 << 40;

/// A software generated interrupt and whom it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sgi {
    /// 0 to 15.
    pub intid: IntId,
    /// The vCPUs named that exist; the sender may be one.
    pub targets: VcpuSet,
}

/// The affinity without the four lowest bits of Aff0, as ICC_SGI1R_EL1 has it in [`NAMED`].
const fn neighbourhood(mpidr: Mpidr) -> u64 {
    let [aff0, aff1, aff2, aff3] = [mpidr.aff(0), mpidr.aff(1), mpidr.aff(2), mpidr.aff(3)];
    (aff3 as u64) << 48 | (aff0 as u64 >> 4) << 44 | (aff2 as u64) << 32 | (aff1 as u64) << 16
}

/// The bit of a GICv2's CPU interface.
pub(super) fn bit(vcpu: VcpuId) -> u8 {
    1u8.checked_shl(vcpu.0.into()).unwrap_or(0)
}

/// Which SGI a write of `value` to ICC_SGI1R_EL1 sends.
#[inline]
pub const fn sgi_intid(value: u64) -> IntId {
    IntId((value >> 24 & 0xf) as u32)
}

impl Affinities {
    /// vCPU `i` has `mpidrs[i]`. Only the first [`MAX_VCPUS`] count; of two alike the first wins.
    pub fn new(mpidrs: &[Mpidr]) -> Self {
        let mpidrs: Vec<Mpidr> = mpidrs.iter().copied().take(MAX_VCPUS).collect();
        let mut groups: Vec<Group> = Vec::new();
        for (vcpu, &mpidr) in (0u8..).map(VcpuId).zip(&mpidrs) {
            let key = neighbourhood(mpidr);
            let at = match groups.binary_search_by_key(&key, |group| group.key) {
                Ok(at) => at,
                Err(at) => {
                    let members = [None; 16];
                    groups.insert(at, Group { key, members });
                    at
                }
            };
            let member = groups
                .get_mut(at)
                .and_then(|group| group.members.get_mut(usize::from(mpidr.aff(0) & 0xf)));
            if let Some(member @ None) = member {
                *member = Some(vcpu);
            }
        }
        let interfaces = (0u8..).zip(&mpidrs).map(|(vcpu, _)| bit(VcpuId(vcpu)));
        Self {
            interfaces: interfaces.fold(0, |all, bit| all | bit),
            mpidrs,
            first: groups.first().cloned().unwrap_or_default(),
            groups,
        }
    }

    /// The vCPU with this affinity.
    pub fn find(&self, mpidr: Mpidr) -> Option<VcpuId> {
        let key = neighbourhood(mpidr);
        let group = if key == self.first.key {
            &self.first
        } else {
            self.group(key)?
        };
        *group.members.get(usize::from(mpidr.aff(0) & 0xf))?
    }

    /// The affinity of a vCPU.
    pub fn mpidr(&self, vcpu: VcpuId) -> Option<Mpidr> {
        self.mpidrs.get(vcpu.index()).copied()
    }

    /// How many vCPUs there are.
    pub fn len(&self) -> usize {
        self.mpidrs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.mpidrs.is_empty()
    }

    /// Every vCPU.
    pub fn all(&self) -> VcpuSet {
        match self.mpidrs.len() {
            count @ 0..MAX_VCPUS => VcpuSet((1u128 << count) - 1),
            _ => VcpuSet(u128::MAX),
        }
    }

    /// Whom a write of `value` to ICC_SGI1R_EL1, ICC_SGI0R_EL1 or ICC_ASGI1R_EL1 by `from` names (IHI0069 12.2,
    /// ICC_SGI1R_EL1): each vCPU that exists, the sender included.
    #[inline(always)]
    pub fn for_each_target(&self, from: VcpuId, value: u64, mut each: impl FnMut(VcpuId)) {
        let named = value & NAMED;
        let group = if named == self.first.key {
            &self.first
        } else if named & IRM != 0 {
            let others = (0u8..).map(VcpuId).take(self.mpidrs.len());
            others.filter(|&vcpu| vcpu != from).for_each(each);
            return;
        } else {
            match self.group(named) {
                Some(group) => group,
                None => return,
            }
        };
        // One target as a rule: the bits that are set, not all 16.
        for bit in super::bits_of(value as u32 & 0xffff) {
            if let Some(Some(vcpu)) = group.members.get(bit as usize % 16) {
                each(*vcpu);
            }
        }
    }

    /// What that write asks for.
    pub fn sgi(&self, from: VcpuId, value: u64) -> Sgi {
        let mut targets = VcpuSet::EMPTY;
        self.for_each_target(from, value, |vcpu| targets.insert(vcpu));
        let intid = sgi_intid(value);
        Sgi { intid, targets }
    }

    /// Who takes an SPI out of reset: of a GICv3 whoever has affinity 0.0.0.0; of a GICv2 nobody, or the only one
    /// there is.
    pub(super) fn initial_target(&self, is_v2: bool) -> Option<VcpuId> {
        if is_v2 {
            (self.len() == 1).then_some(VcpuId(0))
        } else {
            self.find(Mpidr::new(0))
        }
    }

    /// Whom a write of `value` to GICD_SGIR by `from` names (IHI0048 4.3.15). NSATT is for those who have two security
    /// states.
    #[inline(always)]
    pub fn for_each_target_v2(&self, from: VcpuId, value: u32, mut each: impl FnMut(VcpuId)) {
        let all = u32::from(self.interfaces);
        let me = all & 1u32.wrapping_shl(from.0.into());
        let named = match value >> 24 & 0b11 {
            0b00 => value >> 16 & all,
            0b01 => all & !me,
            0b10 => me,
            _ => 0,
        };
        for vcpu in super::bits_of(named) {
            each(VcpuId(vcpu as u8));
        }
    }

    /// What that write asks for.
    pub fn generate(&self, from: VcpuId, value: u32) -> Sgi {
        let mut targets = VcpuSet::EMPTY;
        self.for_each_target_v2(from, value, |vcpu| targets.insert(vcpu));
        let intid = IntId(value & 0xf);
        Sgi { intid, targets }
    }

    #[inline(never)]
    fn group(&self, key: u64) -> Option<&Group> {
        let at = self
            .groups
            .binary_search_by_key(&key, |group| group.key)
            .ok()?;
        self.groups.get(at)
    }
}
