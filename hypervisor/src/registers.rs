//! The registers of a vCPU as words of a record.

use core::fmt::Write;

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
