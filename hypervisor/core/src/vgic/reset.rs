//! The virtual GIC back at reset: what is one vCPU's, and the SPIs.

use super::frame::Wait;
use super::irq::Irq;
use super::lr::ListReg;
use super::parts::{Held, Parts, View};
use super::published::flag;
use super::{Effects, Physical, SpiMask, bits_of};
use crate::id::{IntId, Mpidr};

/// What becomes of a vCPU's pending SGIs and PPIs when it is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// They are gone.
    Dropped,
    /// They are still pending.
    Kept,
}

impl<'a, P: Parts + 'a> Held<'a, P> {
    /// Takes the vCPU back to reset, when it is turned off or before it is turned on, with both parts locked: its list
    /// registers come back empty (the shell writes them), SGIs and PPIs are as after reset, SPIs it had are as they were.
    /// An SPI it had acknowledged stays active until somebody clears that, as with a real CPU that is off.
    /// SGIs still in its mailbox are the shell's to drop. `leftovers` is for firmware that forgets to clean up.
    pub fn reset_vcpu(&mut self, lrs: &mut [ListReg], leftovers: Leftovers) -> Effects {
        self.view().reset_vcpu(lrs, leftovers)
    }
}

impl View<'_> {
    fn reset_vcpu(&mut self, lrs: &mut [ListReg], leftovers: Leftovers) -> Effects {
        let mut effects = self.fold(lrs, 0);
        lrs.fill(ListReg::EMPTY);
        let vcpu = self.vcpu;
        // What was reset when the vCPU was turned off is mostly as it was when it is turned on.
        if self
            .private
            .as_ref()
            .is_some_and(|private| !private.is_fresh)
        {
            self.reset_block(0, &mut effects, |n, irq| {
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
        }
        if let Some(private) = &mut self.private {
            private.asleep = true;
            private.is_fresh = true;
        }
        // It has nothing but what its first populate finds.
        self.published.raise(vcpu, flag::SHARED);
        self.published.lower(vcpu, flag::WAITS);
        let Some(distributor) = &mut self.distributor else {
            return effects;
        };
        let blocks = distributor
            .words
            .iter()
            .zip(distributor.spis.chunks_mut(32));
        for (words, spis) in blocks {
            for bit in bits_of(words.not_idle) {
                if let Some(irq) = spis.get_mut(bit as usize)
                    && irq.active_on == Some(vcpu)
                {
                    irq.active_on = None;
                }
            }
        }
        distributor.asleep.insert(vcpu);
        if let Some(wait) = distributor.waits.get_mut(vcpu.index()) {
            *wait = Wait::default();
        }
        if distributor.has_one_of_n {
            self.choose_targets(&mut effects);
        }
        effects.kick.remove(vcpu);
        effects
    }

    /// Takes a block of SPIs back to reset.
    pub fn reset_spis(&mut self, block: u32) -> Effects {
        let mut effects = Effects::NONE;
        let target = self
            .published
            .affinities()
            .initial_target(self.published.rules().is_v2);
        let bits = self.words(block).passed_through;
        let first = (block.saturating_sub(1) as usize).saturating_mul(32);
        if let Some(distributor) = &mut self.distributor {
            for route in distributor.routes.iter_mut().skip(first).take(32) {
                *route = Mpidr::new(0);
            }
        }
        if block != 0 {
            self.reset_block(block, &mut effects, |_, irq| {
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
    fn reset_block(&mut self, block: u32, effects: &mut Effects, change: impl Fn(u32, &mut Irq)) {
        let not_idle = self.words(block).not_idle;
        let first = block.saturating_mul(32);
        for n in bits_of(!not_idle) {
            if let Some(irq) = self.irq_mut(IntId(first.saturating_add(n))) {
                change(n, irq);
            }
        }
        self.change_words(block, |words| {
            words.enabled &= not_idle;
            words.group1 &= not_idle;
            // A private interrupt stays bound; a shared one does not.
            words.bound &= if block == 0 { !0 } else { not_idle };
        });
        for n in bits_of(not_idle) {
            self.update(IntId(first.saturating_add(n)), effects, |irq| {
                change(n, irq);
            });
        }
    }
}
