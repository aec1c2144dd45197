//! The short way into a list register: a private interrupt that comes again, after the guest has ended the last
//! one, goes back where it was, and the virtual GIC is neither locked nor told.
//!
//! # Why its books stay right
//!
//! The virtual GIC learns of what happens in a list register at the next fold only. Until then the interrupt's
//! seat stands, also after the guest has ended it. A list register that got the same word again is therefore
//! one whose interrupt the guest has not acknowledged yet: the next fold finds exactly the state that
//! [`populate`](super::Held::populate) left. That needs three things.
//!
//! * The word means what has just arrived. [`Filled::may_come_again`](super::Filled) says of which interrupts that is
//!   so: an SGI that is pending by its latch alone, with HW = 0 and no EOI bit; a passed-through PPI that is
//!   pending because it fired, with HW = 1. The physical interrupt of the latter is active, since it has been
//!   acknowledged and not deactivated, so HW = 1 is right again. Where HW = 1 will not do (a GICv2 that does not sample a
//!   line again, decision 7), the PPI is held with HW = 0 and the EOI bit: at the maintenance interrupt for its end it is
//!   deactivated and its list register emptied, without the virtual GIC ([`Sticky::ended`]). The virtual GIC
//!   takes it for held and seated all the while; a fold in between finds the list register empty, which says that it has been
//!   deactivated; and one that fires and cannot go the short way is known to have ended
//!   (`Irq::fire`). None of them may be active, nor may anything else
//!   wait for a list register, which could be of a higher priority by now or count EOIs (EOIcount).
//! * An SGI of a GICv2 may come from another sender, whose number goes into the word: the fold takes it from there.
//! * The list register is empty. ICH_ELRSR_EL2 and GICH_ELSR say so, and they do not while a maintenance
//!   interrupt for its EOI is due (IHI0069 12.4, IHI0048 5.3).
//! * What the guest has programmed since (disabled it, another priority, its group off) has reached this vCPU.
//!   Whoever changes an interrupt that has a seat kicks the vCPU whose seat it is, before the guest that asked
//!   for it goes on, and what a vCPU changes itself it folds for. Every fold clears this memory. The owner
//!   asks here only when no kick is waiting in its mailbox; a change that is posted later crosses with
//!   an interrupt that came before it, as on a real machine, and the kick has the list register folded.

use crate::id::IntId;

/// What a vCPU's list registers last held, of private interrupts that may go in again as they were.
#[derive(Clone, Debug)]
pub struct Sticky {
    /// Bit n: INTID n may.
    again: u32,
    /// In which list register each was.
    index: [u8; 32],
    /// With which word, in the hardware's spelling.
    words: [u64; 32],
}

impl Default for Sticky {
    fn default() -> Self {
        Self::new()
    }
}

impl Sticky {
    /// Remembers nothing.
    pub const fn new() -> Self {
        Self {
            again: 0,
            index: [0; 32],
            words: [0; 32],
        }
    }

    /// The list registers were folded, or are written with something else.
    #[inline]
    pub fn clear(&mut self) {
        self.again = 0;
    }

    /// List register `index` was filled with `word`, which is `intid`, and [may come
    /// again](super::Filled::may_come_again).
    #[inline]
    pub fn remember(&mut self, intid: IntId, index: usize, word: u64) {
        let bit = 1u32.checked_shl(intid.0).unwrap_or(0);
        let at = intid.0 as usize;
        if let (Some(at), Some(slot)) = (self.index.get_mut(at), self.words.get_mut(at)) {
            *at = index as u8;
            *slot = word;
            self.again |= bit;
        }
    }

    /// `intid` has come again, and no kick waits: the list register to write and the word, if the short way is
    /// open. `empty` reads a bit for each empty list register (ICH_ELRSR_EL2, GICH_ELSR).
    #[inline]
    pub fn reseat(&self, intid: IntId, empty: impl FnOnce() -> u64) -> Option<(usize, u64)> {
        if self.again.checked_shr(intid.0)? & 1 == 0 {
            return None;
        }
        let index = *self.index.get(intid.0 as usize)?;
        if empty() >> (index % 64) & 1 == 0 {
            return None;
        }
        let word = *self.words.get(intid.0 as usize)?;
        Some((usize::from(index), word))
    }

    /// The guest has ended what list register `index` held, which had the EOI bit set: what it was, if the short way of
    /// that is open.
    #[inline]
    pub fn ended(&self, index: usize) -> Option<IntId> {
        let mut left = self.again;
        while left != 0 {
            let intid = left.trailing_zeros();
            left &= left - 1;
            // Of an SGI that may come again no end is told.
            if intid >= 16 && self.index.get(intid as usize).copied() == Some(index as u8) {
                return Some(IntId(intid));
            }
        }
        None
    }
}
