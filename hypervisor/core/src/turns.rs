//! Whose turn it is on the wire that several guests' consoles share.
//!
//! A guest has its turn for a line. While others wait it ends with the line, or before that, when the guest has said nothing for
//! a while or the line is long; then the next who waits has its own, in the order of the VMs' numbers. So no line is mixed
//! with another but one that is not finished in time, and each guest delays another by a turn at most, whether it
//! floods the wire, is silent, or writes as slowly as it may.
//!
//! Who has its turn may be slow without being silent: an emulator's host with fewer CPUs than guests runs each of them now and
//! then, for some milliseconds. A turn that ended meanwhile would be one byte, behind the eight that say whose it is.

use crate::id::VmId;

/// A guest whose open line has not grown for so long loses its turn if others wait, in microseconds: a prompt stands for hours. Ten
/// guests for each CPU of a host's are on it again within less.
pub const SILENCE_US: u64 = 100_000;
/// Bytes of one turn while others wait: 45 ms at 115200 baud.
pub const MOST: u32 = 512;
/// Others wait no longer than this for the end of a turn, in microseconds: 20 bytes, if each comes as late as it may.
pub const TURN_US: u64 = 2_000_000;

/// The wire.
#[derive(Debug)]
pub struct Turns {
    /// More than one guest writes.
    is_shared: bool,
    /// What was written last did not end a line.
    is_mid_line: bool,
    /// Whose line that is, and who had the last turn.
    owner: VmId,
    /// How many bytes its turn has had.
    count: u32,
    /// When the last of them was, in microseconds.
    last_us: u64,
    /// Since when others have waited for this turn to end, if they do.
    wanted_us: u64,
    /// Who waits, a bit each.
    waiting: u128,
}

/// What a guest that has a byte to write does.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It writes.
    Write,
    /// It writes, and ends its line: who waits may ask again.
    WriteLast,
    /// It says first that it is its turn, on a new line if another's is open.
    Announce {
        /// Another line is open.
        break_line: bool,
    },
    /// It asks again, soon.
    Wait,
}

