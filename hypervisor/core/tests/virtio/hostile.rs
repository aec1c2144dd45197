//! Guests that put anything into their queues, and change it while it is read.

use hv_abi::virtio::{CONFIG_CHANGED, register, status};
use hv_core::virtio::BUDGET;
use proptest::prelude::*;

use crate::driver::{
    DATA, DEVICE, DRIVER, Descriptor, INDIRECT, INDIRECTS, NEXT, Rig, TABLE, WRITE,
};
use crate::ram::PIECES;

/// The end of RAM.
const END: u64 = PIECES[2].0 + PIECES[2].2;

/// What a guest with these descriptors in its table and in another one is told.
fn is_refused(own: &[Descriptor], others: &[Descriptor]) -> bool {
    let mut rig = Rig::new(8, 8);
    // Behind a table is what would do.
    for (table, entries) in [(TABLE, 8), (INDIRECTS, others.len() as u16)] {
        rig.describe(table, entries, (DATA, 4, 0, 0));
    }
    for (table, entries) in [(TABLE, own), (INDIRECTS, others)] {
        for (index, entry) in (0..).zip(entries) {
            rig.describe(table, index, *entry);
        }
    }
    rig.offer(&[0]);
    rig.notify();
    let refused = rig.is_broken();
    let seen = rig.device().take(0).len();
    assert_eq!(seen, usize::from(!refused));
    if refused {
        assert_eq!(rig.read(register::INTERRUPT_STATUS), CONFIG_CHANGED);
        assert!(rig.mediator.level());
        // Nothing more happens until it is reset; then all is well.
        rig.describe(TABLE, 0, (DATA, 4, 0, 0));
        rig.notify();
        rig.interrupt();
        assert_eq!(rig.device().take(0).len(), 0);
        rig.set_up(8);
        rig.offer(&[0]);
        rig.notify();
        assert_eq!(rig.device().take(0).len(), 1);
        assert!(!rig.is_broken());
    }
    refused
}

#[test]
fn what_makes_no_sense_is_refused_and_what_does_is_not() {
    let table = |entries: u32| (INDIRECTS, 16 * entries, INDIRECT, 0);
    let data = (DATA, 4, 0, 0);
    let refused: &[(&[Descriptor], &[Descriptor])] = &[
        // Memory that is not the guest's, in part or as a whole.
        (&[(0, 4, 0, 0)], &[]),
        (&[(END, 1, WRITE, 0)], &[]),
        (&[(END - 1, 2, WRITE, 0)], &[]),
        (&[(PIECES[1].0 + 0x7000, 0x2000, 0, 0)], &[]),
        (&[(PIECES[0].1, 16, WRITE, 0)], &[]),
        // Lengths that overflow.
        (&[(u64::MAX, 1, 0, 0)], &[]),
        (&[(u64::MAX - 3, u32::MAX, WRITE, 0)], &[]),
        (&[(DATA, u32::MAX, WRITE, 0)], &[]),
        (&[(DATA, 0, 0, 0)], &[]),
        // Circles, and indices beyond the table.
        (&[(DATA, 4, NEXT, 0)], &[]),
        (&[(DATA, 4, NEXT, 1), (DATA, 4, NEXT, 0)], &[]),
        (&[(DATA, 4, NEXT, 8)], &[]),
        (&[(DATA, 4, NEXT, 0xffff)], &[]),
        // What is read behind what is written.
        (&[(DATA, 4, NEXT | WRITE, 1), data], &[]),
        // Tables.
        (&[table(0)], &[data]),
        (&[(INDIRECTS, 17, INDIRECT, 0)], &[data]),
        (&[(INDIRECTS, 16, INDIRECT | NEXT, 1), data], &[data]),
        (&[table(1)], &[table(1)]),
        (&[table(2)], &[(DATA, 4, NEXT, 2), data]),
        (&[table(2)], &[(DATA, 4, NEXT, 1), (DATA, 4, NEXT, 0)]),
        (&[(INDIRECTS + 4, 16, INDIRECT, 0)], &[data]),
        (&[(END, 16, INDIRECT, 0)], &[]),
        (&[(u64::MAX - 7, !15, INDIRECT, 0)], &[]),
        (&[table(1)], &[(END, 1, 0, 0)]),
    ];
    for (own, others) in refused {
        assert!(is_refused(own, others), "{own:x?} {others:x?}");
    }
    let taken: &[(&[Descriptor], &[Descriptor])] = &[
        (&[data], &[]),
        (&[(DATA, 4, NEXT, 7)], &[]),
        (&[table(1)], &[data]),
        (&[table(1000)], &[data]),
        // One of its own, then a table (2.7.5.3.2).
        (&[(DATA, 4, NEXT, 1), table(1)], &[(DATA, 4, WRITE, 0)]),
        // To the last byte, and across a break.
        (&[(END - 4, 4, WRITE, 0)], &[]),
        (&[(PIECES[1].0 - 4, 8, WRITE, 0)], &[]),
    ];
    for (own, others) in taken {
        let own: Vec<_> = own.to_vec();
        let mut own_and_last = own.clone();
        if own[0].3 == 7 {
            own_and_last.resize(7, (0, 0, 0, 0));
            own_and_last.push(data);
        }
        assert!(!is_refused(&own_and_last, others), "{own:x?} {others:x?}");
    }
}

