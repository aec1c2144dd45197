//! What a guest's configuration says of its life: when it starts, and what becomes of it when it ends.

/// What becomes of a guest that has ended. A bundle has the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It stays off, until the operator starts it.
    Stop = 0,
    /// It is loaded again.
    Restart = 1,
    /// So has the machine.
    MachineOff = 2,
    /// Its memory is saved by a kernel that starts beside it, and then it is loaded again.
    Dump = 3,
}

impl After {
    /// All of them by their names.
    pub const ALL: [(&str, Self); 4] = [
        ("stop", Self::Stop),
        ("restart", Self::Restart),
        ("machine-off", Self::MachineOff),
        ("dump", Self::Dump),
    ];

    /// The one with this number.
    pub fn of_number(number: u32) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find_map(|&(_, after)| (after as u32 == number).then_some(after))
    }

    /// The one with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find_map(|&(known, after)| (known == name).then_some(after))
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find(|&&(_, after)| after == self)
            .map_or("stop", |&(name, _)| name)
    }
}

/// The life of one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// It is not started before the operator does.
    pub is_manual: bool,
    /// After SYSTEM_OFF.
    pub on_off: After,
    /// After SYSTEM_RESET and SYSTEM_RESET2.
    pub on_reset: After,
    /// When it has crashed; if that is not said it is left as it is.
    pub on_crash: Option<After>,
}

impl Policy {
    /// What is done where nothing is said.
    pub const USUAL: Self = Self {
        is_manual: false,
        on_off: After::Stop,
        on_reset: After::Restart,
        on_crash: None,
    };

    /// Whether any end of the guest is followed by a dump.
    pub fn dumps(&self) -> bool {
        [Some(self.on_off), Some(self.on_reset), self.on_crash].contains(&Some(After::Dump))
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::USUAL
    }
}
