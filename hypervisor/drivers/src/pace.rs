//! How long a byte waits for a transmitter that is full. Time is an argument, in microseconds.

use core::sync::atomic::{AtomicBool, Ordering};

/// What sends bytes, and holds some that it has not sent yet.
pub trait Transmitter {
    /// Whether it takes a byte.
    fn can_write(&self) -> bool;
    /// Gives it a byte, which is lost unless it can take one.
    fn write(&mut self, byte: u8);
}

/// The longest wait for room: that for a byte at 300 baud, three times over.
pub const BYTE_US: u64 = 100_000;

/// The same while the transmitter is stuck: that for a byte at 115200 baud, twice over. So a line of a hundred bytes holds
/// nobody up for longer than 20 ms.
pub const STUCK_BYTE_US: u64 = 200;

/// Bytes on their way into one transmitter. If that takes none within [`BYTE_US`], the byte is lost and the transmitter
/// stuck, until it takes one again.
pub struct Pace {
    is_stuck: AtomicBool,
}

impl Pace {
    /// Of a transmitter that is not known to be stuck.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            is_stuck: AtomicBool::new(false),
        }
    }

    /// Sends `byte` once there is room, or drops it. `wait` begins a wait, if there is one, and what it returns says how long
    /// that has been.
    #[inline]
    pub fn put<W: FnMut() -> u64>(
        &self,
        to: &mut impl Transmitter,
        byte: u8,
        wait: impl FnOnce() -> W,
    ) {
        if to.can_write() || self.has_room(to, wait()) {
            to.write(byte);
        }
    }

    #[cold]
    #[inline(never)]
    fn has_room(&self, to: &impl Transmitter, mut waited: impl FnMut() -> u64) -> bool {
        let limit = if self.is_stuck.load(Ordering::Relaxed) {
            STUCK_BYTE_US
        } else {
            BYTE_US
        };
        loop {
            let is_over = waited() > limit;
            let has_room = to.can_write();
            if has_room || is_over {
                self.is_stuck.store(!has_room, Ordering::Relaxed);
                return has_room;
            }
            core::hint::spin_loop();
        }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    extern crate std;
    use std::vec::Vec;

    /// A line with room for some bytes that sends one in so many microseconds of its own clock.
    struct Line<'a> {
        now: &'a Cell<u64>,
        byte_us: u64,
        room: u64,
        free_at: u64,
        sent: Vec<u8>,
    }

    impl Transmitter for Line<'_> {
        fn can_write(&self) -> bool {
            self.free_at + self.byte_us <= self.now.get() + self.room * self.byte_us
        }

        fn write(&mut self, byte: u8) {
            self.free_at = self.free_at.max(self.now.get()) + self.byte_us;
            self.sent.push(byte);
        }
    }

    fn line(now: &Cell<u64>, byte_us: u64) -> Line<'_> {
        Line {
            now,
            byte_us,
            room: 16,
            free_at: 0,
            sent: Vec::new(),
        }
    }

    /// A wait, of which each look takes a microsecond.
    fn wait(now: &Cell<u64>) -> impl FnMut() -> u64 {
        let begin = now.get();
        move || {
            now.set(now.get() + 1);
            now.get() - begin
        }
    }

    #[test]
    fn a_slow_line_gets_every_byte() {
        // 115200 baud, 9600, 300.
        for byte_us in [87, 1042, 33_334] {
            let (now, pace) = (Cell::new(0), Pace::new());
            let mut line = line(&now, byte_us);
            for byte in 0..100 {
                pace.put(&mut line, byte, || wait(&now));
            }
            assert!(line.sent.iter().copied().eq(0..100), "{byte_us}");
            assert!(now.get() <= 100 * (byte_us + 2), "{byte_us}: {now:?}");
        }
    }

    #[test]
    fn a_line_that_takes_nothing_holds_nobody_up_for_long() {
        let (now, pace) = (Cell::new(0), Pace::new());
        let mut line = line(&now, u64::MAX / 64);
        for byte in 0..116 {
            pace.put(&mut line, byte, || wait(&now));
        }
        assert_eq!(line.sent.len(), 16, "what it has room for");
        let most = BYTE_US + 100 * (STUCK_BYTE_US + 2);
        assert!(now.get() <= most, "{now:?} of {most}");
    }

    #[test]
    fn a_line_that_takes_bytes_again_loses_no_more() {
        let (now, pace) = (Cell::new(0), Pace::new());
        let mut line = line(&now, 87);
        line.free_at = 1_000_000;
        for byte in 0..10 {
            pace.put(&mut line, byte, || wait(&now));
        }
        assert!(line.sent.is_empty());
        now.set(1_000_000);
        for byte in 10..200 {
            pace.put(&mut line, byte, || wait(&now));
        }
        assert!(line.sent.iter().copied().eq(10..200));
    }

    #[test]
    fn nobody_asks_for_the_time_while_there_is_room() {
        let now = Cell::new(0);
        let mut line = line(&now, 87);
        for byte in 0..16 {
            Pace::new().put(&mut line, byte, || -> fn() -> u64 {
                panic!("byte {byte} waits")
            });
        }
    }
}
