//! SDEI of several vCPUs once more, as briefly as possible: what each has of its own, what all have in common,
//! and a stack of running events per vCPU. It says who enters which handler next; registers are `model.rs`'s.

use std::collections::BTreeMap;

use hv_abi::sdei::{Call, FIRST_BOUND_PRIVATE, FIRST_BOUND_SHARED};

use crate::vcpu::*;

pub const BOUND_PPI: u32 = FIRST_BOUND_PRIVATE;
pub const BOUND_SPI: u32 = FIRST_BOUND_SHARED;
pub const PRIVATE: [u32; 4] = [0, NORMAL, CRITICAL, BOUND_PPI];
pub const COMMON: [u32; 3] = [SHARED, SHARED_CRITICAL, BOUND_SPI];

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Event {
    registered: bool,
    enabled: bool,
    running: bool,
    pending: bool,
    argument: u64,
    /// Of a shared event: the one vCPU that may take it.
    route: Option<usize>,
}

#[derive(Debug)]
struct One {
    events: BTreeMap<u32, Event>,
    unmasked: bool,
    stack: Vec<u32>,
}

/// A VM of as many vCPUs as wanted. The interrupts `TIMER` and `SPI` can be bound.
#[derive(Debug)]
pub struct Company {
    mpidrs: Vec<u64>,
    ones: Vec<One>,
    common: BTreeMap<u32, Event>,
    /// Which of the two is bound.
    bound: [bool; 2],
    /// Where the PPI is active, and the SPI, behind those.
    held: Vec<bool>,
    /// The last call has let a bound interrupt go.
    pub ended: bool,
}

fn is_critical(event: u32) -> bool {
    event == CRITICAL || event == SHARED_CRITICAL
}

impl Event {
    fn status(&self) -> i64 {
        i64::from(self.registered) + 2 * i64::from(self.enabled) + 4 * i64::from(self.running)
    }

    fn fires(&self) -> bool {
        self.pending && self.registered && self.enabled && !self.running
    }

    /// All but that it runs is over. Whether it does.
    fn unregister(&mut self) -> bool {
        *self = Self {
            running: self.running,
            ..Self::default()
        };
        self.running
    }
}

impl Company {
    pub fn new(mpidrs: &[u64]) -> Self {
        let all = |numbers: &[u32]| {
            let events = numbers.iter().map(|&number| (number, Event::default()));
            events.collect::<BTreeMap<_, _>>()
        };
        let one = |_| One {
            events: all(&PRIVATE),
            unmasked: false,
            stack: Vec::new(),
        };
        Self {
            mpidrs: mpidrs.into(),
            ones: mpidrs.iter().map(one).collect(),
            common: all(&COMMON),
            bound: [false; 2],
            held: vec![false; mpidrs.len() + 1],
            ended: false,
        }
    }

    fn has(&self, event: u32) -> bool {
        match event {
            BOUND_PPI => self.bound[0],
            BOUND_SPI => self.bound[1],
            _ => PRIVATE.contains(&event) || COMMON.contains(&event),
        }
    }

    fn event(&mut self, n: usize, event: u32) -> &mut Event {
        let own = self.ones[n].events.get_mut(&event);
        own.unwrap_or_else(|| self.common.get_mut(&event).expect("an event"))
    }

