//! What a GICv2's distributor has and a GICv3's has not (IHI0048 4.3): targets as masks of CPU interfaces, and
//! SGIs that are sent by a register and pending once per sender.
//!
//! A list register holds one sender of an SGI. Others wait for its end, which has a maintenance interrupt; two
//! list registers with the same INTID would save that exit, and need a seat each.

use super::{Affinities, Effects, Physical, Vgic};
use crate::id::{IntId, Mpidr, VcpuId, VcpuSet};

/// Which architecture a guest meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// GICv2 (IHI0048): at most [`MAX_INTERFACES`] vCPUs, whose numbers are those of their CPU interfaces.
    V2 {
        /// When a list register deactivates a level sensitive interrupt, the machine's GIC looks at its line
        /// again, as it must. QEMU's does not before something else happens to it.
        resamples: bool,
    },
    /// GICv3 (IHI0069), affinity routing always on.
    V3,
}

/// The most CPU interfaces a GICv2 has.
pub const MAX_INTERFACES: usize = 8;

impl Vgic {
    /// The bits of all CPU interfaces.
    pub(super) fn everybody(&self) -> u8 {
        self.affinities.all().0 as u8
    }

    /// A byte for each of some interrupts: GICD_SPENDSGIR and GICD_CPENDSGIR (`senders`), or GICD_ITARGETSR. That
    /// tells the reader its own bit where the interrupt is private; with one CPU interface there are no such
    /// registers (IHI0048 4.3.12).
    #[inline(never)]
    pub(super) fn read_bytes(&self, owner: VcpuId, first: u32, count: u32, senders: bool) -> u64 {
        let is_alone = self.vcpus.len() == 1;
        let mut value = 0;
        for n in 0..count {
            let intid = IntId(first.wrapping_add(n));
            let byte = match self.visible(owner, intid) {
                None => 0,
                Some(irq) if senders => irq.shows_senders(),
                Some(_) if is_alone => 0,
                Some(_) if intid.is_private() => bit(owner),
                Some(irq) => irq.targets,
            };
            value |= u64::from(byte) << ((8 * n) & 0x3f);
        }
        value
    }

    #[inline(never)]
    pub(super) fn write_targets(
        &mut self,
        first: u32,
        count: u32,
        value: u64,
        effects: &mut Effects,
    ) {
        if self.vcpus.len() == 1 {
            return;
        }
        let mut to = [None; 4];
        for (n, to) in (0..count).zip(&mut to) {
            let intid = IntId(first.wrapping_add(n));
            let targets = (value >> ((8 * n) & 0x3f)) as u8 & self.everybody();
            let Some(irq) = self.visible(VcpuId(0), intid) else {
                continue;
            };
            if intid.is_private() || irq.targets == targets {
                continue;
            }
            let passed_through = irq.passed_through;
            self.has_one_of_n |= targets.count_ones() > 1;
            let target = self.choose(targets);
            self.update(VcpuId(0), intid, effects, |irq| {
                irq.targets = targets;
                irq.target = target;
            });
            *to = target.filter(|_| passed_through);
        }
        if to.iter().any(Option::is_some) {
            let first = IntId(first);
            effects.phys = Some(Physical::Targets { first, to });
        }
    }

    /// GICD_SGIR by `from`, the general way.
    #[inline(never)]
    pub(super) fn generate(&mut self, from: VcpuId, value: u32, effects: &mut Effects) {
        let sgi = self.affinities.generate(from, value);
        for vcpu in sgi.targets.iter() {
            self.update(vcpu, sgi.intid, effects, |irq| irq.send(bit(from)));
        }
    }

    /// Takes over an SGI that these siblings (a bit each) posted to `vcpu`. It must then populate.
    pub fn take_sent(&mut self, vcpu: VcpuId, intid: IntId, senders: u8) {
        let mut effects = Effects::NONE;
        let senders = senders & self.everybody();
        self.update(vcpu, intid, &mut effects, |irq| irq.send(senders));
    }

    /// GICD_SPENDSGIR and GICD_CPENDSGIR.
    #[inline(never)]
    pub(super) fn write_senders(
        &mut self,
        owner: VcpuId,
        (first, count): (u32, u32),
        (sets, value): (bool, u64),
        effects: &mut Effects,
    ) {
        for n in 0..count {
            let senders = (value >> ((8 * n) & 0x3f)) as u8 & self.everybody();
            self.update(owner, IntId(first.wrapping_add(n)), effects, |irq| {
                if sets {
                    irq.send(senders);
                } else {
                    irq.take_back(senders);
                }
            });
        }
    }

    /// `vcpu` populates: it takes interrupts from now on.
    pub(super) fn wake(&mut self, vcpu: VcpuId, effects: &mut Effects) {
        if self.is_v2
            && let Some(local) = self.vcpus.get_mut(vcpu.index())
            && core::mem::take(&mut local.asleep)
            && self.has_one_of_n
        {
            self.choose_targets(effects);
        }
    }

    /// Somebody is awake or asleep now: an SPI that several may take goes to one who can. Where the physical
    /// one goes need not change; it comes to its target from everywhere.
    #[inline(never)]
    pub(super) fn choose_targets(&mut self, effects: &mut Effects) {
        for intid in (32u32..).map(IntId).take(self.spis.len()) {
            let Some(irq) = self.irq(VcpuId(0), intid) else {
                continue;
            };
            let target = self.choose(irq.targets);
            if irq.targets.count_ones() > 1 && irq.target != target {
                self.update(VcpuId(0), intid, effects, |irq| irq.target = target);
            }
        }
    }

    /// The one of N that takes an interrupt: the first who is awake, if any.
    fn choose(&self, targets: u8) -> Option<VcpuId> {
        let targets = VcpuSet(targets.into());
        let is_awake = |vcpu: &VcpuId| {
            let local = self.vcpus.get(vcpu.index());
            local.is_some_and(|local| !local.asleep)
        };
        let awake = targets.iter().find(is_awake);
        awake.or_else(|| targets.iter().next())
    }
}

/// The bit of a CPU interface.
fn bit(vcpu: VcpuId) -> u8 {
    1u8.checked_shl(vcpu.0.into()).unwrap_or(0)
}

/// Who takes an SPI out of reset: of a GICv3 whoever has affinity 0.0.0.0; of a GICv2 nobody, or the only one
/// there is.
pub(super) fn initial_target(is_v2: bool, affinities: &Affinities) -> Option<VcpuId> {
    if is_v2 {
        (affinities.len() == 1).then_some(VcpuId(0))
    } else {
        affinities.find(Mpidr::new(0))
    }
}
