//! What comes over the console's line: typed bytes go to the guest, and requests of the operator are done.
//!
//! The pCPU that takes the console's interrupt does what concerns the VM. What concerns a vCPU is done, and answered, on that
//! vCPU's own pCPU, so nobody waits for anybody: a pCPU that does not answer is known by that.

use hv_abi::operator::{MOST, Request, Span, Verb};
use hv_abi::watchdog::Act;

use super::{Leave, VcpuLoop};
use crate::id::{VcpuId, VcpuSet, VmId};
use crate::ladder;
use crate::mailbox::Requests;
use crate::operator::{Asked, Question};
use crate::psci::Reset;
use crate::regs::GuestRegs;
use crate::time::Instant;
use crate::vm::{End, Hardware, Vm};
use crate::watch::{Health, Waiting};

/// What is answered to an operator. Each is a record of the console.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// Of the VM, by whoever took the request.
    Vm {
        /// What was asked.
        asked: Asked,
        /// The VM.
        vm: VmId,
        /// Its vCPUs.
        vcpus: VcpuSet,
        /// There is no such VM, vCPU or event.
        is_unknown: bool,
        /// The operator has paused it.
        is_paused: bool,
    },
    /// Of the VM's memory, by whoever took the request.
    Memory {
        /// The request.
        id: u32,
        /// Where.
        ipa: u64,
        /// What is there, or the first address where no RAM is.
        data: Result<&'a [u8], u64>,
    },
    /// Of one vCPU.
    Vcpu {
        /// Which.
        vcpu: VcpuId,
        /// What was asked of it.
        question: Question,
        /// How it is.
        stand: Stand,
        /// Its registers, if it is on.
        regs: Option<&'a GuestRegs>,
        /// What the watchdog says of it, unless it is alive.
        watch: Option<Lateness>,
    },
    /// The watchdog says how a vCPU is, without being asked.
    Health {
        /// Which.
        vcpu: VcpuId,
        /// How it is, if it is not alive again.
        watch: Option<Lateness>,
        /// Where it is.
        regs: &'a GuestRegs,
        /// What is done about it, and whether all vCPUs are wedged.
        done: Option<(Act, bool)>,
    },
    /// What a rung of an NMI has come to.
    Nmi {
        /// Which vCPU has it.
        vcpu: VcpuId,
        /// The rung.
        rung: ladder::Rung,
        /// What it has come to.
        answer: ladder::Answer,
    },
}

/// What a vCPU is late with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lateness {
    /// How it is.
    pub health: Health,
    /// What it does not take.
    pub waiting: Waiting,
    /// Since when.
    pub since: Instant,
}

/// How a vCPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// It runs.
    On,
    /// It has executed WFI or WFE, or is about to.
    Idle,
    /// It is off.
    Off,
    /// Firmware never comes back from what it asked.
    Lost,
}

impl Stand {
    /// As records have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Idle => "idle",
            Self::Off => "off",
            Self::Lost => "lost",
        }
    }
}

// DDI0487 C6.2: WFE, WFI, WFET and WFIT.
const WFE: u32 = 0xd503_205f;
const WFI: u32 = 0xd503_207f;
const WFET: u32 = 0xd503_1000;
const WFIT: u32 = 0xd503_1020;

fn waits(instruction: u32) -> bool {
    matches!(instruction, WFE | WFI) || matches!(instruction & !0x1f, WFET | WFIT)
}

impl<V: Vm, C: Hardware> VcpuLoop<V, C> {
    /// The console has received something.
    pub(super) fn receive(&mut self) {
        while let Some(asked) = self.cpu.next_request() {
            self.serve(asked);
        }
        let around = (&self.vm.map().board, &self.vm);
        let mut shared = self.vm.lock();
        let outcome = shared.receive(&mut self.vcpu, &mut self.cpu, around);
        drop(shared);
        self.arrived(outcome);
    }

