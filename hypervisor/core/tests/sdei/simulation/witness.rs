//! What must be true of the simulation, told by `company.rs` and by what was posted, never by what the machine
//! believes: a witness that the mailboxes and the PEs cannot deceive.

use hv_abi::psci::AffinityState;
use hv_core::mailbox::Requests;

use super::machine::Verdict;
use crate::company::{Company, PRIVATE};

pub struct Witness {
    pub company: Company,
    /// A signal was posted to the vCPU, and it has not taken its mail since.
    posted: Vec<bool>,
    /// It has taken the signal out of its mail.
    in_hand: Vec<bool>,
    /// The platform has raised these on it, and it has not looked since.
    raised: Vec<Vec<u32>>,
    power: Vec<AffinityState>,
    /// How many times it was to start, and did.
    starts: Vec<[u32; 2]>,
}

impl Witness {
    pub fn new(mpidrs: &[u64]) -> Self {
        let vcpus = mpidrs.len();
        let mut power = vec![AffinityState::Off; vcpus];
        power[0] = AffinityState::On;
        Self {
            company: Company::new(mpidrs),
            posted: vec![false; vcpus],
            in_hand: vec![false; vcpus],
            raised: vec![Vec::new(); vcpus],
            power,
            // The boot vCPU starts with the VM.
            starts: (0..vcpus).map(|n| [u32::from(n == 0), 0]).collect(),
        }
    }

    pub fn is_posted(&mut self, n: usize, requests: Requests) {
        self.posted[n] |= requests.has(Requests::SDEI_SIGNAL);
    }

    /// All signals posted until now become one.
    pub fn mail_is_taken(&mut self, n: usize) {
        self.in_hand[n] = std::mem::take(&mut self.posted[n]);
    }

    /// So they do, and nobody is there to care.
    pub fn mail_is_dropped(&mut self, n: usize) {
        self.posted[n] = false;
    }

    /// What it has taken is dropped.
    pub fn hand_is_emptied(&mut self, n: usize) {
        self.in_hand[n] = false;
    }

    pub fn signal_arrives(&mut self, n: usize) {
        if std::mem::take(&mut self.in_hand[n]) {
            self.company.trigger(n, 0);
        }
    }

    pub fn is_raised(&mut self, n: usize, event: u32) {
        if PRIVATE.contains(&event) {
            self.raised[n].push(event);
        } else {
            self.company.trigger(n, event);
        }
    }

    pub fn raised_arrive(&mut self, n: usize) {
        for event in std::mem::take(&mut self.raised[n]) {
            self.company.trigger(n, event);
        }
    }

    /// Of what a vCPU enters a handler for, all must be true now.
    pub fn enters(&mut self, n: usize, event: Option<u32>) -> Verdict {
        let may = self.company.may_enter(n);
        match event {
            Some(event) if may.contains(&event) => {
                self.company.enter(n, event);
                Ok(())
            }
            _ => Err(format!("vCPU {n} enters {event:x?}, and may {may:x?}")),
        }
    }

    /// It takes no event and runs its guest: right, unless it was not told.
    pub fn enters_guest(&self, n: usize, is_told: bool) -> Verdict {
        match self.company.next(n) {
            Some(event) if !is_told || PRIVATE.contains(&event) => {
                Err(format!("vCPU {n} does not enter {event:#x}"))
            }
            _ => Ok(()),
        }
    }

    /// CPU_ON by `caller` of a vCPU that is off, or parked.
    pub fn is_turned_on(&mut self, caller: usize, n: usize, is_granted: bool) -> Verdict {
        let may = match self.power[n] {
            AffinityState::Off => true,
            AffinityState::On => n != caller && self.company.is_parked(n),
            AffinityState::OnPending => false,
        };
        if may != is_granted {
            let state = self.power[n];
            return Err(format!(
                "CPU_ON of vCPU {n}, {state:?}, parked or off: {may}"
            ));
        }
        if may {
            self.power[n] = AffinityState::OnPending;
            self.starts[n][0] += 1;
        }
        Ok(())
    }

    /// It is on. Whatever was raised on it before is gone, and told.
    pub fn on(&mut self, n: usize) -> Vec<u32> {
        self.power[n] = AffinityState::On;
        self.in_hand[n] = false;
        std::mem::take(&mut self.raised[n])
    }

    /// It begins to run.
    pub fn started(&mut self, n: usize) {
        self.starts[n][1] += 1;
    }

    /// One that turns itself off while it is being taken back starts all the same.
    pub fn stopped(&mut self, n: usize) {
        if self.power[n] == AffinityState::On {
            self.power[n] = AffinityState::Off;
        }
    }

    /// Whether somebody is left to turn `n` on again.
    pub fn others_are_on(&self, n: usize) -> bool {
        let mut others = (0..).zip(&self.power);
        others.any(|(other, &power)| other != n && power == AffinityState::On)
    }

    /// Nobody has anything left to do.
    pub fn at_rest(&self, n: usize, is_on: bool) -> Verdict {
        let [wanted, had] = self.starts[n];
        if wanted != had {
            return Err(format!(
                "vCPU {n} was to start {wanted} times, and did {had}"
            ));
        }
        if is_on != (self.power[n] == AffinityState::On) {
            return Err(format!(
                "vCPU {n} is {:?}, in its guest: {is_on}",
                self.power[n]
            ));
        }
        if is_on && (self.posted[n] || self.in_hand[n]) {
            return Err(format!("vCPU {n} has lost a signal"));
        }
        match self.company.next(n) {
            Some(event) if is_on => Err(format!("vCPU {n} has lost event {event:#x}")),
            _ => Ok(()),
        }
    }
}
