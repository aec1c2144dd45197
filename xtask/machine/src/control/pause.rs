//! A guest stands still while its memory is read.

use anyhow::{Result, ensure};
use hv_abi::operator::Verb;

use crate::operator::Operator;

/// A guest that is paused, and goes on when this is dropped unless it was so before.
pub struct Pause<'a> {
    operator: &'a Operator,
    was_paused: bool,
}

impl<'a> Pause<'a> {
    /// Pauses it, if that may be done; what is to be known of it goes to `said`.
    pub fn begin(operator: &'a Operator, said: &mut Vec<String>) -> Result<Option<Self>> {
        let state = state(operator)?;
        let was_paused = state == "paused";
        ensure!(
            was_paused || state == "running",
            "the guest is {state}, and there is nothing to dump"
        );
        if !was_paused {
            let answers = match operator.ask(Verb::Freeze, 0) {
                Ok(answers) => answers,
                Err(error) => {
                    said.push(format!(
                        "the guest runs on, and the dump is of several moments: {error:#}"
                    ));
                    return Ok(None);
                }
            };
            for vcpu in answers.missing() {
                said.push(format!(
                    "the pCPU of vCPU {vcpu} does not answer: the vCPU may run on meanwhile"
                ));
            }
        }
        Ok(Some(Self {
            operator,
            was_paused,
        }))
    }

    /// Whether it is still so, whatever others have asked for.
    pub fn holds(&self) -> Result<bool> {
        Ok(state(self.operator)? == "paused")
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        if !self.was_paused {
            // A machine that has ended needs no thaw.
            let _ = self.operator.ask(Verb::Thaw, 0);
        }
    }
}

fn state(operator: &Operator) -> Result<String> {
    let status = operator.ask(Verb::Status, 0)?;
    Ok(status.vm.map(|vm| vm.state).unwrap_or_default())
}
