//! Every order of events on machines of up to 4 pCPUs: the real words and the real ladder, stepped
//! through all interleavings of pCPUs that answer, answer late, do not answer, fail too or come up.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use hv_core::id::{PcpuId, PcpuSet};
use hv_core::patience::Patience;
use hv_core::stop::ladder::{Decision, Fate, Ladder};
use hv_core::stop::sequence::{Step, StopSequence};
use hv_core::stop::words::{Claim, Slot, SlotState, Stopper};
use hv_core::stop::{StoppedBy, Ticks};
use hv_core::time::Instant;
use hv_core::word::Word;

/// An atomic word of a world that takes one step at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Plain(Cell<u32>);

impl Word for &Plain {
    fn load(&self, _: Ordering) -> u32 {
        self.0.get()
    }

    fn store(&self, value: u32, _: Ordering) {
        self.0.set(value);
    }

    fn swap(&self, value: u32, _: Ordering) -> u32 {
        self.0.replace(value)
    }

    fn fetch_or(&self, bits: u32, _: Ordering) -> u32 {
        self.0.replace(self.0.get() | bits)
    }

    fn compare_exchange(&self, old: u32, new: u32) -> Result<u32, u32> {
        let found = self.0.get();
        if found == old {
            self.0.set(new);
            Ok(found)
        } else {
            Err(found)
        }
    }
}

/// What a pCPU is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// Takes its SGI, sooner or later.
    Healthy,
    /// Masks its interrupts for ever; event 0 reaches it, sooner or later.
    Wedged,
    /// As wedged, but EL3 refuses to signal it.
    Refused,
    /// Nothing reaches it.
    Deaf,
    /// Fails, sooner or later, and until then it is like one that is wedged.
    Failing,
    /// Comes up, sooner or later, and is healthy then.
    Newcomer,
}

const KINDS: [Kind; 6] = [
    Kind::Healthy,
    Kind::Wedged,
    Kind::Refused,
    Kind::Deaf,
    Kind::Failing,
    Kind::Newcomer,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pcpu {
    kind: Kind,
    armed: bool,
    is_up: bool,
    has_failed: bool,
    rings: u8,
    signals: u8,
    /// SGIs and events that it took.
    taken: u8,
}

/// What the stopper does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Asks one after the other.
    Asking(usize),
    Climbing,
    /// Has gone on.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Climb {
    who: usize,
    phase: Phase,
    asked: Vec<(u8, SlotState)>,
    ladder: Option<Ladder>,
    failures: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    words: Vec<u32>,
    stopper: u32,
    pcpus: Vec<Pcpu>,
    climb: Option<Climb>,
    now: u64,
}

/// The shortest that keep the order of the real ones, the first as long as a step of time.
const LIMITS: Ticks = Ticks {
    first: 1,
    last: 2,
    patience: Patience::new(1),
};

impl World {
    fn new(pcpus: &[(Kind, bool)]) -> Self {
        let pcpus: Vec<Pcpu> = pcpus
            .iter()
            .map(|&(kind, armed)| Pcpu {
                kind,
                armed,
                is_up: kind != Kind::Newcomer,
                has_failed: false,
                rings: 0,
                signals: 0,
                taken: 0,
            })
            .collect();
        let mut world = Self {
            words: vec![0; pcpus.len()],
            stopper: 0,
            pcpus,
            climb: None,
            now: 0,
        };
        for index in 0..world.pcpus.len() {
            if world.pcpus[index].is_up {
                let armed = world.pcpus[index].armed;
                let state = world.with(index, |slot| slot.come_online(armed));
                assert!(!state.is_asked());
            }
        }
        world
    }

    /// A step on the word of one pCPU.
    fn with<T>(&mut self, index: usize, step: impl FnOnce(&Slot<&Plain>) -> T) -> T {
        let word = Plain(Cell::new(self.words[index]));
        let result = step(&Slot::new(&word));
        assert_eq!(self.words[index] & !word.0.get(), 0, "bits are only set");
        self.words[index] = word.0.get();
        result
    }

    fn state(&self, index: usize) -> SlotState {
        let word = Plain(Cell::new(self.words[index]));
        Slot::new(&word).state()
    }

    fn is_parked(&self, index: usize) -> bool {
        self.state(index).parked().is_some()
    }

    fn parked(&self) -> PcpuSet {
        let mut set = PcpuSet::EMPTY;
        for index in 0..self.pcpus.len() {
            if self.is_parked(index) {
                set.insert(PcpuId(index as u8));
            }
        }
        set
    }

    fn is_stopper(&self, index: usize) -> bool {
        self.climb.as_ref().is_some_and(|climb| climb.who == index)
    }

