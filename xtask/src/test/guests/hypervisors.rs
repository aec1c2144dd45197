//! Which hypervisor the test guest meets.

use anyhow::Result;

use machine::build::{self, Built, Program};
use machine::workshop::Workshop;

/// The configurations of boots in which EL3 interrupts pCPU 0 again and again, with the second one between any two
/// instructions, and what EL2 is told for that.
pub const PROBE: [(&str, &str); 2] = [("probe", "probe=0:10000"), ("probe-steps", "probe=0:3000")];

/// Whether it is one of those.
pub fn is_probe(config: &str) -> bool {
    PROBE.iter().any(|(name, _)| *name == config)
}

/// The hypervisor, as it is deployed, and with fault injection, which has EL3 interrupt it.
pub struct Hypervisors {
    deployed: Built,
    probing: Built,
}

impl Hypervisors {
    /// Builds both.
    pub fn build(workshop: &Workshop) -> Result<Self> {
        Ok(Self {
            deployed: build::build(workshop, Program::Hypervisor)?,
            probing: build::build(workshop, Program::FaultInjection)?,
        })
    }

    /// The one for boots of that configuration.
    pub fn of(&self, config: &str) -> &Built {
        if is_probe(config) {
            &self.probing
        } else {
            &self.deployed
        }
    }
}
