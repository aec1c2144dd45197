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
    /// registers count as empty (the shell writes them; `lr` reads one that is in use), SGIs and PPIs are as after reset,
    /// SPIs it had are as they were.
    /// An SPI it had acknowledged stays active until somebody clears that, as with a real CPU that is off.
    /// SGIs still in its mailbox are the shell's to drop. `leftovers` is for firmware that forgets to clean up.
    pub fn reset_vcpu(
        &mut self,
        lr: impl Fn(usize) -> ListReg,
        leftovers: Leftovers,
        effects: &mut Effects,
    ) {
        let mut view = self.view();
        view.fold(lr, 0, effects);
        view.reset_vcpu(leftovers, effects);
    }

    /// Whether the vCPU is as [`reset_vcpu`](Self::reset_vcpu) has left it: nobody has touched what is its own, and it has
    /// not populated.
    pub fn is_pristine(&mut self) -> bool {
        let private = self.view().private;
        private.is_some_and(|private| private.is_pristine)
    }
}

impl View<'_> {
    fn reset_vcpu(&mut self, leftovers: Leftovers, effects: &mut Effects) {
        let vcpu = self.vcpu;
        self.reset_block(0, effects, |n, irq| {
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
        if let Some(private) = &mut self.private {
            private.asleep = true;
            private.is_pristine = true;
        }
        let Some(distributor) = &mut self.distributor else {
            return;
        };
        for block in bits_of(distributor.busy_blocks) {
            let words = distributor.words.get(block as usize);
            for bit in bits_of(words.map_or(0, |words| words.not_idle)) {
                if let Some(irq) = distributor.spis.get_mut((32 * block + bit) as usize)
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
        let has_one_of_n = distributor.has_one_of_n;
        if has_one_of_n {
            self.choose_targets(effects);
        }
        // What its next populate finds. With a GICv2 that makes it known as awake, which is the distributor's, too.
        let is_shared = self.published.rules().is_v2 || self.concerns_shared();
        if is_shared {
            self.published.raise(vcpu, flag::SHARED);
            self.published.lower(vcpu, flag::WAITS);
        } else {
            self.published
                .lower(vcpu, flag::SHARED | flag::DIRTY | flag::WAITS);
        }
        effects.kick.remove(vcpu);
    }

    /// Takes a block of SPIs back to reset.
    pub fn reset_spis(&mut self, block: u32) -> Effects {
        let mut effects = Effects::none();
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
        for (n, irq) in (0..32).zip(self.block_mut(block)) {
            if not_idle >> n & 1 == 0 {
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
