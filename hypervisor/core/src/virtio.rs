//! Mediated virtio devices. A guest meets a transport of its own, as virtio 1.2 has it (4.2.2), and the device meets queues of
//! ours: what the guest puts into a queue is read once, checked against the guest's own RAM, and written to a queue that the
//! guest cannot reach ([`queue`]). Data is not copied; what the device is done with is.
//!
//! A guest can put what it likes into its queues. What makes no sense stops this device until the guest resets it, and nothing
//! else: the guest is told as virtio has it, by NEEDS_RESET. Whatever a guest does, one access costs at most [`BUDGET`]
//! descriptors and one chain.

pub mod queue;
mod shadow;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;

use hv_abi::virtio::{
    CONFIG_CHANGED, DEVICE_FEATURES, INDIRECT_DESC, Kind, MAGIC, MOST_ENTRIES, TRANSPORT_SIZE,
    USED, VERSION, VERSION_1, queue_words, register, status,
};

use self::queue::{Broken, Memory, Queue, Rest};
use self::shadow::Shadow;

/// So many descriptors are taken in one exit, and one chain at most beyond.
pub const BUDGET: usize = 256;

/// How often a device is asked whether it is reset. QEMU's is at once.
const RESET_PATIENCE: usize = 1000;

/// The registers of the physical transport.
pub trait Device: Send {
    /// Reads 1, 2 or 4 bytes; `offset` is a multiple of that.
    fn read(&self, offset: u64, size: u8) -> u32;
    /// Writes them. What was written to memory before is seen by the device first.
    fn write(&self, offset: u64, size: u8, value: u32);
}

/// Memory of ours that the device reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// The memory, which nobody else uses.
    pub words: &'static [AtomicU32],
    /// Where that is, as the device knows it: a multiple of 16.
    pub pa: u64,
}

/// Whether the guest goes on behind its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// It does.
    Done,
    /// It makes the same store again: there was more to do than one exit is for.
    Again,
    /// It does, and has reset the device, which does not interrupt any more.
    Reset,
}

/// What the device's interrupt line does once it has been acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Line {
    /// It falls.
    Falls,
    /// It stays up until the device is reset.
    Stays,
}

/// A transport as its guest meets it, and the device behind it.
pub struct Mediator {
    device: Box<dyn Device>,
    kind: &'static Kind,
    queues: Vec<Queue>,
    /// QueueSel, DeviceFeaturesSel and DriverFeaturesSel.
    queue_sel: u32,
    offered_sel: u32,
    accepted_sel: u32,
    /// What the driver accepts, and whether that is more than it was offered.
    accepted: [u32; 2],
    accepts_too_much: [bool; 2],
    /// The device status.
    status: u32,
    /// Interrupt status.
    interrupts: u32,
    is_broken: bool,
    /// The level of the interrupt line that the virtual GIC knows.
    pub line: bool,
    /// The device has interrupted while the guest was frozen, or does not end to; its interrupt is still active.
    pub is_owed: bool,
}

impl core::fmt::Debug for Mediator {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.kind.name)
    }
}

impl Mediator {
    /// Of a device, which is reset. `area` is [as large](hv_abi::virtio::queue_bytes) as its queues want.
    pub fn new(kind: &'static Kind, device: Box<dyn Device>, area: Area) -> Self {
        let mut this = Self {
            device,
            kind,
            queues: Vec::new(),
            queue_sel: 0,
            offered_sel: 0,
            accepted_sel: 0,
            accepted: [0; 2],
            accepts_too_much: [false; 2],
            status: 0,
            interrupts: 0,
            is_broken: false,
            line: false,
            is_owed: false,
        };
        this.reset();
        let mut from = 0;
        for number in 0..kind.queues as u32 {
            this.device_write(register::QUEUE_SEL, number);
            let most = this.device.read(register::QUEUE_SIZE_MAX, 4);
            // A power of two (virtio 1.2, 2.7).
            let entries = match most.min(MOST_ENTRIES).checked_ilog2() {
                Some(log) => 1 << log,
                None => 0,
            };
            let to = from + queue_words(entries);
            let words = area.words.get(from..to).unwrap_or_default();
            let shadow = Shadow::new(words, area.pa + 4 * from as u64, entries as u16);
            this.queues.push(Queue::new(number, shadow));
            from = to;
        }
        this
    }

    /// Whether the guest is to be interrupted.
    pub const fn level(&self) -> bool {
        self.interrupts != 0
    }

    fn device_write(&self, register: u64, value: u32) {
        self.device.write(register, 4, value);
    }

