//! The machine as plain data.

use alloc::string::String;
use alloc::vec::Vec;

use crate::Range;

/// The most CPUs a machine may have.
pub const MAX_CPUS: usize = 128;

/// Everything the hypervisor has to know about the machine it runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// What it calls itself: the root's `model`, else its first `compatible`.
    pub model: String,
    /// Its memory: ascending, apart from each other, at least one.
    pub ram: Vec<Range>,
    /// Memory that belongs to somebody else (the reservation block and `/reserved-memory`), ascending.
    pub reserved: Vec<Range>,
    /// Its CPUs in the devicetree's order, 1 to [`MAX_CPUS`], no two with the same affinity.
    pub cpus: Vec<Cpu>,
    /// How to call its firmware, if that offers PSCI 0.2 or later.
    pub psci: Option<Conduit>,
    /// Its interrupt controller.
    pub gic: Gic,
    /// What turns messages into its interrupts (a GICv3's ITS, a GICv2's frames), which no guest gets.
    pub messages: Vec<Range>,
    /// The interrupts of every CPU's generic timer.
    pub timers: Timers,
    /// The UART that speaks to the user.
    pub console: Uart,
    /// The PL011 that a guest is shown in its place: itself, if it is one.
    pub shown: Uart,
    /// The registers of a BCM2835's power management block, which resets the machine.
    pub power: Option<Range>,
    /// What the loader said in `/chosen bootargs`; empty if nothing.
    pub bootargs: String,
    /// What it has of `kaslr-seed` and `rng-seed` in `/chosen`, one after the other; secret.
    pub seed: Vec<u8>,
    /// Where the loader put the initrd, which is the guest bundle.
    pub initrd: Option<Range>,
    /// Devices a guest may be given whole.
    pub devices: Vec<Device>,
    /// The nodes of those that would be among them if their interrupts led to the interrupt controller.
    pub left_out: Vec<String>,
}

/// One CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The affinity fields of its MPIDR_EL1, as PSCI and the GIC take them (DDI0487 D24.2.120).
    pub mpidr: u64,
    /// How it is started.
    pub start: Start,
}

/// How a CPU is brought to life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// By the firmware's CPU_ON.
    Psci,
    /// By writing its entry point to a doubleword it watches.
    SpinTable {
        /// Where that doubleword is.
        release_pa: u64,
    },
    /// It cannot be: it is the machine's only CPU and runs already.
    Running,
}

/// Which instruction calls the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// `smc #0`
    Smc,
    /// `hvc #0`
    Hvc,
}

impl Conduit {
    /// The word the devicetree bindings use for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Smc => "smc",
            Self::Hvc => "hvc",
        }
    }
}

/// The interrupt controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gic {
    /// GICv3 or GICv4 (IHI0069).
    V3 {
        /// The distributor.
        dist: Range,
        /// The regions that hold one redistributor per CPU, at least one.
        redists: Vec<Range>,
        /// Bytes from one redistributor to the next if it is not what GICR_TYPER implies.
        redist_stride: Option<u64>,
        /// The intid by which list registers call for attention.
        maintenance: u32,
    },
    /// GICv2 with the virtualisation extensions (IHI0048).
    V2 {
        /// The distributor, GICD.
        dist: Range,
        /// The CPU interface, GICC.
        cpu: Range,
        /// The virtual interface control, GICH.
        hyp: Range,
        /// The virtual CPU interface, GICV.
        vcpu: Range,
        /// The intid by which list registers call for attention.
        maintenance: u32,
    },
}

impl Gic {
    /// The distributor.
    pub const fn distributor(&self) -> Range {
        match self {
            Self::V3 { dist, .. } | Self::V2 { dist, .. } => *dist,
        }
    }

    /// All its registers.
    pub fn regions(&self) -> Vec<Range> {
        match self {
            Self::V3 { dist, redists, .. } => {
                let mut regions = redists.clone();
                regions.push(*dist);
                regions
            }
            Self::V2 {
                dist,
                cpu,
                hyp,
                vcpu,
                ..
            } => [*dist, *cpu, *hyp, *vcpu].into(),
        }
    }

    /// Those of its registers that a hypervisor drives; a GICv2's GICV is its guests'.
    pub fn driven(&self) -> Vec<Range> {
        match self {
            Self::V3 { .. } => self.regions(),
            Self::V2 { dist, cpu, hyp, .. } => [*dist, *cpu, *hyp].into(),
        }
    }
}

/// The intids of the generic timer, the same on every CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// The EL2 physical timer.
    pub hyp_physical: u32,
    /// The EL1 virtual timer.
    pub virt: u32,
    /// The non-secure EL1 physical timer.
    pub physical: u32,
}

/// A UART.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uart {
    /// Which driver it needs.
    pub kind: UartKind,
    /// Its registers.
    pub base: Range,
    /// Its interrupt.
    pub intid: u32,
    /// Its devicetree node.
    pub path: String,
}

/// What has to be known to say anything at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// What the machine calls itself.
    pub model: String,
    /// Which driver its UART needs.
    pub kind: UartKind,
    /// The UART's registers.
    pub base: Range,
    /// What it runs at, in case that nobody has set it up.
    pub clock: Clock,
}

impl Console {
    /// That of a board which has handed over no devicetree, told by where its CPUs have their private peripherals.
    pub fn of_peripherals_at(address: u64) -> Option<Self> {
        // BCM2711 ARM Peripherals 1.2, "low peripheral" mode: all are in the last 32 MiB of 4 GiB, and of those
        // QEMU gives the first address here.
        (address >> 25 == 0x7f).then(|| Self {
            model: String::new(),
            kind: UartKind::Pl011,
            base: Range::new(0xfe20_1000, 0x200),
            clock: Clock::Mailbox(Range::new(0xfe00_b880, 0x40)),
        })
    }
}

/// Where a UART's clock comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// It always has this many Hz.
    Fixed(u32),
    /// The firmware behind a BCM2835's mailbox knows: the mailbox's registers.
    Mailbox(Range),
    /// Nobody says.
    Unknown,
}

/// The UARTs there are drivers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UartKind {
    /// Arm's PL011 (DDI0183).
    Pl011,
    /// The small UART in a BCM2835's AUX block.
    MiniUart,
}

impl UartKind {
    /// Whether its registers can be at `base`: they are words, and the AUX block begins 64 bytes in front of its UART, in
    /// the same page.
    pub const fn fits(self, base: Range) -> bool {
        let in_page = base.start % 4096;
        let room_in_front = match self {
            Self::Pl011 => 0,
            Self::MiniUart => 0x40,
        };
        base.start.is_multiple_of(4) && in_page >= room_in_front
    }
}

/// A device that can be handed to a guest: its registers mapped, its interrupts routed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its devicetree node.
    pub path: String,
    /// The `compatible` it was known by.
    pub compatible: &'static str,
    /// What it is.
    pub kind: DeviceKind,
    /// Its registers, if it has any.
    pub mmio: Vec<Range>,
    /// Its interrupts.
    pub spis: Vec<Spi>,
}

/// The kinds of device that may be passed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// One slot of a virtio-mmio transport, used or not.
    VirtioMmio,
    /// A real-time clock.
    Rtc,
    /// A GPIO controller.
    Gpio,
    /// A controller of SD cards.
    Sd,
    /// What another device depends on: a clock, a regulator, pins, firmware.
    Supply,
}

/// A shared peripheral interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spi {
    /// Its intid, 32 or more.
    pub intid: u32,
    /// Whether it is edge-triggered; level-sensitive if not.
    pub edge: bool,
}
