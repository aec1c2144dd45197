//! A guest's own NOR flash: what QEMU's `virt` has (hw/block/pflash_cfi01.c), so that firmware built for that finds what it
//! knows. Two x16 chips of Intel's command set (JEDEC JEP137: 0x0001) side by side on a bus of 32 bits, sectors of 256 KiB.
//! The commands are those of Intel's 28F128J3 (datasheet 290667, table 10), the query table is JEDEC's (JESD68.01).
//!
//! The chips get every command together: of what is written only the low byte counts. Nothing takes time. Locks are
//! answered, and keep nobody from anything.

use alloc::boxed::Box;

/// What the chips keep, in words of the bus: bit for bit 1 when erased.
pub trait Array {
    /// The word at this index; all ones where there is none.
    fn word(&self, index: usize) -> u32;
    /// Sets it. What does not exist is not set.
    fn set_word(&mut self, index: usize, value: u32);
    /// Sets so many words to all ones.
    fn erase(&mut self, first: usize, count: usize);
}

/// Bytes of a sector, the unit of erasure, of both chips together.
pub const SECTOR: u64 = 0x4_0000;

/// Bytes that the bus carries at once: 2 of each chip.
pub const BANK_WIDTH: u32 = 4;

/// Bytes of a word, as an address counts.
const WORD: u64 = BANK_WIDTH as u64;
/// A chip's write buffer holds two to the power of this many bytes; QEMU's, too.
const BUFFER_BITS: u8 = 11;
/// Both together.
const BUFFER: u64 = 2 << BUFFER_BITS;
const BUFFER_WORDS: usize = (BUFFER / WORD) as usize;

mod command {
    pub const READ_ARRAY: u8 = 0xff;
    /// The same of AMD's command set, by which drivers get out of anything.
    pub const RESET: u8 = 0xf0;
    pub const READ_ID: u8 = 0x90;
    pub const QUERY: u8 = 0x98;
    pub const READ_STATUS: u8 = 0x70;
    pub const CLEAR_STATUS: u8 = 0x50;
    pub const PROGRAM: [u8; 2] = [0x40, 0x10];
    pub const BUFFER: u8 = 0xe8;
    pub const ERASE: u8 = 0x20;
    /// Behind ERASE, behind what was written to the buffer, and to unlock.
    pub const CONFIRM: u8 = 0xd0;
    pub const LOCK_SETUP: u8 = 0x60;
    pub const LOCK: u8 = 0x01;
    pub const LOCK_DOWN: u8 = 0x2f;
    pub const CONFIGURATION: u8 = 0x03;
    pub const SUSPEND: u8 = 0xb0;
}

mod status {
    pub const READY: u8 = 1 << 7;
    /// Erase and program have failed: a command out of order.
    pub const OUT_OF_ORDER: u8 = 1 << 5 | 1 << 4;
}

/// What reads find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Array,
    Id,
    Query,
    Status,
}

/// What the next write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Command,
    /// What is programmed.
    Word,
    /// How many words the buffer is to take, less one.
    Count,
    /// So many of them.
    Data(usize),
    /// That the buffer is to be programmed.
    Program,
    /// That the sector is to be erased.
    Erase,
    /// What is done to a lock.
    Lock,
}

/// The state of the chips, but for what they keep ([`Array`]).
#[derive(Clone, Debug)]
pub struct Flash {
    /// Bytes of both.
    size: u64,
    mode: Mode,
    expected: Expected,
    status: u8,
    /// The offset that the buffer is for, which the first word for it says, and what is in it.
    base: Option<u64>,
    /// A word for the buffer was for somewhere else.
    is_stray: bool,
    buffer: Box<[u32; BUFFER_WORDS]>,
}

impl Flash {
    /// Chips of `size` bytes together, a power of two of at least [`SECTOR`].
    pub fn new(size: u64) -> Self {
        Self {
            size,
            mode: Mode::Array,
            expected: Expected::Command,
            status: status::READY,
            base: None,
            is_stray: false,
            buffer: Box::new([u32::MAX; BUFFER_WORDS]),
        }
    }

    /// As their reset does it: what they keep stays, and is what reads find.
    pub const fn reset(&mut self) {
        self.mode = Mode::Array;
        self.expected = Expected::Command;
        self.status = status::READY;
    }

    /// What a read of `size` bytes at `offset` finds.
    pub fn read(&self, offset: u64, size: u8, array: &impl Array) -> u64 {
        (0..u64::from(size)).fold(0, |value, at| {
            let place = offset.wrapping_add(at);
            let word = self.word(place / WORD, array);
            value | u64::from(word.to_le_bytes()[(place % WORD) as usize]) << (8 * at)
        })
    }

    fn word(&self, index: u64, array: &impl Array) -> u32 {
        // Of each chip 16 bits.
        let both = |chip: u8| u32::from(chip) * 0x1_0001;
        match self.mode {
            Mode::Array => array.word(index as usize),
            Mode::Status => both(self.status),
            // Identifiers are there for each sector: the maker, the chip, and whether the sector is locked.
            Mode::Id => both(match index % (SECTOR / WORD) {
                0 => 0x89,
                1 => 0x18,
                _ => 0,
            }),
            Mode::Query => both(self.query(index)),
        }
    }

