//! What others ask of a vCPU: one word of bits, posted by anyone, taken by its own pCPU.
//!
//! Posting is a single atomic OR, so it needs no lock and cannot fail; asking twice before the word is
//! taken is asking once. The poster rings the pCPU's doorbell afterwards.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::word::Word;

/// A set of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests(pub u32);

impl Requests {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// SDEI event 0 was signalled.
    pub const SDEI_SIGNAL: Self = Self(1 << 16);
    /// The virtual GIC changed something this vCPU's list registers hold or should hold.
    pub const SYNC: Self = Self(1 << 17);
    /// CPU_ON: start as the VM's power table says.
    pub const START: Self = Self(1 << 18);
    /// The VM stops: leave the guest for good.
    pub const STOP: Self = Self(1 << 19);

    /// Shared SDEI events may be due, or private ones have been raised: look.
    pub const SDEI_LOOK: Self = Self(1 << 20);
    /// The operator wants to know how this vCPU is, or wants the VM's end from it.
    pub const OPERATOR: Self = Self(1 << 21);
    /// The operator's NMI: a virtual SError.
    pub const NMI: Self = Self(1 << 22);
    /// The operator has paused the VM: stay out of the guest until that is over.
    pub const PAUSE: Self = Self(1 << 23);

    /// The guest's watchdog looks at this vCPU.
    pub const WATCH: Self = Self(1 << 24);

    /// The guest's calls are traced, and this vCPU has made one.
    pub const TRACE: Self = Self(1 << 25);

    /// SGI `intid` (0 to 15) is pending.
    pub const fn sgi(intid: u32) -> Self {
        Self(1 << (intid & 15))
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in here.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those that are in `these`, and the rest.
    #[must_use]
    pub const fn split(self, these: Self) -> (Self, Self) {
        (Self(self.0 & these.0), Self(self.0 & !these.0))
    }

    /// Whether nothing is asked.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all that is asked is to take SGIs.
    pub const fn is_sgis(self) -> bool {
        self.0 >> 16 == 0
    }

    /// Whether the operator asks something, the watchdog, or the trace.
    pub const fn is_operator(self) -> bool {
        self.0 >> 21 != 0
    }

    /// The pending SGIs, bit n for INTID n.
    pub const fn sgis(self) -> u16 {
        self.0 as u16
    }
}

/// One vCPU's word.
#[derive(Debug, Default)]
pub struct Mailbox<W = AtomicU32>(W);

impl Mailbox {
    /// An empty one.
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }
}

impl<W: Word> Mailbox<W> {
    /// Adds requests. What the caller wrote before is visible to whoever takes them.
    #[inline]
    pub fn post(&self, requests: Requests) {
        self.0.fetch_or(requests.0, Ordering::Release);
    }

    /// Takes all there is.
    #[inline]
    pub fn take(&self) -> Requests {
        Requests(self.0.swap(0, Ordering::Acquire))
    }

    /// Whether there is anything, without ordering: a doorbell follows every post.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// Who has sent a vCPU its SGIs, of a GICv2: a bit for each sender, which is posted before the SGI itself
/// ([`Requests::sgi`]) and taken after it. So whoever takes an SGI finds its senders; those of an SGI that comes a moment
/// later may be among them, which then finds none.
#[derive(Debug, Default)]
pub struct Senders<W = AtomicU32>([W; 4]);

impl Senders {
    /// Nobody.
    pub const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; 4])
    }
}

impl<W: Word> Senders<W> {
    /// CPU interface `from` (0 to 7) has sent SGI `intid` (0 to 15).
    #[inline]
    pub fn post(&self, intid: u32, from: u8) {
        if let Some(word) = self.0.get((intid as usize >> 2) & 3) {
            word.fetch_or(
                1 << (8 * (intid & 3) + u32::from(from & 7)),
                Ordering::Relaxed,
            );
        }
    }

    /// Takes the senders of SGI `4 * group` and the three after it, a byte each.
    #[inline]
    pub fn take(&self, group: usize) -> u32 {
        let word = self.0.get(group);
        word.map_or(0, |word| word.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posts_merge_and_are_taken_once() {
        let mailbox = Mailbox::new();
        assert!(mailbox.is_empty());
        mailbox.post(Requests::sgi(2));
        mailbox.post(Requests::sgi(15).and(Requests::SDEI_SIGNAL));
        mailbox.post(Requests::SDEI_SIGNAL);
        let taken = mailbox.take();
        assert_eq!(taken.sgis(), 1 << 2 | 1 << 15);
        assert!(taken.has(Requests::SDEI_SIGNAL));
        assert!(!taken.has(Requests::STOP));
        assert!(mailbox.take().is_empty());
    }

    #[test]
    fn each_sgi_has_a_byte_of_senders() {
        let senders = Senders::new();
        senders.post(0, 0);
        senders.post(3, 7);
        senders.post(3, 0);
        senders.post(15, 2);
        assert_eq!(senders.take(0), 0x8100_0001);
        assert_eq!(senders.take(0), 0);
        assert_eq!([senders.take(1), senders.take(2)], [0, 0]);
        assert_eq!(senders.take(3), 1 << 26);
    }
}
