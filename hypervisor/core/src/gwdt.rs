//! The generic watchdog of Arm's Base System Architecture (DEN0094, "Generic Watchdog"; before that of SBSA, DEN0029), as a guest may
//! have one of its own: the guest refreshes it in time. If it does not, the first signal (WS0) is an interrupt to the guest, and the
//! second (WS1) goes to the hypervisor. Time is an argument, and is what the guest reads as its virtual counter.

use crate::time::Instant;

/// Which of its two frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// That with the registers.
    Control,
    /// That which a write to refreshes.
    Refresh,
}

/// Offsets in the control frame, but for the last, which is in both.
mod register {
    /// WCS: control and status.
    pub const WCS: u64 = 0x000;
    /// WOR: how long it takes until a signal, in ticks, 48 bits in two words.
    pub const WOR: u64 = 0x008;
    pub const WOR_HIGH: u64 = 0x00c;
    /// WCV: when the next signal comes, in two words.
    pub const WCV: u64 = 0x010;
    pub const WCV_HIGH: u64 = 0x014;
    /// W_IIDR: what it is.
    pub const IIDR: u64 = 0xfcc;
}

/// Offset of WRR in the refresh frame.
const WRR: u64 = 0x000;

/// WCS.EN, WCS.WS0 and WCS.WS1.
const EN: u32 = 1 << 0;
const WS0: u32 = 1 << 1;
const WS1: u32 = 1 << 2;

/// W_IIDR: architecture revision 1, whose WOR has 48 bits; nobody's in particular.
const IIDR: u32 = 1 << 16;
/// Bits of WOR.
const WOR_MASK: u64 = 0xffff_ffff_ffff;

/// The watchdog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gwdt {
    is_enabled: bool,
    /// The signals that are up.
    first: bool,
    second: bool,
    /// WOR.
    offset: u64,
    /// WCV.
    compare: u64,
}

impl Gwdt {
    /// Out of reset.
    pub const fn new() -> Self {
        Self {
            is_enabled: false,
            first: false,
            second: false,
            offset: 0,
            compare: 0,
        }
    }

    /// What a load of four bytes at `offset` of a frame reads. Whatever is no register reads as zero.
    #[must_use]
    pub const fn read(&self, frame: Frame, offset: u64) -> u32 {
        match (frame, offset) {
            (_, register::IIDR) => IIDR,
            (Frame::Control, register::WCS) => {
                let enabled = if self.is_enabled { EN } else { 0 };
                let first = if self.first { WS0 } else { 0 };
                let second = if self.second { WS1 } else { 0 };
                enabled | first | second
            }
            (Frame::Control, register::WOR) => self.offset as u32,
            (Frame::Control, register::WOR_HIGH) => (self.offset >> 32) as u32,
            (Frame::Control, register::WCV) => self.compare as u32,
            (Frame::Control, register::WCV_HIGH) => (self.compare >> 32) as u32,
            _ => 0,
        }
    }

    /// A store of four bytes. Writes to WRR, WCS and WOR refresh it.
    pub const fn write(&mut self, frame: Frame, offset: u64, value: u32, now: Instant) {
        match (frame, offset) {
            (Frame::Refresh, WRR) => {}
            (Frame::Control, register::WCS) => self.is_enabled = value & EN != 0,
            (Frame::Control, register::WOR) => self.offset = with_low(self.offset, value),
            (Frame::Control, register::WOR_HIGH) => {
                self.offset = with_high(self.offset, value) & WOR_MASK;
            }
            (Frame::Control, register::WCV) => {
                self.compare = with_low(self.compare, value);
                return;
            }
            (Frame::Control, register::WCV_HIGH) => {
                self.compare = with_high(self.compare, value);
                return;
            }
            _ => return,
        }
        self.first = false;
        self.second = false;
        if self.is_enabled {
            self.load(now);
        }
    }

    const fn load(&mut self, now: Instant) {
        self.compare = now.0.saturating_add(self.offset);
    }

    /// When the next signal comes, if one does.
    #[must_use]
    pub const fn due(&self) -> Option<Instant> {
        if self.is_enabled && !self.second {
            Some(Instant(self.compare).after(1))
        } else {
            None
        }
    }

    /// Raises the signal that is due, if one is; whether that is the second.
    #[must_use]
    pub const fn expire(&mut self, now: Instant) -> bool {
        match self.due() {
            Some(due) if now.0 >= due.0 => {}
            _ => return false,
        }
        if self.first {
            self.second = true;
            return true;
        }
        self.first = true;
        self.load(now);
        false
    }

