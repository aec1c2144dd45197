//! Chains on their way there and back, against a model of both.

use std::collections::{BTreeMap, VecDeque};

use hv_abi::virtio::{USED, register};
use hv_core::virtio::queue::Memory;
use proptest::prelude::*;

use crate::device::{Chain, Part};
use crate::driver::{DATA, DRIVER, INDIRECT, INDIRECTS, NEXT, Rig, TABLE, WRITE};
use crate::ram::{PIECES, Ram};

/// Where `size` bytes at `ipa` are.
fn parts(ram: &Ram, mut ipa: u64, mut size: u32, is_written: bool) -> Vec<Part> {
    let mut parts = Vec::new();
    while size != 0 {
        let (pa, part) = ram.locate(ipa, size.into()).expect("RAM");
        parts.push((pa, part as u32, is_written));
        ipa += part;
        size -= part as u32;
    }
    parts
}

/// A chain as a driver wants it: its parts, and whether they are in a table of their own.
#[derive(Clone, Debug)]
struct Wish {
    parts: Vec<(u64, u32, bool)>,
    is_indirect: bool,
}

fn wish() -> impl Strategy<Value = Wish> {
    let place = prop_oneof![
        0u64..0x1_0000 - 0x200,
        // Across the break between two pieces.
        0x7f00u64..0x8000,
    ];
    let part = (place, 1u32..0x200);
    let parts = prop::collection::vec(part, 1..5);
    (parts, 0usize..5, any::<bool>()).prop_map(|(parts, first_written, is_indirect)| Wish {
        parts: parts
            .into_iter()
            .enumerate()
            .map(|(n, (at, size))| (PIECES[0].0 + at, size, n >= first_written))
            .collect(),
        is_indirect,
    })
}

#[derive(Clone, Debug)]
enum Step {
    Offer(Vec<Wish>),
    Notify,
    /// The device is done with that one of those that it has.
    Finish(prop::sample::Index, u32),
    Interrupt,
    Quiet(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::collection::vec(wish(), 1..4).prop_map(Step::Offer),
        3 => Just(Step::Notify),
        5 => (any::<prop::sample::Index>(), any::<u32>()).prop_map(|(n, len)| Step::Finish(n, len)),
        3 => Just(Step::Interrupt),
        1 => any::<bool>().prop_map(Step::Quiet),
    ]
}

/// What there must be.
#[derive(Default)]
struct Model {
    free: Vec<u16>,
    /// Made available and not seen by the device.
    offered: VecDeque<(u16, Vec<Part>)>,
    /// Of the device: by its name, the guest's.
    held: BTreeMap<u16, u16>,
    /// What the guest will find.
    finished: VecDeque<(u32, u32)>,
    /// The descriptors that each of the guest's chains uses.
    uses: BTreeMap<u16, Vec<u16>>,
}

/// The guest puts a chain into its table, if there is room.
fn offer(rig: &mut Rig, model: &mut Model, wish: &Wish) {
    let needed = if wish.is_indirect {
        1
    } else {
        wish.parts.len()
    };
    if model.free.len() < needed {
        return;
    }
    let used: Vec<u16> = model.free.drain(..needed).collect();
    let head = used[0];
    let count = wish.parts.len();
    let flags = |n: usize, is_written| {
        let next = if n + 1 < count { NEXT } else { 0 };
        next | if is_written { WRITE } else { 0 }
    };
    if wish.is_indirect {
        let table = INDIRECTS + 0x80 * u64::from(head);
        for (n, &(at, size, is_written)) in wish.parts.iter().enumerate() {
            let entry = (at, size, flags(n, is_written), n as u16 + 1);
            rig.describe(table, n as u16, entry);
        }
        rig.describe(TABLE, head, (table, 16 * count as u32, INDIRECT, 0));
    } else {
        for (n, &(at, size, is_written)) in wish.parts.iter().enumerate() {
            let next = used.get(n + 1).copied().unwrap_or(0xffff);
            rig.describe(TABLE, used[n], (at, size, flags(n, is_written), next));
        }
    }
    let all = wish.parts.iter();
    let expected = all.flat_map(|&(at, size, is_written)| parts(&rig.ram, at, size, is_written));
    model.offered.push_back((head, expected.collect()));
    model.uses.insert(head, used);
    rig.offer(&[head]);
}

/// What is new for the device is what the guest has offered, in its order.
fn look(rig: &Rig, model: &mut Model) {
    for Chain { head, parts } in rig.device().take(0) {
        let (guests, expected) = model.offered.pop_front().expect("nobody has offered it");
        assert_eq!(parts, expected);
        assert_eq!(model.held.insert(head, guests), None, "a name twice");
    }
}

