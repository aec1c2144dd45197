//! The virtual GIC back at reset: what is one vCPU's, and the SPIs.

use super::irq::Irq;
use super::lr::ListReg;
use super::mmio::Wait;
use super::v2::initial_target;
use super::{Effects, Physical, SpiMask, Vgic, bits_of, spi};
use crate::id::{IntId, Mpidr, VcpuId};

/// What becomes of a vCPU's pending SGIs and PPIs when it is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// They are gone.
    Dropped,
    /// They are still pending.
    Kept,
}

impl Vgic {
    /// Takes `vcpu` back to reset, when it is turned off or before it is turned on: its list registers come
    /// back empty (the shell writes them), SGIs and PPIs are as after reset, SPIs it had are as they were.
    /// An SPI it had acknowledged stays active until somebody clears that, as with a real CPU that is off.
    /// SGIs still in its mailbox are the shell's to drop. `leftovers` is for firmware that forgets to clean up.
    pub fn reset_vcpu(
        &mut self,
        vcpu: VcpuId,
        lrs: &mut [ListReg],
        leftovers: Leftovers,
    ) -> Effects {
        let mut effects = self.fold(vcpu, lrs, 0);
        lrs.fill(ListReg::EMPTY);
        self.reset_block(vcpu, 0, &mut effects, |n, irq| {
            let mut fresh = Irq::new(n < 16, irq.passed_through, Some(vcpu));
            fresh.held = irq.held;
            fresh.holder = irq.holder;
            fresh.bound = irq.bound;
            if leftovers == Leftovers::Kept {
                fresh.latch = irq.latch;
                fresh.senders = irq.senders;
            }
            fresh.line = irq.line && !irq.passed_through;
            *irq = fresh;
        });
        for block in 0..self.words.len() {
            for bit in bits_of(self.words.get(block).map_or(0, |words| words.not_idle)) {
                let intid = spi(block, bit);
                if let Some(irq) = self.irq_mut(vcpu, intid)
                    && irq.active_on == Some(vcpu)
                {
                    irq.active_on = None;
                }
            }
        }
        if let Some(local) = self.vcpus.get_mut(vcpu.index()) {
            local.asleep = true;
            local.wait = Wait::default();
        }
        if self.has_one_of_n {
            self.choose_targets(&mut effects);
        }
        effects.kick.remove(vcpu);
        effects
    }

    /// The blocks of SPIs, for [`reset_spis`](Self::reset_spis).
    pub fn spi_blocks(&self) -> core::ops::RangeInclusive<u32> {
        1..=self.words.len() as u32
    }

    /// Takes a block of SPIs and GICD_CTLR back to reset, after every vCPU has been.
    pub fn reset_spis(&mut self, block: u32) -> Effects {
        self.groups = [false; 2];
        let mut effects = Effects::NONE;
        let target = initial_target(self.is_v2, &self.affinities);
        let bits = self.words(VcpuId(0), block).passed_through;
        let first = (block.saturating_sub(1) as usize).saturating_mul(32);
        for route in self.routes.iter_mut().skip(first).take(32) {
            *route = Mpidr::new(0);
        }
        if block != 0 {
            self.reset_block(VcpuId(0), block, &mut effects, |_, irq| {
                let mut fresh = Irq::new(false, irq.passed_through, target);
                fresh.line = irq.line && !irq.passed_through;
                *irq = fresh;
            });
        }
        if bits != 0 {
            effects.phys = Some(Physical::Reset(SpiMask { block, bits }));
        }
        effects
    }

    /// Resets a block of interrupts one by one; only of those that are not idle can anything follow.
    fn reset_block(
        &mut self,
        vcpu: VcpuId,
        block: u32,
        effects: &mut Effects,
        change: impl Fn(u32, &mut Irq),
    ) {
        let not_idle = self.words(vcpu, block).not_idle;
        let first = block.saturating_mul(32);
        for n in bits_of(!not_idle) {
            if let Some(irq) = self.irq_mut(vcpu, IntId(first.saturating_add(n))) {
                change(n, irq);
            }
        }
        if let Some(words) = self.words_mut(vcpu, block) {
            words.enabled &= not_idle;
            words.group1 &= not_idle;
            // A private interrupt stays bound; a shared one does not.
            words.bound &= if block == 0 { !0 } else { not_idle };
            let words = *words;
            self.published.show(vcpu, block, &words);
        }
        for n in bits_of(not_idle) {
            self.update(vcpu, IntId(first.saturating_add(n)), effects, |irq| {
                change(n, irq);
            });
        }
    }
}
