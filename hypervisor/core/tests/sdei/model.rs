//! SDEI once more, as briefly as possible: three flags per event and a stack of contexts. What the machine
//! does and what this does must be the same for any sequence of calls, triggers and instructions.

use hv_abi::sdei::Call;
use hv_core::regs::GuestRegs;
use proptest::prelude::*;

use crate::vcpu::*;

const EVENTS: [u32; 3] = [0, NORMAL, CRITICAL];

#[derive(Clone, Copy, Default)]
struct Event {
    registered: bool,
    enabled: bool,
    running: bool,
    pending: bool,
    entry: u64,
    argument: u64,
}

/// Nothing returned, or what x0 holds.
type Answer = Option<i64>;

#[derive(Default)]
struct Model {
    events: [Event; 3],
    unmasked: bool,
    /// Which event interrupted what; the last is the innermost.
    stack: Vec<(usize, GuestRegs)>,
}

impl Model {
    fn call(&mut self, call: Call, regs: &mut GuestRegs, elr_spsr: &mut (u64, u64)) -> Answer {
        let x = regs.x;
        let event = EVENTS.iter().position(|&event| event == x[1] as u32);
        let target = x[2] & 0xff_00ff_ffff;
        Some(match (call, event) {
            (Call::Version, _) => 0x1_0001_484c_474e,
            (Call::EventContext, _) if x[1] as u32 > 17 => INVALID,
            (Call::EventContext | Call::EventComplete | Call::EventCompleteAndResume, _)
                if self.stack.is_empty() =>
            {
                DENIED
            }
            (Call::EventContext, _) => {
                self.stack[self.stack.len() - 1].1.x[x[1] as u32 as usize] as i64
            }
            (Call::EventCompleteAndResume, _) if !is_code(x[1]) => INVALID,
            (Call::EventComplete | Call::EventCompleteAndResume, _) => {
                let (event, interrupted) = self.stack.pop()?;
                self.events[event].running = false;
                regs.x[..18].copy_from_slice(&interrupted.x[..18]);
                (regs.pc, regs.pstate) = (interrupted.pc, interrupted.pstate);
                if call == Call::EventCompleteAndResume {
                    *elr_spsr = (regs.pc, regs.pstate);
                    (regs.pc, regs.pstate) = (x[1], 0x3c5 | regs.pstate & 0xf000_0000);
                }
                return None;
            }
            (Call::PeMask, _) => i64::from(std::mem::take(&mut self.unmasked)),
            (Call::PeUnmask, _) => {
                self.unmasked = true;
                OK
            }
            (Call::InterruptBind, _) => match x[1] as u32 {
                29 => INVALID,
                16..96 => OUT_OF_RESOURCE,
                _ => INVALID,
            },
            (Call::EventSignal, _) if x[1] as u32 != 0 => INVALID,
            (Call::EventSignal, _) if x[2] & 0xffff_ff00_3e00_0000 != 0 => INVALID,
            (Call::EventSignal, _) if !SIBLINGS.contains(&target) => INVALID,
            (Call::EventSignal, _) => {
                if target == SIBLINGS[0] {
                    self.trigger(0);
                }
                OK
            }
            (Call::Features, _) => match x[1] as u32 {
                0 => 0,
                1 => 1,
                _ => INVALID,
            },
            (Call::SharedReset, _) => OK,
            (Call::PrivateReset, _) => {
                for event in &mut self.events {
                    (event.registered, event.enabled, event.pending) = (false, false, false);
                }
                if self.stack.is_empty() { OK } else { DENIED }
            }
            (_, None) => INVALID,
            (Call::EventRoutingSet | Call::InterruptRelease, _) => INVALID,
            (Call::EventGetInfo, Some(event)) => match x[2] as u32 {
                0 => 0,
                1 => i64::from(event != 0),
                2 => i64::from(event == 2),
                _ => INVALID,
            },
            (_, Some(event)) => self.events[event].call(call, x),
        })
    }

    fn trigger(&mut self, event: usize) {
        let event = &mut self.events[event];
        event.pending |= event.registered;
    }

    fn enter(&mut self, regs: &mut GuestRegs) -> Option<u32> {
        let fires = |e: &Event| e.pending && e.registered && e.enabled && !e.running;
        let order: &[usize] = match self.stack.last() {
            _ if !self.unmasked => &[],
            Some((2, _)) => &[],
            Some(_) => &[2],
            None => &[2, 0, 1],
        };
        let index = *order.iter().find(|&&index| fires(&self.events[index]))?;
        let event = &mut self.events[index];
        (event.running, event.pending) = (true, false);
        self.stack.push((index, regs.clone()));
        let x = [
            u64::from(EVENTS[index]),
            event.argument,
            regs.pc,
            regs.pstate,
        ];
        regs.x[..4].copy_from_slice(&x);
        (regs.pc, regs.pstate) = (event.entry, 0x3c5 | regs.pstate & 0xf000_0000);
        Some(EVENTS[index])
    }
}

fn is_code(address: u64) -> bool {
    address != 0 && address & 3 == 0 && (address >> 52 == 0 || address >> 52 == 0xfff)
}

