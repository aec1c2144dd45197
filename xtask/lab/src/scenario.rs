//! What is done to a guest, and what each such job needs and ends in.

use clap::ValueEnum;
use serde::Serialize;

/// What is done to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// CPUs are wedged, another panics, the capture kernel dumps.
    Kdump,
    /// No CPU is wedged; one panics, the capture kernel dumps.
    Panic,
    /// sysrq-l shows 20 times a program with a pattern in its registers, then, with CPUs wedged, every CPU's backtrace,
    /// those of the wedged ones by SDEI; then Linux reboots, which is the end. Nothing panics or dumps.
    SysrqL,
    /// CPUs are wedged, the hard-lockup detector panics from a timer interrupt, the capture kernel dumps.
    Hardlockup,
    /// All CPUs are wedged, so that none is left to do anything. The hypervisor has one of them take an SError, which panics there,
    /// stops the others by SDEI, and the capture kernel dumps.
    Nmi,
    /// The same, and nobody asks the hypervisor: its watchdog over the guest finds that all are wedged.
    Watchdog,
    /// All CPUs are wedged, and the guest has no crash kernel. The hypervisor starts a capture kernel beside its memory, which dumps it;
    /// then the guest starts anew.
    Assisted,
    /// CPUs are wedged, another panics with `crash_kexec_post_notifiers`: Linux stops the others and calls its panic notifiers before
    /// the capture kernel dumps.
    PostNotifiers,
    /// CPUs are wedged, and two others panic at the same time. One of them dumps, the other stops itself. Some instructions of the kernel
    /// are changed for it.
    TwoPanics,
    /// CPUs are wedged, and another panics in the handler of an SDEI event, which the hypervisor raises; the capture kernel dumps.
    /// Some instructions of the kernel are changed for it.
    PanicInHandler,
    /// CPUs are wedged, another panics, and takes an SError while it waits for them, which is a panic in a panic. Linux then stands still
    /// for ever, and there is no dump. If there is one all the same, it is not judged.
    NestedPanic,
    /// CPUs are wedged, another restarts the machine (sysrq-b), and they are stopped by SDEI. Linux comes up again, and every CPU is good.
    Reboot,
    /// No CPU is wedged: Linux starts another by kexec, which has every CPU.
    Kexec,
    /// No CPU is wedged: CPUs go off and on while all are sent event 0 and sampled, and Linux has nothing to complain of.
    Hotplug,
    /// No CPU is wedged: Linux sleeps, all CPUs powered down, until its clock wakes it, and every CPU takes event 0 before and after.
    Suspend,
}

/// Which CPUs a scenario wedges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wedges {
    /// None.
    None,
    /// Those that are named, and not all.
    Some,
    /// All.
    All,
}

impl Scenario {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kdump => "kdump",
            Self::Panic => "panic",
            Self::SysrqL => "sysrq-l",
            Self::Hardlockup => "hardlockup",
            Self::Nmi => "nmi",
            Self::Watchdog => "watchdog",
            Self::Assisted => "assisted",
            Self::PostNotifiers => "post-notifiers",
            Self::TwoPanics => "two-panics",
            Self::PanicInHandler => "panic-in-handler",
            Self::NestedPanic => "nested-panic",
            Self::Reboot => "reboot",
            Self::Kexec => "kexec",
            Self::Hotplug => "hotplug",
            Self::Suspend => "suspend",
        }
    }

    /// What our init does for it.
    pub const fn job(self) -> &'static str {
        match self {
            // The guest does the same.
            Self::Watchdog | Self::Assisted => Self::Nmi.name(),
            Self::PostNotifiers | Self::NestedPanic => Self::Kdump.name(),
            _ => self.name(),
        }
    }

    /// Which CPUs it wedges.
    pub const fn wedges(self) -> Wedges {
        match self {
            Self::Panic | Self::Kexec | Self::Hotplug | Self::Suspend => Wedges::None,
            Self::Nmi | Self::Watchdog | Self::Assisted => Wedges::All,
            Self::Kdump
            | Self::SysrqL
            | Self::Hardlockup
            | Self::PostNotifiers
            | Self::TwoPanics
            | Self::PanicInHandler
            | Self::NestedPanic
            | Self::Reboot => Wedges::Some,
        }
    }

    /// Whether it ends in a dump.
    pub const fn dumps(self) -> bool {
        match self {
            Self::Kdump
            | Self::Panic
            | Self::Hardlockup
            | Self::Nmi
            | Self::Watchdog
            | Self::Assisted
            | Self::PostNotifiers
            | Self::TwoPanics
            | Self::PanicInHandler => true,
            Self::SysrqL
            | Self::NestedPanic
            | Self::Reboot
            | Self::Kexec
            | Self::Hotplug
            | Self::Suspend => false,
        }
    }

    /// Whether a kernel of the guest's own is to save a dump. For `sysrq-l` one is loaded, too: its panic is the way out.
    pub const fn loads_crash_kernel(self) -> bool {
        (self.dumps() && !matches!(self, Self::Assisted))
            || matches!(self, Self::SysrqL | Self::NestedPanic)
    }

    /// Whether Linux comes up a second time, and our init then looks at each CPU.
    pub const fn restarts(self) -> bool {
        matches!(self, Self::Reboot | Self::Kexec)
    }
}