    pub fn call(&mut self, n: usize, call: Call, x: [u64; 5]) -> Option<i64> {
        self.ended = false;
        let number = x[0] as u32;
        Some(match call {
            Call::PeMask => i64::from(std::mem::take(&mut self.ones[n].unmasked)),
            Call::PeUnmask => {
                self.ones[n].unmasked = true;
                OK
            }
            Call::EventSignal if number != 0 => INVALID,
            Call::EventSignal => match self.vcpu(x[1]) {
                None => INVALID,
                Some(target) => {
                    if target == n {
                        self.trigger(n, 0);
                    }
                    OK
                }
            },
            Call::EventComplete | Call::EventCompleteAndResume => {
                let Some(event) = self.ones[n].stack.pop() else {
                    return Some(DENIED);
                };
                self.event(n, event).running = false;
                self.look_again(n, event);
                return None;
            }
            Call::InterruptBind => match number {
                TIMER | SPI => {
                    self.bound[usize::from(number == SPI)] = true;
                    i64::from(if number == SPI { BOUND_SPI } else { BOUND_PPI })
                }
                _ => INVALID,
            },
            Call::PrivateReset => {
                let mut runs = false;
                for event in self.ones[n].events.values_mut() {
                    runs |= event.unregister();
                }
                self.look_again(n, BOUND_PPI);
                if runs { DENIED } else { OK }
            }
            Call::SharedReset => {
                let mut runs = false;
                for event in self.common.values_mut() {
                    runs |= event.unregister();
                }
                for event in [BOUND_PPI, BOUND_SPI] {
                    runs |= self.has(event) && self.release(event) != OK;
                }
                if runs { DENIED } else { OK }
            }
            _ if !self.has(number) => INVALID,
            Call::InterruptRelease => self.release(number),
            Call::EventGetInfo => self.info(n, number, x[1]),
            Call::EventRoutingSet => {
                let is_shared_or_bound = COMMON.contains(&number);
                let route = match x[1] {
                    0 => Some(None),
                    1 => self.vcpu(x[2]).map(Some),
                    _ => None,
                };
                let event = self.event(n, number);
                match route {
                    Some(_) if !is_shared_or_bound => INVALID,
                    None => INVALID,
                    Some(_) if !event.registered || event.enabled || event.running => DENIED,
                    Some(route) => {
                        event.route = route;
                        OK
                    }
                }
            }
            Call::EventRegister => {
                let wants_route = COMMON.contains(&number) && x[3] & 1 != 0;
                let route = self.vcpu(x[4]).filter(|_| wants_route);
                let event = self.event(n, number);
                if x[3] > 3 || wants_route && route.is_none() {
                    INVALID
                } else if event.registered || event.running {
                    DENIED
                } else {
                    *event = Event {
                        registered: true,
                        argument: x[2],
                        route,
                        ..Event::default()
                    };
                    OK
                }
            }
            Call::EventStatus => self.event(n, number).status(),
            Call::EventUnregister => {
                let event = self.event(n, number);
                if !event.registered && !event.running {
                    return Some(DENIED);
                }
                let status = if event.unregister() { PENDING } else { OK };
                self.look_again(n, number);
                status
            }
            Call::EventEnable | Call::EventDisable => {
                let event = self.event(n, number);
                if !event.registered {
                    return Some(DENIED);
                }
                event.enabled = call == Call::EventEnable;
                self.look_again(n, number);
                OK
            }
            other => panic!("{other:?} is not in the model"),
        })
    }

    fn vcpu(&self, affinity: u64) -> Option<usize> {
        self.mpidrs.iter().position(|&mpidr| mpidr == affinity)
    }

    fn info(&mut self, n: usize, number: u32, info: u64) -> i64 {
        let is_shared_or_bound = COMMON.contains(&number);
        let event = *self.event(n, number);
        let mpidr = |vcpu: usize| self.mpidrs[vcpu] as i64;
        match info {
            0 => i64::from(is_shared_or_bound),
            1 => i64::from(number != 0),
            2 => i64::from(is_critical(number)),
            3 | 4 if !is_shared_or_bound => INVALID,
            3 | 4 if !event.registered => DENIED,
            3 => i64::from(event.route.is_some()),
            4 => event.route.map_or(INVALID, mpidr),
            _ => INVALID,
        }
    }

