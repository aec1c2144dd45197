//! A guest's driver: it sets up a queue and puts chains into it.

use hv_abi::virtio::{KINDS, Kind, register, status};
use hv_core::virtio::{Mediator, Written};

use crate::device::{Model, State};
use crate::ram::{PIECES, Ram};

/// A descriptor: where, how much, flags, next.
pub type Descriptor = (u64, u32, u16, u16);

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A block device.
pub const BLOCK: &Kind = &KINDS[1];

/// Where the driver has its table and its rings: the table across the break between two pieces.
pub const TABLE: u64 = PIECES[1].0 - 0x20;
pub const DRIVER: u64 = PIECES[0].0 + 0x1000;
pub const DEVICE: u64 = PIECES[0].0 + 0x2000;
/// Where tables of descriptors of their own are, and data.
pub const INDIRECTS: u64 = PIECES[0].0 + 0x4000;
pub const DATA: u64 = PIECES[1].0 + 0x4000;

/// A guest with one device.
pub struct Rig {
    pub mediator: Mediator,
    pub model: Model,
    pub ram: Ram,
    pub size: u16,
    /// The available ring's index.
    pub available: u16,
    /// How many used elements it has seen.
    pub used: u16,
}

impl Rig {
    /// With a queue of `size` entries that is ready, of a device with `most`.
    pub fn new(size: u16, most: u32) -> Self {
        let mut rig = Self::fresh(most);
        rig.set_up(size);
        rig
    }

    /// As the device is found.
    pub fn fresh(most: u32) -> Self {
        let (model, area) = Model::new(BLOCK.queues, most);
        let mediator = Mediator::new(BLOCK, Box::new(model.clone()), area);
        Self {
            mediator,
            model,
            ram: Ram::new(),
            size: 0,
            available: 0,
            used: 0,
        }
    }

    pub fn read(&self, offset: u64) -> u32 {
        self.mediator.read(offset, 4) as u32
    }

    pub fn write(&mut self, offset: u64, value: u32) -> Written {
        self.mediator.write(offset, 4, value.into(), &mut self.ram)
    }

    /// Agrees on all features that are offered.
    pub fn agree(&mut self) {
        for value in [0, 1, 3] {
            let _ = self.write(register::STATUS, value);
        }
        for select in [0, 1] {
            let _ = self.write(register::DEVICE_FEATURES_SEL, select);
            let offered = self.read(register::DEVICE_FEATURES);
            let _ = self.write(register::DRIVER_FEATURES_SEL, select);
            let _ = self.write(register::DRIVER_FEATURES, offered);
        }
        let _ = self.write(register::STATUS, 3 | status::FEATURES_OK);
        assert_eq!(self.read(register::STATUS), 3 | status::FEATURES_OK);
    }

    /// Says where the queue is, and that it is ready.
    pub fn place(&mut self, size: u32, [table, driver, device]: [u64; 3]) {
        let _ = self.write(register::QUEUE_SEL, 0);
        let _ = self.write(register::QUEUE_SIZE, size);
        for (offset, place) in [(0x80, table), (0x90, driver), (0xa0, device)] {
            let _ = self.write(offset, place as u32);
            let _ = self.write(offset + 4, (place >> 32) as u32);
        }
        let _ = self.write(register::QUEUE_READY, 1);
    }

    /// All that a driver does, from the reset on.
    pub fn set_up(&mut self, size: u16) {
        self.agree();
        (self.size, self.available, self.used) = (size, 0, 0);
        self.ram.set(DRIVER, &[0; 4]);
        self.ram.set(DEVICE, &[0; 4]);
        self.place(size.into(), [TABLE, DRIVER, DEVICE]);
        assert_eq!(self.read(register::QUEUE_READY), 1);
        let _ = self.write(register::STATUS, 7 | status::FEATURES_OK);
        assert_eq!(self.read(register::STATUS), 7 | status::FEATURES_OK);
    }

    /// Writes a descriptor.
    pub fn describe(&self, table: u64, index: u16, (address, length, flags, next): Descriptor) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        let at = table + 16 * u64::from(index);
        // A table may lie across a break.
        for (at, byte) in (at..).zip(bytes) {
            self.ram.set(at, &[byte]);
        }
    }

    /// Makes chains available, by their heads.
    pub fn offer(&mut self, heads: &[u16]) {
        for head in heads {
            let slot = u64::from(self.available % self.size);
            self.ram.set(DRIVER + 4 + 2 * slot, &head.to_le_bytes());
            self.available = self.available.wrapping_add(1);
        }
        self.ram.set(DRIVER + 2, &self.available.to_le_bytes());
    }

    /// Notifies until that is done. How often.
    pub fn notify(&mut self) -> usize {
        for count in 1..10_000 {
            if self.write(register::QUEUE_NOTIFY, 0) == Written::Done {
                return count;
            }
        }
        panic!("there is no end to it");
    }

    /// The device.
    pub fn device(&self) -> std::sync::MutexGuard<'_, State> {
        self.model.0.lock().expect("one thread")
    }

    /// The device interrupts, if it does.
    pub fn interrupt(&mut self) {
        let interrupts = self.device().interrupts;
        if interrupts != 0 {
            let _ = self.mediator.interrupted(&mut self.ram);
        }
    }

    /// The used elements that are new.
    pub fn take_used(&mut self) -> Vec<(u32, u32)> {
        let index = self.half(DEVICE + 2);
        let mut elements = Vec::new();
        while self.used != index {
            let at = DEVICE + 4 + 8 * u64::from(self.used % self.size);
            let word = |at| u32::from_le_bytes(self.ram.get(at, 4).try_into().expect("4 bytes"));
            elements.push((word(at), word(at + 4)));
            self.used = self.used.wrapping_add(1);
        }
        elements
    }

    pub fn half(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.ram.get(at, 2).try_into().expect("2 bytes"))
    }

    /// Whether the guest is told that the device does not work.
    pub fn is_broken(&self) -> bool {
        self.read(register::STATUS) & status::NEEDS_RESET != 0
    }
}
