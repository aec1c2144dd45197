//! The life of a VM as a whole: when its vCPUs may run, and who ends it.
//!
//! A VM is stopped by one of its vCPUs, which waits until every other has left the guest. From the first moment of
//! that on, no vCPU of the VM starts any more: one that did would go on in memory that is loaded anew.
//!
//! What becomes of a VM that a guest ends itself is its configuration's to say ([`Ending::by_guest`]); what the operator or the
//! watchdog orders is done as they say.

use hv_abi::policy::{After, Policy};

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

impl End {
    /// As records have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Reset(_) => "reset",
        }
    }
}

/// How a VM ends, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// How.
    pub end: End,
    /// What then.
    pub after: After,
}

impl Ending {
    /// Its memory is saved, and then it starts again.
    pub const DUMP: Self = Self {
        end: End::Reset(Reset::Cold),
        after: After::Dump,
    };

    /// As its name says: off is off, and a reset starts it again.
    pub const fn usual(end: End) -> Self {
        let after = match end {
            End::Off => After::Stop,
            End::Reset(_) => After::Restart,
        };
        Self { end, after }
    }

    /// The guest itself asks for it.
    pub const fn by_guest(end: End, policy: &Policy) -> Self {
        let after = match end {
            End::Off => policy.on_off,
            End::Reset(_) => policy.on_reset,
        };
        Self { end, after }
    }

    /// The guest has crashed; none if it is left as it is.
    pub fn by_crash(policy: &Policy) -> Option<Self> {
        policy.on_crash.map(|after| {
            let end = match after {
                After::Restart | After::Dump => End::Reset(Reset::Cold),
                After::Stop | After::MachineOff => End::Off,
            };
            Self { end, after }
        })
    }
}

/// What is loaded into a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The guest.
    Guest,
    /// What saves the guest's memory, beside that.
    Capture,
}

/// Where a VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Nobody has loaded it yet, or it has ended.
    Off,
    /// Its memory is being written. No vCPU runs.
    Loading,
    /// Its vCPUs run, or can be started.
    Running,
    /// So it is with its capture kernel, beside the memory of a guest that is no more.
    Capturing,
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
    /// A vCPU has not left the guest in time: it is about to be given up.
    Abandoned,
    /// It was given up: it is off for good.
    Gone,
}

impl Life {
    /// Whether a vCPU may begin to run.
    pub const fn may_start(self) -> bool {
        matches!(self, Self::Running | Self::Capturing)
    }

    /// What becomes of the VM if it is to end like that now. Whatever a capture kernel ends with, the guest is next; and it is not
    /// dumped itself.
    pub const fn settle(&self, ending: Ending) -> Ending {
        match (self, ending.after) {
            (Self::Capturing, After::Dump) => Ending {
                after: After::Restart,
                ..ending
            },
            _ => ending,
        }
    }

    /// What becomes of the VM if what it runs ends it.
    pub const fn end_by_guest(&self, end: End, policy: &Policy) -> Ending {
        match self {
            Self::Capturing => Ending {
                end,
                after: After::Restart,
            },
            _ => Ending::by_guest(end, policy),
        }
    }

    /// What becomes of the VM if what it runs has crashed; none if it is left as it is.
    pub fn end_by_crash(&self, policy: &Policy) -> Option<Ending> {
        match self {
            Self::Capturing => Some(Ending::usual(End::Reset(Reset::Cold))),
            _ => Ending::by_crash(policy),
        }
    }

