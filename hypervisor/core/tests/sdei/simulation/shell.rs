//! The vCPUs as the hypervisor's shell drives them (`hypervisor/src/run.rs`), cut into steps at every point where a
//! sibling may come in between: each access to a mailbox, a doorbell, or what the VM's lock protects is one.
//!
//! The rules are the real ones; the doorbells, and the lock in that a step that needs it is one step, are not.

mod acts;

use std::collections::VecDeque;

use hv_abi::psci::AffinityState;
use hv_abi::sdei::Call;
use hv_core::entry::Features;
use hv_core::id::{VcpuId, VcpuSet};
use hv_core::mailbox::{Mailbox, Requests};
use hv_core::psci::{Power, Reclaim, Start};
use hv_core::regs::{El1Values, GuestRegs};
use hv_core::sdei::dispatch::Due;
use hv_core::sdei::{Commons, Config, Pe};
use hv_core::time::Instant;

use super::Broken;
use super::guest::Dice;
use super::witness::Witness;
use crate::vcpu::*;

/// What a vCPU does next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// Off: acknowledges its doorbell.
    Off,
    /// Off: takes its mail.
    OffTake,
    /// Off: sleeps until the doorbell rings.
    Asleep,
    /// On the way into the guest: takes its mail.
    Top,
    /// Only if the shell is broken: empties the mailbox that it has read.
    Empty(Requests),
    /// Event 0 was signalled, and more is in hand.
    Signal(Requests),
    /// Raised events are to be taken.
    Look,
    /// Decides whether an event is due, and takes a private one.
    Due,
    /// Takes a shared one.
    Claim,
    /// In the guest.
    Guest,
    /// The first of its posts goes into the mailbox, or its doorbell is rung.
    Post,
    Ring,
    /// CPU_OFF is over.
    Stopped,
    /// A sibling has taken it back: starts anew.
    GivenBack,
}

struct Cpu {
    pe: Pe,
    regs: GuestRegs,
    el1: El1Values,
    stage: Stage,
    /// What it has to tell others, and what it does then.
    posts: VecDeque<(VcpuId, Requests)>,
    after: Stage,
    age: usize,
}

pub struct Vm {
    pub dice: Dice,
    cpus: Vec<Cpu>,
    world: World,
    mailboxes: Vec<Mailbox>,
    bells: Vec<bool>,
    power: Power,
    starts: Vec<Option<Start>>,
    mpidrs: Vec<u64>,
    witness: Witness,
    broken: Broken,
    /// The last steps, told of a failure.
    pub story: VecDeque<String>,
    /// What is common, as a broken shell remembers it.
    copy: Option<Commons>,
}

/// How many.
const STORY: usize = 40;

/// Nothing, or what is wrong.
pub type Verdict = Result<(), String>;

impl Vm {
    pub fn new(seed: u64, vcpus: usize, broken: Broken) -> Self {
        let config = Config {
            events: &EVENTS,
            ..Config::default()
        };
        let mpidrs: Vec<u64> = (0..vcpus as u64).collect();
        let cpu = |n| Cpu {
            pe: Pe::new(VcpuId(n), Features::default(), &config),
            regs: GuestRegs::default(),
            el1: El1Values::default(),
            stage: if n == 0 { Stage::Top } else { Stage::Asleep },
            posts: VecDeque::new(),
            after: Stage::Top,
            age: 0,
        };
        Self {
            dice: Dice(seed),
            cpus: (0..vcpus as u8).map(cpu).collect(),
            world: World::of(&mpidrs, &config),
            mailboxes: (0..vcpus).map(|_| Mailbox::new()).collect(),
            bells: vec![false; vcpus],
            power: Power::new(VcpuId(0)).with_reclaim(Reclaim::Parked),
            starts: vec![None; vcpus],
            witness: Witness::new(&mpidrs),
            mpidrs,
            broken,
            story: VecDeque::new(),
            copy: None,
        }
    }

    pub fn vcpus(&self) -> usize {
        self.cpus.len()
    }

    /// Whether vCPU `n` has nothing to do but what its guest wants.
    fn is_at_rest(&self, n: usize) -> bool {
        matches!(self.cpus[n].stage, Stage::Guest | Stage::Asleep) && !self.bells[n]
    }