impl Event {
    fn call(&mut self, call: Call, x: [u64; 31]) -> i64 {
        match call {
            Call::EventStatus => {
                i64::from(self.registered)
                    + 2 * i64::from(self.enabled)
                    + 4 * i64::from(self.running)
            }
            Call::EventRegister if x[4] > 3 => INVALID,
            Call::EventRegister if x[4] & 2 == 0 && !is_code(x[2]) => INVALID,
            Call::EventRegister if x[2] & 3 != 0 => INVALID,
            Call::EventRegister if self.registered || self.running => DENIED,
            Call::EventRegister => {
                let base = if x[4] & 2 != 0 { VBAR } else { 0 };
                *self = Self {
                    registered: true,
                    entry: base.wrapping_add(x[2]),
                    argument: x[3],
                    ..Self::default()
                };
                OK
            }
            Call::EventUnregister if self.running => {
                (self.registered, self.enabled, self.pending) = (false, false, false);
                PENDING
            }
            _ if !self.registered => DENIED,
            Call::EventEnable => {
                self.enabled = true;
                OK
            }
            Call::EventDisable => {
                self.enabled = false;
                OK
            }
            Call::EventUnregister => {
                (self.registered, self.enabled, self.pending) = (false, false, false);
                OK
            }
            other => panic!("{other:?} has no event"),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Call(Call, [u64; 5]),
    /// The platform, or a sibling, raises an event.
    Raise(usize),
    /// The guest computes.
    Run(Box<[u64; 31]>, u64),
}

/// Mostly what means something, sometimes anything.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..4_u64,
        4 => proptest::sample::select(EVENTS.map(u64::from).to_vec()),
        2 => proptest::sample::select(SIBLINGS.to_vec()),
        4 => proptest::sample::select(vec![ENTRY, ENTRY + 2, VBAR + 0x480, 17, 18, 32, 1 << 31, 1 << 32]),
        1 => any::<u64>(),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let call = proptest::sample::select(Call::ALL.to_vec());
    let useful = proptest::sample::select(vec![
        Step::Call(Call::PeUnmask, [0; 5]),
        Step::Call(Call::EventComplete, [0; 5]),
        Step::Call(Call::EventRegister, [0, ENTRY, ARGUMENT, 0, 0]),
        Step::Call(Call::EventRegister, [NORMAL.into(), ENTRY, ARGUMENT, 0, 0]),
        Step::Call(
            Call::EventRegister,
            [CRITICAL.into(), 0x800, ARGUMENT, 2, 0],
        ),
        Step::Call(Call::EventEnable, [0; 5]),
        Step::Call(Call::EventEnable, [NORMAL.into(), 0, 0, 0, 0]),
        Step::Call(Call::EventEnable, [CRITICAL.into(), 0, 0, 0, 0]),
        Step::Call(Call::EventSignal, [0; 5]),
        Step::Call(Call::EventUnregister, [0; 5]),
        Step::Call(Call::PeMask, [0; 5]),
    ]);
    prop_oneof![
        4 => useful,
        4 => (call, [word(), word(), word(), word(), word()]).prop_map(|(c, a)| Step::Call(c, a)),
        3 => (0..3_usize).prop_map(Step::Raise),
        2 => (any::<[u64; 31]>(), any::<u64>()).prop_map(|(x, pc)| Step::Run(Box::new(x), pc)),
    ]
}

proptest! {
    #[test]
    fn machine_and_model_agree_on_any_sequence(steps in prop::collection::vec(step(), 1..80)) {
        let mut vcpu = Vcpu::alone();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Call(call, args) => {
                    let mut regs = vcpu.regs.clone();
                    regs.x[0] = u64::from(call as u32);
                    regs.x[1..6].copy_from_slice(&args);
                    regs.pc = regs.pc.wrapping_add(4);
                    let mut elr_spsr = (vcpu.el1.elr, vcpu.el1.spsr);
                    if let Some(answer) = model.call(call, &mut regs, &mut elr_spsr) {
                        regs.x[0] = answer as u64;
                    }
                    vcpu.leave(call, &args);
                    prop_assert_eq!(&vcpu.regs, &regs, "{:?}", call);
                    prop_assert_eq!((vcpu.el1.elr, vcpu.el1.spsr), elr_spsr);
                }
                Step::Raise(event) => {
                    vcpu.post(EVENTS[event]);
                    model.trigger(event);
                }
                Step::Run(x, pc) => {
                    vcpu.regs.x = *x;
                    vcpu.regs.pc = pc & !3;
                    // Any mode a guest can be in, any flags.
                    vcpu.regs.pstate = pc & 0xf000_03c0 | [0, 4, 5, 0x10][x[0] as usize % 4];
                }
            }
            loop {
                let mut regs = vcpu.regs.clone();
                let before = regs.clone();
                let expected = model.enter(&mut regs);
                let taken = vcpu.enter();
                prop_assert_eq!(&vcpu.regs, &regs);
                prop_assert_eq!(taken.as_ref().map(|taken| taken.event), expected);
                let Some(taken) = taken else { break };
                prop_assert_eq!(taken.x, before.x);
                prop_assert_eq!((taken.pc, taken.pstate), (before.pc, before.pstate));
            }
            for (index, event) in EVENTS.into_iter().enumerate() {
                let status = model.events[index].call(Call::EventStatus, [0; 31]);
                prop_assert!(matches!(status, 0 | 1 | 3 | 4 | 5 | 7));
                let regs = vcpu.regs.clone();
                prop_assert_eq!(vcpu.status(event), status);
                vcpu.regs = regs;
            }
        }
    }
}
