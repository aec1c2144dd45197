//! Whose each key of a guest file is.

use super::Options;

/// What a key is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// One guest.
    Guest,
    /// The machine, which all guests share.
    Machine,
    /// Both have their own.
    Either,
}

/// A key that is said.
struct Key {
    name: &'static str,
    whose: Whose,
    /// It is about what QEMU plays, so that it is nothing to a board.
    is_qemus: bool,
}

impl Options {
    /// Keys that are said and are about one guest.
    pub(super) fn said_of_a_guest(&self) -> Vec<&'static str> {
        self.names(|key| key.whose == Whose::Guest)
    }

    /// Keys that are said and are about the machine that all guests share.
    pub(super) fn said_of_the_machine(&self) -> Vec<&'static str> {
        self.names(|key| key.whose == Whose::Machine)
    }

    /// The keys of a guest file that are said and are about QEMU, so that they are nothing to a board.
    pub fn about_qemu(&self) -> Vec<&'static str> {
        self.names(|key| key.is_qemus)
    }

    fn names(&self, is_meant: impl Fn(&Key) -> bool) -> Vec<&'static str> {
        let said = self.said().into_iter().filter(is_meant);
        said.map(|key| key.name).collect()
    }

    /// All keys that are said, but for the tables of guests.
    fn said(&self) -> Vec<Key> {
        use Whose::{Either, Guest, Machine};
        let all = [
            ("name", Guest, false, self.name.is_some()),
            ("kernel", Guest, false, self.kernel.is_some()),
            ("initrd", Guest, false, self.initrd.is_some()),
            ("dtb-at", Guest, false, self.dtb_at.is_some()),
            ("append", Guest, false, self.append.is_some()),
            ("cpus", Either, true, self.cpus.is_some()),
            ("memory", Either, true, self.memory.is_some()),
            ("disks", Guest, true, !self.disks.is_empty()),
            ("nets", Guest, true, !self.nets.is_empty()),
            ("affinity", Guest, false, self.affinity.is_some()),
            ("devices", Guest, false, self.devices.is_some()),
            ("trusted", Guest, false, self.trusted.is_some()),
            ("sdei", Guest, false, self.sdei.is_some()),
            ("firmware", Guest, false, self.firmware.is_some()),
            ("reclaim", Guest, false, self.reclaim.is_some()),
            ("events", Guest, false, !self.events.is_empty()),
            ("debug-calls", Guest, false, self.debug_calls.is_some()),
            ("flash", Guest, true, self.flash.is_some()),
            ("pvpanic", Guest, false, self.pvpanic.is_some()),
            ("sbsa-gwdt", Guest, false, self.gwdt.is_some()),
            ("watchdog", Guest, false, self.watchdog.is_some()),
            ("nmi", Guest, false, self.nmi.is_some()),
            ("dump", Guest, false, self.dump.is_some()),
            ("crashkernel", Guest, false, self.crashkernel.is_some()),
            ("start", Guest, false, self.start.is_some()),
            ("on-off", Guest, false, self.on_off.is_some()),
            ("on-reset", Guest, false, self.on_reset.is_some()),
            ("on-crash", Guest, false, self.on_crash.is_some()),
            ("cpu", Machine, true, self.cpu.is_some()),
            ("machine", Machine, true, self.machine.is_some()),
            ("el3", Machine, true, self.el3.is_some()),
            ("hv-append", Machine, true, self.hv_append.is_some()),
            ("qemu-args", Machine, true, !self.qemu_args.is_empty()),
            ("timeout", Machine, true, self.timeout.is_some()),
            ("operator", Machine, false, self.operator.is_some()),
            ("log", Machine, true, self.log.is_some()),
        ];
        let said = all.into_iter().filter(|(.., is_said)| *is_said);
        let key = |(name, whose, is_qemus, _)| Key {
            name,
            whose,
            is_qemus,
        };
        said.map(key).collect()
    }
}
