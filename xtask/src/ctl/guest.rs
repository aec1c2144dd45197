//! The guest's memory, through the control socket.

use anyhow::{Context, Result, ensure};
use introspection::linux::Kernel;
use introspection::memory::{Cached, Memory};
use introspection::translation::Regime;
use introspection::vmcoreinfo::Vmcoreinfo;
use serde_json::{Value, json};

use super::shown;
use supervisor::AtEnd;

use machine::control::{Address, Client};

/// So much is read at a time at least: over a line of 115200 baud 256 bytes take some 50 ms.
pub const BLOCK: u64 = 256;
/// So much is read at a time at most.
const PART: usize = 64 << 10;

/// What a vCPU says of itself.
pub struct Vcpu {
    /// Its number.
    pub number: u8,
    /// As `status` has it.
    pub told: Value,
}

impl Vcpu {
    /// A register by its name.
    pub fn register(&self, name: &str) -> Option<u64> {
        match name {
            "pc" | "pstate" => self.told[name].as_u64(),
            name => self.told["registers"][name].as_u64(),
        }
    }

    /// How it translates.
    pub fn regime(&self) -> Result<Regime> {
        Regime::named(|name| self.register(name))
            .with_context(|| format!("how vCPU {} translates", self.number))
    }

    /// PSTATE.M says EL0 (DDI0487 C5.2.18).
    pub fn is_at_el0(&self) -> bool {
        self.register("pstate")
            .is_some_and(|pstate| pstate & 0b1100 == 0)
    }

    /// The stack pointer in use: PSTATE.SP chooses at EL1.
    pub fn sp(&self) -> Option<u64> {
        let uses_el1 = self.register("pstate")? & 0b1101 == 0b0101;
        self.register(if uses_el1 { "sp_el1" } else { "sp_el0" })
    }
}

/// The guest's clock during a pause.
#[derive(Clone, Copy)]
pub enum Clock {
    /// It runs on.
    Runs,
    /// It stands still: the guest does not see the time that passes.
    Held,
}

impl Clock {
    /// The command of the socket that pauses so.
    pub const fn order(self) -> &'static str {
        match self {
            Self::Runs => "x-halligan-freeze",
            Self::Held => "stop",
        }
    }
}

/// A guest.
pub struct Guest {
    client: Client,
    /// Where it is reached.
    address: Address,
}

impl Memory for Guest {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let read = self.client.read(address, bytes.len())?;
        ensure!(read.len() == bytes.len(), "too little of it was answered");
        bytes.copy_from_slice(&read);
        Ok(())
    }
}

impl Guest {
    /// The one at `address`.
    pub fn of(address: Address) -> Result<Self> {
        let client = address.connect()?;
        Ok(Self { client, address })
    }

    /// Its memory, read once each.
    pub fn memory(&mut self) -> Cached<&mut Self> {
        Cached::new(self, BLOCK)
    }

    /// The registers of a vCPU; none if its pCPU does not answer.
    pub fn vcpu(&mut self, number: u8) -> Result<Option<Vcpu>> {
        let told = self
            .client
            .execute("x-halligan-registers", json!({ "vcpu": number }))?;
        let vcpus = told["vcpus"].as_array().and_then(|all| all.first());
        Ok(vcpus.map(|told| Vcpu {
            number,
            told: told.clone(),
        }))
    }

    /// What is at a virtual address of a vCPU.
    pub fn read(&mut self, vcpu: u8, address: u64, length: usize) -> Result<Vec<u8>> {
        let told = self.vcpu(vcpu)?;
        let told = told.with_context(|| shown::missing(&vcpu.into()))?;
        ensure!(
            told.register("pc").is_some(),
            "vCPU {vcpu} is off, and translates nothing"
        );
        let regime = told.regime()?;
        let mut memory = self.memory();
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let mut part = vec![0; (length - bytes.len()).min(PART)];
            let at = address.wrapping_add(bytes.len() as u64);
            regime.read(&mut memory, at, &mut part)?;
            bytes.extend(part);
        }
        Ok(bytes)
    }

    /// How many vCPUs there are, and whether they are paused.
    pub fn status(&mut self) -> Result<(u8, bool)> {
        let told = self.client.execute("x-halligan-status", json!({}))?;
        let count = told["vm"]["vcpus"].as_u64().context("it has no vCPUs")?;
        Ok((u8::try_from(count)?, told["vm"]["state"] == "paused"))
    }

    /// The Linux that runs there.
    pub fn linux(&mut self) -> Result<Kernel> {
        let info = self.vmcoreinfo()?;
        Kernel::of(&mut self.memory(), info)
    }

    /// What that says of itself.
    pub fn vmcoreinfo(&mut self) -> Result<Vmcoreinfo> {
        let told = self.client.execute("x-halligan-vmcoreinfo", json!({}))?;
        let place = told["place"].as_u64().context("that is no answer")?;
        let found = Vmcoreinfo::at(&mut self.memory(), place)?;
        found.context("its VMCOREINFO has just gone")
    }

    /// Has all vCPUs go on.
    pub fn thaw(&mut self) -> Result<()> {
        self.client.execute("cont", json!({})).map(|_| ())
    }

    /// Has all vCPUs stand still for as long as the answer lives, also should a signal end us, unless they do; none if the operator
    /// may only look. Whether its clock stands still, too, is `clock`.
    pub fn hold(&mut self, clock: Clock) -> Result<Option<AtEnd>> {
        if self.client.execute(clock.order(), json!({})).is_err() {
            return Ok(None);
        }
        let address = self.address.clone();
        Ok(Some(supervisor::at_end(move || {
            // Whoever has switched the machine off needs no thaw.
            if let Ok(mut client) = address.connect() {
                let _ = client.execute("cont", json!({}));
            }
        })))
    }
}
