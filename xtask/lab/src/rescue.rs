//! A guest all of whose CPUs are wedged is reached from outside.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hv_abi::operator::Verb;
use machine::control;
use machine::operator::{Answers, Operator};
use machine::qemu::Leave;

use crate::registers::PSTATE_I;

/// So long the last CPU may take to wedge itself after it has said that it will.
const LIMIT: Duration = Duration::from_secs(60);

/// LKDTM's loop is shorter, in bytes.
const LOOP: u64 = 64;

/// Waits until all CPUs are wedged, and has one take an NMI; in a thread of its own.
pub struct Rescue(JoinHandle<Result<()>>);

impl Rescue {
    /// Begins. If it comes to nothing, the machine is left.
    pub fn begin(operator: &Operator, leave: Leave) -> Self {
        let operator = operator.clone();
        Self(std::thread::spawn(move || {
            let done = rescue(&operator);
            if done.is_err() {
                leave.leave();
            }
            done
        }))
    }

    /// What came of it.
    pub fn end(self) -> Result<()> {
        let ended = self.0.join();
        ended.unwrap_or_else(|_| Err(anyhow!("the thread that sends the NMI has panicked")))
    }
}

fn rescue(operator: &Operator) -> Result<()> {
    let until = Instant::now() + LIMIT;
    let target = loop {
        let status = operator.ask(Verb::Status, 0)?;
        if are_all_wedged(&status) {
            break control::nmi_target(&status)?;
        }
        ensure!(
            Instant::now() < until,
            "the last CPU did not wedge itself: {:?}",
            status.vcpus
        );
    };
    let answers = operator.ask(Verb::Nmi, target)?;
    let answer = answers.vcpus.get(&target);
    answer.context("the pCPU of the vCPU that was to take the NMI does not answer")?;
    Ok(())
}

/// Whether all stand in one loop with interrupts masked.
fn are_all_wedged(status: &Answers) -> bool {
    let wedged = |vcpu: &machine::operator::VcpuAnswer| match (vcpu.pc, vcpu.pstate) {
        (Some(pc), Some(pstate)) if pstate & PSTATE_I != 0 && vcpu.state == "on" => Some(pc),
        _ => None,
    };
    let places: Option<Vec<u64>> = status.vcpus.values().map(wedged).collect();
    let places = places.unwrap_or_default();
    let (first, last) = (places.iter().min(), places.iter().max());
    status.missing().is_empty()
        && first.is_some_and(|first| last.is_some_and(|last| last - first < LOOP))
}
