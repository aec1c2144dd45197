//! A line that is not what it should be, for tests of both ends: bytes are lost, broken and made up, by a seed.

/// How often what goes wrong, per million bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// A byte is lost, and up to 40 after it.
    pub lost: u32,
    /// A byte is another one.
    pub broken: u32,
    /// Bytes come that nobody sent.
    pub made_up: u32,
}

/// One direction of such a line.
#[derive(Clone, Debug)]
pub struct Faults {
    rates: Rates,
    state: u64,
    /// Bytes that are yet to be lost.
    losing: u32,
}

/// What comes out for a byte: nothing, it, or more.
pub type Out = [Option<u8>; 4];

impl Faults {
    /// A line by that seed.
    #[must_use]
    pub const fn new(rates: Rates, seed: u64) -> Self {
        Self {
            rates,
            state: seed.wrapping_mul(2).wrapping_add(1),
            losing: 0,
        }
    }

    /// Loses the next bytes, whatever the rates.
    pub const fn lose(&mut self, bytes: u32) {
        self.losing = bytes;
    }

    /// Passes a byte on, or what becomes of it.
    pub fn pass(&mut self, byte: u8) -> Out {
        if self.losing > 0 {
            self.losing -= 1;
            return [None; 4];
        }
        let dice = self.below(1_000_000);
        let Rates {
            lost,
            broken,
            made_up,
        } = self.rates;
        if dice < lost {
            self.losing = self.below(41);
            [None; 4]
        } else if dice < lost + broken {
            [Some(byte ^ (1 << self.below(8))), None, None, None]
        } else if dice < lost + broken + made_up {
            // Zeroes above all, which begin and end messages.
            let other = self.below(256) as u8;
            [Some(0), Some(other), Some(0), Some(byte)]
        } else {
            [Some(byte), None, None, None]
        }
    }

    /// A number below `limit` (xorshift64: Marsaglia, "Xorshift RNGs", 2003).
    fn below(&mut self, limit: u32) -> u32 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        ((self.state >> 33) as u32) % limit
    }
}
