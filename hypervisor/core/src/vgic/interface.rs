//! The registers of the CPU interface that trap together with ICC_DIR_EL1 where it does not trap alone: ICH_HCR_EL2.TC
//! has ICC_CTLR_EL1, ICC_PMR_EL1 and ICC_RPR_EL1 trap, too (IHI0069 12.4). The guest finds in them what it would find
//! without the trap, which lies in ICH_VMCR_EL2 and `ICH_AP<x>R<n>_EL2`.

use super::lr::ListReg;
use crate::exit::Sysreg;
use crate::regs::pstate;
use crate::watch::Mask;

/// A register that [`super::hcr::TC`] has trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrappedRegister {
    /// ICC_CTLR_EL1.
    Control,
    /// ICC_PMR_EL1.
    PriorityMask,
    /// ICC_RPR_EL1.
    RunningPriority,
}

/// What the virtual CPU interface holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceState {
    /// ICH_VMCR_EL2.
    pub vmcr: u64,
    /// ICH_VTR_EL2.
    pub vtr: u64,
    /// `ICH_AP0R<n>_EL2` and `ICH_AP1R<n>_EL2`, both groups together: a bit for each active priority, the most urgent first.
    pub active: [u32; 4],
}

const ICC_CTLR: Sysreg = Sysreg::new(3, 0, 12, 12, 4);
const ICC_PMR: Sysreg = Sysreg::new(3, 0, 4, 6, 0);
const ICC_RPR: Sysreg = Sysreg::new(3, 0, 12, 11, 3);

// ICH_VMCR_EL2 (IHI0069 12.4). GICH_VMCR has the same bits, the lowest of the priority mask left out (IHI0048 5.3).
const VMCR_GROUP0: u32 = 0;
const VMCR_GROUP1: u32 = 1;
const VMCR_FIQ: u32 = 3;
const VMCR_CBPR: u32 = 4;
const VMCR_EOIM: u32 = 9;
const VMCR_PMR: u32 = 24;
// ICH_VTR_EL2 (IHI0069 12.4).
const VTR_A3V: u32 = 21;
const VTR_SEIS: u32 = 22;
const VTR_ID_BITS: u32 = 23;
const VTR_PRE_BITS: u32 = 26;
const VTR_PRI_BITS: u32 = 29;
// ICV_CTLR_EL1 (IHI0069 12.3).
const CTLR_CBPR: u32 = 0;
const CTLR_EOI_MODE: u32 = 1;
const CTLR_PRI_BITS: u32 = 8;
const CTLR_ID_BITS: u32 = 11;
const CTLR_SEIS: u32 = 14;
const CTLR_A3V: u32 = 15;
/// What ICC_RPR_EL1 reads while nothing is handled.
const IDLE: u64 = 0xff;

const fn field(value: u64, at: u32, bits: u32) -> u64 {
    value >> at & ((1 << bits) - 1)
}

impl InterfaceState {
    /// What keeps the guest from taking `lr`, which is pending. None if nothing does, and if the guest has switched its group off
    /// at the CPU interface: that is no interrupt that it should take. One that may interrupt what the guest handles counts as
    /// kept off by that; it is taken at once.
    pub fn masks(&self, lr: ListReg, pstate: u64) -> Option<Mask> {
        let group = if lr.group1 { VMCR_GROUP1 } else { VMCR_GROUP0 };
        if field(self.vmcr, group, 1) == 0 {
            return None;
        }
        let is_fiq = !lr.group1 && field(self.vmcr, VMCR_FIQ, 1) != 0;
        let bit = if is_fiq { pstate::F } else { pstate::I };
        let priority_mask = TrappedRegister::PriorityMask.read(self);
        if pstate & bit != 0 {
            Some(Mask::Pstate)
        } else if u64::from(lr.priority) >= priority_mask {
            Some(Mask::Priority)
        } else if self.active != [0; 4] {
            Some(Mask::Running)
        } else {
            None
        }
    }
}

impl TrappedRegister {
    /// The one with this encoding.
    pub fn find(register: Sysreg) -> Option<Self> {
        match register {
            ICC_CTLR => Some(Self::Control),
            ICC_PMR => Some(Self::PriorityMask),
            ICC_RPR => Some(Self::RunningPriority),
            _ => None,
        }
    }