    /// One step of vCPU `n`. While it `is_settling`, guests do nothing of their own.
    pub fn step(&mut self, n: usize, is_settling: bool) -> Verdict {
        if self.story.len() == STORY {
            self.story.pop_front();
        }
        let (stage, running) = (self.cpus[n].stage, self.cpus[n].pe.running());
        self.story
            .push_back(format!("vCPU {n}: {stage:?}, in event {running:?}"));
        match self.cpus[n].stage {
            Stage::Off => {
                self.bells[n] = false;
                self.cpus[n].stage = Stage::OffTake;
            }
            Stage::OffTake => self.take_off(n),
            Stage::Asleep if self.bells[n] => self.cpus[n].stage = Stage::Off,
            Stage::Asleep => {}
            Stage::Top => self.take_mail(n),
            Stage::Empty(requests) => {
                let _ = self.mailboxes[n].take();
                self.cpus[n].stage = sort(requests);
            }
            Stage::Signal(requests) => {
                if requests.has(Requests::SDEI_SIGNAL) {
                    let _ = self.cpus[n].pe.post_signal(Instant(0));
                }
                self.witness.signal_arrives(n);
                self.cpus[n].stage = after_signal(requests);
            }
            Stage::Look => {
                self.cpus[n].pe.look();
                for place in self.world.commons.take_raised(VcpuId(n as u8)) {
                    self.cpus[n].pe.post(place);
                }
                self.witness.raised_arrive(n);
                self.cpus[n].stage = Stage::Due;
            }
            Stage::Due => return self.decide(n),
            Stage::Claim => return self.claim(n),
            Stage::Guest if self.bells[n] && (is_settling || self.dice.below(2) == 0) => {
                self.bells[n] = false;
                self.cpus[n].stage = Stage::Top;
            }
            Stage::Guest if is_settling => {}
            Stage::Guest => return self.act(n),
            Stage::Post => self.post(n),
            Stage::Ring => self.ring(n),
            Stage::Stopped => {
                self.power.stopped(VcpuId(n as u8));
                self.witness.stopped(n);
                self.cpus[n].stage = Stage::Off;
            }
            Stage::GivenBack => {
                self.mailboxes[n].post(Requests::START);
                self.cpus[n].stage = Stage::Off;
            }
        }
        Ok(())
    }

    fn take_off(&mut self, n: usize) {
        let requests = self.mailboxes[n].take();
        self.witness.mail_is_dropped(n);
        self.cpus[n].stage = Stage::Asleep;
        if requests.has(Requests::START) {
            self.cpus[n].stage = Stage::Off;
            if self.starts[n].take().is_some() {
                self.power.started(VcpuId(n as u8));
                if self.broken != Broken::StartKeepsRaised {
                    let _ = self.world.commons.take_raised(VcpuId(n as u8));
                }
                self.witness.started(n);
                self.cpus[n].age = 0;
                self.cpus[n].stage = Stage::Top;
            }
        }
    }

    fn take_mail(&mut self, n: usize) {
        if self.mailboxes[n].is_empty() {
            self.cpus[n].stage = Stage::Due;
            return;
        }
        let requests = self.mailboxes[n].take();
        self.witness.mail_is_taken(n);
        self.cpus[n].stage = if requests.has(Requests::START) {
            self.leave(n, Stage::GivenBack)
        } else if self.broken == Broken::TakeInTwoSteps {
            self.mailboxes[n].post(requests);
            Stage::Empty(requests)
        } else {
            sort(requests)
        };
    }

    /// Ends all that vCPU `n` runs of SDEI.
    fn leave(&mut self, n: usize, then: Stage) -> Stage {
        let World {
            commons,
            vgic,
            family,
        } = &mut self.world;
        let (_, ripple) = self.cpus[n].pe.turn_off(commons, vgic, family);
        self.witness.company.turn_off(n);
        self.tell(n, ripple.look, then)
    }

    /// Has everybody in `set` look, and then goes on.
    fn tell(&mut self, n: usize, set: VcpuSet, then: Stage) -> Stage {
        let posts = set.iter().map(|vcpu| (vcpu, Requests::SDEI_LOOK));
        self.post_all(n, posts.collect(), then)
    }

    fn post_all(&mut self, n: usize, posts: VecDeque<(VcpuId, Requests)>, then: Stage) -> Stage {
        self.cpus[n].posts = posts;
        self.cpus[n].after = then;
        self.next_post(n)
    }

    fn next_post(&self, n: usize) -> Stage {
        match self.cpus[n].posts.front() {
            None => self.cpus[n].after,
            Some(_) if self.broken == Broken::RingsFirst => Stage::Ring,
            Some(_) => Stage::Post,
        }
    }

