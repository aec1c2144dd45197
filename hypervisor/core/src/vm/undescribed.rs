//! An access to a device of ours that the syndrome does not describe: the instruction in the guest's memory says what it
//! was, if that still agrees with what the CPU says of the access. Another vCPU can have written over it since.

use crate::a64::{self, Transfer};
use crate::exit::Undescribed;
use crate::regs::{El1, GuestRegs, pstate};

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is this one. It lies within one page.
    Perform(Transfer),
    /// The instruction is not the one that made the access; the guest executes whatever stands there now.
    Retry,
    /// The guest takes an external abort.
    Refuse,
}

/// How often in a row an access of a vCPU did not agree with the instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts(u8);

impl Attempts {
    /// How often in a row the guest may try again.
    pub const MOST: u8 = 8;

    /// Judges the access `exit` at the virtual address `far`. `word` is what stands at the pc now, if that is memory of
    /// the guest that it can read.
    pub fn judge(
        &mut self,
        (exit, far): (Undescribed, u64),
        regs: &GuestRegs,
        el1: &impl El1,
        word: Option<u32>,
    ) -> Verdict {
        if !is_little_a64(regs.pstate, el1.sctlr()) {
            self.0 = 0;
            return Verdict::Refuse;
        }
        let [sp_el0, sp_el1] = el1.stack_pointers();
        let sp = if uses_sp_el1(regs.pstate) {
            sp_el1
        } else {
            sp_el0
        };
        let transfer = word.and_then(|word| a64::decode(word, regs, sp));
        if let Some(transfer) = transfer.filter(|transfer| agrees(transfer, exit, far)) {
            self.0 = 0;
            return Verdict::Perform(transfer);
        }
        if self.0 == Self::MOST {
            self.0 = 0;
            return Verdict::Refuse;
        }
        self.0 += 1;
        Verdict::Retry
    }
}

/// Whether the stack pointer is SP_EL1 (DDI0487 C5.2.20, SPSR_EL2.M: EL1h).
pub fn uses_sp_el1(pstate: u64) -> bool {
    pstate & pstate::MODE == pstate::EL1H
}

/// Whether the guest executes A64 with little-endian data (SCTLR_EL1.EE and E0E).
fn is_little_a64(pstate: u64, sctlr: u64) -> bool {
    const E0E: u64 = 1 << 24;
    const EE: u64 = 1 << 25;
    let big = match pstate & pstate::MODE {
        pstate::EL0T => E0E,
        pstate::EL1T | pstate::EL1H => EE,
        _ => return false,
    };
    sctlr & big == 0
}

/// Whether `transfer` is the access that was taken to EL2: in its direction, at its address, and all in the one page that
/// HPFAR_EL2 names. With an address tag the top byte is none of the address.
fn agrees(transfer: &Transfer, exit: Undescribed, far: u64) -> bool {
    const PAGE: u64 = 4096;
    let is_there = (transfer.va ^ far) << 8 == 0 && (far ^ exit.ipa).is_multiple_of(PAGE);
    let is_in_page = transfer.va % PAGE + transfer.bytes() <= PAGE;
    transfer.is_write == exit.is_write && is_there && is_in_page
}

#[cfg(test)]
mod tests;
