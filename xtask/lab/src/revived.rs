//! A CPU in the capture kernel, as our init there found it.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// What our init in the capture kernel found of a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revived {
    /// Its number in the first kernel.
    pub cpu: u32,
    /// Whether it is online.
    pub online: bool,
    /// Whether a task pinned to it ran.
    pub task: bool,
    /// How many timer interrupts it took meanwhile.
    pub timer: u64,
    /// How many IPIs it took meanwhile.
    pub ipi: u64,
    /// Whether its backtrace was had, for which it is signalled event 0.
    pub event0: bool,
}

impl Revived {
    /// Reads `2 online=yes task=yes timer=12 ipi=3 event0=yes`; what is not said is no or none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let mut found = Self {
            cpu: words.next()?.parse().ok()?,
            ..Self::default()
        };
        for word in words {
            let (key, value) = word.split_once('=')?;
            match key {
                "online" => found.online = value == "yes",
                "task" => found.task = value == "yes",
                "timer" => found.timer = value.parse().ok()?,
                "ipi" => found.ipi = value.parse().ok()?,
                "event0" => found.event0 = value == "yes",
                _ => return None,
            }
        }
        Some(found)
    }
}

impl Serialize for Revived {
    /// Of a CPU that is not online nothing was measured.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all = serializer.serialize_struct("Revived", 6)?;
        all.serialize_field("cpu", &self.cpu)?;
        all.serialize_field("online", &self.online)?;
        all.serialize_field("task", &self.online.then_some(self.task))?;
        all.serialize_field("timer", &self.online.then_some(self.timer))?;
        all.serialize_field("ipi", &self.online.then_some(self.ipi))?;
        all.serialize_field("event0", &self.online.then_some(self.event0))?;
        all.end()
    }
}
