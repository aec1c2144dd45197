//! The lines of passed-through level-sensitive interrupts. Such an interrupt is pending while its line is up, and only then
//! (IHI0069 4.1); the virtual GIC learns that it is up when it fires, and that it has dropped when somebody
//! [looks](Held::sample): at a read of the pending state, whenever list registers are folded that hold one that the guest
//! has not acknowledged, and before one gets a list register that it has waited for.

use super::irq::Irq;
use super::parts::{Held, Parts, View};
use super::published::Published;
use super::register::{Bank, Register};
use super::{Effects, Frame, bits_of};
use crate::id::{IntId, VcpuId};

impl Published {
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
        (self.passed_through(block) != 0).then_some((frame.owner(me), block))
    }
}

impl<'a, P: Parts + 'a> Held<'a, P> {
    /// The list registers of the vCPU (a bit each) whose interrupts are pending because of lines that only the physical GIC
    /// sees, unless the guest has acknowledged them.
    pub fn listed_lines(&mut self) -> u32 {
        let view = self.view();
        let Some(private) = &view.private else {
            return 0;
        };
        let holds_line = |&index: &u32| {
            let intid = private.slots.get(index as usize);
            intid.is_some_and(|&intid| view.has_physical_line(intid))
        };
        bits_of(private.seated)
            .filter(holds_line)
            .fold(0, |listed, index| listed | 1 << index)
    }

    /// The blocks of interrupts (bit b is INTID 32 * b and the 31 after it) in which lines have one wait for a list register of
    /// the vCPU; not `fresh`, which has just fired.
    pub fn waiting_lines(&mut self, fresh: Option<IntId>) -> u32 {
        self.view().waiting_lines(fresh)
    }

    /// The physical GIC says how the lines of a block of interrupts are, a bit each; other bits mean nothing. One that the
    /// guest has not taken and whose line has dropped is let go of, so that it fires when the line is up again.
    pub fn sample(&mut self, block: u32, lines: u32, effects: &mut Effects) {
        self.view().sample(block, lines, effects);
    }
}

impl View<'_> {
    fn has_physical_line(&self, intid: IntId) -> bool {
        self.irq(intid).is_some_and(Irq::has_physical_line)
    }

    fn waiting_lines(&self, fresh: Option<IntId>) -> u32 {
        let distributor = self.distributor.as_ref();
        let busy_blocks = distributor.map_or(0, |distributor| distributor.busy_blocks);
        let mut blocks = 0;
        for block in bits_of(busy_blocks << 1 | 1) {
            let words = self.words(block);
            let mut waiting = bits_of(words.passed_through & words.not_idle);
            let waits = waiting.any(|n| {
                let intid = IntId(block * 32 + n);
                self.irq(intid).is_some_and(|irq| {
                    irq.line && !irq.edge && irq.seat.is_none() && irq.target == Some(self.vcpu)
                }) && fresh != Some(intid)
            });
            if waits {
                blocks |= 1 << block;
            }
        }
        blocks
    }

    fn sample(&mut self, block: u32, lines: u32, effects: &mut Effects) {
        self.change_words(block, |words| words.lines = lines);
        let words = self.words(block);
        for n in bits_of(words.passed_through & words.not_idle & !lines) {
            let intid = IntId(block * 32 + n);
            if self.has_physical_line(intid) {
                self.update(intid, effects, Irq::drop_line);
            }
        }
    }

    /// The passed-through level-sensitive interrupts of a block whose lines are up, as last sampled.
    pub(super) fn lines(&self, block: u32) -> u32 {
        let words = self.words(block);
        bits_of(words.passed_through & words.lines).fold(0, |lines, n| {
            let irq = self.irq(IntId(block * 32 + n));
            lines | u32::from(irq.is_some_and(|irq| !irq.edge)) << n
        })
    }
}
