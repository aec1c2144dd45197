//! Whose firmware a guest meets: the names by which a configuration chooses faults, one by one or those of
//! a release of TF-A together. What each does is decided in `hv-core`; `docs/firmware.md` says where each
//! was found.

/// One way in which firmware differs from what DEN0054 and DEN0022 say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// There is no SDEI.
    Absent,
    /// SDEI_VERSION says exactly 1.0 with vendor 0, and there is no relative mode.
    Version10,
    /// No interrupt can be bound.
    NoBindSlots,
    /// Event 0 cannot be registered.
    RegisterRefused,
    /// SIGNAL to a PE that is off or masked, or has event 0 not enabled, is refused.
    SignalRefused,
    /// SIGNAL to a masked PE is lost, and the PE takes no interrupt and no event any more.
    MaskedSignalDeafens,
    /// SIGNAL to a PE that has event 0 disabled keeps that PE in firmware for ever.
    DisabledSignalLivelocks,
    /// CPU_OFF within an event never ends, and says nothing.
    OffInEventWedges,
    /// CPU_OFF within an event leaves the event's priority active: back on, the PE takes nothing.
    OffInEventKeepsPriority,
    /// SGIs and PPIs that are pending at CPU_OFF are pending at CPU_ON.
    OffKeepsPending,
    /// COMPLETE_AND_RESUME at a bad address is DENIED instead of INVALID_PARAMETERS.
    ResumeAddressDenied,
    /// REGISTER takes an entry point that is not aligned.
    UnalignedEntryAccepted,
    /// REGISTER with RM_PE wants a valid affinity for a private event, too.
    PrivateAffinityChecked,
    /// SIGNAL ignores all bits that are not affinity.
    ForeignBitsIgnored,
}

impl Fault {
    /// Every fault with its name.
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::Absent, "absent"),
        (Self::Version10, "version-1.0"),
        (Self::NoBindSlots, "no-bind-slots"),
        (Self::RegisterRefused, "register-refused"),
        (Self::SignalRefused, "signal-refused"),
        (Self::MaskedSignalDeafens, "masked-signal-deafens"),
        (Self::DisabledSignalLivelocks, "disabled-signal-livelocks"),
        (Self::OffInEventWedges, "off-in-event-wedges"),
        (Self::OffInEventKeepsPriority, "off-in-event-keeps-priority"),
        (Self::OffKeepsPending, "off-keeps-pending"),
        (Self::ResumeAddressDenied, "resume-address-denied"),
        (Self::UnalignedEntryAccepted, "unaligned-entry-accepted"),
        (Self::PrivateAffinityChecked, "private-affinity-checked"),
        (Self::ForeignBitsIgnored, "foreign-bits-ignored"),
    ];
}

/// What makes TF-A 2.12 differ (its `plat/qemu`, as measured; 2.12.1).
const TFA_2_12: [Fault; 10] = [
    Fault::Version10,
    Fault::NoBindSlots,
    Fault::MaskedSignalDeafens,
    Fault::DisabledSignalLivelocks,
    Fault::OffInEventKeepsPriority,
    Fault::OffKeepsPending,
    Fault::ResumeAddressDenied,
    Fault::UnalignedEntryAccepted,
    Fault::PrivateAffinityChecked,
    Fault::ForeignBitsIgnored,
];

/// The most that `signal-delayed` takes, in microseconds: a minute.
pub const MAX_DELAY_US: u32 = 60_000_000;

/// The behaviour a guest meets. The default has no fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    faults: u32,
    /// Of so many SIGNALs of a vCPU the last is lost; 0 for none.
    pub lost_every: u32,
    /// So many microseconds pass from SIGNAL to its delivery.
    pub delay_us: u32,
}

/// A word that names no firmware, or a number that makes no sense with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown<'a>(pub &'a str);

impl Firmware {
    /// No SDEI at all.
    pub const ABSENT: Self = Self::only(Fault::Absent);

