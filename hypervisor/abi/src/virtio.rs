//! Virtio over MMIO as a driver meets it (virtio 1.2, 4.2.2, with split virtqueues, 2.7), and which devices are mediated.

/// Offsets of a transport's registers, 32 bits each (virtio 1.2, 4.2.2).
pub mod register {
    /// [`super::MAGIC`].
    pub const MAGIC: u64 = 0x000;
    /// 2; a legacy transport has 1.
    pub const VERSION: u64 = 0x004;
    /// What it is; 0 where there is no device.
    pub const DEVICE_ID: u64 = 0x008;
    /// Whose it is.
    pub const VENDOR_ID: u64 = 0x00c;
    /// 32 of the features that the device offers.
    pub const DEVICE_FEATURES: u64 = 0x010;
    /// Which 32.
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    /// 32 of the features that the driver accepts.
    pub const DRIVER_FEATURES: u64 = 0x020;
    /// Which 32.
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    /// Which queue the following are about.
    pub const QUEUE_SEL: u64 = 0x030;
    /// The most entries it can have; 0 if there is no such queue.
    pub const QUEUE_SIZE_MAX: u64 = 0x034;
    /// How many it has.
    pub const QUEUE_SIZE: u64 = 0x038;
    /// Whether it is in use.
    pub const QUEUE_READY: u64 = 0x044;
    /// A queue has something new.
    pub const QUEUE_NOTIFY: u64 = 0x050;
    /// Why the device interrupts: [`super::USED`], [`super::CONFIG_CHANGED`].
    pub const INTERRUPT_STATUS: u64 = 0x060;
    /// Those have been seen.
    pub const INTERRUPT_ACK: u64 = 0x064;
    /// How far the driver is; 0 resets the device.
    pub const STATUS: u64 = 0x070;
    /// Where the descriptor table is; the high half follows.
    pub const QUEUE_DESC: u64 = 0x080;
    /// Where the available ring is.
    pub const QUEUE_DRIVER: u64 = 0x090;
    /// Where the used ring is.
    pub const QUEUE_DEVICE: u64 = 0x0a0;
    /// Length and place of a shared memory region: all ones if there is none.
    pub const SHM: core::ops::Range<u64> = 0x0b0..0x0c0;
    /// Changes when the configuration does.
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    /// The device's configuration, in any width.
    pub const CONFIG: u64 = 0x100;
}

/// "virt".
pub const MAGIC: u32 = 0x7472_6976;
/// Of a transport that is not legacy.
pub const VERSION: u32 = 2;
/// Bytes of a transport and its configuration (QEMU hw/arm/virt.c).
pub const TRANSPORT_SIZE: u64 = 0x200;

/// Bits of the device status (virtio 1.2, 2.1).
pub mod status {
    /// The driver has set up the device.
    pub const DRIVER_OK: u32 = 4;
    /// The features are agreed on.
    pub const FEATURES_OK: u32 = 8;
    /// The device does not work until it is reset.
    pub const NEEDS_RESET: u32 = 64;
}

/// Interrupt status: the device has used a buffer.
pub const USED: u32 = 1;
/// Interrupt status: its configuration, or [`status::NEEDS_RESET`], has changed.
pub const CONFIG_CHANGED: u32 = 2;

/// Features 0 to 23 are the device type's own (virtio 1.2, 2.2). Those from 24 on are about queues and transport.
pub const DEVICE_FEATURES: u32 = 0x00ff_ffff;
/// Feature 28: a descriptor may name a table of descriptors.
pub const INDIRECT_DESC: u32 = 1 << 28;
/// Feature 32, bit 0 of the second word: not legacy.
pub const VERSION_1: u32 = 1;

/// Flags of a descriptor (virtio 1.2, 2.7.5).
pub mod descriptor {
    /// It goes on in another.
    pub const NEXT: u16 = 1;
    /// The device writes.
    pub const WRITE: u16 = 2;
    /// It names a table of descriptors.
    pub const INDIRECT: u16 = 4;
}

/// Flags of the available ring: used buffers need no interrupt (virtio 1.2, 2.7.6).
pub const NO_INTERRUPT: u16 = 1;

/// A type of device that is mediated: its requests carry no addresses of memory but in descriptors.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// DeviceID (virtio 1.2, 5).
    pub id: u32,
    /// What it is called.
    pub name: &'static str,
    /// How many queues it has without those features that are withheld.
    pub queues: usize,
    /// Features of its own that are not offered: with them it has more queues.
    pub withheld: u32,
}

const fn kind(id: u32, name: &'static str, queues: usize, withheld: u32) -> Kind {
    Kind {
        id,
        name,
        queues,
        withheld,
    }
}

/// All of them. A balloon, say, is none: what it gives back are addresses.
pub const KINDS: [Kind; 6] = [
    // VIRTIO_NET_F_MQ (5.1.3).
    kind(1, "network", 3, 1 << 22),
    // VIRTIO_BLK_F_MQ (5.2.3).
    kind(2, "block", 1, 1 << 12),
    // VIRTIO_CONSOLE_F_MULTIPORT (5.3.3).
    kind(3, "console", 2, 1 << 1),
    kind(4, "entropy", 1, 0),
    kind(9, "9P", 1, 0),
    kind(19, "socket", 3, 0),
];

/// The one with this DeviceID.
#[must_use]
pub fn find(id: u32) -> Option<&'static Kind> {
    const ALL: &[Kind] = &KINDS;
    ALL.iter().find(|kind| kind.id == id)
}

/// The most entries that a mediated queue has, a power of two: what QEMU's transport has.
pub const MOST_ENTRIES: u32 = 1024;

/// How many words of 32 bits keep a mediated queue with so many entries: for each a descriptor (4), a used element (2) and what
/// is known of a chain (2), and half of one for the available ring; then the heads of both rings, and what aligns the next.
#[must_use]
pub const fn queue_words(entries: u32) -> usize {
    (entries as usize * 8 + (entries as usize).div_ceil(2) + 4).next_multiple_of(4)
}

/// The most bytes that a device's queues take.
#[must_use]
pub const fn queue_bytes(kind: &Kind) -> u64 {
    (kind.queues * queue_words(MOST_ENTRIES) * 4) as u64
}
