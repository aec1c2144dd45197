//! What the operator is told.

use hv_abi::watchdog::Act;
use hv_core::id::IntId;
use hv_core::ladder;
use hv_core::vm::{Answer, Refusal, Stand, State};
use hv_core::watch::Health;

/// What the operator was told, without what was on loan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Of the VM.
    Vm {
        /// The request.
        id: u32,
        /// It was done before.
        is_again: bool,
        /// It may not be done.
        is_refused: bool,
        /// There is no such VM or vCPU.
        is_unknown: bool,
        /// The VM is paused.
        is_paused: bool,
        /// Its guest's clock stands still.
        is_held: bool,
        /// Why it is not done.
        refusal: Option<Refusal>,
        /// The VM is off.
        is_off: bool,
    },
    /// Of memory.
    Memory {
        /// The request.
        id: u32,
        /// Where.
        ipa: u64,
        /// What is there, or the first address without RAM.
        data: Result<Vec<u8>, u64>,
    },
    /// Of a vCPU.
    Vcpu {
        /// The request.
        id: u32,
        /// Which.
        vcpu: u8,
        /// How it is.
        stand: Stand,
        /// Its pc, if it is on.
        pc: Option<u64>,
    },
    /// Of an NMI.
    Nmi {
        /// Which vCPU.
        vcpu: u8,
        /// The rung.
        rung: ladder::Rung,
        /// What it has come to.
        answer: ladder::Answer,
    },
    /// Of the guest's own watchdog.
    Gwdt {
        /// Which vCPU has looked.
        vcpu: u8,
        /// What is done.
        act: Act,
    },
    /// Of the watchdog.
    Health {
        /// Which vCPU.
        vcpu: u8,
        /// How it is.
        health: Health,
        /// The interrupt that it does not take.
        intid: Option<IntId>,
        /// What is done, and whether all are wedged.
        done: Option<(Act, bool)>,
    },
}

impl Told {
    /// Of an answer.
    pub(crate) fn of(answer: Answer<'_>) -> Self {
        match answer {
            Answer::Vm {
                asked,
                refusal,
                state,
                is_held,
                ..
            } => Told::Vm {
                id: asked.request.id,
                is_again: asked.is_again,
                is_refused: asked.is_refused,
                is_unknown: refusal == Some(Refusal::Unknown),
                is_paused: state == State::Paused,
                is_held,
                refusal,
                is_off: state == State::Off,
            },
            Answer::Memory { id, ipa, data, .. } => Told::Memory {
                id,
                ipa,
                data: data.map(<[u8]>::to_vec),
            },
            Answer::Vcpu {
                vcpu,
                question,
                stand,
                regs,
                ..
            } => Told::Vcpu {
                id: question.id,
                vcpu: vcpu.0,
                stand,
                pc: regs.map(|regs| regs.pc),
            },
            Answer::Nmi { vcpu, rung, answer } => Told::Nmi {
                vcpu: vcpu.0,
                rung,
                answer,
            },
            Answer::Gwdt { vcpu, act } => Told::Gwdt { vcpu: vcpu.0, act },
            Answer::Health {
                vcpu, watch, done, ..
            } => Told::Health {
                vcpu: vcpu.0,
                health: watch.map(|late| late.health).unwrap_or_default(),
                intid: watch.map(|late| late.waiting.intid),
                done,
            },
        }
    }
}