    /// The table of what the chips are (JESD68.01, and from 0x31 on Intel's).
    fn query(&self, index: u64) -> u8 {
        const NAMES: &[u8] = b"QRY";
        const INTEL: &[u8] = b"PRI10";
        let chip = self.size / 2;
        let last = (self.size / SECTOR - 1) as u16;
        // In units of 256 bytes.
        let sector = (SECTOR / 2 / 256) as u16;
        match index {
            0x10..=0x12 => NAMES[(index - 0x10) as usize],
            // The command set, and where its own table is.
            0x13 => 0x01,
            0x15 => 0x31,
            // 2.7 to 3.6 V.
            0x1b => 0x27,
            0x1c => 0x36,
            // Powers of two: microseconds of a word and a buffer, milliseconds of a sector; and how many times that at most.
            0x1f | 0x20 => 7,
            0x21 => 10,
            0x23..=0x25 => 4,
            0x27 => chip.trailing_zeros() as u8,
            // x8 and x16.
            0x28 => 0x02,
            0x2a => BUFFER_BITS,
            // One kind of sectors.
            0x2c => 1,
            0x2d => last as u8,
            0x2e => (last >> 8) as u8,
            0x2f => sector as u8,
            0x30 => (sector >> 8) as u8,
            0x31..=0x35 => INTEL[(index - 0x31) as usize],
            // Sectors say whether they are locked. 3.3 V; one protection register.
            0x3b | 0x3f => 1,
            0x3d => 0x33,
            _ => 0,
        }
    }

    /// A write of `size` bytes at `offset`.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, array: &mut impl Array) {
        if size > BANK_WIDTH as u8 {
            // Two cycles of the bus.
            self.cycle(offset, 4, value as u32, array);
            self.cycle(offset.wrapping_add(WORD), 4, (value >> 32) as u32, array);
        } else {
            self.cycle(offset, size, value as u32, array);
        }
    }

    fn cycle(&mut self, offset: u64, size: u8, value: u32, array: &mut impl Array) {
        let byte = value as u8;
        self.expected = match self.expected {
            Expected::Command => self.command(byte),
            Expected::Word => {
                for (index, bits) in lanes(offset, size, value) {
                    let index = index as usize;
                    array.set_word(index, array.word(index) & bits);
                }
                Expected::Command
            }
            Expected::Count => match (value & 0xffff) as usize + 1 {
                count @ ..=BUFFER_WORDS => Expected::Data(count),
                _ => self.out_of_order(),
            },
            Expected::Data(left) => self.fill(offset, size, value, left),
            Expected::Program if byte == command::CONFIRM && !self.is_stray => {
                let first = (self.base.unwrap_or_default() / WORD) as usize;
                for (at, &bits) in self.buffer.iter().enumerate() {
                    if bits != u32::MAX {
                        array.set_word(first + at, array.word(first + at) & bits);
                    }
                }
                Expected::Command
            }
            Expected::Erase if byte == command::CONFIRM => {
                let first = offset / SECTOR * (SECTOR / WORD);
                array.erase(first as usize, (SECTOR / WORD) as usize);
                Expected::Command
            }
            Expected::Lock => match byte {
                command::LOCK | command::LOCK_DOWN | command::CONFIGURATION | command::CONFIRM => {
                    Expected::Command
                }
                _ => self.out_of_order(),
            },
            Expected::Program | Expected::Erase => self.out_of_order(),
        };
    }

    /// Takes a command; what comes next.
    fn command(&mut self, command: u8) -> Expected {
        let (mode, expected) = match command {
            command::READ_ID => (Mode::Id, Expected::Command),
            command::QUERY => (Mode::Query, Expected::Command),
            command::READ_STATUS | command::SUSPEND | command::CONFIRM => {
                (Mode::Status, Expected::Command)
            }
            command::CLEAR_STATUS => {
                self.status = status::READY;
                (self.mode, Expected::Command)
            }
            byte if command::PROGRAM.contains(&byte) => (Mode::Status, Expected::Word),
            command::BUFFER => {
                (self.base, self.is_stray) = (None, false);
                self.buffer.fill(u32::MAX);
                (Mode::Status, Expected::Count)
            }
            command::ERASE => (Mode::Status, Expected::Erase),
            command::LOCK_SETUP => (Mode::Status, Expected::Lock),
            command::READ_ARRAY | command::RESET => (Mode::Array, Expected::Command),
            // Drivers try commands of other makers' chips to learn that these are none.
            _ => (Mode::Array, Expected::Command),
        };
        self.mode = mode;
        expected
    }

    /// Takes a word into the buffer, which expects `left`; what comes next. All words have to be for one block of the buffer's
    /// size.
    fn fill(&mut self, offset: u64, size: u8, value: u32, left: usize) -> Expected {
        let base = *self.base.get_or_insert(offset / BUFFER * BUFFER);
        for (index, bits) in lanes(offset, size, value) {
            let at = index.wrapping_sub(base / WORD) as usize;
            match self.buffer.get_mut(at) {
                Some(word) => *word &= bits,
                None => self.is_stray = true,
            }
        }
        match left {
            ..=1 => Expected::Program,
            left => Expected::Data(left - 1),
        }
    }

    const fn out_of_order(&mut self) -> Expected {
        self.status |= status::OUT_OF_ORDER;
        self.mode = Mode::Status;
        Expected::Command
    }
}

/// The one or two words that `size` bytes at `offset` lie in, each with these bits in it and ones around them. What is
/// programmed only ever becomes 0.
fn lanes(offset: u64, size: u8, value: u32) -> impl Iterator<Item = (u64, u32)> {
    let shift = 8 * (offset % WORD);
    let ones = u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 4)));
    let bits = !(ones << shift) | (u64::from(value) & ones) << shift;
    let first = offset / WORD;
    [(first, bits as u32), (first + 1, (bits >> 32) as u32)]
        .into_iter()
        .filter(|&(_, bits)| bits != u32::MAX)
}

#[cfg(test)]
mod tests;