    fn release(&mut self, number: u32) -> i64 {
        let is_used = match number {
            BOUND_PPI => self
                .ones
                .iter()
                .any(|one| one.events[&BOUND_PPI].status() != 0),
            BOUND_SPI => self.common[&BOUND_SPI].status() != 0,
            _ => return INVALID,
        };
        if is_used {
            return DENIED;
        }
        self.bound[usize::from(number == BOUND_SPI)] = false;
        OK
    }

    /// A level is let go as soon as somebody waits for it.
    fn look_again(&mut self, n: usize, number: u32) {
        let (slot, copy) = match number {
            BOUND_PPI => (0, n),
            BOUND_SPI => (1, self.ones.len()),
            _ => return,
        };
        let event = *self.event(n, number);
        if self.bound[slot] && !event.pending && !event.running && event.enabled {
            self.ended = std::mem::take(&mut self.held[copy]);
        }
    }

    pub fn trigger(&mut self, n: usize, number: u32) {
        let event = self.event(n, number);
        event.pending |= event.registered;
    }

    /// A bound level arrives at vCPU `n`; false if it cannot, since it is not bound or still active.
    pub fn interrupt(&mut self, n: usize, number: u32) -> bool {
        let copy = if number == BOUND_PPI {
            n
        } else {
            self.ones.len()
        };
        if !self.has(number) || std::mem::replace(&mut self.held[copy], true) {
            return false;
        }
        let event = self.event(n, number);
        event.pending |= event.registered && event.enabled && !event.running;
        true
    }

    /// Whether a bound level can arrive at vCPU `n`: it is bound, and not active.
    pub fn may_interrupt(&self, n: usize, number: u32) -> bool {
        let copy = if number == BOUND_PPI {
            n
        } else {
            self.ones.len()
        };
        self.has(number) && !self.held[copy]
    }

    /// Whether a handler runs on vCPU `n`.
    pub fn is_running(&self, n: usize) -> bool {
        !self.ones[n].stack.is_empty()
    }

    /// SYSTEM_SUSPEND is over.
    pub fn mask(&mut self, n: usize) {
        self.ones[n].unmasked = false;
    }

    /// CPU_OFF: all of its own is gone, and the shared events that ran here do no more.
    pub fn turn_off(&mut self, n: usize) {
        for event in std::mem::take(&mut self.ones[n].stack) {
            self.event(n, event).running = false;
            if COMMON.contains(&event) {
                self.look_again(n, event);
            }
        }
        for event in self.ones[n].events.values_mut() {
            *event = Event::default();
        }
        self.ones[n].unmasked = false;
    }

    /// The events that vCPU `n` may take before its next instruction, all of one priority: critical before
    /// normal. Its own are first, and then the lowest number.
    pub fn may_enter(&self, n: usize) -> Vec<u32> {
        let one = &self.ones[n];
        let running = one.stack.last().map(|&event| is_critical(event));
        if !one.unmasked || running == Some(true) {
            return Vec::new();
        }
        let own = one.events.iter();
        let common =
            (self.common.iter()).filter(|(_, event)| event.route.is_none_or(|target| target == n));
        let all = own.chain(common).filter(|(_, event)| event.fires());
        let numbers = all.map(|(&number, _)| number);
        let (critical, normal): (Vec<_>, Vec<_>) = numbers.partition(|&number| is_critical(number));
        if critical.is_empty() && running.is_none() {
            normal
        } else {
            critical
        }
    }

    /// The one of them that it does take, if nobody else is faster.
    pub fn next(&self, n: usize) -> Option<u32> {
        self.may_enter(n).first().copied()
    }

    /// It does; its argument.
    pub fn enter(&mut self, n: usize, number: u32) -> u64 {
        let event = self.event(n, number);
        (event.running, event.pending) = (true, false);
        let argument = event.argument;
        self.ones[n].stack.push(number);
        argument
    }

    /// Masked within the only handler that runs.
    pub fn is_parked(&self, n: usize) -> bool {
        !self.ones[n].unmasked && self.ones[n].stack.len() == 1
    }
}
