//! Where each CPU of a guest stood when the time was over.

use std::fmt;

use hv_abi::operator::Verb;
use machine::operator::{Operator, VcpuAnswer};
use serde::{Serialize, Serializer};

use crate::symbols::Symbols;

/// PSTATE.M, of which these bits are the exception level.
const EL: u64 = 0b1100;

/// A CPU, as the hypervisor sees it. What is not known is null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stood {
    /// Its number.
    pub cpu: u32,
    /// `on`, `idle`, `off` or `lost`; nothing if its pCPU did not answer.
    pub state: Option<String>,
    /// Where it was, if it was on.
    #[serde(serialize_with = "hexadecimal")]
    pub pc: Option<u64>,
    /// Its PSTATE there.
    #[serde(serialize_with = "hexadecimal")]
    pub pstate: Option<u64>,
    /// The function that is, of a kernel whose symbols are known.
    pub place: Option<String>,
    /// Where its exception table is, which tells how far its kernel has moved.
    #[serde(skip)]
    pub(crate) vbar: Option<u64>,
}

impl Stood {
    fn of(cpu: u32, answer: Option<&VcpuAnswer>) -> Self {
        let Some(answer) = answer else {
            return Self {
                cpu,
                ..Self::default()
            };
        };
        Self {
            cpu,
            state: Some(answer.state.clone()),
            pc: answer.pc,
            pstate: answer.pstate,
            place: None,
            vbar: answer.registers.get("vbar_el1").copied(),
        }
    }

    /// Names the function that it was in, of a kernel with these symbols.
    pub fn name(&mut self, symbols: &Symbols) {
        // The table of a program in user space is another.
        let is_in_kernel = self.pstate.is_some_and(|pstate| pstate & EL != 0);
        let vbar = self.vbar.filter(|_| is_in_kernel);
        let moved = vbar.and_then(|vbar| symbols.moved(vbar));
        self.place = self.pc.zip(moved).and_then(|(pc, moved)| {
            let (name, offset) = symbols.function(pc.wrapping_sub(moved))?;
            Some(format!("{name}+{offset:#x}"))
        });
    }
}

impl fmt::Display for Stood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.as_deref().unwrap_or("does not answer");
        write!(f, "CPU {:<3} {state:4}", self.cpu)?;
        match (&self.place, self.pc) {
            (Some(place), _) => write!(f, " in {place}")?,
            (None, Some(pc)) => write!(f, " at {pc:#x}")?,
            (None, None) => {}
        }
        match self.pstate {
            Some(pstate) => write!(f, ", pstate {pstate:#x}"),
            None => Ok(()),
        }
    }
}

/// Asks for `cpus` CPUs of a guest.
pub fn look(operator: &Operator, cpus: u32) -> Vec<Stood> {
    let one = |cpu: u32| {
        let vcpu = u8::try_from(cpu).ok()?;
        let answers = operator.ask(Verb::Registers, vcpu).ok()?;
        answers.vcpus.get(&vcpu).cloned()
    };
    (0..cpus)
        .map(|cpu| Stood::of(cpu, one(cpu).as_ref()))
        .collect()
}

fn hexadecimal<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    value
        .map(|value| format!("{value:#x}"))
        .serialize(serializer)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::symbols::tests::program;

    fn answer(pstate: u64) -> VcpuAnswer {
        VcpuAnswer {
            state: "on".into(),
            pc: Some(0x51_0010),
            pstate: Some(pstate),
            has_serror: false,
            callers: Vec::new(),
            late: None,
            registers: BTreeMap::from([("vbar_el1".to_owned(), 0x52_0000)]),
        }
    }

    #[test]
    fn a_cpu_in_the_kernel_is_named_wherever_that_has_moved() {
        let symbols = program(&[(0x2_0000, "vectors"), (0x1_0000, "spin")]);
        let mut stood = Stood::of(2, Some(&answer(0x3c5)));
        stood.name(&symbols);
        assert_eq!(stood.to_string(), "CPU 2   on   in spin+0x10, pstate 0x3c5");
        let json = serde_json::to_value(&stood).unwrap();
        assert_eq!(json["pc"], "0x510010");
        let mut program = Stood::of(2, Some(&answer(0)));
        program.name(&symbols);
        assert_eq!(program.place, None);
        assert_eq!(program.to_string(), "CPU 2   on   at 0x510010, pstate 0x0");
    }

    #[test]
    fn of_a_cpu_that_does_not_answer_nothing_is_known() {
        let lost = Stood::of(1, None);
        assert_eq!(lost.to_string(), "CPU 1   does not answer");
        let json = serde_json::to_value(&lost).unwrap();
        assert!(json["pc"].is_null() && json["state"].is_null() && json["place"].is_null());
    }
}