    /// With this fault and no other.
    pub const fn only(fault: Fault) -> Self {
        Self {
            faults: 1 << fault as u8,
            lost_every: 0,
            delay_us: 0,
        }
    }

    /// Whether it has this fault.
    #[inline]
    pub const fn has(self, fault: Fault) -> bool {
        self.faults & (1 << fault as u8) != 0
    }

    /// With this fault as well.
    #[must_use]
    pub const fn with(self, fault: Fault) -> Self {
        Self {
            faults: self.faults | 1 << fault as u8,
            ..self
        }
    }

    /// Reads a list such as `tfa-2.12`, or `absent`, or `signal-lost=3,no-bind-slots`: names of releases and
    /// faults, all of which apply. `spec` and nothing add none.
    ///
    /// # Errors
    ///
    /// Gives the first word that is not understood.
    pub fn parse(text: &str) -> Result<Self, Unknown<'_>> {
        let words = text.split(',').map(str::trim_ascii);
        words
            .filter(|word| !word.is_empty())
            .try_fold(Self::default(), |firmware, word| {
                match word.split_once('=') {
                    Some((name, number)) => firmware.with_number(name, number).ok_or(Unknown(word)),
                    None => firmware.with_name(word).ok_or(Unknown(word)),
                }
            })
    }

    fn with_name(self, name: &str) -> Option<Self> {
        match name {
            "spec" => Some(self),
            "tfa-2.12" => Some(TFA_2_12.into_iter().fold(self, Self::with)),
            "tfa-2.13" => {
                let firmware = self.with(Fault::SignalRefused);
                Some(TFA_2_12.into_iter().fold(firmware, Self::with))
            }
            _ => {
                let (fault, _) = Fault::ALL.into_iter().find(|&(_, own)| own == name)?;
                Some(self.with(fault))
            }
        }
    }

    fn with_number(self, name: &str, number: &str) -> Option<Self> {
        let number = number.parse().ok()?;
        match name {
            "signal-lost" if number > 0 => Some(Self {
                lost_every: number,
                ..self
            }),
            "signal-delayed" if number <= MAX_DELAY_US => Some(Self {
                delay_us: number,
                ..self
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_spec_have_no_fault() {
        assert_eq!(Firmware::parse(""), Ok(Firmware::default()));
        assert_eq!(Firmware::parse("spec"), Ok(Firmware::default()));
    }

    #[test]
    fn each_fault_is_found_by_its_name_and_has_a_bit_of_its_own() {
        let mut seen = 0;
        for (fault, name) in Fault::ALL {
            let firmware = Firmware::parse(name).expect(name);
            assert_eq!(firmware, Firmware::only(fault));
            assert!(firmware.has(fault));
            assert_eq!(seen & firmware.faults, 0, "{name}");
            seen |= firmware.faults;
        }
    }

    #[test]
    fn a_list_adds_up() {
        let firmware =
            Firmware::parse("tfa-2.13, signal-lost=3,signal-delayed=50").expect("a list");
        assert!(firmware.has(Fault::SignalRefused) && firmware.has(Fault::OffKeepsPending));
        assert_eq!((firmware.lost_every, firmware.delay_us), (3, 50));
        assert!(
            !Firmware::parse("tfa-2.12")
                .expect("a name")
                .has(Fault::SignalRefused)
        );
    }

    #[test]
    fn what_is_not_understood_is_given_back() {
        for (text, word) in [
            ("tfa-9", "tfa-9"),
            ("spec,signal-lost=0", "signal-lost=0"),
            ("signal-lost=-1", "signal-lost=-1"),
            ("signal-lost", "signal-lost"),
            ("signal-delayed=60000001", "signal-delayed=60000001"),
            ("absent=1", "absent=1"),
        ] {
            assert_eq!(Firmware::parse(text), Err(Unknown(word)), "{text}");
        }
    }
}
