//! CRC-32, the checksum of a bundle (ISO-HDLC: polynomial 0x04C11DB7, reflected), in a form for any CPU.

use alloc::vec::Vec;

/// The reflected polynomial.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// Who computes CRC-32. A CPU may have an instruction for it; [`Table`] does without.
pub trait Crc32 {
    /// The state after `bytes`, from the state before them: the bare division, nothing inverted.
    fn update(&self, state: u32, bytes: &[u8]) -> u32;

    /// The state before the first byte.
    fn start(&self) -> u32 {
        !0
    }

    /// The checksum of one piece.
    fn checksum(&self, bytes: &[u8]) -> u32 {
        !self.update(self.start(), bytes)
    }
}

/// Computes eight bytes at a time by table. The table, 8 KiB, is made when it is needed rather than kept in an image.
#[derive(Clone, Debug)]
pub struct Table {
    /// Row `n` has, for each byte, its state after `n` zero bytes behind it.
    rows: Vec<[u32; 256]>,
}

impl Table {
    /// Makes the table.
    pub fn new() -> Self {
        let mut row = [0; 256];
        for (byte, entry) in (0..).zip(&mut row) {
            *entry = (0..8).fold(byte, |state: u32, _| match state & 1 {
                0 => state >> 1,
                _ => state >> 1 ^ POLYNOMIAL,
            });
        }
        let first = row;
        let mut rows = Vec::with_capacity(8);
        for _ in 0..8 {
            rows.push(row);
            for entry in &mut row {
                *entry = *entry >> 8 ^ look_up(&first, *entry as u8);
            }
        }
        Self { rows }
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl Crc32 for Table {
    fn update(&self, mut state: u32, bytes: &[u8]) -> u32 {
        let [first, ..] = &self.rows[..] else {
            return state;
        };
        let (chunks, rest) = bytes.as_chunks::<8>();
        for &chunk in chunks {
            let [s0, s1, s2, s3] = state.to_le_bytes();
            let [a, b, c, d, rest @ ..] = chunk;
            let head = [a ^ s0, b ^ s1, c ^ s2, d ^ s3];
            // The byte that came first has most zero bytes behind it.
            let bytes = head.into_iter().chain(rest);
            state = self
                .rows
                .iter()
                .rev()
                .zip(bytes)
                .fold(0, |state, (row, byte)| state ^ look_up(row, byte));
        }
        for &byte in rest {
            state = state >> 8 ^ look_up(first, state as u8 ^ byte);
        }
        state
    }
}

fn look_up(row: &[u32; 256], byte: u8) -> u32 {
    row.get(usize::from(byte)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, as the definition has it.
    fn by_bits(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |state, &byte| {
            (0..8).fold(state ^ u32::from(byte), |state: u32, _| match state & 1 {
                0 => state >> 1,
                _ => state >> 1 ^ POLYNOMIAL,
            })
        })
    }

    #[test]
    fn the_check_value_is_the_catalogue_s() {
        assert_eq!(Table::new().checksum(b"123456789"), 0xcbf4_3926);
        assert_eq!(Table::new().checksum(b""), 0);
    }

    #[test]
    fn every_length_and_every_cut_comes_out_as_bit_by_bit() {
        let table = Table::new();
        let bytes: Vec<u8> = (0..100u32).map(|at| (at * at * 7 + 3) as u8).collect();
        for length in 0..bytes.len() {
            let part = &bytes[..length];
            let expected = by_bits(part);
            assert_eq!(table.checksum(part), expected, "{length} bytes");
            for cut in 0..length {
                let (before, after) = part.split_at(cut);
                let state = table.update(table.update(table.start(), before), after);
                assert_eq!(!state, expected, "{length} bytes cut at {cut}");
            }
        }
    }

    #[test]
    fn every_byte_is_in_every_row() {
        let table = Table::new();
        for place in 0..8 {
            for byte in 0..=255 {
                let mut bytes = [0; 8];
                bytes[place] = byte;
                assert_eq!(table.checksum(&bytes), by_bits(&bytes));
            }
        }
    }
}