    /// Everything that can happen next.
    fn successors(&self) -> Vec<World> {
        let mut next = Vec::new();
        for index in 0..self.pcpus.len() {
            next.extend(self.fail(index));
            next.extend(self.come_up(index));
            next.extend(self.take_sgi(index));
            next.extend(self.take_event(index));
        }
        if let Some(climb) = &self.climb {
            next.extend(self.fail_on_the_ladder(climb));
            match climb.phase {
                Phase::Asking(index) => next.push(self.ask(climb, index)),
                // Twice the step is the long limit, so all that time can do happens.
                Phase::Climbing => {
                    next.extend([0, LIMITS.first].map(|step| self.poll(climb, step)))
                }
                Phase::Gone => {}
            }
        }
        next.retain(|world| world != self);
        next
    }

    fn fail(&self, index: usize) -> Option<World> {
        let pcpu = &self.pcpus[index];
        if pcpu.kind != Kind::Failing || pcpu.has_failed || self.is_parked(index) {
            return None;
        }
        let mut world = self.clone();
        world.pcpus[index].has_failed = true;
        let word = Plain(Cell::new(world.stopper));
        let claim = Stopper::new(&word).claim(PcpuId(index as u8));
        world.stopper = word.0.get();
        match claim {
            Claim::Mine => {
                assert!(world.climb.is_none(), "one stopper: {self:?}");
                world.climb = Some(Climb {
                    who: index,
                    phase: Phase::Asking(0),
                    asked: Vec::new(),
                    ladder: None,
                    failures: 0,
                });
            }
            Claim::Theirs(winner) => {
                assert!(self.is_stopper(winner.index()));
                let _ = world.with(index, |slot| slot.park(StoppedBy::Itself));
            }
            Claim::Again => panic!("it fails on the ladder elsewhere"),
        }
        Some(world)
    }

    fn come_up(&self, index: usize) -> Option<World> {
        let pcpu = &self.pcpus[index];
        if pcpu.is_up {
            return None;
        }
        let mut world = self.clone();
        let armed = pcpu.armed;
        world.pcpus[index].is_up = true;
        if world.with(index, |slot| slot.come_online(armed)).is_asked() {
            assert!(world.with(index, |slot| slot.park(StoppedBy::Itself)));
        }
        Some(world)
    }

    fn take_sgi(&self, index: usize) -> Option<World> {
        let pcpu = &self.pcpus[index];
        let takes = matches!(pcpu.kind, Kind::Healthy | Kind::Newcomer);
        if !takes || pcpu.rings == 0 || self.is_parked(index) {
            return None;
        }
        let mut world = self.clone();
        world.pcpus[index].taken += 1;
        assert!(world.with(index, |slot| slot.park(StoppedBy::Ipi)));
        Some(world)
    }

    /// The event reaches those that have parked, too.
    fn take_event(&self, index: usize) -> Option<World> {
        let pcpu = &self.pcpus[index];
        if pcpu.kind == Kind::Deaf || pcpu.signals == 0 || pcpu.taken > 1 {
            return None;
        }
        let mut world = self.clone();
        world.pcpus[index].taken = 2;
        let _ = world.with(index, |slot| slot.park(StoppedBy::Sdei));
        Some(world)
    }

    fn fail_on_the_ladder(&self, climb: &Climb) -> Option<World> {
        if climb.failures != 0 || climb.phase == Phase::Gone {
            return None;
        }
        let word = Plain(Cell::new(self.stopper));
        let claim = Stopper::new(&word).claim(PcpuId(climb.who as u8));
        assert_eq!(claim, Claim::Again);
        let mut sequence = StopSequence::new();
        assert_eq!(sequence.advance(), Step::Stop);
        assert_eq!(sequence.resume().1, Step::Stop);
        let mut world = self.clone();
        world.climb = Some(Climb {
            who: climb.who,
            phase: Phase::Asking(0),
            asked: Vec::new(),
            ladder: None,
            failures: 1,
        });
        Some(world)
    }

    fn ask(&self, climb: &Climb, index: usize) -> World {
        let mut world = self.clone();
        let mut climb = climb.clone();
        if index == self.pcpus.len() {
            let asked = climb
                .asked
                .iter()
                .map(|&(id, as_asked)| (PcpuId(id), as_asked));
            climb.ladder = Some(Ladder::new(asked, LIMITS));
            climb.asked.clear();
            climb.phase = Phase::Climbing;
        } else {
            if index != climb.who {
                let state = world.with(index, |slot| slot.ask());
                climb.asked.push((index as u8, state));
            }
            climb.phase = Phase::Asking(index + 1);
        }
        world.climb = Some(climb);
        world
    }

    fn poll(&self, climb: &Climb, passed: u64) -> World {
        let mut world = self.clone();
        let mut climb = climb.clone();
        world.now += passed;
        let mut ladder = climb.ladder.take().expect("it is climbing");
        match ladder.poll(Instant(world.now), world.parked()) {
            Decision::Ring(set) => {
                for id in set.iter() {
                    world.pcpus[id.index()].rings += 1;
                }
            }
            Decision::Signal(set) => {
                for id in set.iter() {
                    let state = world.with(id.index(), |slot| slot.mark_signalled());
                    assert!(!state.is_signalled(), "twice: {self:?}");
                    let pcpu = &mut world.pcpus[id.index()];
                    assert!(pcpu.armed && pcpu.is_up, "not armed: {self:?}");
                    if pcpu.kind == Kind::Refused {
                        ladder.note_refusal(id);
                    } else {
                        pcpu.signals += 1;
                    }
                }
            }
            Decision::Wait => {}
            Decision::Done => climb.phase = Phase::Gone,
        }
        climb.ladder = Some(ladder);
        world.climb = Some(climb);
        world
    }

