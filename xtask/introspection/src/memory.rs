//! Memory that can be read, by physical address (of a guest: IPA), and what was read of it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

/// Memory of a machine.
pub trait Memory {
    /// Fills `bytes` with what stands at `address` and behind it.
    ///
    /// # Errors
    ///
    /// If there is no memory, or nobody answers.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()>;
}

impl<M: Memory + ?Sized> Memory for &mut M {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        (**self).read(address, bytes)
    }
}

/// Memory that is read in blocks, each once: for as long as this lives, what changes there is not seen.
pub struct Cached<M> {
    below: M,
    /// In bytes, a power of two.
    block: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl<M: Memory> Cached<M> {
    /// Of what is in `below`. A block is as much as is asked for at a time at least: over a serial line 256 bytes take some 50 ms.
    pub fn new(below: M, block: u64) -> Self {
        assert!(block.is_power_of_two(), "blocks are aligned");
        Self {
            below,
            block,
            blocks: BTreeMap::new(),
        }
    }

    /// Where it is read from.
    pub const fn below(&mut self) -> &mut M {
        &mut self.below
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.blocks.clear();
    }

    /// Reads the blocks from `first` up to `end` that are missing, neighbours together.
    fn fetch(&mut self, first: u64, end: u64) -> Result<()> {
        let mut at = first;
        while at < end {
            if self.blocks.contains_key(&at) {
                at += self.block;
                continue;
            }
            let mut until = at + self.block;
            while until < end && !self.blocks.contains_key(&until) {
                until += self.block;
            }
            let mut bytes = vec![0; usize::try_from(until - at)?];
            self.below.read(at, &mut bytes)?;
            for block in bytes.chunks(usize::try_from(self.block)?) {
                self.blocks.insert(at, block.to_vec());
                at += self.block;
            }
        }
        Ok(())
    }
}

impl<M: Memory> Memory for Cached<M> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let end = address.checked_add(bytes.len() as u64 + self.block);
        ensure!(end.is_some(), "{address:#x} is at the end of all addresses");
        let first = address & !(self.block - 1);
        self.fetch(first, address + bytes.len() as u64)?;
        let mut done = 0;
        while done < bytes.len() {
            let at = address + done as u64;
            let start = at & !(self.block - 1);
            let block = &self.blocks[&start];
            let from = &block[usize::try_from(at - start)?..];
            let count = from.len().min(bytes.len() - done);
            bytes[done..done + count].copy_from_slice(&from[..count]);
            done += count;
        }
        Ok(())
    }
}

/// Little-endian words and strings, of any memory.
pub trait Words {
    /// `length` bytes from `address`.
    fn bytes(&mut self, address: u64, length: usize) -> Result<Vec<u8>>;

    /// The 16 bits at `address`.
    fn u16(&mut self, address: u64) -> Result<u16> {
        Ok(u16::from_le_bytes(array(&self.bytes(address, 2)?)))
    }

    /// The 32 bits at `address`.
    fn u32(&mut self, address: u64) -> Result<u32> {
        Ok(u32::from_le_bytes(array(&self.bytes(address, 4)?)))
    }

    /// The 64 bits at `address`.
    fn u64(&mut self, address: u64) -> Result<u64> {
        Ok(u64::from_le_bytes(array(&self.bytes(address, 8)?)))
    }
}

impl<M: Memory + ?Sized> Words for M {
    fn bytes(&mut self, address: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }
}

/// As many bytes as were asked for.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
pub(crate) mod tests {
    use anyhow::bail;

    use super::*;

    /// Memory in pieces, which counts how often it is read.
    #[derive(Default)]
    pub struct Pieces {
        pub pieces: BTreeMap<u64, Vec<u8>>,
        pub reads: Vec<(u64, usize)>,
    }

    impl Pieces {
        pub fn put(&mut self, address: u64, bytes: &[u8]) {
            self.pieces.insert(address, bytes.to_vec());
        }

        pub fn put_u64(&mut self, address: u64, word: u64) {
            let (start, piece) = self.pieces.range_mut(..=address).next_back().unwrap();
            let at = (address - start) as usize;
            piece[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
    }

    impl Memory for Pieces {
        fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
            self.reads.push((address, bytes.len()));
            let piece = self.pieces.range(..=address).next_back();
            if let Some((start, piece)) = piece
                && let Some(rest) = piece.get((address - start) as usize..)
                && let Some(found) = rest.get(..bytes.len())
            {
                bytes.copy_from_slice(found);
                return Ok(());
            }
            bail!("no memory at {address:#x}")
        }
    }

    #[test]
    fn a_block_is_read_once_and_neighbours_together() {
        let mut pieces = Pieces::default();
        let bytes: Vec<u8> = (0..1024u32).map(|n| n as u8).collect();
        pieces.put(0x1000, &bytes);
        let mut cached = Cached::new(&mut pieces, 64);
        assert_eq!(cached.bytes(0x10c7, 2).unwrap(), bytes[0xc7..0xc9]);
        assert_eq!(cached.bytes(0x1000, 0x180).unwrap(), bytes[..0x180]);
        assert_eq!(cached.u16(0x1001).unwrap(), 0x0201);
        assert_eq!(cached.u64(0x10c0).unwrap(), 0xc7c6_c5c4_c3c2_c1c0);
        cached.clear();
        assert_eq!(cached.u32(0x1000).unwrap(), 0x0302_0100);
        let reads = [(0x10c0, 64), (0x1000, 0xc0), (0x1100, 0x80), (0x1000, 64)];
        assert_eq!(pieces.reads, reads);
    }

    #[test]
    fn what_is_not_there_is_an_error_and_nothing_wraps() {
        let mut pieces = Pieces::default();
        pieces.put(0x1000, &[0; 64]);
        let mut cached = Cached::new(&mut pieces, 64);
        assert!(cached.u64(0x103c).is_err());
        assert!(cached.u64(u64::MAX - 3).is_err());
        assert!(cached.u64(0x1038).is_ok());
    }
}