    fn post(&mut self, n: usize) {
        let (to, requests) = self.cpus[n].posts[0];
        if self.broken == Broken::PostOverwrites {
            let _ = self.mailboxes[to.index()].take();
        }
        self.mailboxes[to.index()].post(requests);
        self.witness.is_posted(to.index(), requests);
        let is_last = self.broken == Broken::RingsFirst || to.index() == n;
        self.cpus[n].stage = if is_last {
            self.cpus[n].posts.pop_front();
            self.next_post(n)
        } else {
            Stage::Ring
        };
    }

    fn ring(&mut self, n: usize) {
        let (to, requests) = self.cpus[n].posts[0];
        let is_mute = match self.broken {
            Broken::SignalNotRung => requests == Requests::SDEI_SIGNAL,
            Broken::LookNotRung => requests == Requests::SDEI_LOOK,
            _ => false,
        };
        self.bells[to.index()] |= !is_mute;
        self.cpus[n].stage = if self.broken == Broken::RingsFirst {
            Stage::Post
        } else {
            self.cpus[n].posts.pop_front();
            self.next_post(n)
        };
    }

    fn decide(&mut self, n: usize) -> Verdict {
        let cpu = &mut self.cpus[n];
        let is_alert = cpu.pe.is_alert();
        let due = if is_alert {
            cpu.pe.due(&self.world.family.board)
        } else {
            None
        };
        match due {
            Some(Due::Private) => {
                let priority = cpu.pe.dispatch(&mut cpu.regs, &cpu.el1);
                let event = priority.and(cpu.pe.running());
                self.witness.enters(n, event)
            }
            Some(Due::Shared) => {
                cpu.stage = Stage::Claim;
                self.copy = Some(self.world.commons.clone());
                Ok(())
            }
            None => {
                cpu.stage = Stage::Guest;
                let is_told = !is_alert && self.is_told(n);
                self.witness.enters_guest(n, is_told)
            }
        }
    }

    /// Whether somebody has told vCPU `n` to look, or is about to.
    fn is_told(&self, n: usize) -> bool {
        let by = |cpu: &Cpu| cpu.posts.iter().any(|&(to, _)| to.index() == n);
        !self.mailboxes[n].is_empty() || self.cpus.iter().any(by)
    }

    fn claim(&mut self, n: usize) -> Verdict {
        if self.broken == Broken::ClaimsWithoutLock
            && let Some(copy) = self.copy.take()
        {
            self.world.commons = copy;
        }
        let World {
            commons, family, ..
        } = &mut self.world;
        let cpu = &mut self.cpus[n];
        let taken = cpu
            .pe
            .dispatch_shared(commons, &family.board, &mut cpu.regs, &cpu.el1);
        let event = taken.and(cpu.pe.running());
        cpu.stage = Stage::Due;
        match event {
            None => self.witness.finds_nothing(n),
            event => self.witness.enters(n, event),
        }
    }

    /// Nobody does anything of its own until all is quiet; then nothing may be left undone.
    pub fn settle(&mut self) -> Verdict {
        for _ in 0..10_000 {
            let busy: Vec<_> = (0..self.vcpus()).filter(|&n| !self.is_at_rest(n)).collect();
            if busy.is_empty() {
                return self.judge();
            }
            let n = self.dice.pick(&busy);
            self.step(n, true)?;
        }
        Err("it never comes to rest".into())
    }

    fn judge(&mut self) -> Verdict {
        for n in 0..self.vcpus() {
            let state = self.power.state(VcpuId(n as u8));
            let is_on = self.cpus[n].stage == Stage::Guest;
            let expected = if is_on {
                AffinityState::On
            } else {
                AffinityState::Off
            };
            if state != expected {
                return Err(format!(
                    "vCPU {n} is lost: {state:?}, in the guest: {is_on}"
                ));
            }
            self.witness.at_rest(n, is_on)?;
            if is_on {
                let events = crate::company::PRIVATE
                    .iter()
                    .chain(&crate::company::COMMON);
                for &event in events {
                    self.call(n, Call::EventStatus, [event.into(), 0, 0, 0, 0])?;
                }
            }
        }
        Ok(())
    }
}

/// What is to be done first of what was asked.
fn sort(requests: Requests) -> Stage {
    Stage::Signal(requests)
}

fn after_signal(requests: Requests) -> Stage {
    if requests.has(Requests::SDEI_LOOK) {
        Stage::Look
    } else {
        Stage::Due
    }
}
