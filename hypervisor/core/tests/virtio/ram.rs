//! A guest's RAM, in pieces that lie apart, and whose guest may change it whenever it is read.

use std::cell::{Cell, RefCell};

use hv_core::virtio::queue::Memory;

/// Where the guest finds a piece, where it is, and its size.
pub type Piece = (u64, u64, u64);

/// Two pieces behind each other for the guest, which are apart; then one more behind a hole.
pub const PIECES: [Piece; 3] = [
    (0x4000_0000, 0x9000_0000, 0x8000),
    (0x4000_8000, 0x7000_0000, 0x8000),
    (0x4010_0000, 0x7000_8000, 0x8000),
];

/// The RAM.
#[derive(Default)]
pub struct Ram {
    bytes: RefCell<Vec<u8>>,
    /// How often it was read since somebody asked.
    pub loads: Cell<usize>,
    /// What the guest writes each time that somebody reads; nothing if there is no seed.
    seed: Cell<u64>,
}

impl Ram {
    /// All zeros.
    pub fn new() -> Self {
        let size: u64 = PIECES.iter().map(|piece| piece.2).sum();
        Self {
            bytes: RefCell::new(vec![0; size as usize]),
            ..Self::default()
        }
    }

    /// The guest writes something anywhere whenever anybody reads.
    pub fn be_restless(&self, seed: u64) {
        self.seed.set(seed | 1);
    }

    fn place(ipa: u64, size: u64) -> Option<usize> {
        let mut before = 0;
        for (start, _, length) in PIECES {
            let offset = ipa.wrapping_sub(start);
            if offset < length {
                return (size <= length - offset).then_some((before + offset) as usize);
            }
            before += length;
        }
        None
    }

    /// Whether all of it is RAM of the guest's, by physical addresses.
    pub fn has_physical(pa: u64, size: u64) -> bool {
        let is_in = |&(_, start, length): &Piece| {
            pa >= start && pa < start + length && size <= start + length - pa
        };
        PIECES.iter().any(is_in)
    }

    /// What the guest finds at `ipa`.
    pub fn get(&self, ipa: u64, size: usize) -> Vec<u8> {
        let at = Self::place(ipa, size as u64).expect("RAM");
        self.bytes.borrow()[at..at + size].to_vec()
    }

    /// The guest writes.
    pub fn set(&self, ipa: u64, bytes: &[u8]) {
        let at = Self::place(ipa, bytes.len() as u64).expect("RAM");
        self.bytes.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn load(&self, ipa: u64, size: u64) -> Option<Vec<u8>> {
        self.loads.set(self.loads.get() + 1);
        if !ipa.is_multiple_of(size) {
            return None;
        }
        let at = Self::place(ipa, size)?;
        let value = self.bytes.borrow()[at..at + size as usize].to_vec();
        if self.seed.get() != 0 {
            let mut state = self.seed.get();
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            self.seed.set(state);
            // Mostly what was just read.
            let mut bytes = self.bytes.borrow_mut();
            let count = bytes.len();
            let place = if state & 3 != 0 { at } else { state as usize };
            bytes[place % count] = (state >> 32) as u8;
        }
        Some(value)
    }
}

impl Memory for Ram {
    fn locate(&self, ipa: u64, size: u64) -> Option<(u64, u64)> {
        PIECES.iter().find_map(|&(start, pa, length)| {
            let offset = ipa.checked_sub(start).filter(|&offset| offset < length)?;
            Some((pa + offset, size.min(length - offset)))
        })
    }

    fn load16(&self, ipa: u64) -> Option<u16> {
        let bytes = self.load(ipa, 2)?;
        Some(u16::from_le_bytes(bytes.try_into().ok()?))
    }

    fn load_descriptor(&self, ipa: u64) -> Option<[u64; 2]> {
        let load = |ipa| Some(u64::from_le_bytes(self.load(ipa, 8)?.try_into().ok()?));
        Some([load(ipa)?, load(ipa.checked_add(8)?)?])
    }

    fn store16(&mut self, ipa: u64, value: u16) -> Option<()> {
        Self::place(ipa, 2).filter(|_| ipa.is_multiple_of(2))?;
        self.set(ipa, &value.to_le_bytes());
        Some(())
    }

    fn store32(&mut self, ipa: u64, value: u32) -> Option<()> {
        Self::place(ipa, 4).filter(|_| ipa.is_multiple_of(4))?;
        self.set(ipa, &value.to_le_bytes());
        Some(())
    }
}
