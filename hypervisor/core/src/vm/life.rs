//! The life of a VM as a whole: when its vCPUs may run, and who ends it.
//!
//! A VM is stopped by one of its vCPUs, which waits until every other has left the guest. From the first moment of
//! that on, no vCPU of the VM starts any more: one that did would go on in memory that is loaded anew.

use crate::id::{VcpuId, VcpuSet};
use crate::psci::Reset;

/// How a VM ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SYSTEM_OFF.
    Off,
    /// SYSTEM_RESET and SYSTEM_RESET2.
    Reset(Reset),
}

/// Where a VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Nobody has loaded it yet.
    Off,
    /// Its memory is being written. No vCPU runs.
    Loading,
    /// Its vCPUs run, or can be started.
    Running,
    /// A vCPU ends it.
    Stopping {
        /// Which.
        by: VcpuId,
        /// How.
        end: End,
        /// The vCPUs that may still be in the guest; `by` is not among them.
        inside: VcpuSet,
    },
    /// Every vCPU has left the guest; registers and memory are as they were then.
    Frozen {
        /// The vCPU that ends it.
        by: VcpuId,
        /// How.
        end: End,
    },
    /// It is off for good.
    Gone,
}

impl Life {
    /// Whether a vCPU may begin to run.
    pub const fn may_start(self) -> bool {
        matches!(self, Self::Running)
    }

    /// Whether every vCPU has left the guest after one of them has ended the VM.
    pub const fn is_frozen(self) -> bool {
        matches!(self, Self::Frozen { .. })
    }

    /// `by`, one of `all` vCPUs, ends the VM. False if it is ending already: then `by` is one of those that are stopped.
    #[must_use]
    pub fn stop(&mut self, by: VcpuId, end: End, all: VcpuSet) -> bool {
        if !self.may_start() {
            return false;
        }
        let inside = all.without(VcpuSet::only(by));
        *self = Self::Stopping { by, end, inside };
        self.freeze_if_all_left();
        true
    }

    /// A vCPU has been stopped and has left the guest.
    pub fn leave(&mut self, vcpu: VcpuId) {
        if let Self::Stopping { inside, .. } = self {
            inside.remove(vcpu);
            self.freeze_if_all_left();
        }
    }

    fn freeze_if_all_left(&mut self) {
        if let Self::Stopping { by, end, inside } = *self
            && inside.is_empty()
        {
            *self = Self::Frozen { by, end };
        }
    }

    /// The memory is about to be written: for the first time, or after the VM has been frozen. False, and nothing
    /// changes, if a vCPU may be in the guest.
    #[must_use]
    pub fn load(&mut self) -> bool {
        let is_still = matches!(self, Self::Off | Self::Frozen { .. });
        if is_still {
            *self = Self::Loading;
        }
        is_still
    }

    /// The memory has been written.
    pub fn run(&mut self) {
        if *self == Self::Loading {
            *self = Self::Running;
        }
    }

    /// A VM that is being stopped is not loaded again, though a vCPU may be in the guest for ever.
    pub fn give_up(&mut self) {
        if let Self::Stopping { .. } = self {
            *self = Self::Gone;
        }
    }

    /// Whether it is off for good.
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::Gone)
    }

    /// A frozen VM is not loaded again.
    pub fn bury(&mut self) {
        if self.is_frozen() {
            *self = Self::Gone;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: VcpuSet = VcpuSet(0b111);

    fn running() -> Life {
        let mut life = Life::Off;
        assert!(life.load());
        assert!(!life.may_start(), "its memory is being written");
        life.run();
        life
    }

    #[test]
    fn the_first_who_ends_a_vm_ends_it_and_waits_for_all_others() {
        let mut life = running();
        assert!(life.may_start());
        assert!(life.stop(VcpuId(1), End::Off, ALL));
        assert!(!life.may_start());
        assert!(!life.stop(VcpuId(0), End::Reset(Reset::Cold), ALL));
        life.leave(VcpuId(0));
        life.leave(VcpuId(0));
        assert!(!life.is_frozen(), "vCPU 2 may be inside");
        assert!(!life.load());
        life.leave(VcpuId(2));
        assert_eq!(
            life,
            Life::Frozen {
                by: VcpuId(1),
                end: End::Off
            }
        );
        life.bury();
        assert!(!life.load(), "off for good");
    }

    #[test]
    fn a_vm_that_is_given_up_never_runs_again() {
        let mut life = running();
        life.give_up();
        assert!(life.may_start() && !life.is_gone(), "nobody ends it");
        assert!(life.stop(VcpuId(1), End::Off, ALL));
        life.give_up();
        assert!(life.is_gone());
        // Whoever comes out after all changes nothing.
        life.leave(VcpuId(0));
        life.leave(VcpuId(2));
        assert!(life.is_gone() && !life.load() && !life.may_start());
    }

    #[test]
    fn a_vm_of_one_vcpu_is_frozen_as_soon_as_it_ends() {
        let mut life = running();
        let only = VcpuSet::only(VcpuId(0));
        assert!(life.stop(VcpuId(0), End::Reset(Reset::Cold), only));
        assert!(life.is_frozen());
        assert!(life.load());
        life.run();
        assert!(life.may_start());
    }

    #[test]
    fn nothing_but_loading_makes_it_run() {
        for mut life in [Life::Off, Life::Gone] {
            life.run();
            life.leave(VcpuId(0));
            life.bury();
            assert!(!life.may_start());
            assert!(!life.stop(VcpuId(0), End::Off, ALL));
        }
    }
}
