//! One queue of a mediated device: the guest's, in its RAM (virtio 1.2, 2.7), and the one that the device has instead.
//!
//! The guest may write to its queue whenever it likes. Each word of it is read once, and what was read is checked and used.

use core::sync::atomic::{Ordering, fence};

use hv_abi::virtio::descriptor::{INDIRECT, NEXT, WRITE};
use hv_abi::virtio::{NO_INTERRUPT, register};

use super::shadow::{Chain, Shadow};

/// A guest's RAM. What is not there, or not aligned, is neither read nor written.
pub trait Memory {
    /// Where the first of `size` bytes from `ipa` on is, as a device knows it, and how many of them follow there without a
    /// break; none if no RAM is there.
    fn locate(&self, ipa: u64, size: u64) -> Option<(u64, u64)>;
    /// Reads 2 bytes at once.
    fn load16(&self, ipa: u64) -> Option<u16>;
    /// Reads two times 8 bytes, each at once; `ipa` is a multiple of 8.
    fn load_descriptor(&self, ipa: u64) -> Option<[u64; 2]>;
    /// Writes 2 bytes at once.
    fn store16(&mut self, ipa: u64, value: u16) -> Option<()>;
    /// Writes 4 bytes.
    fn store32(&mut self, ipa: u64, value: u32) -> Option<()>;
}

/// What is in the guest's queue makes no sense, or is no RAM of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// What is left in the guest's queue, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing.
    Nothing,
    /// There is no room for the next chain until others have come back.
    Room,
    /// It is enough for one exit.
    Budget,
}

/// What [`Queue::take`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How many chains the device has got.
    pub count: u16,
    /// What is left.
    pub rest: Result<Rest, Broken>,
}

/// Why a chain was not taken.
enum Stop {
    Broken,
    /// There is no room for it now.
    Full,
}

impl From<Broken> for Stop {
    fn from(_: Broken) -> Self {
        Self::Broken
    }
}

