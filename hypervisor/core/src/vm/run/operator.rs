//! What comes over the console's line: typed bytes go to the guest, and requests of the operator are done.
//!
//! The pCPU that takes the console's interrupt does what concerns a VM, whichever its own vCPU is of. What concerns a vCPU is done, and answered, on that
//! vCPU's own pCPU, so nobody waits for anybody: a pCPU that does not answer is known by that.

use hv_abi::operator::hashes::{Hashes, PAGE};
use hv_abi::operator::{MOST, Request, Span, Typed, Verb};
use hv_abi::watchdog::Act;

use super::{Leave, Refusal, State, VcpuLoop};
use crate::id::{VcpuId, VcpuSet, VmId};
use crate::ladder;
use crate::mailbox::Requests;
use crate::operator::{Asked, Came, Question};
use crate::psci::Reset;
use crate::regs::GuestRegs;
use crate::time::Instant;
use crate::vm::{End, Ending, Hardware, IpaRange, Vm};
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
        /// Why it is not done, if it is not.
        refusal: Option<Refusal>,
        /// How it is.
        state: State,
        /// Its guest's clock stands still.
        is_held: bool,
        /// How many more typed bytes there is room for.
        room: usize,
    },
    /// Of the VM's memory, by whoever took the request.
    Memory {
        /// The VM.
        vm: VmId,
        /// The request.
        id: u32,
        /// Where.
        ipa: u64,
        /// What is there, or the words of its hashes; or the first address where no RAM is.
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
    /// The guest has not refreshed its own watchdog.
    Gwdt {
        /// Which vCPU has looked.
        vcpu: VcpuId,
        /// What is done.
        act: Act,
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

/// So many bytes are taken in at once at most: a line that never falls silent does not keep the guest of the pCPU that listens
/// from running. The UART's interrupt comes again for the rest.
const AT_ONCE: usize = 256;

/// Does what is asked of a VM, and has its vCPUs do what is asked of them.
fn serve(vm: &impl Vm, cpu: &mut impl Hardware, asked: Asked) {
    let Request {
        verb,
        id,
        vcpu,
        span,
        event,
        typed,
        ..
    } = asked.request;
    let (all, one) = (vm.map().affinities.all(), VcpuId(vcpu));
    let is_of_one = matches!(verb, Verb::Registers | Verb::Nmi | Verb::Raise);
    let mut shared = vm.lock();
    let is_unknown =
        is_of_one && !all.contains(one) || verb == Verb::Raise && !shared.has_event(event);
    let is_dump = verb == Verb::Dump;
    let is_of_this_life = matches!(
        verb,
        Verb::Dump | Verb::Freeze | Verb::FreezeClock | Verb::Nmi | Verb::Raise
    );
    let refusal = match State::of(&shared).refuses(verb) {
        _ if asked.is_refused => Some(Refusal::Access),
        _ if is_unknown => Some(Refusal::Unknown),
        _ if is_dump && vm.map().held == IpaRange::default() => Some(Refusal::NoDump),
        // What was done before may be why it could not be done now.
        _ if asked.is_again => None,
        None if is_of_this_life && shared.life.is_ending() => Some(Refusal::Ending),
        refusal => refusal,
    };
    if refusal.is_none() && matches!(verb, Verb::Memory | Verb::Hashes) {
        drop(shared);
        return match verb {
            Verb::Hashes => hash_pages(vm, cpu, id, span),
            _ => read_memory(vm, cpu, id, span),
        };
    }
    let does = refusal.is_none() && !asked.is_again;
    let mut look = VcpuSet::EMPTY;
    match verb {
        _ if !does => {}
        Verb::Type => shared.typed.hold(&typed),
        Verb::Raise => look = shared.raise(event, one, &vm.map().board),
        Verb::Freeze => shared.is_paused = true,
        Verb::FreezeClock => {
            shared.is_paused = true;
            shared.clock.hold(cpu.now());
        }
        Verb::Thaw => {
            shared.is_paused = false;
            shared.clock.release(cpu.now());
        }
        Verb::Reset => shared.end_asked = Some(Ending::usual(End::Reset(Reset::Cold))),
        Verb::Off => shared.end_asked = Some(Ending::usual(End::Off)),
        Verb::Start => shared.is_start_asked = true,
        Verb::Dump => shared.end_asked = Some(Ending::DUMP),
        _ => {}
    }
    let (state, room) = (State::of(&shared), shared.typed.room());
    let is_held = shared.clock.is_held();
    drop(shared);
    cpu.answer(Answer::Vm {
        vm: vm.id(),
        vcpus: all,
        asked,
        refusal,
        state,
        is_held,
        room,
    });
    if refusal.is_some() {
        return;
    }
    for vcpu in look.iter() {
        vm.ask(vcpu, Requests::SDEI_LOOK);
    }
    let act = match verb {
        _ if !does => Requests::NONE,
        Verb::Nmi => Requests::NMI,
        Verb::Freeze | Verb::FreezeClock => Requests::PAUSE,
        // Whoever was switched on meanwhile has not begun.
        Verb::Thaw => Requests::PAUSE.and(Requests::START),
        _ => Requests::NONE,
    };
    let who = match verb {
        Verb::Room | Verb::Memory | Verb::Hashes => VcpuSet::EMPTY,
        _ if is_of_one => VcpuSet::only(one),
        _ => all,
    };
    let is_question = is_of_one
        || matches!(
            verb,
            Verb::Status | Verb::Freeze | Verb::FreezeClock | Verb::Thaw
        );
    let question = Question {
        id,
        in_full: matches!(verb, Verb::Registers | Verb::Nmi),
    };
    if does && verb == Verb::Nmi {
        // Before the guest does anything about it, all that it is in goes on record.
        for vcpu in all.iter().filter(|&vcpu| vcpu != one) {
            vm.post_question(vcpu, Question::UNASKED.word());
            vm.ask(vcpu, Requests::OPERATOR);
        }
    }
    for vcpu in who.iter() {
        if is_question {
            vm.post_question(vcpu, question.word());
        }
        vm.ask(vcpu, act.and(Requests::OPERATOR));
    }
}

/// Of devices and of whatever is not this guest's nothing is read.
fn read_memory(vm: &impl Vm, cpu: &mut impl Hardware, id: u32, Span { ipa, length }: Span) {
    let mut data = [0; MOST as usize];
    let data = match vm.map().first_outside_ram(ipa, length.into()) {
        Some(outside) => Err(outside),
        None => data.get_mut(..length.into()).ok_or(ipa),
    };
    let data = data.map(|data| {
        vm.read_ram(ipa, data);
        &*data
    });
    let vm = vm.id();
    cpu.answer(Answer::Memory { vm, id, ipa, data });
}

/// As many pages as are asked for, or as have room in the answer: whoever asks goes on behind them. Where only a part is RAM
/// nothing is hashed.
#[cold]
#[inline(never)]
fn hash_pages(vm: &impl Vm, cpu: &mut impl Hardware, id: u32, Span { ipa, length }: Span) {
    let size = u64::from(length) * PAGE;
    let mut hashes = Hashes::new();
    let data = match vm.map().first_outside_ram(ipa, size) {
        Some(outside) => Err(outside),
        None => {
            for page in (ipa..ipa.saturating_add(size)).step_by(PAGE as usize) {
                if !hashes.push(vm.hash_page(page)) {
                    break;
                }
            }
            Ok(hashes.bytes())
        }
    };
    let vm = vm.id();
    cpu.answer(Answer::Memory { vm, id, ipa, data });
}

impl<V: Vm, C: Hardware> VcpuLoop<V, C> {
    /// The console has received something.
    pub(super) fn receive(&mut self) {
        for _ in 0..AT_ONCE {
            let Some(came) = self.cpu.receive() else {
                break;
            };
            match came {
                Came::Nothing => {}
                Came::Typed(vm, typed) => self.pass_on(vm, &typed),
                Came::Request(asked) => match self.vm.peer(VmId(asked.request.vm)) {
                    Some(vm) => serve(&vm, &mut self.cpu, asked),
                    None => self.cpu.answer(Answer::Vm {
                        vm: VmId(asked.request.vm),
                        vcpus: VcpuSet::EMPTY,
                        asked,
                        refusal: Some(Refusal::Unknown),
                        state: State::Off,
                        is_held: false,
                        room: 0,
                    }),
                },
            }
        }
        self.take_typed();
    }

    /// What is typed to this vCPU's guest it takes itself; of another's guest any vCPU does.
    fn pass_on(&mut self, id: VmId, typed: &Typed) {
        if id == self.vm.id() {
            return self.vm.lock().typed.hold(typed);
        }
        let Some(vm) = self.vm.peer(id) else {
            return;
        };
        vm.lock().typed.hold(typed);
        for vcpu in vm.map().affinities.all().iter() {
            vm.ask(vcpu, Requests::OPERATOR);
        }
    }

    /// As much of what was typed goes to the guest's UART as that has room for.
    fn take_typed(&mut self) {
        let around = (&self.vm.map().board, &self.vm);
        let mut shared = self.vm.lock();
        let outcome = shared.receive(&mut self.vcpu, &mut self.cpu, around);
        drop(shared);
        self.arrived(outcome);
    }

    /// Does what the operator asked of this vCPU. How it leaves the guest, if it does.
    #[cold]
    #[inline(never)]
    pub(super) fn follow_operator(&mut self, requests: Requests) -> Option<Leave> {
        self.tell_of_call(true);
        if requests.has(Requests::OPERATOR) {
            let stand = if self.is_idle() {
                Stand::Idle
            } else {
                Stand::On
            };
            if let Some(ending) = self.attend(stand) {
                return Some(Leave::End(ending));
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

    /// The operator wants something of this vCPU or of its VM: a question is answered, and what was typed is taken in. How this
    /// vCPU ends the VM, if it is to.
    #[cold]
    pub(super) fn attend(&mut self, stand: Stand) -> Option<Ending> {
        self.answer(stand);
        if self.gwdt_due.is_some() {
            // The VM may have been paused until now.
            self.update_gwdt_deadline();
        }
        let ending = self.vm.lock().take_end();
        if ending.is_none() {
            self.take_typed();
        }
        ending
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
}
