//! What is behind a mediated virtio device: the registers of its transport.

use hv_abi::virtio::{MAGIC, register};
use hv_core::virtio::Device;

use crate::sysregs;

/// The registers of a virtio-mmio transport, at this address.
pub struct Registers(u64);

impl Registers {
    /// Those at `address`, where the devicetree has a transport.
    pub const fn at(address: u64) -> Self {
        Self(address)
    }
}

impl Device for Registers {
    fn read(&self, offset: u64, size: u8) -> u32 {
        let at = core::ptr::with_exposed_provenance::<u32>((self.0 + offset) as usize);
        let value = match size {
            // SAFETY: a transport of this machine by its devicetree, in the identity map as device memory; the offset is aligned
            // and within it, as the caller answers. An access to it changes no memory that Rust knows of but the queues,
            // which are atomics.
            1 => u32::from(unsafe { at.cast::<u8>().read_volatile() }),
            // SAFETY: the same.
            2 => u32::from(unsafe { at.cast::<u16>().read_volatile() }),
            // SAFETY: the same.
            _ => unsafe { at.read_volatile() },
        };
        sysregs::order_after_device_read();
        value
    }

    fn write(&self, offset: u64, size: u8, value: u32) {
        let at = core::ptr::with_exposed_provenance_mut::<u32>((self.0 + offset) as usize);
        sysregs::order_before_device_write();
        match size {
            // SAFETY: as in `read`.
            1 => unsafe { at.cast::<u8>().write_volatile(value as u8) },
            // SAFETY: as in `read`.
            2 => unsafe { at.cast::<u16>().write_volatile(value as u16) },
            // SAFETY: as in `read`.
            _ => unsafe { at.write_volatile(value) },
        }
    }
}

/// Version and DeviceID of a transport; zeros if it is none.
pub fn identity(address: u64) -> [u32; 2] {
    let registers = Registers::at(address);
    if registers.read(register::MAGIC, 4) != MAGIC {
        return [0; 2];
    }
    [register::VERSION, register::DEVICE_ID].map(|offset| registers.read(offset, 4))
}
