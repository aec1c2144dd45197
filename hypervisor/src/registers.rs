//! The registers of a vCPU as words of a record.

use core::fmt::Write;

use hv_core::vm::Record;

use crate::percpu::Context;

/// Displays as ` x0=.. x1=..` and so on.
pub struct Registers<'a> {
    /// x0 to x30.
    pub x: &'a [u64; 31],
    /// EL2 had not saved x20 to x28, so these are left out.
    pub is_partial: bool,
    /// Where the registers of EL1 are, if they are known.
    pub context: Option<&'a Context>,
}

impl core::fmt::Display for Registers<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        const NAMES: &[u8] = b"sp_el0 sp_el1 elr_el1 spsr_el1 esr_el1 far_el1 \
            vbar_el1 sctlr_el1 ttbr0_el1 ttbr1_el1";
        for (n, value) in self.x.iter().enumerate() {
            if self.is_partial && (20..=28).contains(&n) {
                continue;
            }
            write!(f, " x{n}={value:#x}")?;
        }
        if let Some(context) = self.context {
            let names = NAMES.split(|&byte| byte == b' ');
            for (name, value) in names.zip(context.el1) {
                f.write_char(' ')?;
                for &byte in name {
                    f.write_char(char::from(byte))?;
                }
                write!(f, "={value:#x}")?;
            }
        }
        Ok(())
    }
}

/// The words of a `@frame` record.
pub struct RecordWords<'a>(pub &'a Record<'a>);

impl core::fmt::Display for RecordWords<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let interrupted = &self.0.interrupted;
        let state = if self.0.is_complete {
            "complete"
        } else {
            "running"
        };
        write!(f, "event={} state={state}", interrupted.event)?;
        for (index, value) in interrupted.x.iter().enumerate() {
            write!(f, " x{index}={value:#x}")?;
        }
        let [sp_el0, sp_el1] = interrupted.sp;
        let (pc, pstate) = (interrupted.pc, interrupted.pstate);
        write!(
            f,
            " sp_el0={sp_el0:#x} sp_el1={sp_el1:#x} pc={pc:#x} pstate={pstate:#x}"
        )
    }
}