impl Turns {
    /// Of a wire that nobody has written to, and one guest will.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            is_shared: false,
            is_mid_line: false,
            owner: VmId(0),
            count: 0,
            last_us: 0,
            wanted_us: 0,
            waiting: 0,
        }
    }

    /// More than one guest writes.
    pub const fn share(&mut self) {
        self.is_shared = true;
    }

    /// `vm` wants to write a byte. `now_us` is only asked if several guests write.
    #[inline]
    pub fn take(&mut self, vm: VmId, byte: u8, now_us: impl FnOnce() -> u64) -> Turn {
        if !self.is_shared {
            self.is_mid_line = byte != b'\n';
            return Turn::Write;
        }
        self.take_of_many(vm, byte, now_us())
    }

    #[inline(never)]
    fn take_of_many(&mut self, vm: VmId, byte: u8, now_us: u64) -> Turn {
        let own = 1 << (vm.0 & 127);
        let others = self.waiting & !own;
        let owners = 1 << (self.owner.0 & 127);
        let is_wanted = (self.waiting | own) & !owners != 0;
        if self.waiting & !owners == 0 {
            self.wanted_us = now_us;
        }
        let is_over = !self.is_mid_line
            || is_wanted
                && (self.count >= MOST
                    || now_us.saturating_sub(self.last_us) > SILENCE_US
                    || now_us.saturating_sub(self.wanted_us) > TURN_US);
        let goes_on = if byte == b'\n' {
            Turn::WriteLast
        } else {
            Turn::Write
        };
        let turn = if !is_over && self.owner == vm {
            self.count = self.count.saturating_add(1);
            goes_on
        } else if is_over && self.is_next(vm, others) {
            let is_other = self.owner != vm;
            let was_open = self.is_mid_line;
            (self.owner, self.count, self.wanted_us) = (vm, 1, now_us);
            if was_open && !is_other {
                goes_on
            } else {
                Turn::Announce {
                    break_line: was_open,
                }
            }
        } else {
            self.waiting |= own;
            return Turn::Wait;
        };
        self.waiting &= !own;
        self.last_us = now_us;
        self.is_mid_line = byte != b'\n';
        turn
    }

    /// Whether `vm` comes before all `others` who wait, counted from whose turn was last.
    const fn is_next(&self, vm: VmId, others: u128) -> bool {
        let first = (self.owner.0 & 127) as u32 + 1;
        let order = others.rotate_right(first);
        let own = (1_u128 << (vm.0 & 127)).rotate_right(first);
        order == 0 || own.trailing_zeros() < order.trailing_zeros()
    }

    /// The hypervisor writes a whole line of its own. Whether it breaks a guest's.
    #[must_use]
    pub const fn interrupt(&mut self) -> bool {
        core::mem::replace(&mut self.is_mid_line, false)
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const OTHER: Turn = Turn::Announce { break_line: true };
    const LINE: Turn = Turn::Announce { break_line: false };

    fn shared() -> Turns {
        let mut turns = Turns::new();
        turns.share();
        turns
    }

    #[test]
    fn an_only_guest_has_the_wire_and_nobody_looks_at_a_clock() {
        let mut turns = Turns::new();
        let mut take = |byte| turns.take(VmId(0), byte, || unreachable!("a look at the clock"));
        assert_eq!(take(b'a'), Turn::Write);
        assert_eq!(take(b'\n'), Turn::Write);
        assert!(!turns.interrupt());
        assert_eq!(turns.take(VmId(0), b'a', || 0), Turn::Write);
        assert!(turns.interrupt() && !turns.interrupt());
    }

    #[test]
    fn a_line_is_written_whole_and_each_is_announced() {
        let mut turns = shared();
        let mut take = |vm, byte| turns.take(VmId(vm), byte, || 0);
        assert_eq!(take(0, b'a'), LINE);
        assert_eq!(take(1, b'x'), Turn::Wait);
        assert_eq!(take(0, b'b'), Turn::Write);
        assert_eq!(take(0, b'\n'), Turn::WriteLast);
        // Its next line comes after the other's.
        assert_eq!(take(0, b'c'), Turn::Wait);
        assert_eq!(take(1, b'x'), LINE);
        assert_eq!(take(0, b'c'), Turn::Wait);
        assert_eq!(take(1, b'\n'), Turn::WriteLast);
        assert_eq!(take(0, b'c'), LINE);
        assert_eq!(take(0, b'\n'), Turn::WriteLast);
        assert_eq!(take(0, b'd'), LINE);
    }

    #[test]
    fn who_says_no_more_loses_its_turn() {
        let mut turns = shared();
        assert_eq!(turns.take(VmId(0), b'$', || 100), LINE);
        assert_eq!(turns.take(VmId(1), b'x', || 100 + SILENCE_US), Turn::Wait);
        // Others that wait do not make it longer.
        assert_eq!(turns.take(VmId(1), b'x', || 101 + SILENCE_US), OTHER);
        assert_eq!(
            turns.take(VmId(1), b'\n', || 101 + SILENCE_US),
            Turn::WriteLast
        );
        // And goes on with its line when it likes, if nobody has begun another.
        assert_eq!(turns.take(VmId(0), b'l', || 200 + SILENCE_US), LINE);
        assert_eq!(turns.take(VmId(0), b's', || 9_000_000), Turn::Write);
    }

    #[test]
    fn a_line_without_end_ends_while_others_wait() {
        let mut turns = shared();
        let mut take = |vm| turns.take(VmId(vm), b'a', || 0);
        assert_eq!(take(2), LINE);
        for _ in 0..5 * MOST {
            assert_eq!(take(2), Turn::Write);
        }
        assert_eq!(take(0), OTHER);
        for _ in 1..MOST {
            assert_eq!(take(2), Turn::Wait);
            assert_eq!(take(0), Turn::Write);
        }
        assert_eq!(take(0), Turn::Wait);
        assert_eq!(take(2), OTHER);
    }

    #[test]
    fn a_line_of_the_hypervisors_has_the_next_byte_announced() {
        let mut turns = shared();
        assert_eq!(turns.take(VmId(3), b'a', || 0), LINE);
        assert!(turns.interrupt());
        assert_eq!(turns.take(VmId(3), b'b', || 0), LINE);
    }

    #[test]
    fn all_who_flood_the_wire_have_as_many_turns_of_it() {
        for guests in [2_u8, 3, 16] {
            let mut turns = shared();
            let mut had: Vec<u32> = (0..guests).map(|_| 0).collect();
            // The first asks ten times as often as the others.
            for step in 0..200_000_u64 {
                for vm in (0..guests).chain([0; 9]) {
                    // The second has short lines, the others none that end.
                    let byte = if vm == 1 && step % 64 == 0 {
                        b'\n'
                    } else {
                        b'a'
                    };
                    let turn = turns.take(VmId(vm), byte, || step);
                    had[usize::from(vm)] += u32::from(matches!(turn, Turn::Announce { .. }));
                }
            }
            let most = had.iter().max().copied().unwrap_or_default();
            assert!(most > 10, "{guests} guests: {had:?}");
            assert!(
                had.iter().all(|&own| own + 1 >= most),
                "{guests} guests: {had:?}"
            );
        }
    }
}