/// A descriptor as the guest has written it.
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    const fn decode([address, rest]: [u64; 2]) -> Self {
        Self {
            address,
            length: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }

    const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Bytes of a descriptor, and of an element of the used ring.
const DESCRIPTOR: u64 = 16;
const USED: u64 = 8;
/// Bytes in front of the elements of either ring, and of which the second half is the index.
const HEAD: u64 = 4;
const INDEX: u64 = 2;
/// A chain has fewer bytes (virtio 1.2, 2.7.5).
const MOST_BYTES: u64 = 1 << 32;

/// One queue.
#[derive(Debug)]
pub struct Queue {
    number: u32,
    shadow: Shadow,
    is_ready: bool,
    /// It was in use since the device was reset.
    is_spent: bool,
    waits_for_room: bool,
    /// As the guest has set it up: entries, and where descriptor table, available and used ring are.
    size: u32,
    table: u64,
    driver: u64,
    device: u64,
    /// How many chains were taken, and how many were given back.
    available: u16,
    used: u16,
}

impl Queue {
    /// One that is not in use.
    pub const fn new(number: u32, shadow: Shadow) -> Self {
        Self {
            number,
            shadow,
            is_ready: false,
            is_spent: false,
            waits_for_room: false,
            size: 0,
            table: 0,
            driver: 0,
            device: 0,
            available: 0,
            used: 0,
        }
    }

    /// As after a reset of the device, which does not use it.
    pub fn reset(&mut self) {
        if self.is_spent {
            self.shadow.reset();
        }
        (self.is_ready, self.is_spent, self.waits_for_room) = (false, false, false);
        (self.size, self.table, self.driver, self.device) = (0, 0, 0, 0);
        (self.available, self.used) = (0, 0);
    }

    /// Which of the device's.
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// How many entries it can have at most: as many as ours has.
    pub fn most(&self) -> u32 {
        self.shadow.entries().into()
    }

    /// Whether it is in use.
    pub const fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Whether it has been in use since the device was reset.
    pub const fn is_spent(&self) -> bool {
        self.is_spent
    }

    /// Whether chains are left that had no room.
    pub const fn waits_for_room(&self) -> bool {
        self.waits_for_room
    }

    /// Where the device finds descriptor table, available and used ring.
    pub fn places(&self) -> [u64; 3] {
        self.shadow.places()
    }

    /// The guest sets it up; while it is in use, that changes nothing.
    pub fn write(&mut self, offset: u64, value: u32) {
        if self.is_ready {
            return;
        }
        let place = match offset & !4 {
            register::QUEUE_DESC => &mut self.table,
            register::QUEUE_DRIVER => &mut self.driver,
            register::QUEUE_DEVICE => &mut self.device,
            _ if offset == register::QUEUE_SIZE => {
                self.size = value;
                return;
            }
            _ => return,
        };
        *place = if offset & 4 == 0 {
            *place >> 32 << 32 | u64::from(value)
        } else {
            *place & 0xffff_ffff | u64::from(value) << 32
        };
    }

    /// The guest begins to use it.
    pub fn start(&mut self, ram: &impl Memory) -> Result<(), Broken> {
        let size = u64::from(self.size);
        // Sizes and alignments: virtio 1.2, 2.7.
        let parts = [
            (self.table, DESCRIPTOR * size, 16),
            (self.driver, HEAD + 2 * size, 2),
            (self.device, HEAD + USED * size, 4),
        ];
        let is_sound = self.size.is_power_of_two() && self.size <= self.most();
        let is_there = |&(ipa, size, align): &(u64, u64, u64)| {
            ipa.is_multiple_of(align) && is_ram(ram, ipa, size)
        };
        if !is_sound || !parts.iter().all(is_there) {
            return Err(Broken);
        }
        (self.is_ready, self.is_spent) = (true, true);
        Ok(())
    }

    /// The guest does not use it any more. Whether it did.
    pub const fn stop(&mut self) -> bool {
        core::mem::replace(&mut self.is_ready, false)
    }

    const fn slot(&self, index: u16) -> u64 {
        (index as u32 & self.size.wrapping_sub(1)) as u64
    }

    /// Takes chains that the guest has made available, until so many descriptors are taken or more.
    pub fn take(&mut self, budget: usize, ram: &impl Memory) -> Taken {
        let before = self.available;
        let rest = self.take_chains(budget, ram);
        let count = self.available.wrapping_sub(before);
        if count != 0 {
            self.shadow.publish();
        }
        self.waits_for_room = matches!(rest, Ok(Rest::Room | Rest::Budget));
        Taken { count, rest }
    }

    fn take_chains(&mut self, budget: usize, ram: &impl Memory) -> Result<Rest, Broken> {
        let index = ram.load16(self.driver.wrapping_add(INDEX)).ok_or(Broken)?;
        // What the guest wrote before the index is read after it (virtio 1.2, 2.7.13.3.1).
        fence(Ordering::Acquire);
        if u32::from(index.wrapping_sub(self.available)) > self.size {
            return Err(Broken);
        }
        let mut taken = 0;
        while self.available != index {
            if taken >= budget {
                return Ok(Rest::Budget);
            }
            let slot = HEAD + 2 * self.slot(self.available);
            let head = ram.load16(self.driver.wrapping_add(slot)).ok_or(Broken)?;
            let mut chain = self.shadow.begin();
            match self.gather(head, &mut chain, ram) {
                Ok(()) => {}
                // One that has no room in an empty queue never has.
                Err(Stop::Full) if self.used == self.available => return Err(Broken),
                Err(Stop::Full) => return Ok(Rest::Room),
                Err(Stop::Broken) => return Err(Broken),
            }
            self.shadow.commit(&chain, head);
            self.available = self.available.wrapping_add(1);
            taken += usize::from(chain.count());
        }
        Ok(Rest::Nothing)
    }

    /// Follows a chain of the guest's: the descriptors in its table, or at last a table of their own.
    fn gather(&self, head: u16, chain: &mut Chain, ram: &impl Memory) -> Result<(), Stop> {
        let (mut table, mut entries) = (self.table, self.size);
        let mut is_indirect = false;
        let (mut index, mut bytes, mut is_writing) = (head, 0, false);
        // No chain is longer than the queue (virtio 1.2, 2.7.5.3.1), so what goes on beyond goes in a circle.
        for _ in 0..=self.size {
            if u32::from(index) >= entries {
                return Err(Stop::Broken);
            }
            let at = table.wrapping_add(DESCRIPTOR * u64::from(index));
            let words = ram.load_descriptor(at).ok_or(Stop::Broken)?;
            let it = Descriptor::decode(words);
            if it.has(INDIRECT) {
                let is_table = it.length != 0 && u64::from(it.length).is_multiple_of(DESCRIPTOR);
                if is_indirect || it.has(NEXT) || !is_table {
                    return Err(Stop::Broken);
                }
                (table, entries) = (it.address, it.length / DESCRIPTOR as u32);
                (index, is_indirect) = (0, true);
                continue;
            }
            // What the device reads comes first (virtio 1.2, 2.7.4.2).
            if is_writing && !it.has(WRITE) {
                return Err(Stop::Broken);
            }
            is_writing = it.has(WRITE);
            bytes += u64::from(it.length);
            if it.length == 0 || bytes >= MOST_BYTES {
                return Err(Stop::Broken);
            }
            self.add(&it, chain, ram)?;
            if !it.has(NEXT) {
                return Ok(());
            }
            index = it.next;
        }
        Err(Stop::Broken)
    }

    /// Adds what a descriptor names, each part where it is.
    fn add(&self, it: &Descriptor, chain: &mut Chain, ram: &impl Memory) -> Result<(), Stop> {
        let (mut ipa, mut left) = (it.address, it.length);
        while left != 0 {
            let (pa, size) = ram.locate(ipa, left.into()).ok_or(Stop::Broken)?;
            let size = (size as u32).min(left);
            if size == 0 {
                return Err(Stop::Broken);
            }
            if !self.shadow.add(chain, (pa, size), it.has(WRITE)) {
                return Err(Stop::Full);
            }
            ipa = ipa.checked_add(size.into()).ok_or(Stop::Broken)?;
            left = left.wrapping_sub(size);
        }
        Ok(())
    }

    /// Gives the guest back what the device is done with. Whether the guest wants to be interrupted for it.
    pub fn give_back(&mut self, ram: &mut impl Memory) -> Result<bool, Broken> {
        let before = self.used;
        while let Some((head, written)) = self.shadow.take_back().map_err(|()| Broken)? {
            let at = self.device.wrapping_add(HEAD + USED * self.slot(self.used));
            ram.store32(at, head.into()).ok_or(Broken)?;
            ram.store32(at + 4, written).ok_or(Broken)?;
            self.used = self.used.wrapping_add(1);
        }
        if self.used == before {
            return Ok(false);
        }
        // The elements first, then the index (virtio 1.2, 2.7.8.2); then whether that is to be told (2.7.7.2).
        fence(Ordering::Release);
        let index = self.device.wrapping_add(INDEX);
        ram.store16(index, self.used).ok_or(Broken)?;
        fence(Ordering::SeqCst);
        let flags = ram.load16(self.driver).ok_or(Broken)?;
        Ok(flags & NO_INTERRUPT == 0)
    }
}

/// Whether all of it is RAM.
fn is_ram(ram: &impl Memory, mut ipa: u64, mut size: u64) -> bool {
    while size != 0 {
        let Some((_, part)) = ram.locate(ipa, size).filter(|&(_, part)| part != 0) else {
            return false;
        };
        let Some(next) = ipa.checked_add(part) else {
            return false;
        };
        (ipa, size) = (next, size.saturating_sub(part));
    }
    true
}
