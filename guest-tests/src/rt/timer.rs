//! The generic timer: one counter, two interrupts (DDI0487 D12).

use super::sysreg::{read, write};

/// Which of EL1's two timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Compares with the virtual count.
    Virtual,
    /// Compares with the physical count.
    Physical,
}

/// CNTx_CTL: on, and interrupts masked.
const MASKED: u64 = 0b11;
/// CNTx_CTL: on.
const ENABLED: u64 = 0b01;
/// CNTx_CTL: the condition holds.
const STATUS: u64 = 0b100;

/// The virtual count, not read early (DDI0487 D12.2.1: ISB).
pub fn counter() -> u64 {
    super::sysreg::isb();
    read!("cntvct_el0")
}

/// The physical count.
pub fn physical_counter() -> u64 {
    super::sysreg::isb();
    read!("cntpct_el0")
}

/// Ticks a second.
pub fn frequency() -> u64 {
    read!("cntfrq_el0")
}

/// How many ticks `us` microseconds are.
pub fn ticks_of_us(us: u64) -> u64 {
    us * (frequency() / 1000) / 1000
}

impl Timer {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Virtual, Self::Physical];

    /// Fires `ticks` from now, interrupt and all.
    pub fn fire_in(self, ticks: u64) {
        match self {
            Self::Virtual => {
                write!("cntv_cval_el0", counter() + ticks);
                write!("cntv_ctl_el0", ENABLED);
            }
            Self::Physical => {
                write!("cntp_cval_el0", physical_counter() + ticks);
                write!("cntp_ctl_el0", ENABLED);
            }
        }
    }

    /// Takes the interrupt away, keeps the timer on.
    pub fn mask(self) {
        match self {
            Self::Virtual => write!("cntv_ctl_el0", MASKED),
            Self::Physical => write!("cntp_ctl_el0", MASKED),
        }
    }

    /// Turns the timer off.
    pub fn stop(self) {
        match self {
            Self::Virtual => write!("cntv_ctl_el0", 0),
            Self::Physical => write!("cntp_ctl_el0", 0),
        }
    }

    /// Whether the condition holds.
    pub fn has_expired(self) -> bool {
        let control = match self {
            Self::Virtual => read!("cntv_ctl_el0"),
            Self::Physical => read!("cntp_ctl_el0"),
        };
        control & STATUS != 0
    }

    /// Its interrupt, from the devicetree.
    pub fn intid(self) -> u32 {
        let machine = super::machine::machine();
        match self {
            Self::Virtual => machine.virtual_timer_intid,
            Self::Physical => machine.physical_timer_intid,
        }
    }
}