    /// What holds in every state.
    fn check(&self) {
        let ladders = 1 + self.climb.as_ref().map_or(0, |climb| climb.failures);
        for pcpu in &self.pcpus {
            assert!(pcpu.rings <= ladders, "rung too often: {self:?}");
            assert!(pcpu.signals <= 1, "signalled twice: {self:?}");
        }
        for index in 0..self.pcpus.len() {
            let state = self.state(index);
            if state.parked().is_some() {
                assert!(!self.is_stopper(index), "the stopper parked: {self:?}");
                assert!(
                    state.is_asked() || self.pcpus[index].has_failed,
                    "nobody asked it: {self:?}"
                );
            }
        }
    }

    /// What holds when nothing more can happen.
    fn check_end(&self) {
        let Some(climb) = &self.climb else {
            assert!(self.pcpus.iter().all(|pcpu| pcpu.kind != Kind::Failing));
            return;
        };
        assert_eq!(climb.phase, Phase::Gone, "the stopper hangs: {self:?}");
        let ladder = climb.ladder.as_ref().expect("it has climbed");
        for (index, pcpu) in self.pcpus.iter().enumerate() {
            if index == climb.who {
                continue;
            }
            let fate = ladder.fate(PcpuId(index as u8), self.state(index));
            let expected = match (pcpu.kind, pcpu.armed) {
                (Kind::Healthy, _) => {
                    matches!(fate, Fate::Stopped(StoppedBy::Ipi | StoppedBy::Sdei))
                }
                (Kind::Newcomer | Kind::Failing, _) => matches!(fate, Fate::Stopped(_)),
                (Kind::Wedged, true) => fate == Fate::Stopped(StoppedBy::Sdei),
                (Kind::Refused, true) if climb.failures == 0 => fate == Fate::Refused,
                // A stopper that failed on the ladder has forgotten the refusal, not the signal.
                (Kind::Refused, true) => matches!(fate, Fate::Refused | Fate::Lost),
                (Kind::Deaf, true) => fate == Fate::Lost,
                (Kind::Wedged | Kind::Refused | Kind::Deaf, false) => fate == Fate::Deaf,
            };
            assert!(expected, "pCPU {index} is {fate:?}: {self:?}");
        }
    }
}

/// Explores all that can follow; every run of it ends, as none comes back to where it was.
fn explore(world: World, seen: &mut HashMap<World, Visit>) {
    match seen.get(&world) {
        Some(Visit::Done) => return,
        Some(Visit::OnTheWay) => panic!("it goes in circles: {world:?}"),
        None => {}
    }
    world.check();
    seen.insert(world.clone(), Visit::OnTheWay);
    let next = world.successors();
    if next.is_empty() {
        world.check_end();
    }
    for after in next {
        explore(after, seen);
    }
    seen.insert(world, Visit::Done);
}

/// How far a state is explored.
enum Visit {
    OnTheWay,
    Done,
}

/// All machines whose first pCPU fails and which have `others` more.
fn machines(others: usize) -> Vec<Vec<(Kind, bool)>> {
    let pcpus: Vec<(Kind, bool)> = KINDS
        .iter()
        .flat_map(|&kind| [(kind, false), (kind, true)])
        // Who is not armed is not signalled: as one whom nothing reaches.
        .filter(|pcpu| ![(Kind::Wedged, false), (Kind::Refused, false)].contains(pcpu))
        .collect();
    let mut machines = vec![(0, vec![(Kind::Failing, true)])];
    for _ in 0..others {
        machines = machines
            .into_iter()
            .flat_map(|(from, machine)| {
                // pCPUs of the same kind are alike: their order makes no difference.
                (from..pcpus.len()).map({
                    let pcpus = &pcpus;
                    move |index| {
                        let mut machine = machine.clone();
                        machine.push(pcpus[index]);
                        (index, machine)
                    }
                })
            })
            .collect();
    }
    machines.into_iter().map(|(_, machine)| machine).collect()
}

fn explore_machines(others: usize) {
    let mut states = 0;
    for machine in machines(others) {
        let mut seen = HashMap::new();
        explore(World::new(&machine), &mut seen);
        states += seen.len();
    }
    assert!(states > 10, "{states} states are no exploration");
}

#[test]
fn every_order_of_events_on_1_and_2_pcpus_ends_in_one_orderly_stop() {
    explore_machines(0);
    explore_machines(1);
}

#[test]
fn every_order_of_events_on_3_pcpus_ends_in_one_orderly_stop() {
    explore_machines(2);
}

#[test]
fn every_order_of_events_on_4_pcpus_ends_in_one_orderly_stop() {
    explore_machines(3);
}
