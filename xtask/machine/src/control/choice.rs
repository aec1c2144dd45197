//! Which vCPU an NMI goes to unless it is said.

use anyhow::{Result, bail};

use crate::operator::{Answers, VcpuAnswer};

/// PSTATE.A: an SError is masked (DDI0487 C5.2.2, SPSR_EL2.A).
const MASKS_SERROR: u64 = 1 << 8;

/// One that takes an SError at once, and rather one that does something than one that is idle.
pub fn nmi_target(status: &Answers) -> Result<u8> {
    let takes = |vcpu: &VcpuAnswer| vcpu.pstate.is_some_and(|pstate| pstate & MASKS_SERROR == 0);
    let rank = |vcpu: &VcpuAnswer| match vcpu.state.as_str() {
        "on" if takes(vcpu) => Some(0),
        "idle" if takes(vcpu) => Some(1),
        // It waits there until PSTATE.A is clear.
        "on" => Some(2),
        "idle" => Some(3),
        _ => None,
    };
    let ranked = status
        .vcpus
        .iter()
        .filter_map(|(n, vcpu)| Some((rank(vcpu)?, *n)));
    match ranked.min() {
        Some((_, vcpu)) => Ok(vcpu),
        None => bail!("no vCPU is on, and none can take an NMI"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use hv_abi::operator::{Request, Verb};

    fn status(vcpus: &[(&str, u64)]) -> Answers {
        let request = Request::new(0, Verb::Status, 0, 0);
        let mut answers = Answers::to(request);
        for (n, (state, pstate)) in (0..).zip(vcpus) {
            let answer = VcpuAnswer {
                state: (*state).to_owned(),
                pc: Some(0),
                pstate: Some(*pstate),
                has_serror: false,
                callers: Vec::new(),
                late: None,
                registers: BTreeMap::new(),
            };
            answers.vcpus.insert(n, answer);
        }
        answers
    }

    #[test]
    fn who_does_something_and_takes_an_serror_comes_first() {
        let chosen = |vcpus: &[(&str, u64)]| nmi_target(&status(vcpus)).ok();
        assert_eq!(chosen(&[("idle", 0x5), ("on", 0xc5), ("on", 0x5)]), Some(1));
        assert_eq!(chosen(&[("off", 0), ("on", 0x1c5), ("idle", 0x5)]), Some(2));
        assert_eq!(
            chosen(&[("off", 0), ("idle", 0x1c5), ("on", 0x1c5)]),
            Some(2)
        );
        assert_eq!(chosen(&[("off", 0), ("lost", 0)]), None);
    }
}
