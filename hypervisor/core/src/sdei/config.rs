//! What a VM is offered of SDEI: its version, its events, and whose behaviour it meets.

use hv_abi::firmware::{Fault, Firmware};
use hv_abi::sdei::{Definition, MAX_EVENTS, Scope};

use crate::time::Frequency;

/// How many interrupts of each scope can be bound.
pub const SLOTS: usize = 4;

/// How many interrupts of each scope can be bound with this firmware.
pub(super) const fn slots(firmware: Firmware) -> usize {
    if firmware.has(Fault::NoBindSlots) || firmware.has(Fault::Absent) {
        0
    } else {
        SLOTS
    }
}

/// What SDEI_VERSION reports. The major version is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Minor version. Relative mode exists from 1 on.
    pub minor: u16,
    /// Vendor-defined word.
    pub vendor: u32,
}

impl Version {
    /// DEN0054 v1.1, by a vendor that calls itself "HLGN" in ASCII.
    pub const SPEC: Self = Self {
        minor: 1,
        vendor: 0x484c_474e,
    };

    /// Exactly 1.0 with vendor 0, as TF-A reports it and its test suite demands it.
    pub const TFA: Self = Self {
        minor: 0,
        vendor: 0,
    };

    /// As the call returns it (DEN0054 5.1.1): `[63]` 0, `[62:48]` major, `[47:32]` minor, `[31:0]` vendor.
    pub const fn bits(self) -> u64 {
        1 << 48 | (self.minor as u64) << 32 | self.vendor as u64
    }

    /// The version that this firmware reports, if it has SDEI at all.
    pub(super) const fn of(firmware: Firmware) -> Option<Self> {
        if firmware.has(Fault::Absent) {
            None
        } else if firmware.has(Fault::Version10) {
            Some(Self::TFA)
        } else {
            Some(Self::SPEC)
        }
    }
}

/// What a VM is offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config<'a> {
    /// Whose behaviour it meets.
    pub firmware: Firmware,
    /// Events besides event 0, at most [`MAX_EVENTS`]; of equal numbers the first counts.
    pub events: &'a [Definition],
    /// The rate of the clock that [`super::Pe::post_signal`] is told.
    pub rate: Frequency,
}

impl Config<'_> {
    /// No SDEI at all.
    pub const OFF: Self = Self {
        firmware: Firmware::ABSENT,
        events: &[],
        rate: Frequency(0),
    };

    pub(super) fn of_scope(&self, scope: Scope) -> impl Iterator<Item = Definition> {
        let events = self.events.iter().take(MAX_EVENTS).copied();
        events.filter(move |event| event.scope == scope)
    }
}
