//! The memory of a guest that has crashed, at the instant when its crash kernel begins: which instruction that is, and who writes to the
//! rest of the guest's memory from then on.
//!
//! Stage 2 refuses what this needs to know: until the instant, instruction fetches from the memory of the crash kernel; from then
//! on, stores to all other RAM of the guest, of each page once.

use core::ops::Range;

/// What stage 2 has refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An instruction fetch.
    Fetch,
    /// A store, cache maintenance that counts as one, or a walk of the guest's tables that changes an entry.
    Write,
}

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the guest's physical space.
    Physical(u64),
    /// In its virtual space: of such a fault the hardware says no more (DDI0487 D24.2, HPFAR_EL2).
    Virtual(u64),
}

/// What becomes of an access that stage 2 has refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// It is the first instruction of the crash kernel: the guest is to stand still until its operator lets it go on.
    Instant,
    /// It is the first write to its page, which is to become writable; the guest makes the access again.
    FirstWrite,
    /// Stage 2 allows it by now: the guest makes the access again.
    Retry,
    /// It is none of those: the guest takes an external abort.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is refused.
    Off,
    /// Fetches from the crash kernel's memory are.
    Armed,
    /// Stores to the rest are.
    Kept,
}

/// The memory of one guest.
#[derive(Clone, Debug)]
pub struct Evidence {
    crash: Range<u64>,
    phase: Phase,
}

impl Evidence {
    /// Of a guest whose crash kernel has `crash`. Nothing is refused.
    pub const fn new(crash: Range<u64>) -> Self {
        let phase = Phase::Off;
        Self { crash, phase }
    }

    /// The memory of the crash kernel.
    pub fn crash(&self) -> Range<u64> {
        self.crash.clone()
    }

    /// The guest is loaded.
    pub const fn arm(&mut self) {
        self.phase = Phase::Armed;
    }

    /// Something else runs in its place.
    pub const fn disarm(&mut self) {
        self.phase = Phase::Off;
    }

    /// Whether the page at `ipa` is evidence now, which nobody writes to without being named. `is_ram` says that it is RAM of the guest's.
    pub fn is_evidence(&self, ipa: u64, is_ram: bool) -> bool {
        matches!(self.phase, Phase::Kept) && is_ram && !self.crash.contains(&ipa)
    }

    /// Stage 2 has refused an access to `ipa`. Whoever asks holds a lock, so that of several vCPUs one meets the instant.
    pub fn decide(&mut self, access: Access, ipa: u64, is_ram: bool) -> Decision {
        let is_crash = self.crash.contains(&ipa);
        match (access, self.phase) {
            (Access::Fetch, Phase::Armed) if is_crash => {
                self.phase = Phase::Kept;
                Decision::Instant
            }
            // A sibling has met the instant first.
            (Access::Fetch, Phase::Kept) if is_crash => Decision::Retry,
            (Access::Write, Phase::Kept) if self.is_evidence(ipa, is_ram) => Decision::FirstWrite,
            _ => Decision::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRASH: Range<u64> = 0x5000_0000..0x6000_0000;

    fn armed() -> Evidence {
        let mut evidence = Evidence::new(CRASH);
        evidence.arm();
        evidence
    }

    #[test]
    fn the_first_fetch_from_the_crash_kernel_s_memory_is_the_instant_and_no_other() {
        let mut evidence = armed();
        for outside in [0, 0x4fff_fffc, 0x6000_0000, u64::MAX] {
            let decision = evidence.decide(Access::Fetch, outside, true);
            assert_eq!(decision, Decision::Refused, "{outside:#x}");
        }
        assert_eq!(
            evidence.decide(Access::Write, 0x5000_0000, true),
            Decision::Refused,
            "it may be written at any time"
        );
        assert_eq!(
            evidence.decide(Access::Fetch, 0x5fff_fffc, true),
            Decision::Instant
        );
        // A sibling that comes a moment later runs on.
        assert_eq!(
            evidence.decide(Access::Fetch, 0x5000_0000, true),
            Decision::Retry
        );
    }

    #[test]
    fn from_the_instant_on_a_write_to_the_rest_of_ram_is_named() {
        let mut evidence = armed();
        let at = 0x4000_1000;
        assert!(!evidence.is_evidence(at, true));
        assert_eq!(evidence.decide(Access::Write, at, true), Decision::Refused);
        assert_eq!(
            evidence.decide(Access::Fetch, CRASH.start, true),
            Decision::Instant
        );
        assert!(evidence.is_evidence(at, true) && evidence.is_evidence(0x6000_0000, true));
        assert_eq!(
            evidence.decide(Access::Write, at, true),
            Decision::FirstWrite
        );
        // The crash kernel's own memory is no evidence, nor is a device.
        assert!(
            !evidence.is_evidence(CRASH.start, true) && !evidence.is_evidence(0x900_0000, false)
        );
        for (ipa, is_ram) in [(CRASH.start, true), (0x900_0000, false)] {
            let decision = evidence.decide(Access::Write, ipa, is_ram);
            assert_eq!(decision, Decision::Refused, "{ipa:#x}");
        }
        assert_eq!(
            evidence.decide(Access::Fetch, 0x900_0000, false),
            Decision::Refused
        );
    }

    #[test]
    fn a_guest_that_is_loaded_again_has_another_instant_and_a_capture_kernel_none() {
        let mut evidence = armed();
        for _ in 0..2 {
            let fetch = evidence.decide(Access::Fetch, CRASH.start, true);
            assert_eq!(fetch, Decision::Instant);
            evidence.arm();
            assert!(!evidence.is_evidence(0x4000_0000, true));
        }
        evidence.disarm();
        for access in [Access::Fetch, Access::Write] {
            let decision = evidence.decide(access, CRASH.start, true);
            assert_eq!(decision, Decision::Refused);
        }
    }
}