    /// What the guest reads.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        if offset >= register::CONFIG {
            return self.read_config(offset, size);
        }
        if size != 4 || !offset.is_multiple_of(4) {
            return 0;
        }
        let queue = self.queues.get(self.queue_sel as usize);
        let value = match offset {
            register::MAGIC => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => self.kind.id,
            register::DEVICE_FEATURES => self.offered(self.offered_sel),
            register::QUEUE_SIZE_MAX => queue.map_or(0, Queue::most),
            register::QUEUE_READY => queue.map_or(0, |queue| queue.is_ready().into()),
            register::INTERRUPT_STATUS => self.interrupts,
            register::STATUS => self.read_status(),
            register::VENDOR_ID | register::CONFIG_GENERATION => self.device.read(offset, 4),
            offset if register::SHM.contains(&offset) => u32::MAX,
            _ => 0,
        };
        value.into()
    }

    /// What the guest writes.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, ram: &mut impl Memory) -> Written {
        if offset >= register::CONFIG {
            self.write_config(offset, size, value);
            return Written::Done;
        }
        if size != 4 || !offset.is_multiple_of(4) {
            return Written::Done;
        }
        let value = value as u32;
        match offset {
            register::QUEUE_NOTIFY => return self.notified(value, ram),
            register::INTERRUPT_ACK => self.interrupts &= !value,
            register::DEVICE_FEATURES_SEL => self.offered_sel = value,
            register::DRIVER_FEATURES_SEL => self.accepted_sel = value,
            register::DRIVER_FEATURES => self.accept(value),
            register::QUEUE_SEL => self.queue_sel = value,
            register::QUEUE_READY => self.set_ready(value == 1, ram),
            register::STATUS if value == 0 => {
                self.reset();
                return Written::Reset;
            }
            register::STATUS => self.write_status(value),
            _ => {
                if let Some(queue) = self.queues.get_mut(self.queue_sel as usize) {
                    queue.write(offset, value);
                }
            }
        }
        Written::Done
    }

    // Configuration, which is the device's own.

    fn read_config(&self, offset: u64, size: u8) -> u64 {
        if !is_config(offset, size) {
            return 0;
        }
        if size == 8 {
            let [low, high] = [offset, offset + 4].map(|at| u64::from(self.device.read(at, 4)));
            return high << 32 | low;
        }
        self.device.read(offset, size).into()
    }

    fn write_config(&self, offset: u64, size: u8, value: u64) {
        if !is_config(offset, size) {
            return;
        }
        self.device.write(offset, size.min(4), value as u32);
        if size == 8 {
            self.device_write(offset + 4, (value >> 32) as u32);
        }
    }

    // Features and status.

    /// Those of 32 features that are offered: the device type's own, and of what is about queues what is done here.
    fn offered(&self, select: u32) -> u32 {
        match select {
            0 => {
                self.device_write(register::DEVICE_FEATURES_SEL, 0);
                let features = self.device.read(register::DEVICE_FEATURES, 4);
                features & DEVICE_FEATURES & !self.kind.withheld | INDIRECT_DESC
            }
            1 => VERSION_1,
            _ => 0,
        }
    }

    /// The driver accepts 32 features.
    fn accept(&mut self, features: u32) {
        let select = self.accepted_sel;
        let offered = self.offered(select);
        let Some(accepted) = self.accepted.get_mut(select as usize) else {
            return;
        };
        // They are agreed on only once.
        if self.status & status::FEATURES_OK != 0 {
            return;
        }
        *accepted = features & offered;
        if let Some(too_much) = self.accepts_too_much.get_mut(select as usize) {
            *too_much = features & !offered != 0;
        }
    }

    fn read_status(&self) -> u32 {
        let status = self.device.read(register::STATUS, 4);
        if self.is_broken {
            status | status::NEEDS_RESET
        } else {
            status
        }
    }

    fn write_status(&mut self, value: u32) {
        let mut value = value & !status::NEEDS_RESET;
        if value & !self.status & status::FEATURES_OK != 0 {
            let [low, high] = self.accepted;
            if self.accepts_too_much != [false; 2] || high & VERSION_1 == 0 {
                // The driver finds that it is not set (virtio 1.2, 3.1.1).
                value &= !status::FEATURES_OK;
            } else {
                // Tables of descriptors are none for the device.
                for (select, features) in [(0, low & !INDIRECT_DESC), (1, high)] {
                    self.device_write(register::DRIVER_FEATURES_SEL, select);
                    self.device_write(register::DRIVER_FEATURES, features);
                }
            }
        }
        self.device_write(register::STATUS, value);
        self.status = self.device.read(register::STATUS, 4);
    }

    /// Resets the device, and forgets all that the guest has set up. The interrupt line falls; who asks for it sees to that.
    pub fn reset(&mut self) {
        self.device_write(register::STATUS, 0);
        for _ in 0..RESET_PATIENCE {
            if self.device.read(register::STATUS, 4) == 0 {
                break;
            }
        }
        let pending = self.device.read(register::INTERRUPT_STATUS, 4);
        self.device_write(register::INTERRUPT_ACK, pending);
        self.queues.iter_mut().for_each(Queue::reset);
        (self.queue_sel, self.offered_sel, self.accepted_sel) = (0, 0, 0);
        (self.accepted, self.accepts_too_much) = ([0; 2], [false; 2]);
        (self.status, self.interrupts, self.is_broken) = (0, 0, false);
    }

    /// A queue makes no sense: the device stops, and the guest is told.
    #[cold]
    fn break_down(&mut self) {
        self.is_broken = true;
        if self.status & status::DRIVER_OK != 0 {
            self.interrupts |= CONFIG_CHANGED;
        }
    }

    // Queues.

    fn set_ready(&mut self, is_ready: bool, ram: &impl Memory) {
        let is_agreed = self.status & status::FEATURES_OK != 0;
        let Some(queue) = self.queues.get_mut(self.queue_sel as usize) else {
            return;
        };
        if !is_ready {
            if queue.stop() {
                self.device.write(register::QUEUE_SEL, 4, queue.number());
                self.device.write(register::QUEUE_READY, 4, 0);
            }
            return;
        }
        if !is_agreed || queue.is_spent() {
            return;
        }
        if queue.start(ram).is_err() {
            return self.break_down();
        }
        self.device.write(register::QUEUE_SEL, 4, queue.number());
        self.device.write(register::QUEUE_SIZE, 4, queue.most());
        let registers = [
            register::QUEUE_DESC,
            register::QUEUE_DRIVER,
            register::QUEUE_DEVICE,
        ];
        for (register, pa) in registers.into_iter().zip(queue.places()) {
            self.device.write(register, 4, pa as u32);
            self.device.write(register + 4, 4, (pa >> 32) as u32);
        }
        self.device.write(register::QUEUE_READY, 4, 1);
    }

    /// The guest has put something into a queue.
    fn notified(&mut self, number: u32, ram: &impl Memory) -> Written {
        if self.is_broken || self.status & status::DRIVER_OK == 0 {
            return Written::Done;
        }
        match self.take(number as usize, ram) {
            Rest::Budget => Written::Again,
            Rest::Nothing | Rest::Room => Written::Done,
        }
    }

    /// Takes what the guest has put into a queue, and tells the device.
    fn take(&mut self, number: usize, ram: &impl Memory) -> Rest {
        let Some(queue) = self.queues.get_mut(number).filter(|it| it.is_ready()) else {
            return Rest::Nothing;
        };
        let taken = queue.take(BUDGET, ram);
        if taken.count != 0 {
            self.device.write(register::QUEUE_NOTIFY, 4, queue.number());
        }
        taken.rest.unwrap_or_else(|_| {
            self.break_down();
            Rest::Nothing
        })
    }

    /// The device has interrupted.
    pub fn interrupted(&mut self, ram: &mut impl Memory) -> Line {
        // Before the rings are looked at: what comes later interrupts again.
        let why = self.device.read(register::INTERRUPT_STATUS, 4);
        self.device_write(register::INTERRUPT_ACK, why);
        self.interrupts |= why & CONFIG_CHANGED;
        // A device of QEMU's that wants to be reset leaves its line as it is, whatever is acknowledged (hw/virtio/virtio.c,
        // virtio_notify_vector), and then interrupts without saying why.
        if why != USED && self.device.read(register::STATUS, 4) & status::NEEDS_RESET != 0 {
            self.is_broken = true;
            return Line::Stays;
        }
        if !self.is_broken && self.give_back(ram).is_err() {
            self.break_down();
        }
        Line::Falls
    }

    /// Gives the guest back what the device is done with.
    fn give_back(&mut self, ram: &mut impl Memory) -> Result<(), Broken> {
        for number in 0..self.queues.len() {
            let Some(queue) = self.queues.get_mut(number).filter(|it| it.is_ready()) else {
                continue;
            };
            let wants_interrupt = queue.give_back(ram)?;
            self.interrupts |= u32::from(wants_interrupt) * USED;
            if queue.waits_for_room() {
                // What is left then waits for the end of what was taken.
                let _ = self.take(number, ram);
            }
        }
        Ok(())
    }
}

/// Whether an access is one of the configuration.
fn is_config(offset: u64, size: u8) -> bool {
    let size = u64::from(size);
    offset.is_multiple_of(size) && offset + size <= TRANSPORT_SIZE
}