    /// Does what is asked of the VM, and has its vCPUs do what is asked of them.
    fn serve(&mut self, asked: Asked) {
        let Request {
            verb,
            id,
            vcpu,
            vm,
            span,
            event,
        } = asked.request;
        let (all, one) = (self.vm.map().affinities.all(), VcpuId(vcpu));
        let who = match verb {
            Verb::Registers | Verb::Nmi | Verb::Raise if all.contains(one) => VcpuSet::only(one),
            Verb::Status | Verb::Freeze | Verb::Thaw => all,
            _ => VcpuSet::EMPTY,
        };
        let is_of_one = matches!(verb, Verb::Registers | Verb::Nmi | Verb::Raise);
        let is_unknown = vm != self.vm.id().0
            || is_of_one && who.is_empty()
            || verb == Verb::Raise && !self.vm.lock().has_event(event);
        let may = !asked.is_refused && !is_unknown;
        if may && verb == Verb::Memory {
            return self.read_memory(id, span);
        }
        let does = may && !asked.is_again;
        let is_paused = {
            let mut shared = self.vm.lock();
            match verb {
                Verb::Raise if does => {
                    let look = shared.raise(event, one, &self.vm.map().board);
                    self.call_attention(look);
                }
                Verb::Freeze if does => shared.is_paused = true,
                Verb::Thaw if does => shared.is_paused = false,
                _ => {}
            }
            shared.is_paused
        };
        self.cpu.answer(Answer::Vm {
            vm: self.vm.id(),
            vcpus: all,
            asked,
            is_unknown,
            is_paused,
        });
        if !may {
            return;
        }
        let act = match verb {
            _ if !does => Requests::NONE,
            Verb::Nmi => Requests::NMI,
            Verb::Freeze => Requests::PAUSE,
            // Whoever was switched on meanwhile has not begun.
            Verb::Thaw => Requests::PAUSE.and(Requests::START),
            _ => Requests::NONE,
        };
        let question = Question {
            id,
            in_full: matches!(verb, Verb::Registers | Verb::Nmi),
        };
        if does && verb == Verb::Nmi {
            // Before the guest does anything about it, all that it is in goes on record.
            for vcpu in all.iter().filter(|&vcpu| vcpu != one) {
                self.vm.post_question(vcpu, Question::UNASKED.word());
                self.vm.ask(vcpu, Requests::OPERATOR);
            }
        }
        for vcpu in who.iter() {
            self.vm.post_question(vcpu, question.word());
            self.vm.ask(vcpu, act.and(Requests::OPERATOR));
        }
        match verb {
            Verb::Reset if does => self.end_by_operator(End::Reset(Reset::Cold)),
            Verb::Off if does => self.end_by_operator(End::Off),
            _ => {}
        }
    }

    /// Of devices and of whatever is not this guest's nothing is read.
    fn read_memory(&mut self, id: u32, Span { ipa, length }: Span) {
        let mut data = [0; MOST as usize];
        let data = match self.vm.map().first_outside_ram(ipa, length.into()) {
            Some(outside) => Err(outside),
            None => data.get_mut(..length.into()).ok_or(ipa),
        };
        let data = data.map(|data| {
            self.cpu.read_ram(ipa, data);
            &*data
        });
        self.cpu.answer(Answer::Memory { id, ipa, data });
    }

    /// This vCPU ends the VM, whatever it does at the moment, as soon as it looks into its mailbox.
    fn end_by_operator(&mut self, end: End) {
        self.end_asked = Some(end);
        self.vm.remind(Requests::OPERATOR);
    }

    /// Does what the operator asked of this vCPU. How it leaves the guest, if it does.
    #[cold]
    #[inline(never)]
    pub(super) fn follow_operator(&mut self, requests: Requests) -> Option<Leave> {
        if requests.has(Requests::OPERATOR) {
            let stand = if self.is_idle() {
                Stand::Idle
            } else {
                Stand::On
            };
            self.answer(stand);
            if let Some(end) = self.end_asked.take() {
                return Some(Leave::End(end));
            }
        }
        if requests.has(Requests::NMI) {
            self.begin_nmi();
        }
        if requests.has(Requests::WATCH)
            && let Some(leave) = self.follow_watch()
        {
            return Some(leave);
        }
        if requests.has(Requests::PAUSE) {
            return self.pause();
        }
        None
    }

    /// Does what the operator asked of this vCPU, which is not in its guest. How it ends the VM, if it is to.
    #[cold]
    pub(super) fn follow_while_away(&mut self, stand: Stand) -> Option<End> {
        self.answer(stand);
        self.end_asked.take()
    }

    /// Answers a question, if one was posted.
    fn answer(&mut self, stand: Stand) {
        let word = self.vm.take_question(self.vcpu.id);
        if let Some(question) = Question::of_word(word) {
            let is_on = matches!(stand, Stand::On | Stand::Idle);
            self.cpu.answer(Answer::Vcpu {
                vcpu: self.vcpu.id,
                question,
                stand,
                regs: is_on.then_some(&self.regs),
                watch: self.lateness(),
            });
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        let pc = self.regs.pc;
        let at = |pc| self.cpu.instruction(pc).is_some_and(waits);
        at(pc) || at(pc.wrapping_sub(4))
    }

    /// Stays out of the guest until the operator lets it go on. What others ask meanwhile is kept.
    fn pause(&mut self) -> Option<Leave> {
        let mut kept = Requests::NONE;
        while self.vm.lock().is_paused {
            self.take_interrupt();
            let requests = self.vm.take(self.vcpu.id);
            if requests.has(Requests::STOP) {
                return Some(Leave::Stop);
            }
            let (own, others) = requests.split(Requests::OPERATOR.and(Requests::NMI));
            kept = kept.and(others);
            if !own.is_empty()
                && let Some(leave) = self.follow_operator(own)
            {
                return Some(leave);
            }
            if requests.is_empty() {
                self.cpu.wait_for_interrupt();
            }
        }
        self.take_owed();
        let (_, kept) = kept.split(Requests::PAUSE);
        self.vm.remind(kept);
        self.excuse_watch();
        None
    }
}