    /// Whether a vCPU ends the VM.
    pub const fn is_ending(self) -> bool {
        matches!(self, Self::Stopping { .. } | Self::Frozen { .. })
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

    /// The memory is about to be written: of one that is off, or after it has been frozen. False, and nothing
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
    pub fn run(&mut self, kernel: Kernel) {
        if *self == Self::Loading {
            *self = match kernel {
                Kernel::Guest => Self::Running,
                Kernel::Capture => Self::Capturing,
            };
        }
    }

    /// A VM that is being stopped is not loaded again, as a vCPU may be in the guest for ever. False, and nothing changes, if the
    /// last has just left it.
    #[must_use]
    pub fn abandon(&mut self) -> bool {
        let is_stopping = matches!(self, Self::Stopping { .. });
        if is_stopping {
            *self = Self::Abandoned;
        }
        is_stopping
    }

    /// One that was abandoned is off for good.
    pub fn give_up(&mut self) {
        if *self == Self::Abandoned {
            *self = Self::Gone;
        }
    }

    /// Whether nothing of it runs, or will unless it is started.
    pub const fn is_idle(self) -> bool {
        matches!(self, Self::Off | Self::Gone)
    }

    /// A frozen VM is not loaded again, unless somebody starts it.
    pub fn bury(&mut self) {
        if self.is_frozen() {
            *self = Self::Off;
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
        life.run(Kernel::Guest);
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
        assert!(life.is_idle() && !life.may_start());
        assert!(life.load() && !life.is_idle(), "somebody starts it");
    }

    #[test]
    fn a_guest_s_own_end_is_followed_by_what_its_configuration_says() {
        let policy = |on_off, on_reset, on_crash| Policy {
            is_manual: false,
            on_off,
            on_reset,
            on_crash,
        };
        let reset = End::Reset(Reset::Warm);
        for (_, first) in After::ALL {
            for (_, second) in After::ALL {
                let policy = policy(first, second, Some(first));
                assert_eq!(Ending::by_guest(End::Off, &policy).after, first);
                assert_eq!(
                    Ending::by_guest(reset, &policy),
                    Ending {
                        end: reset,
                        after: second
                    }
                );
                assert_eq!(
                    Ending::by_crash(&policy).map(|ending| ending.after),
                    Some(first)
                );
            }
        }
        // Where nothing is said, and whoever else orders it: as ever.
        for end in [End::Off, reset] {
            assert_eq!(Ending::by_guest(end, &Policy::USUAL), Ending::usual(end));
        }
        assert_eq!(Ending::by_crash(&Policy::USUAL), None);
        let restarts = policy(After::Stop, After::Stop, Some(After::Restart));
        let crash = Ending::by_crash(&restarts).map(|ending| ending.end);
        assert_eq!(crash, Some(End::Reset(Reset::Cold)));
    }

    #[test]
    fn a_vm_that_is_given_up_never_runs_again() {
        let mut life = running();
        assert!(!life.abandon());
        life.give_up();
        assert!(life.may_start() && !life.is_idle(), "nobody ends it");
        assert!(life.stop(VcpuId(1), End::Off, ALL));
        life.give_up();
        assert!(life.abandon() && !life.is_idle(), "it is not said yet");
        life.leave(VcpuId(0));
        life.leave(VcpuId(2));
        assert_eq!(life, Life::Abandoned, "whoever comes out is late");
        life.give_up();
        assert_eq!(life, Life::Gone);
        // Whoever comes out after all changes nothing.
        life.leave(VcpuId(0));
        life.leave(VcpuId(2));
        assert!(life.is_idle() && !life.load() && !life.may_start());
    }

    #[test]
    fn a_vm_whose_last_vcpu_has_just_left_is_not_given_up() {
        let mut life = running();
        assert!(life.stop(VcpuId(1), End::Off, ALL));
        life.leave(VcpuId(0));
        life.leave(VcpuId(2));
        assert!(!life.abandon() && life.is_frozen());
        life.give_up();
        life.bury();
        assert_eq!(life, Life::Off);
    }

    #[test]
    fn a_vm_of_one_vcpu_is_frozen_as_soon_as_it_ends() {
        let mut life = running();
        let only = VcpuSet::only(VcpuId(0));
        assert!(life.stop(VcpuId(0), End::Reset(Reset::Cold), only));
        assert!(life.is_frozen());
        assert!(life.load());
        life.run(Kernel::Guest);
        assert!(life.may_start());
    }

    #[test]
    fn a_capture_kernel_is_followed_by_the_guest_and_never_dumped() {
        let mut life = Life::Off;
        assert!(life.load());
        life.run(Kernel::Capture);
        assert!(life.may_start() && !life.is_idle());
        let policy = Policy {
            is_manual: false,
            on_off: After::Dump,
            on_reset: After::MachineOff,
            on_crash: None,
        };
        for end in [End::Off, End::Reset(Reset::Cold)] {
            let after = life.end_by_guest(end, &policy);
            assert_eq!((after.end, after.after), (end, After::Restart));
        }
        let restart = Ending::usual(End::Reset(Reset::Cold));
        assert_eq!(life.end_by_crash(&policy), Some(restart));
        assert_eq!(life.settle(Ending::DUMP), restart);
        // The operator's word counts.
        let off = Ending::usual(End::Off);
        assert_eq!(life.settle(off), off);
        let guest = running();
        assert_eq!(guest.settle(Ending::DUMP), Ending::DUMP);
        assert_eq!(guest.end_by_crash(&policy), None);
        let dump = guest.end_by_guest(End::Off, &policy);
        assert_eq!((dump.end, dump.after), (End::Off, After::Dump));
        assert!(life.stop(VcpuId(0), End::Off, ALL));
    }

    #[test]
    fn nothing_but_loading_makes_it_run() {
        for mut life in [Life::Off, Life::Gone] {
            life.run(Kernel::Guest);
            life.leave(VcpuId(0));
            life.bury();
            assert!(!life.may_start());
            assert!(!life.stop(VcpuId(0), End::Off, ALL));
        }
    }
}