fn collect(rig: &mut Rig, model: &mut Model) {
    for element in rig.take_used() {
        assert_eq!(Some(element), model.finished.pop_front());
        model
            .free
            .extend(model.uses.remove(&(element.0 as u16)).expect("in use"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn chains_arrive_as_they_were_meant_and_come_back(
        log in 2u32..6,
        most_log in 3u32..8,
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let size = 1u16 << log.min(most_log);
        let mut rig = Rig::new(size, 1 << most_log);
        let mut model = Model { free: (0..size).collect(), ..Model::default() };
        let (mut is_quiet, mut is_told) = (false, false);
        for step in steps {
            match step {
                Step::Offer(wishes) => {
                    for wish in wishes.iter().filter(|wish| 2 * wish.parts.len() <= size.into()) {
                        offer(&mut rig, &mut model, wish);
                    }
                }
                Step::Notify => {
                    rig.notify();
                    look(&rig, &mut model);
                }
                Step::Finish(which, written) => {
                    let names: Vec<u16> = model.held.keys().copied().collect();
                    if !names.is_empty() {
                        let name = *which.get(&names);
                        let guests = model.held.remove(&name).expect("one that it has");
                        rig.device().give_back(0, name.into(), written);
                        model.finished.push_back((guests.into(), written));
                    }
                }
                Step::Interrupt => {
                    let is_due = !model.finished.is_empty();
                    let before = rig.used;
                    rig.interrupt();
                    collect(&mut rig, &mut model);
                    assert!(model.finished.is_empty());
                    // Those that waited for room.
                    look(&rig, &mut model);
                    is_told |= is_due && rig.used != before && !is_quiet;
                    assert_eq!(rig.read(register::INTERRUPT_STATUS), u32::from(is_told) * USED);
                    let _ = rig.write(register::INTERRUPT_ACK, USED);
                    assert!(!rig.mediator.level());
                    is_told = false;
                }
                Step::Quiet(on) => {
                    is_quiet = on;
                    rig.ram.set(DRIVER, &u16::from(on).to_le_bytes());
                }
            }
            assert!(!rig.is_broken());
        }
        // All comes to an end.
        for _ in 0..1000 {
            rig.notify();
            look(&rig, &mut model);
            while let Some((name, guests)) = model.held.pop_first() {
                rig.device().give_back(0, name.into(), 1);
                model.finished.push_back((guests.into(), 1));
            }
            rig.interrupt();
            collect(&mut rig, &mut model);
        }
        assert!(model.offered.is_empty() && model.uses.is_empty());
    }
}

#[test]
fn indices_wrap_around() {
    let mut rig = Rig::new(4, 8);
    rig.describe(TABLE, 3, (DATA, 512, WRITE, 0));
    rig.describe(TABLE, 1, (DATA, 16, NEXT, 3));
    for round in 0..70_000u32 {
        rig.offer(&[1]);
        rig.notify();
        let chains = rig.device().take(0);
        assert_eq!(chains.len(), 1, "round {round}");
        rig.device().give_back(0, chains[0].head.into(), round);
        rig.interrupt();
        assert_eq!(rig.take_used(), [(1, round)]);
    }
}

#[test]
fn more_than_one_exit_is_for_is_taken_in_several() {
    let mut rig = Rig::new(1024, 1024);
    let table = INDIRECTS;
    for n in 0..100 {
        let flags = if n < 99 { NEXT } else { 0 };
        rig.describe(table, n, (DATA, 4, flags, n + 1));
    }
    for head in 0..32 {
        rig.describe(TABLE, head, (table, 1600, INDIRECT, 0));
    }
    let heads: Vec<u16> = (0..32).collect();
    rig.offer(&heads);
    rig.ram.loads.set(0);
    assert_eq!(
        rig.write(register::QUEUE_NOTIFY, 0),
        hv_core::virtio::Written::Again
    );
    // 3 chains of 100.
    assert_eq!(rig.device().take(0).len(), 3);
    assert!(rig.ram.loads.get() < 650, "{:?}", rig.ram.loads);
    // There is room for 10 in a table of 1024, and the others wait until those are done.
    rig.notify();
    let mut chains = rig.device().take(0);
    assert_eq!(chains.len(), 7);
    chains.truncate(1);
    rig.device().give_back(0, chains[0].head.into(), 0);
    rig.interrupt();
    assert_eq!(rig.device().take(0).len(), 1);
    assert_eq!(rig.device().notified.last(), Some(&0));
}

#[test]
fn a_reset_forgets_what_the_device_has() {
    let mut rig = Rig::new(4, 4);
    rig.describe(TABLE, 0, (DATA, 4, NEXT, 1));
    rig.describe(TABLE, 1, (DATA, 4, 0, 0));
    for _ in 0..10 {
        rig.offer(&[0]);
        rig.notify();
        assert_eq!(rig.device().take(0).len(), 1);
        rig.set_up(4);
        assert_eq!(rig.device().take(0).len(), 0);
        assert!(!rig.mediator.level());
    }
}
