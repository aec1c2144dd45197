//! The lines of passed-through level-sensitive interrupts. Such an interrupt is pending while its line is up, and only then
//! (IHI0069 4.1); the virtual GIC learns that it is up when it fires, and that it has dropped when somebody
//! [looks](Vgic::sample): at a read of the pending state, whenever list registers are folded that hold one that the guest
//! has not acknowledged, and before one gets a list register that it has waited for.

use super::irq::Irq;
use super::register::{Bank, Register};
use super::{Effects, Frame, Vgic, Words, bits_of};
use crate::id::{IntId, VcpuId};

impl Vgic {
    /// Whose interrupts a load by `me` shows the pending state of, and which block of 32, if there are lines among them
    /// that have to be looked at first.
    pub fn shows_lines(
        &self,
        me: VcpuId,
        frame: Frame,
        offset: u64,
        size: u8,
    ) -> Option<(VcpuId, u32)> {
        let Register::Bits {
            bank: Bank::SetPending | Bank::ClearPending,
            block,
        } = Register::find(frame, offset, size)?
        else {
            return None;
        };
        let owner = frame.owner(me);
        (self.words(owner, block).passed_through != 0).then_some((owner, block))
    }

    /// Whether an interrupt of `vcpu` is pending because of a line that only the physical GIC sees.
    pub fn has_physical_line(&self, vcpu: VcpuId, intid: IntId) -> bool {
        self.irq(vcpu, intid).is_some_and(Irq::has_physical_line)
    }

    /// The blocks of interrupts (bit b is INTID 32 * b and the 31 after it) in which lines have one wait for a list register of
    /// `vcpu`; not `fresh`, which has just fired.
    pub fn waiting_lines(&self, vcpu: VcpuId, fresh: Option<IntId>) -> u32 {
        let waits = |block: u32, words: &Words| {
            bits_of(words.passed_through & words.not_idle).any(|n| {
                let intid = IntId(block * 32 + n);
                self.irq(vcpu, intid).is_some_and(|irq| {
                    irq.line && !irq.edge && irq.seat.is_none() && irq.target == Some(vcpu)
                }) && fresh != Some(intid)
            })
        };
        let private = self.vcpus.get(vcpu.index()).map(|local| &local.words);
        let mut blocks = 0;
        for (block, words) in (0..).zip(private.into_iter().chain(&self.words)) {
            if words.passed_through & words.not_idle != 0 && waits(block, words) {
                blocks |= 1u32.checked_shl(block).unwrap_or(0);
            }
        }
        blocks
    }

    /// The physical GIC says how the lines of a block of interrupts are, a bit each; other bits mean nothing. One that the
    /// guest has not taken and whose line has dropped is let go of, so that it fires when the line is up again.
    pub fn sample(&mut self, owner: VcpuId, block: u32, lines: u32) -> Effects {
        let mut effects = Effects::NONE;
        let words = self.words(owner, block);
        if let Some(words) = self.words_mut(owner, block) {
            words.lines = lines;
        }
        for n in bits_of(words.passed_through & words.not_idle & !lines) {
            let intid = IntId(block * 32 + n);
            if self.has_physical_line(owner, intid) {
                self.update(owner, intid, &mut effects, Irq::drop_line);
            }
        }
        effects
    }

    /// The passed-through level-sensitive interrupts of a block whose lines are up, as last sampled.
    pub(super) fn lines(&self, owner: VcpuId, block: u32) -> u32 {
        let words = self.words(owner, block);
        bits_of(words.passed_through & words.lines).fold(0, |lines, n| {
            let irq = self.irq(owner, IntId(block * 32 + n));
            lines | u32::from(irq.is_some_and(|irq| !irq.edge)) << n
        })
    }
}