#[test]
fn heads_and_indices_that_do_not_exist_are_refused() {
    for (heads, index) in [(8u16, 1u16), (0xffff, 1), (0, 9), (0, 0x8000), (0, 0xffff)] {
        let mut rig = Rig::new(8, 8);
        for index in [0, 8] {
            rig.describe(TABLE, index, (DATA, 4, 0, 0));
        }
        rig.ram.set(DRIVER + 4, &heads.to_le_bytes());
        rig.ram.set(DRIVER + 2, &index.to_le_bytes());
        rig.notify();
        assert!(rig.is_broken(), "{heads} {index}");
    }
}

#[test]
fn a_chain_that_never_has_room_is_refused() {
    // 8 descriptors, each across a break, for a device with 8.
    let mut rig = Rig::new(8, 8);
    for n in 0..8 {
        let flags = if n < 7 { NEXT } else { 0 };
        rig.describe(TABLE, n, (PIECES[1].0 - 4, 8, flags, n + 1));
    }
    rig.offer(&[0]);
    rig.notify();
    assert!(rig.is_broken());
}

#[test]
fn nothing_is_taken_before_the_driver_is_ready() {
    let mut rig = Rig::fresh(8);
    rig.agree();
    rig.size = 8;
    rig.place(8, [TABLE, DRIVER, DEVICE]);
    rig.describe(TABLE, 0, (0, 4, 0, 0));
    rig.offer(&[0]);
    rig.notify();
    assert!(!rig.is_broken() && rig.device().notified.is_empty());
    let _ = rig.write(register::STATUS, 7 | status::FEATURES_OK);
    rig.notify();
    assert!(rig.is_broken());
}

#[test]
fn a_device_that_gives_back_what_it_has_not_got_is_stopped() {
    for head in [0, 5, 8, u32::MAX] {
        let mut rig = Rig::new(8, 8);
        rig.device().give_back(0, head, 0);
        rig.interrupt();
        assert!(rig.is_broken());
    }
}

/// What a guest writes: into its RAM, or into a register; or it changes its RAM whenever that is read.
#[derive(Clone, Debug)]
enum Step {
    Describe(u64, u16, Descriptor),
    Ring(u64, u16),
    Bytes(u64, Vec<u8>),
    Register(u64, u8, u64),
    Restless(u64),
    SetUp,
    Notify,
    Finish(u32),
    Interrupt,
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 0u64..0x1_0000,
        1 => Just(0xc0_0000),
        1 => any::<u64>(),
    ]
    .prop_map(|offset| PIECES[0].0.wrapping_add(offset))
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![4 => 0u32..0x400, 1 => any::<u32>(), 1 => Just(16), 1 => Just(64)];
    let flags = prop_oneof![4 => 0u16..8, 1 => any::<u16>()];
    let next = prop_oneof![4 => 0u16..9, 1 => any::<u16>()];
    let descriptor = (address(), length, flags, next);
    let table = prop_oneof![Just(TABLE), Just(INDIRECTS)];
    let ring = prop_oneof![Just(DRIVER), Just(DEVICE)];
    prop_oneof![
        8 => (table, 0u16..8, descriptor).prop_map(|(table, n, it)| Step::Describe(table, n, it)),
        4 => (ring, 0u64..12, prop_oneof![3 => 0u16..9, 1 => any::<u16>()])
            .prop_map(|(ring, n, value)| Step::Ring(ring + 2 * n, value)),
        2 => (0u64..0xff00, prop::collection::vec(any::<u8>(), 1..64))
            .prop_map(|(at, bytes)| Step::Bytes(PIECES[0].0 + at, bytes)),
        2 => (0u64..0x200, prop::sample::select(vec![1u8, 2, 4, 8]), any::<u64>())
            .prop_map(|(at, size, value)| Step::Register(at, size, value)),
        2 => (0u64..0x40, 0u64..16).prop_map(|(word, value)| Step::Register(4 * word, 4, value)),
        1 => any::<u64>().prop_map(Step::Restless),
        3 => Just(Step::SetUp),
        8 => Just(Step::Notify),
        3 => any::<u32>().prop_map(Step::Finish),
        4 => Just(Step::Interrupt),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn a_device_is_told_nothing_but_the_guests_memory(steps in prop::collection::vec(step(), 1..80)) {
        let mut rig = Rig::new(8, 16);
        let mut held: Vec<u16> = Vec::new();
        for step in steps {
            rig.ram.loads.set(0);
            match step {
                Step::Describe(table, index, entry) => rig.describe(table, index, entry),
                Step::Ring(at, value) => rig.ram.set(at, &value.to_le_bytes()),
                Step::Bytes(at, bytes) => {
                    for (at, byte) in (at..).zip(bytes) {
                        rig.ram.set(at, &[byte]);
                    }
                }
                Step::Register(offset, size, value) => {
                    let _ = rig.mediator.read(offset, size);
                    let _ = rig.mediator.write(offset, size, value, &mut rig.ram);
                }
                Step::Restless(seed) => rig.ram.be_restless(seed),
                Step::SetUp => {
                    rig.set_up(8);
                    held.clear();
                }
                Step::Notify => {
                    let _ = rig.write(register::QUEUE_NOTIFY, 0);
                }
                Step::Finish(which) => {
                    if !held.is_empty() {
                        let head = held.swap_remove(which as usize % held.len());
                        rig.device().give_back(0, head.into(), which);
                    }
                }
                Step::Interrupt => rig.interrupt(),
            }
            // One access, or one interrupt, is bounded: a descriptor is 2 loads.
            let loads = rig.ram.loads.get();
            assert!(loads <= 3 * (BUDGET + 9) + 2, "{loads} loads");
            if rig.device().status == 0 {
                held.clear();
            }
            // It looks at every address.
            let chains = rig.device().take(0);
            held.extend(chains.iter().map(|chain| chain.head));
        }
    }
}
