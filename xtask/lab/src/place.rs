//! Where the CPUs of a guest are when all are wedged, so that only an NMI reaches one.
//!
//! LKDTM wedges a CPU in a loop of its own, which a few instructions of the kernel's Image lead to from elsewhere, or enter in
//! another state. Only the kernel that is wedged is changed, not the one that saves its dump.

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

use crate::patch::{Code, branch};
use crate::symbols::Symbols;
use crate::verdict::WEDGE_FUNCTION;

/// Where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In the kernel, in a loop with interrupts masked.
    #[default]
    El1,
    /// In programs. These cannot mask interrupts: the hypervisor's test image does.
    El0,
    /// In the handler of a timer's interrupt.
    Interrupt,
    /// In the kernel, with 0 as their stack pointer.
    Stack,
}

/// What LKDTM calls from a timer's interrupt when PANIC_IN_HARDIRQ is written to it.
const IN_INTERRUPT: &str = "panic_in_hardirq";

/// MSR DAIFSet, #3: how LKDTM's loop begins (DDI0487 C6.2, MSR (immediate)).
const MASK: u32 = 0xd503_43df;
/// MOV x0, #0; MOV sp, x0; YIELD; a branch to that.
const WITHOUT_STACK: [u32; 4] = [0xd280_0000, 0x9100_001f, 0xd503_203f, 0x17ff_ffff];
/// So many instructions may come before the one that masks interrupts.
const BEFORE: u64 = 4;

impl Place {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::El1 => "el1",
            Self::El0 => "el0",
            Self::Interrupt => "interrupt",
            Self::Stack => "stack",
        }
    }

    /// What is written to LKDTM for it.
    pub const fn crash(self) -> &'static str {
        match self {
            Self::Interrupt => "PANIC_IN_HARDIRQ",
            Self::El1 | Self::El0 | Self::Stack => "HARDLOCKUP",
        }
    }

    /// Whether the kernel's Image has to be changed for it.
    pub const fn is_patched(self) -> bool {
        matches!(self, Self::Interrupt | Self::Stack)
    }

    /// Changes a kernel's Image, whose functions are `symbols`, so that LKDTM wedges CPUs there.
    ///
    /// # Errors
    ///
    /// If the kernel's code is not as it is known to be.
    pub fn patch(self, image: &mut [u8], symbols: &Symbols) -> Result<()> {
        let mut code = Code::of(image, symbols)?;
        let wedge = code.function(WEDGE_FUNCTION)?;
        let mut begins = (0..BEFORE).map(|n| wedge + 4 * n);
        let mask = begins.find(|&at| code.word(at) == Some(MASK));
        let mask = mask.with_context(|| format!("{WEDGE_FUNCTION} masks no interrupts"))?;
        match self {
            Self::El1 | Self::El0 => Ok(()),
            Self::Interrupt => {
                let from = code.function(IN_INTERRUPT)?;
                code.set(from, branch(from, mask)?)
            }
            Self::Stack => code.fill(WEDGE_FUNCTION, mask + 4, &WITHOUT_STACK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::tests::program;

    const NOP: u32 = 0xd503_201f;
    const RET: u32 = 0xd65f_03c0;
    const TEXT: u64 = 0x1_0000;

    /// _text, LKDTM's loop behind a NOP, and what it calls from an interrupt.
    fn kernel() -> (Vec<u8>, Symbols) {
        let mut words = vec![RET; 0x40];
        words[0x10..0x13].copy_from_slice(&[NOP, MASK, 0x1400_0000]);
        let image = words.iter().flat_map(|word: &u32| word.to_le_bytes());
        let symbols = program(
            &[
                ("_text", TEXT),
                (WEDGE_FUNCTION, TEXT + 0x40),
                (IN_INTERRUPT, TEXT + 0x80),
            ]
            .map(|(name, at)| (at, name)),
        );
        (image.collect(), symbols)
    }

    fn words(image: &[u8]) -> Vec<u32> {
        let words = image.chunks_exact(4);
        words
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn the_interrupt_leads_to_the_loop() {
        let (mut image, symbols) = kernel();
        let before = words(&image);
        Place::Interrupt.patch(&mut image, &symbols).unwrap();
        let after = words(&image);
        // Back by 15 instructions, to where interrupts are masked.
        assert_eq!(after[0x20], 0x17ff_fff1);
        assert_eq!(
            (&after[..0x20], &after[0x21..]),
            (&before[..0x20], &before[0x21..])
        );
    }

    #[test]
    fn the_loop_is_entered_without_a_stack() {
        let (mut image, symbols) = kernel();
        Place::Stack.patch(&mut image, &symbols).unwrap();
        let after = words(&image);
        assert_eq!(after[0x10..0x12], [NOP, MASK]);
        assert_eq!(after[0x12..0x16], WITHOUT_STACK);
        assert_eq!(after[0x16], RET);
    }

    #[test]
    fn a_kernel_that_is_not_as_it_is_known_to_be_is_left_alone() {
        for place in [Place::Interrupt, Place::Stack] {
            let (mut image, symbols) = kernel();
            image[0x44..0x48].copy_from_slice(&RET.to_le_bytes());
            let before = image.clone();
            let error = place.patch(&mut image, &symbols).unwrap_err();
            assert!(error.to_string().contains("masks no interrupts"), "{error}");
            assert_eq!(image, before);
            assert!(place.patch(&mut [], &symbols).is_err());
        }
        let (mut image, symbols) = kernel();
        Place::El1.patch(&mut image, &symbols).unwrap();
        assert_eq!(image, kernel().0);
    }
}
