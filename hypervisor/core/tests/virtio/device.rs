//! A device behind a transport, which does what its queues say and looks at every address that it is told.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use hv_abi::virtio::{MOST_ENTRIES, USED, VERSION_1, queue_words, register, status};
use hv_core::virtio::{Area, Device};

use crate::ram::Ram;

/// Where the memory of its queues is.
pub const AREA_PA: u64 = 0x5000_0000;

/// A part of a chain: where, how much, and whether the device writes.
pub type Part = (u64, u32, bool);

/// A chain that the device has been given: its name and its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub head: u16,
    pub parts: Vec<Part>,
}

/// One of its queues.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    pub size: u32,
    pub is_ready: bool,
    pub places: [u64; 3],
    /// How many chains it has taken and given back.
    available: u16,
    used: u16,
}

/// Its state.
#[derive(Debug)]
pub struct State {
    words: &'static [AtomicU32],
    pub most: u32,
    pub queues: Vec<Queue>,
    pub queue_sel: u32,
    offered_sel: u32,
    pub offered: [u32; 2],
    accepted_sel: u32,
    pub accepted: [u32; 2],
    pub status: u32,
    pub interrupts: u32,
    pub notified: Vec<u32>,
    /// The configuration: every access to it.
    pub config: Vec<(u64, u8, Option<u32>)>,
    pub resets: u32,
}

/// The device.
#[derive(Clone)]
pub struct Model(pub Arc<Mutex<State>>);

impl Model {
    /// One with `queues` queues of `most` entries at most, and the memory for them.
    pub fn new(queues: usize, most: u32) -> (Self, Area) {
        let words = queues * queue_words(most.min(MOST_ENTRIES));
        let words: Vec<AtomicU32> = (0..words).map(|_| AtomicU32::new(0xdead_beef)).collect();
        let words: &'static [AtomicU32] = Vec::leak(words);
        let state = State {
            words,
            most,
            queues: vec![Queue::default(); queues],
            queue_sel: 0,
            offered_sel: 0,
            offered: [u32::MAX; 2],
            accepted_sel: 0,
            accepted: [0; 2],
            status: 0,
            interrupts: 0,
            notified: Vec::new(),
            config: Vec::new(),
            resets: 0,
        };
        let area = Area { words, pa: AREA_PA };
        (Self(Arc::new(Mutex::new(state))), area)
    }
}

impl State {
    fn word(&self, pa: u64) -> &AtomicU32 {
        assert!(pa.is_multiple_of(4) && pa >= AREA_PA, "{pa:#x}");
        &self.words[((pa - AREA_PA) / 4) as usize]
    }

    fn half(&self, pa: u64) -> u16 {
        let word = self.word(pa & !3).load(Ordering::Relaxed);
        (word >> (8 * (pa & 2))) as u16
    }

    /// Takes what is new in a queue.
    ///
    /// # Panics
    ///
    /// If the queue has anything that this device must not be told.
    pub fn take(&mut self, number: usize) -> Vec<Chain> {
        let queue = self.queues[number].clone();
        if !queue.is_ready || self.status & status::DRIVER_OK == 0 {
            return Vec::new();
        }
        let [table, driver, _] = queue.places;
        let index = self.half(driver + 2);
        let count = index.wrapping_sub(queue.available);
        assert!(u32::from(count) <= queue.size, "{count} chains are new");
        let chains = (0..count).map(|n| {
            let slot = u32::from(queue.available.wrapping_add(n)) % queue.size;
            let head = self.half(driver + 4 + 2 * u64::from(slot));
            self.follow(table, head, queue.size)
        });
        let chains: Vec<_> = chains.collect();
        self.queues[number].available = index;
        chains
    }

    fn follow(&self, table: u64, head: u16, size: u32) -> Chain {
        let mut parts = Vec::new();
        let mut at = head;
        loop {
            assert!(u32::from(at) < size && parts.len() < size as usize);
            let place = table + 16 * u64::from(at);
            let word = |n: u64| u64::from(self.word(place + 4 * n).load(Ordering::Relaxed));
            let (pa, length) = (word(1) << 32 | word(0), word(2) as u32);
            let (flags, next) = (word(3) as u16, (word(3) >> 16) as u16);
            assert!(flags & !3 == 0, "flags {flags:#x}");
            assert!(
                length != 0 && Ram::has_physical(pa, length.into()),
                "the device is told {length:#x} bytes at {pa:#x}"
            );
            parts.push((pa, length, flags & 2 != 0));
            if flags & 1 == 0 {
                return Chain { head, parts };
            }
            at = next;
        }
    }

