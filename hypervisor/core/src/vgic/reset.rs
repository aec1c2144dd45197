//! The virtual GIC back at reset: what is one vCPU's, and the SPIs.

use super::frame::Wait;
use super::lr::{ListReg, hcr};
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

    /// [Populates](Self::populate) a vCPU that is [pristine](Self::is_pristine): ICH_HCR_EL2, if there is nothing to it but to
    /// say so. Nothing of its own is enabled then, or active. With a GICv2 somebody else may have to learn that
    /// it is awake.
    pub fn populate_nothing(&mut self) -> Option<u64> {
        let View {
            published,
            vcpu,
            private,
            ..
        } = self.view();
        let private = private.filter(|private| private.is_pristine)?;
        let said = flag::SHARED | flag::DIRTY | flag::WAITS;
        if published.rules().is_v2 || published.has(vcpu, said) {
            return None;
        }
        private.is_dirty = false;
        private.is_pristine = false;
        Some(hcr::EN | hcr::TDIR)
    }
}

impl View<'_> {
    fn reset_vcpu(&mut self, leftovers: Leftovers, effects: &mut Effects) {
        let vcpu = self.vcpu;
        for (n, irq) in (0..).zip(self.block_mut(0)) {
            irq.reset_registers(n < 16);
        }
        self.change_words(0, |words| {
            words.enabled = 0;
            words.group1 = 0;
        });
        for n in bits_of(self.words(0).not_idle) {
            self.update(IntId(n), effects, |irq| {
                irq.forget(leftovers == Leftovers::Kept)
            });
        }
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
            for irq in self.block_mut(block) {
                irq.reset_registers(false);
                irq.bound = false;
                irq.targets = 0;
                irq.target = target;
            }
            self.change_words(block, |words| {
                words.enabled = 0;
                words.group1 = 0;
                words.bound = 0;
            });
            for n in bits_of(self.words(block).not_idle) {
                self.update(IntId(32 * block + n), &mut effects, |irq| {
                    irq.forget(false);
                    irq.held = false;
                });
            }
        }
        if bits != 0 {
            effects.phys = Some(Physical::Reset(SpiMask { block, bits }));
        }
        effects
    }
}
