//! Any sequence of interrupts, masks and handlers on three vCPUs: nobody is wrongly called wedged, and no wedge is missed.

use hv_abi::watchdog::Act;
use hv_core::vgic::Model;
use hv_core::watch::Health;
use hv_testbed::{DISTRIBUTOR, Machine, Told};
use proptest::prelude::*;

use crate::{F, I, LIMIT, LOOK, MODELS, TIMER, machine, mask, pass, send, timer};

/// What happens to a guest.
#[derive(Clone, Copy, Debug)]
enum Step {
    Send { from: u8, intid: u32, to: u8 },
    Fire { n: u8 },
    Mask { n: u8, on: bool },
    End { n: u8 },
    Read { n: u8 },
    Wait { ticks: u64 },
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3u8, 0..4u32, 0..3u8).prop_map(|(from, intid, to)| Step::Send { from, intid, to }),
        3 => (0..3u8).prop_map(|n| Step::Fire { n }),
        2 => (0..3u8, prop::bool::weighted(0.4)).prop_map(|(n, on)| Step::Mask { n, on }),
        5 => (0..3u8).prop_map(|n| Step::End { n }),
        2 => (0..3u8).prop_map(|n| Step::Read { n }),
        4 => (1..12u64).prop_map(|ticks| Step::Wait { ticks }),
    ]
}

/// A guest that takes an interrupt as soon as it may, and a witness of when it did.
struct Guest {
    machine: Machine,
    model: Model,
    is_masked: [bool; 3],
    /// When each vCPU has last taken each interrupt.
    taken: [[u64; 32]; 3],
    /// Since when each vCPU has had something to take that was masked, and has taken nothing.
    late: [Option<u64>; 3],
    /// Whether each is called wedged.
    is_wedged: [bool; 3],
    wedges: usize,
}

impl Guest {
    fn new(model: Model) -> Self {
        Self {
            machine: machine(model, Act::Report, Act::Report),
            model,
            is_masked: [false; 3],
            taken: [[0; 32]; 3],
            late: [None; 3],
            is_wedged: [false; 3],
            wedges: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send { from, intid, to } => {
                send(&mut self.machine, from, intid, to, self.model);
            }
            Step::Fire { n } => timer(&mut self.machine, n, true),
            Step::Mask { n, on } => {
                self.is_masked[usize::from(n)] = on;
                mask(&mut self.machine, n, if on { I | F } else { 0 });
            }
            Step::End { n } => {
                self.machine.end(n);
                self.machine.settle();
            }
            Step::Read { n } => {
                let _ = self.machine.load(n, DISTRIBUTOR + 4, 4);
            }
            Step::Wait { ticks } => {
                for _ in 0..ticks {
                    pass(&mut self.machine, 1);
                    self.witness();
                }
            }
        }
        self.witness();
    }

    fn witness(&mut self) {
        let now = self.machine.now();
        for n in 0..3u8 {
            let at = usize::from(n);
            while !self.is_masked[at]
                && let Some(it) = self.machine.acknowledge(n)
            {
                self.taken[at][it.intid.0 as usize] = now;
                self.late[at] = None;
                if it.intid == TIMER {
                    // It is armed anew, for later.
                    self.machine.physical().wire_mut(TIMER, n).level = false;
                }
                self.machine.settle();
            }
            let pends = |lr: &hv_core::vgic::ListReg| lr.state.is_pending();
            let has = self.machine.interface(n).all().any(|lr| pends(&lr));
            self.late[at] = if has {
                self.late[at].or(Some(now))
            } else {
                None
            };
        }
        for told in self.machine.answers() {
            let Told::Health {
                vcpu,
                health,
                intid,
                ..
            } = told
            else {
                continue;
            };
            let at = usize::from(vcpu);
            self.is_wedged[at] = health == Health::Wedged;
            let Some(intid) = intid else {
                // What was missing before begins to count now.
                self.late[at] = self.late[at].map(|_| now);
                continue;
            };
            let taken = self.taken[at][intid.0 as usize];
            assert!(
                taken + LIMIT <= now,
                "vCPU {vcpu} has taken {intid:?} at {taken}, and is called wedged at {now}"
            );
            self.wedges += 1;
        }
        for (n, late) in self.late.iter().enumerate() {
            if let Some(since) = late
                && !self.is_wedged[n]
            {
                assert!(
                    now <= since + LIMIT + LOOK,
                    "vCPU {n} has taken nothing since {since}, and nobody has said so at {now}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn nobody_is_wrongly_called_wedged_and_no_wedge_is_missed(
        model in 0..3usize,
        script in prop::collection::vec(steps(), 0..150),
    ) {
        let mut guest = Guest::new(MODELS[model]);
        for step in script {
            guest.step(step);
        }
    }
}

#[test]
fn the_witness_sees_wedges() {
    let mut guest = Guest::new(Model::V3);
    guest.step(Step::Mask { n: 1, on: true });
    guest.step(Step::Fire { n: 1 });
    guest.step(Step::Wait {
        ticks: LIMIT + LOOK,
    });
    assert_eq!(guest.wedges, 1);
}
