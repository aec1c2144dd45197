//! Which of the guests an operator speaks of.

use anyhow::{Context, Result, bail};

use super::{Operator, lock};

impl Operator {
    /// The way to another guest of the same machine.
    pub fn of(&self, vm: u8) -> Self {
        Self { vm, ..self.clone() }
    }

    /// The number of the guest.
    pub const fn vm(&self) -> u8 {
        self.vm
    }

    /// Says what the guests are called, by their numbers, before the hypervisor has.
    pub fn expect(&self, names: &[String]) {
        let mut pending = lock(&self.shared.pending);
        pending.guests = names.len() as u64;
        pending.names = (0..).zip(names.iter().cloned()).collect();
    }

    /// Whether there is more than one guest, as far as is known.
    pub fn are_several(&self) -> bool {
        lock(&self.shared.pending).guests > 1
    }

    /// All guests by their numbers, with what they are called.
    pub fn guests(&self) -> Vec<(u8, String)> {
        let pending = lock(&self.shared.pending);
        let count = u8::try_from(pending.guests.max(1)).unwrap_or(u8::MAX);
        let name = |vm| match pending.names.get(&vm) {
            Some(name) => name.clone(),
            None => format!("vm{vm}"),
        };
        (0..count).map(|vm| (vm, name(vm))).collect()
    }

    /// What the guest is called.
    pub fn name(&self) -> String {
        let mut all = self.guests().into_iter();
        let own = all.find(|(vm, _)| *vm == self.vm);
        own.map_or_else(|| format!("vm{}", self.vm), |(_, name)| name)
    }

    /// The way to the guest of this number.
    pub fn numbered(&self, number: Option<u64>) -> Result<Self> {
        let number = number.and_then(|number| u8::try_from(number).ok());
        let vm = number.filter(|vm| self.guests().iter().any(|(own, _)| own == vm));
        let vm = vm.context("there is no guest of that number")?;
        Ok(self.of(vm))
    }

    /// The way to the guest of this name or number.
    pub fn find(&self, guest: &str) -> Result<Self> {
        Ok(self.of(find(&self.guests(), guest)?))
    }
}

/// The number of the guest of this name or number among `all`, which are numbers and names.
///
/// # Errors
///
/// Names the guests that there are.
pub fn find(all: &[(u8, String)], guest: &str) -> Result<u8> {
    let number = || {
        let number = guest.parse().ok();
        number.filter(|vm| all.iter().any(|(own, _)| own == vm))
    };
    let named = all.iter().find(|(_, name)| name == guest);
    if let Some(vm) = named.map(|(vm, _)| *vm).or_else(number) {
        return Ok(vm);
    }
    let shown = all.iter().map(|(vm, name)| format!("{name} ({vm})"));
    let names: Vec<String> = shown.collect();
    let last = names.split_last().context("a machine has a guest")?;
    match last {
        (only, []) => bail!("there is no guest `{guest}`; there is {only}"),
        (last, rest) => bail!(
            "there is no guest `{guest}`; there are {} and {last}",
            rest.join(", ")
        ),
    }
}
