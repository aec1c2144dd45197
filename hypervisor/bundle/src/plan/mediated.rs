//! Virtio devices whose guest meets a transport of ours. What such a device reads and writes is checked, so it needs no trust,
//! but only types whose requests carry no addresses can be checked.

use alloc::format;

use hv_abi::virtio::{self, Kind, TRANSPORT_SIZE, VERSION};
use platform::Device;

use crate::Error;

/// A mediated device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mediated {
    /// Where its transport is, for the guest and for us.
    pub transport: u64,
    /// Its interrupt.
    pub intid: u32,
    /// What it is.
    pub kind: &'static Kind,
}

impl Mediated {
    /// That of a transport, of which `identity` says Version and DeviceID, if it can be mediated.
    pub fn of(whose: &str, device: &Device, identity: fn(u64) -> [u32; 2]) -> Result<Self, Error> {
        let transport = start_of(device);
        let [version, id] = identity(transport);
        let refuse = |what: &'static str, mend: &'static str| {
            let place = format!("{whose}, devices: {}, of virtio type {id},", device.path);
            Err(Error::invalid(&place, what, mend))
        };
        if id == 0 {
            return refuse("is a transport without a device", "ask for another");
        }
        if version != VERSION {
            let what =
                "is a legacy transport, whose device cannot be kept within the guest's memory";
            let mend = "start QEMU with -global virtio-mmio.force-legacy=false, or say trusted = true if this guest may reach all memory";
            return refuse(what, mend);
        }
        let Some(kind) = virtio::find(id) else {
            let what = "can be told to reach all memory; network, block, console, entropy, 9P and socket devices cannot";
            let mend = "say trusted = true if this guest may do that";
            return refuse(what, mend);
        };
        let (Some(spi), [registers]) = (device.spis.first(), &device.mmio[..]) else {
            let what = "has no interrupt, or registers in several places";
            return refuse(what, "correct the machine's devicetree");
        };
        if registers.size < TRANSPORT_SIZE || device.spis.len() > 1 {
            let what = "has fewer registers than a transport, or more interrupts";
            return refuse(what, "correct the machine's devicetree");
        }
        Ok(Self {
            transport,
            intid: spi.intid,
            kind,
        })
    }

    /// How much memory its queues take at most.
    #[must_use]
    pub const fn queue_bytes(&self) -> u64 {
        virtio::queue_bytes(self.kind)
    }
}

/// Where a device's registers begin.
pub fn start_of(device: &Device) -> u64 {
    device.mmio.first().map_or(0, |range| range.start)
}