    /// It is done with a chain, and has written so many bytes.
    pub fn give_back(&mut self, number: usize, head: u32, written: u32) {
        let queue = self.queues[number].clone();
        let device = queue.places[2];
        let slot = u64::from(u32::from(queue.used) % queue.size);
        self.word(device + 4 + 8 * slot)
            .store(head, Ordering::Relaxed);
        self.word(device + 8 + 8 * slot)
            .store(written, Ordering::Relaxed);
        let used = queue.used.wrapping_add(1);
        self.word(device)
            .store(u32::from(used) << 16, Ordering::Release);
        self.queues[number].used = used;
        self.interrupts |= USED;
    }

    fn queue(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(self.queue_sel as usize)
    }

    fn write(&mut self, offset: u64, value: u32) {
        match offset {
            register::DEVICE_FEATURES_SEL => self.offered_sel = value,
            register::DRIVER_FEATURES_SEL => self.accepted_sel = value,
            register::DRIVER_FEATURES => self.accepted[self.accepted_sel as usize] = value,
            register::QUEUE_SEL => self.queue_sel = value,
            register::QUEUE_NOTIFY => self.notified.push(value),
            register::INTERRUPT_ACK => self.interrupts &= !value,
            register::STATUS if value == 0 => {
                self.queues.iter_mut().for_each(|it| *it = Queue::default());
                (self.status, self.interrupts, self.accepted) = (0, 0, [0; 2]);
                self.notified.clear();
                self.resets += 1;
            }
            register::STATUS => self.status = value,
            _ => {
                let most = self.most.min(MOST_ENTRIES);
                let bytes = 4 * self.words.len() as u64;
                let queue = self.queue().expect("a queue that there is");
                match offset {
                    register::QUEUE_SIZE => queue.size = value,
                    register::QUEUE_READY => {
                        queue.is_ready = value == 1;
                        // All of it is memory that is there for this.
                        let size = u64::from(queue.size);
                        assert!(queue.size.is_power_of_two() && queue.size <= most);
                        let sizes = [16 * size, 4 + 2 * size, 4 + 8 * size];
                        for ((at, size), align) in queue.places.iter().zip(sizes).zip([16, 2, 4]) {
                            assert!(at.is_multiple_of(align));
                            assert!(*at >= AREA_PA && at + size <= AREA_PA + bytes);
                        }
                    }
                    0x80..0xa8 => {
                        let place = &mut queue.places[(offset as usize - 0x80) / 16];
                        *place = match offset & 4 {
                            0 => *place >> 32 << 32 | u64::from(value),
                            _ => *place & 0xffff_ffff | u64::from(value) << 32,
                        };
                    }
                    _ => panic!("{offset:#x} is written"),
                }
            }
        }
    }
}

impl Device for Model {
    fn read(&self, offset: u64, size: u8) -> u32 {
        let mut state = self.0.lock().expect("one thread");
        if offset >= register::CONFIG {
            state.config.push((offset, size, None));
            return offset as u32;
        }
        match offset {
            register::VENDOR_ID => 0x554d_4551,
            register::CONFIG_GENERATION => 7,
            register::DEVICE_FEATURES => state.offered[state.offered_sel as usize],
            register::QUEUE_SIZE_MAX => {
                let most = state.most;
                state.queue().map_or(0, |_| most)
            }
            register::INTERRUPT_STATUS => state.interrupts,
            // It takes features or not.
            register::STATUS if state.accepted[1] & VERSION_1 == 0 => {
                state.status & !status::FEATURES_OK
            }
            register::STATUS => state.status,
            _ => panic!("{offset:#x} is read"),
        }
    }

    fn write(&self, offset: u64, size: u8, value: u32) {
        let mut state = self.0.lock().expect("one thread");
        if offset >= register::CONFIG {
            state.config.push((offset, size, Some(value)));
        } else {
            state.write(offset, value);
        }
    }
}
