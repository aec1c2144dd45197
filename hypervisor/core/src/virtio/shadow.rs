//! A queue of ours, which the device reads and writes (virtio 1.2, 2.7). All of it is words of 32 bits, one behind the other: the
//! descriptor table, the available ring, the used ring; then what the device is told nothing of: for each descriptor which
//! is next, and for each chain whose it is.
//!
//! Nothing that the device could write is believed but what is in the used ring, and that is checked.

use core::sync::atomic::{AtomicU32, Ordering};

use hv_abi::virtio::descriptor::{NEXT, WRITE};

/// A queue of ours.
#[derive(Debug)]
pub struct Shadow {
    words: &'static [AtomicU32],
    pa: u64,
    /// A power of two; 0 if there is no such queue.
    entries: u16,
    /// The first descriptor that is in no chain, from where on they are linked; and how many there are.
    free: u16,
    free_count: u16,
    /// How many chains were made available, and how many have come back.
    available: u16,
    used: u16,
}

/// A chain that is being made.
#[derive(Debug)]
pub struct Chain {
    first: u16,
    last: u16,
    /// Where the next descriptor goes.
    at: u16,
    count: u16,
}

impl Chain {
    /// How many descriptors it has.
    pub const fn count(&self) -> u16 {
        self.count
    }
}

/// Words of a descriptor.
const DESCRIPTOR: usize = 4;

impl Shadow {
    /// A queue with this many entries in `words`, which are [enough](hv_abi::virtio::queue_words).
    pub fn new(words: &'static [AtomicU32], pa: u64, entries: u16) -> Self {
        let mut this = Self {
            words,
            pa,
            entries,
            free: 0,
            free_count: 0,
            available: 0,
            used: 0,
        };
        this.reset();
        this
    }

    /// As before its first use. The device does not use it.
    pub fn reset(&mut self) {
        self.store(self.available_at(), 0);
        self.store(self.used_at(), 0);
        for index in 0..self.entries {
            self.set_link(index, index.wrapping_add(1));
            self.store(self.owners_at() + usize::from(index), 0);
        }
        (self.free, self.free_count) = (0, self.entries);
        (self.available, self.used) = (0, 0);
    }

    /// How many entries.
    pub const fn entries(&self) -> u16 {
        self.entries
    }

    const fn mask(&self) -> u16 {
        self.entries.wrapping_sub(1)
    }

    /// Where the descriptor table, the available ring and the used ring are.
    pub fn places(&self) -> [u64; 3] {
        [0, self.available_at(), self.used_at()].map(|word| self.pa + 4 * word as u64)
    }

    const fn available_at(&self) -> usize {
        DESCRIPTOR * self.entries as usize
    }

    const fn used_at(&self) -> usize {
        self.available_at() + 1 + (self.entries as usize).div_ceil(2)
    }

    const fn links_at(&self) -> usize {
        self.used_at() + 1 + 2 * self.entries as usize
    }

    const fn owners_at(&self) -> usize {
        self.links_at() + self.entries as usize
    }

    #[inline]
    fn load(&self, word: usize) -> u32 {
        self.words
            .get(word)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    #[inline]
    fn store(&self, word: usize, value: u32) {
        if let Some(word) = self.words.get(word) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn link(&self, index: u16) -> u16 {
        self.load(self.links_at() + usize::from(index)) as u16
    }

    fn set_link(&self, index: u16, next: u16) {
        self.store(self.links_at() + usize::from(index), next.into());
    }

    // Chains on their way to the device.

    /// A chain without a descriptor.
    pub const fn begin(&self) -> Chain {
        Chain {
            first: self.free,
            last: self.free,
            at: self.free,
            count: 0,
        }
    }

    /// Adds a descriptor to a chain. False if there is no room.
    #[inline]
    #[must_use]
    pub fn add(&self, chain: &mut Chain, (pa, size): (u64, u32), is_written: bool) -> bool {
        if chain.count == self.free_count {
            return false;
        }
        let at = chain.at;
        let next = self.link(at);
        let flags = NEXT | if is_written { WRITE } else { 0 };
        let word = DESCRIPTOR * usize::from(at);
        if let Some([low, high, length, rest]) = self.words.get(word..word + DESCRIPTOR) {
            low.store(pa as u32, Ordering::Relaxed);
            high.store((pa >> 32) as u32, Ordering::Relaxed);
            length.store(size, Ordering::Relaxed);
            rest.store(u32::from(next) << 16 | u32::from(flags), Ordering::Relaxed);
        }
        chain.last = at;
        chain.at = next;
        chain.count = chain.count.wrapping_add(1);
        true
    }

    /// Makes a chain available, which has a descriptor at least; the device sees it after [`Self::publish`]. `head` is what
    /// its owner calls it.
    pub fn commit(&mut self, chain: &Chain, head: u16) {
        let last = DESCRIPTOR * usize::from(chain.last) + 3;
        self.store(last, self.load(last) & 0xffff & !u32::from(NEXT));
        self.free = chain.at;
        self.free_count = self.free_count.wrapping_sub(chain.count);
        // Of the first: how many, and the owner's name for it; beside the link that of the last.
        let owner = self.owners_at() + usize::from(chain.first);
        self.store(owner, u32::from(chain.count) << 16 | u32::from(head));
        let links = self.links_at() + usize::from(chain.first);
        self.store(
            links,
            u32::from(chain.last) << 16 | self.load(links) & 0xffff,
        );
        let slot = self.available & self.mask();
        let word = self.available_at() + 1 + usize::from(slot / 2);
        let shift = 16 * u32::from(slot % 2);
        let others = self.load(word) & !(0xffff << shift);
        self.store(word, others | u32::from(chain.first) << shift);
        self.available = self.available.wrapping_add(1);
    }

    /// Shows the device what was made available (virtio 1.2, 2.7.13.3).
    pub fn publish(&self) {
        if let Some(head) = self.words.get(self.available_at()) {
            head.store(u32::from(self.available) << 16, Ordering::Release);
        }
    }

    // Chains that come back.

    /// The next chain that has come back: what its owner calls it, and how much was written to it. An error if the device
    /// names one that it has not got.
    pub fn take_back(&mut self) -> Result<Option<(u16, u32)>, ()> {
        let head = self.words.get(self.used_at());
        let index = head.map_or(0, |head| head.load(Ordering::Acquire) >> 16) as u16;
        if index == self.used {
            return Ok(None);
        }
        let slot = usize::from(self.used & self.mask());
        let word = self.used_at() + 1 + 2 * slot;
        let (id, written) = (self.load(word), self.load(word + 1));
        if id >= self.entries.into() {
            return Err(());
        }
        let owner = self.owners_at() + id as usize;
        let (count, head) = ((self.load(owner) >> 16) as u16, self.load(owner) as u16);
        if count == 0 {
            return Err(());
        }
        self.store(owner, 0);
        // What was the chain's last leads to what is free.
        let last = self.load(self.links_at() + id as usize) >> 16;
        self.set_link(last as u16, self.free);
        self.free = id as u16;
        self.free_count = self.free_count.wrapping_add(count);
        self.used = self.used.wrapping_add(1);
        Ok(Some((head, written)))
    }
}
