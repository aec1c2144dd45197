//! The interrupts that are the hypervisor's own doorbells, and the priority of all that are its own.

/// SGI that makes a pCPU leave its guest and look at its mailbox.
pub const DOORBELL: u32 = 0;
/// SGI that stops a pCPU for good.
pub const STOP: u32 = 1;

/// Priority of every interrupt of ours; the guest's priorities are the virtual GIC's business.
pub const PRIORITY: u8 = 0x80;
