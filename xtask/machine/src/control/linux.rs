//! The Linux of a running guest: where it says what it is.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hv_abi::operator::Verb;
use introspection::memory::Memory;
use introspection::translation::Regime;
use introspection::vmcoreinfo::{self, Vmcoreinfo};

use crate::operator::Operator;

/// Guest RAM, as it is at the moment.
pub struct Ram<'a>(pub &'a Operator);

impl Memory for Ram<'_> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let read = self.0.read(address, bytes.len())?;
        ensure!(read.len() == bytes.len(), "too little of it was answered");
        bytes.copy_from_slice(&read);
        Ok(())
    }
}

/// Over a line of 115200 baud it takes a minute to look through what lies behind the kernel; all memory, hours.
const LIMIT: Duration = Duration::from_secs(180);
/// So many vCPUs are asked for their registers: over such a line each takes a tenth of a second.
const MOST_VCPUS: usize = 8;

/// What the kernel that runs says of itself. Where it was the last time is looked first, and it must be of what runs now.
pub fn vmcoreinfo(operator: &Operator) -> Result<Vmcoreinfo> {
    let (vcpus, tasks) = vcpus(operator)?;
    let source = operator.source()?;
    let mut ram = source.clone();
    if let Some(place) = operator.vmcoreinfo_place()
        && let Some(found) = Vmcoreinfo::at(&mut ram, place)?
        && vcpus
            .iter()
            .any(|(regime, vbar)| found.is_of(regime, *vbar))
    {
        return Ok(found);
    }
    let ranges = operator.known_ram()?;
    let windows = vmcoreinfo::windows(&mut source.cached(), &vcpus, &tasks);
    let until = Instant::now() + LIMIT;
    let pages = vmcoreinfo::order(&ranges, &windows);
    let found = vmcoreinfo::find(&mut ram, pages, &vcpus, |_| Instant::now() < until)?;
    operator.note_vmcoreinfo_place(found.place);
    Ok(found)
}

/// How vCPUs that are on translate, and where their vectors are, those at EL1 first; and where they have their tasks.
type Vcpus = (Vec<(Regime, u64)>, Vec<u64>);

fn vcpus(operator: &Operator) -> Result<Vcpus> {
    const EL: u64 = 0b1100;
    let status = operator.ask(Verb::Status, 0)?;
    let on = status.vcpus.iter().filter(|(_, vcpu)| vcpu.pc.is_some());
    let mut all = Vec::new();
    for (number, vcpu) in on.take(MOST_VCPUS) {
        let answers = operator.ask(Verb::Registers, *number)?;
        let Some(answer) = answers.vcpus.get(number) else {
            continue;
        };
        let value = |name: &str| answer.registers.get(name).copied();
        let is_user = vcpu.pstate.is_some_and(|pstate| pstate & EL == 0);
        // Without the MMU it is no Linux that has come far.
        if let (Ok(regime), Some(vbar)) = (Regime::named(value), value("vbar_el1"))
            && regime.sctlr & 1 != 0
        {
            all.push((
                is_user,
                (regime, vbar),
                value("sp_el0").filter(|_| !is_user),
            ));
        }
    }
    all.sort_by_key(|(is_user, ..)| *is_user);
    let tasks = all.iter().filter_map(|(_, _, task)| *task).collect();
    Ok((all.into_iter().map(|(_, vcpu, _)| vcpu).collect(), tasks))
}