    /// Whether the guest's interrupt is up.
    #[must_use]
    pub const fn is_raised(&self) -> bool {
        self.first
    }
}

const fn with_low(word: u64, low: u32) -> u64 {
    word & !0xffff_ffff | low as u64
}

const fn with_high(word: u64, high: u32) -> u64 {
    word & 0xffff_ffff | (high as u64) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    use Frame::{Control, Refresh};

    fn at(ticks: u64) -> Instant {
        Instant(ticks)
    }

    /// One that has been set to 100 ticks and switched on at 1000.
    fn on() -> Gwdt {
        let mut gwdt = Gwdt::default();
        gwdt.write(Control, register::WOR, 100, at(900));
        assert_eq!(gwdt.due(), None);
        gwdt.write(Control, register::WCS, EN, at(1000));
        gwdt
    }

    #[test]
    fn a_guest_that_does_not_refresh_it_is_interrupted_and_then_given_up() {
        let mut gwdt = on();
        assert_eq!(gwdt.due(), Some(at(1101)));
        assert!(!gwdt.expire(at(1100)) && !gwdt.is_raised());
        assert!(!gwdt.expire(at(1150)));
        assert!(gwdt.is_raised());
        assert_eq!(gwdt.read(Control, register::WCS), EN | WS0);
        // From when that was on it has the same time again.
        assert_eq!(gwdt.read(Control, register::WCV), 1250);
        assert!(!gwdt.expire(at(1250)));
        assert!(gwdt.expire(at(1251)));
        assert_eq!(gwdt.read(Control, register::WCS), EN | WS0 | WS1);
        assert_eq!(gwdt.due(), None);
        assert!(!gwdt.expire(at(5000)), "once");
        assert!(gwdt.is_raised());
    }

    #[test]
    fn each_refresh_takes_signals_back_and_begins_anew() {
        let refreshes = [
            (Refresh, WRR, 0),
            (Refresh, WRR, 77),
            (Control, register::WCS, EN),
            (Control, register::WOR, 100),
            (Control, register::WOR_HIGH, 0),
        ];
        for (frame, offset, value) in refreshes {
            let mut gwdt = on();
            let _ = gwdt.expire(at(1150));
            assert!(gwdt.expire(at(1251)));
            gwdt.write(frame, offset, value, at(2000));
            assert_eq!(gwdt.read(Control, register::WCS), EN, "{offset:#x}");
            assert!(!gwdt.is_raised());
            assert_eq!(gwdt.due(), Some(at(2101)), "{offset:#x}");
        }
    }

    #[test]
    fn what_is_no_register_does_nothing() {
        for (frame, offset) in [
            (Control, 0x4),
            (Control, 0x18),
            (Refresh, 0x4),
            (Refresh, 8),
        ] {
            let mut gwdt = on();
            let before = gwdt;
            gwdt.write(frame, offset, u32::MAX, at(1050));
            assert_eq!(gwdt, before, "{offset:#x}");
            assert_eq!(gwdt.read(frame, offset), 0, "{offset:#x}");
        }
        for frame in [Control, Refresh] {
            assert_eq!(on().read(frame, register::IIDR), IIDR);
        }
        assert_eq!(on().read(Refresh, WRR), 0);
    }

    #[test]
    fn one_that_is_switched_off_says_nothing() {
        let mut gwdt = on();
        assert!(!gwdt.expire(at(1150)));
        gwdt.write(Control, register::WCS, 0, at(1160));
        assert_eq!((gwdt.due(), gwdt.is_raised()), (None, false));
        assert!(!gwdt.expire(at(u64::MAX)));
    }

    #[test]
    fn registers_of_64_bits_are_two_words() {
        let mut gwdt = on();
        gwdt.write(Control, register::WOR_HIGH, 0xffff_0002, at(1000));
        assert_eq!(gwdt.read(Control, register::WOR_HIGH), 2, "48 bits");
        assert_eq!(gwdt.read(Control, register::WCV_HIGH), 2);
        assert_eq!(gwdt.read(Control, register::WCV), 1100);
        // The guest may say itself when, which is no refresh.
        gwdt.write(Control, register::WCV_HIGH, 0, at(1000));
        gwdt.write(Control, register::WCV, 1010, at(1000));
        assert_eq!(gwdt.due(), Some(at(1011)));
        gwdt.write(Control, register::WCV_HIGH, u32::MAX, at(1000));
        gwdt.write(Control, register::WCV, u32::MAX, at(1000));
        assert_eq!(gwdt.due(), Some(at(u64::MAX)), "there is no later time");
    }
}
