//! A Raspberry Pi 4 as QEMU plays it: what it has, and what lies where when its CPUs start.
//!
//! The board's VideoCore loads a stub, the kernel, the guest bundle and a devicetree into RAM, and lets the CPUs go at
//! EL3. Here QEMU's loader devices do so; it has no VideoCore, and loads no kernel by itself.

/// How many CPUs it has.
pub const CPUS: u32 = 4;
/// Which.
pub const MODEL: &str = "cortex-a72";
/// Its RAM in MiB; QEMU accepts no other amount.
pub const MEMORY_MIB: u64 = 2048;
/// The least that its firmware may be told to show: the boards with the smallest RAM have so much.
pub const LEAST_MIB: u64 = 1024;
/// The counter's frequency in Hz, as the crystal of the board has it.
pub const COUNTER_HZ: u64 = 54_000_000;

/// Where EL3 begins, and all CPUs.
pub const STUB_PA: u64 = 0;
/// Where the board's firmware puts an arm64 Image.
pub const KERNEL_PA: u64 = 0x20_0000;
/// Where the guest bundle is put: above anything that a kernel takes, and with room below the devicetree.
pub const INITRD_PA: u64 = 0x0800_0000;
/// Where the devicetree is put, close to where the board's firmware puts it.
pub const DEVICETREE_PA: u32 = 0x2e00_0000;