    /// What it reads.
    pub fn read(self, state: &InterfaceState) -> u64 {
        let InterfaceState { vmcr, vtr, active } = *state;
        match self {
            Self::Control => {
                field(vmcr, VMCR_CBPR, 1) << CTLR_CBPR
                    | field(vmcr, VMCR_EOIM, 1) << CTLR_EOI_MODE
                    | field(vtr, VTR_PRI_BITS, 3) << CTLR_PRI_BITS
                    | field(vtr, VTR_ID_BITS, 3) << CTLR_ID_BITS
                    | field(vtr, VTR_SEIS, 1) << CTLR_SEIS
                    | field(vtr, VTR_A3V, 1) << CTLR_A3V
            }
            Self::PriorityMask => field(vmcr, VMCR_PMR, 8),
            Self::RunningPriority => {
                // One bit for each priority that can preempt, of PREbits + 1 bits.
                let shift = 7u32.saturating_sub(field(vtr, VTR_PRE_BITS, 3) as u32);
                let words = (0u64..).step_by(32).zip(active);
                let mut used = words.filter(|&(_, word)| word != 0);
                used.next().map_or(IDLE, |(first, word)| {
                    (first + u64::from(word.trailing_zeros())) << shift
                })
            }
        }
    }

    /// ICH_VMCR_EL2 after a write of it; `None` if it cannot be written.
    pub fn write(self, state: &InterfaceState, value: u64) -> Option<u64> {
        let InterfaceState { vmcr, vtr, .. } = *state;
        let put = |vmcr: u64, at: u32, bits: u32, value: u64| {
            vmcr & !(((1 << bits) - 1) << at) | field(value, 0, bits) << at
        };
        match self {
            Self::Control => {
                let vmcr = put(vmcr, VMCR_CBPR, 1, value >> CTLR_CBPR);
                Some(put(vmcr, VMCR_EOIM, 1, value >> CTLR_EOI_MODE))
            }
            Self::PriorityMask => {
                // Bits of priority that are not there are zero.
                let missing = 7u32.saturating_sub(field(vtr, VTR_PRI_BITS, 3) as u32);
                Some(put(vmcr, VMCR_PMR, 8, value >> missing << missing))
            }
            Self::RunningPriority => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 5 bits of priority and of preemption, 16 bits of INTID, affinity 3.
    const VTR: u64 = 4 << VTR_PRI_BITS | 4 << VTR_PRE_BITS | 1 << VTR_A3V;

    #[test]
    fn control_shows_what_the_guest_set_and_what_the_hardware_has() {
        let state = InterfaceState {
            vmcr: 1 << VMCR_EOIM,
            vtr: VTR,
            active: [0; 4],
        };
        let control = TrappedRegister::Control;
        assert_eq!(control.read(&state), 1 << 15 | 4 << 8 | 1 << 1);
        let other = 0xf0 << VMCR_PMR | 0b11;
        let state = InterfaceState {
            vmcr: other,
            ..state
        };
        assert_eq!(control.write(&state, !0), Some(other | 1 << 9 | 1 << 4));
        assert_eq!(control.write(&state, 0), Some(other));
    }

    #[test]
    fn the_priority_mask_has_as_many_bits_as_the_hardware() {
        let state = InterfaceState {
            vmcr: 1 << VMCR_EOIM,
            vtr: VTR,
            active: [0; 4],
        };
        let mask = TrappedRegister::PriorityMask;
        let vmcr = mask.write(&state, 0xff).unwrap();
        assert_eq!(vmcr, 0xf8 << VMCR_PMR | 1 << VMCR_EOIM);
        assert_eq!(mask.read(&InterfaceState { vmcr, ..state }), 0xf8);
    }

    #[test]
    fn the_running_priority_is_the_most_urgent_that_is_active() {
        let running = TrappedRegister::RunningPriority;
        let with = |vtr, active| {
            running.read(&InterfaceState {
                vmcr: 0,
                vtr,
                active,
            })
        };
        assert_eq!(with(VTR, [0; 4]), 0xff);
        assert_eq!(with(VTR, [1 << 20 | 1 << 31, 0, 0, 0]), 0xa0);
        // 7 bits of preemption.
        assert_eq!(with(6 << VTR_PRE_BITS, [0, 1 << 3, 0, 1]), 35 << 1);
        assert_eq!(running.write(&InterfaceState::default(), 0), None);
    }

    #[test]
    fn other_registers_are_not_among_them() {
        assert_eq!(TrappedRegister::find(Sysreg::new(3, 0, 12, 12, 7)), None);
        let control = TrappedRegister::find(Sysreg::new(3, 0, 12, 12, 4));
        assert_eq!(control, Some(TrappedRegister::Control));
    }
}
