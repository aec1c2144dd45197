//! What a GICv2's distributor has and a GICv3's has not (IHI0048 4.3): targets as masks of CPU interfaces, and
//! SGIs that are sent by a register and pending once per sender.
//!
//! A list register holds one sender of an SGI. Others wait for its end, which has a maintenance interrupt; two
//! list registers with the same INTID would save that exit, and need a seat each.

use super::affinity::bit;
use super::parts::View;
use super::{Effects, Physical};
use crate::id::{IntId, VcpuId, VcpuSet};

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

impl View<'_> {
    fn is_alone(&self) -> bool {
        self.published.affinities().len() == 1
    }

    /// The bits of all CPU interfaces.
    pub fn everybody(&self) -> u8 {
        self.published.affinities().all().0 as u8
    }

    /// A byte for each of some interrupts: GICD_SPENDSGIR and GICD_CPENDSGIR (`senders`), or GICD_ITARGETSR. That
    /// tells the reader its own bit where the interrupt is private; with one CPU interface there are no such
    /// registers (IHI0048 4.3.12).
    #[inline(never)]
    pub fn read_bytes(&self, first: u32, count: u32, senders: bool) -> u64 {
        let is_alone = self.is_alone();
        let mut value = 0;
        for n in 0..count {
            let intid = IntId(first.wrapping_add(n));
            let byte = match self.visible(intid) {
                None => 0,
                Some(irq) if senders => irq.shows_senders(),
                Some(_) if is_alone => 0,
                Some(_) if intid.is_private() => bit(self.vcpu),
                Some(irq) => irq.targets,
            };
            value |= u64::from(byte) << ((8 * n) & 0x3f);
        }
        value
    }

    #[inline(never)]
    pub fn write_targets(&mut self, first: u32, count: u32, value: u64, effects: &mut Effects) {
        if self.is_alone() {
            return;
        }
        let mut to = [None; 4];
        for (n, to) in (0..count).zip(&mut to) {
            let intid = IntId(first.wrapping_add(n));
            let targets = (value >> ((8 * n) & 0x3f)) as u8 & self.everybody();
            let Some(irq) = self.visible(intid) else {
                continue;
            };
            if intid.is_private() || irq.targets == targets {
                continue;
            }
            let passed_through = irq.passed_through;
            if let Some(distributor) = &mut self.distributor {
                distributor.has_one_of_n |= targets.count_ones() > 1;
            }
            let target = self.choose(targets);
            self.update(intid, effects, |irq| {
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

    /// GICD_SPENDSGIR and GICD_CPENDSGIR.
    #[inline(never)]
    pub fn write_senders(
        &mut self,
        (first, count): (u32, u32),
        (sets, value): (bool, u64),
        effects: &mut Effects,
    ) {
        for n in 0..count {
            let senders = (value >> ((8 * n) & 0x3f)) as u8 & self.everybody();
            self.update(IntId(first.wrapping_add(n)), effects, |irq| {
                if sets {
                    irq.send(senders);
                } else {
                    irq.take_back(senders);
                }
            });
        }
    }

    /// The vCPU populates: it takes interrupts from now on.
    pub fn wake(&mut self, effects: &mut Effects) {
        let Some(distributor) = &mut self.distributor else {
            return;
        };
        if distributor.asleep.contains(self.vcpu) {
            distributor.asleep.remove(self.vcpu);
            if distributor.has_one_of_n {
                self.choose_targets(effects);
                effects.kick.remove(self.vcpu);
            }
        }
    }

    /// Somebody is awake or asleep now: an SPI that several may take goes to one who can. Where the physical
    /// one goes need not change; it comes to its target from everywhere.
    #[inline(never)]
    pub fn choose_targets(&mut self, effects: &mut Effects) {
        let count = self.distributor.as_ref().map_or(0, |it| it.spis.len());
        for intid in (32u32..).map(IntId).take(count) {
            let Some(irq) = self.irq(intid) else {
                continue;
            };
            let target = self.choose(irq.targets);
            if irq.targets.count_ones() > 1 && irq.target != target {
                self.update(intid, effects, |irq| irq.target = target);
            }
        }
    }

    /// The one of N that takes an interrupt: the first who is awake, if any.
    fn choose(&self, targets: u8) -> Option<VcpuId> {
        let targets = VcpuSet(targets.into());
        let asleep = self.distributor.as_ref().map(|it| it.asleep);
        let awake = targets.without(asleep.unwrap_or_default());
        awake.iter().next().or_else(|| targets.iter().next())
    }
}
