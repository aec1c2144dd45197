//! The virtual GICv2: its register file, targets as masks, and SGIs that are pending once per sender.

use std::ops::{Deref, DerefMut};

use hv_core::id::{IntId, VcpuId, VcpuSet};
use hv_core::vgic::{Leftovers, ListReg, LrSource, LrState, Model, hcr};
use hv_testbed::{Built, DISTRIBUTOR, GICC_DIR, Machine, UART as UART_BASE};

pub const TIMER: IntId = IntId(27);
/// Emulated.
const UART: IntId = IntId(33);
/// Passed through, level sensitive.
const LEVEL: IntId = IntId(49);
/// GICD_SGIR, GICD_CPENDSGIR, GICD_SPENDSGIR (IHI0048 4.1).
const SGIR: u64 = 0xf00;
const CPENDSGIR: u64 = 0xf10;
pub const SPENDSGIR: u64 = 0xf20;
const TO_OTHERS: u64 = 1 << 24;
const TO_SELF: u64 = 2 << 24;

pub const WAITS: LrSource = LrSource::Software { eoi: true };
pub const LAST: LrSource = LrSource::Software { eoi: false };

pub struct Scene(Machine);

impl Deref for Scene {
    type Target = Machine;
    fn deref(&self) -> &Machine {
        &self.0
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Machine {
        &mut self.0
    }
}

fn only(vcpu: u8) -> VcpuSet {
    VcpuSet::only(VcpuId(vcpu))
}

fn set(vcpus: &[u8]) -> VcpuSet {
    vcpus
        .iter()
        .fold(VcpuSet::EMPTY, |set, &n| set.union(only(n)))
}

/// vCPUs that are on and have touched nothing.
fn new(vcpus: u8) -> Scene {
    like(vcpus, true, Leftovers::Dropped)
}

pub fn like(vcpus: u8, resamples: bool, leftovers: Leftovers) -> Scene {
    let built = Built {
        passed_through: vec![TIMER, LEVEL],
        uart: UART,
        model: Model::V2 { resamples },
        leftovers,
        ..Built::new(vcpus)
    };
    let mut scene = Scene(built.start());
    for vcpu in 1..vcpus {
        scene.turn_on(0, vcpu);
    }
    scene
}

/// Three vCPUs with everything enabled, in group 0, SPIs on vCPU 0.
pub fn booted() -> Scene {
    set_up(new(3))
}

pub fn set_up(mut scene: Scene) -> Scene {
    for vcpu in 0..3 {
        scene.write(vcpu, 0x100, !0);
    }
    for n in 8..24 {
        scene.write(0, 0x800 + 4 * n, 0x0101_0101);
    }
    scene.write(0, 0x104, !0);
    scene.write(0, 0, 1);
    // UARTIMSC alone says from now on how the UART's line is.
    scene.store(0, UART_BASE, 1, 0);
    scene.settle();
    scene
}

impl Scene {
    fn write(&mut self, me: u8, offset: u64, value: u32) {
        self.store(me, DISTRIBUTOR + offset, 4, value.into());
    }

    pub fn read(&mut self, me: u8, offset: u64) -> u64 {
        let value = self.load(me, DISTRIBUTOR + offset, 4);
        value.unwrap_or_else(|| panic!("{offset:#x} waits for a sibling"))
    }

    /// Whom an SGI reaches: those who are rung, and the sender if it has it now.
    pub fn send(&mut self, from: u8, value: u64) {
        self.store(from, DISTRIBUTOR + SGIR, 4, value);
    }

    fn line(&mut self, me: u8, level: bool) {
        self.store(me, UART_BASE + 0x38, 4, u64::from(level) << 5);
    }

    pub fn contents(&self, vcpu: u8) -> Vec<ListReg> {
        self.interface(vcpu).contents()
    }

    /// What one vCPU has after it took its kicks.
    fn after_kick(&mut self, vcpu: u8) -> Vec<ListReg> {
        self.interrupt(vcpu);
        self.contents(vcpu)
    }

    pub fn fire(&mut self, pcpu: u8, intid: IntId) {
        let mut physical = self.0.physical();
        let wire = physical.wire_mut(intid, pcpu);
        (wire.level, wire.route) = (true, pcpu);
        drop(physical);
        self.interrupt(pcpu);
    }
}

#[test]
fn it_says_what_it_is() {
    let mut scene = new(3);
    assert_eq!(scene.read(0, 4), 2 << 5 | 2);
    assert_eq!(scene.read(0, 0xfe8) >> 4 & 0xf, 2, "ArchRev");
    assert_eq!(scene.read(0, 0), 0);
    scene.write(0, 0, !0);
    assert_eq!(scene.read(0, 0), 0b11, "two groups and nothing else");
    assert_eq!(scene.read(0, 0x6100), 0, "no affinity routing");
    assert_eq!(scene.read(0, 0xffe8), 0, "nothing beyond 4 KiB");
}

#[test]
fn the_registers_of_private_interrupts_are_each_vcpus_own() {
    let mut scene = new(2);
    scene.write(1, 0x100, 1 << 27);
    scene.write(1, 0x400 + 24, 0xf0a0_8040);
    assert_eq!(scene.read(1, 0x100), 1 << 27);
    assert_eq!(scene.read(1, 0x400 + 24), 0xf0a0_8040);
    assert_eq!(scene.read(0, 0x100), 0);
    assert_eq!(scene.read(0, 0x400 + 24), 0);
    assert_eq!(scene.read(0, 0xc00), 0xaaaa_aaaa, "SGIs are edges");
}

#[test]
fn targets_of_private_interrupts_tell_the_reader_its_own_bit() {
    let mut scene = new(3);
    for (vcpu, bit) in [(0, 1), (1, 2), (2, 4)] {
        assert_eq!(scene.read(vcpu, 0x800), bit * 0x0101_0101);
        scene.write(vcpu, 0x800, 0);
        assert_eq!(scene.read(vcpu, 0x81c), bit * 0x0101_0101);
    }
}

#[test]
fn an_only_vcpu_has_no_targets_and_takes_everything() {
    let mut scene = new(1);
    scene.write(0, 0x104, !0);
    scene.write(0, 0, 1);
    assert_eq!(scene.read(0, 0x800), 0);
    scene.write(0, 0x820, 0);
    scene.store(0, UART_BASE, 1, 0);
    scene.line(0, true);
    assert_eq!(scene.contents(0)[0].vintid, UART.0);
}

#[test]
fn targets_are_masks_of_the_vcpus_there_are() {
    let mut scene = booted();
    scene.store(1, DISTRIBUTOR + 0x800 + u64::from(LEVEL.0), 1, 0xfe);
    assert_eq!(scene.physical().wire(LEVEL, 0).route, 1);
    assert_eq!(scene.read(0, 0x830), 0x0101_0601);
    // The UART is one of them, and none is passed through: a change of the machine's GIC would panic.
    scene.write(0, 0x820, 0x0202_0202);
    scene.line(0, true);
    assert_eq!(scene.rung(), only(1));
    scene.line(0, false);
    scene.interrupt(1);
    scene.write(0, 0x820, 0);
    scene.line(0, true);
    assert_eq!(scene.rung(), VcpuSet::EMPTY);
    for vcpu in 0..3 {
        assert_eq!(scene.contents(vcpu), [], "nobody takes it");
    }
}

#[test]
fn one_of_several_targets_takes_an_interrupt_and_another_when_that_is_off() {
    let mut scene = booted();
    scene.store(0, DISTRIBUTOR + 0x800 + 33, 1, 0b110);
    scene.line(0, true);
    assert_eq!(scene.rung(), only(1));
    assert_eq!(scene.after_kick(1).len(), 1);
    scene.turn_off(1);
    assert_eq!(scene.rung(), only(2));
    assert_eq!(scene.after_kick(2).len(), 1);
    scene.turn_on(0, 1);
    assert_eq!(scene.rung(), only(2), "who gives it back");
    assert_eq!(scene.after_kick(2), []);
    assert_eq!(scene.after_kick(1).len(), 1);
}

#[test]
fn an_sgi_reaches_those_on_the_list_the_others_or_the_sender() {
    for (value, expected) in [
        (0xf9 << 16 | 1, &[0][..]),
        (0b101 << 16 | 1 << 15 | 2, &[0, 2]),
        (TO_OTHERS | 0xff << 16 | 3, &[0, 2]),
        (TO_SELF | 4, &[1]),
        (TO_OTHERS | TO_SELF | 5, &[]),
    ] {
        let mut scene = booted();
        scene.send(1, value);
        assert_eq!(scene.rung().union(only(1)), set(expected).union(only(1)));
        for vcpu in 0..3 {
            let there: Vec<u32> = scene.after_kick(vcpu).iter().map(|lr| lr.vintid).collect();
            let has = expected.contains(&vcpu).then_some(value as u32 & 0xf);
            assert_eq!(there, Vec::from_iter(has), "vCPU {vcpu}, {value:#x}");
        }
    }
}

#[test]
fn the_list_register_of_an_sgi_names_its_sender() {
    let mut scene = booted();
    scene.send(2, 1 << 16 | 3);
    let expected = ListReg {
        vintid: 3,
        priority: 0,
        group1: false,
        state: LrState::Pending,
        source: LAST,
        sender: 2,
    };
    assert_eq!(scene.after_kick(0), [expected]);
}

#[test]
fn an_sgi_of_two_senders_comes_twice_with_a_maintenance_interrupt_between() {
    let mut scene = booted();
    scene.send(1, 1 << 16 | 3);
    scene.send(2, 1 << 16 | 3);
    scene.send(2, 1 << 16 | 3);
    let mut seen = Vec::new();
    scene.interrupt(0);
    while let Some(taken) = scene.acknowledge(0) {
        let lr = scene.interface(0).get(0);
        assert_eq!(lr.state, LrState::Active, "one sender at a time");
        scene.end(0);
        seen.push((taken.sender, lr.source, scene.is_interrupted(0)));
        scene.interrupt(0);
    }
    assert_eq!(seen, [(1, WAITS, true), (2, LAST, false)]);
}

#[test]
fn an_sgi_sent_again_while_it_is_active_joins_it_or_waits() {
    for (sender, state, source) in [
        (1, LrState::PendingActive, LAST),
        (2, LrState::Active, WAITS),
    ] {
        let mut scene = booted();
        scene.send(1, 1 << 16 | 3);
        scene.interrupt(0);
        scene.acknowledge(0);
        scene.send(sender, 1 << 16 | 3);
        assert_eq!(scene.rung(), only(0));
        let lr = scene.after_kick(0)[0];
        assert_eq!((lr.sender, lr.state, lr.source), (1, state, source));
    }
}

#[test]
fn a_pending_sgi_shows_its_senders_and_can_be_taken_back_from_each() {
    let mut scene = booted();
    scene.send(1, 1 << 16 | 6);
    scene.send(2, 1 << 16 | 6);
    scene.interrupt(0);
    assert_eq!(scene.read(0, SPENDSGIR + 4), 0b110 << 16);
    assert_eq!(scene.read(1, SPENDSGIR + 4), 0, "not vCPU 1's own");
    assert_eq!(scene.read(0, 0x200), 1 << 6);
    scene.write(0, 0x280, !0);
    assert_eq!(scene.read(0, 0x200), 1 << 6, "ICPENDR does not reach SGIs");
    scene.write(0, 0x200, 0xff);
    assert_eq!(scene.read(0, 0x200), 1 << 6, "nor does ISPENDR");
    scene.write(0, CPENDSGIR + 4, 0b010 << 16);
    assert_eq!(scene.read(0, CPENDSGIR + 4), 0b100 << 16);
    assert_eq!(scene.contents(0)[0].sender, 2);
    scene.store(0, DISTRIBUTOR + CPENDSGIR + 6, 1, 0xff);
    assert_eq!(scene.contents(0), []);
    assert_eq!(scene.read(0, 0x200), 0);
    scene.store(0, DISTRIBUTOR + SPENDSGIR + 6, 1, 0xff);
    assert_eq!(scene.contents(0).len(), 1);
    assert_eq!(scene.read(0, SPENDSGIR + 4), 0b111 << 16);
}

#[test]
fn what_one_sender_takes_back_leaves_the_list_register_at_the_fold() {
    let mut scene = booted();
    scene.send(1, 1 << 16 | 6);
    assert_eq!(scene.after_kick(0).len(), 1);
    scene.store(0, DISTRIBUTOR + CPENDSGIR + 6, 1, 0b10);
    assert_eq!(scene.contents(0), []);
}

#[test]
fn a_vcpu_that_is_reset_forgets_who_sent_it_what() {
    for (leftovers, senders) in [(Leftovers::Dropped, 0), (Leftovers::Kept, 0b100)] {
        let mut scene = set_up(like(3, true, leftovers));
        scene.send(2, 1 << 16 | 3);
        scene.interrupt(0);
        scene.turn_off(0);
        scene.turn_on(1, 0);
        assert_eq!(scene.read(0, SPENDSGIR), senders << 24);
        assert_eq!(scene.read(0, 0x100), 0);
    }
}

#[test]
fn a_hardware_list_register_is_for_the_pcpu_that_took_the_interrupt() {
    let mut scene = booted();
    scene.fire(0, LEVEL);
    let own = scene.contents(0)[0];
    assert_eq!(own.source, LrSource::Hardware { pintid: LEVEL.0 });
    let mut scene = booted();
    scene.fire(1, LEVEL);
    assert_eq!(scene.after_kick(0)[0].source, WAITS);
    scene.acknowledge(0);
    scene.physical().wire_mut(LEVEL, 0).level = false;
    scene.end(0);
    assert!(scene.physical().wire(LEVEL, 0).active);
    scene.interrupt(0);
    assert!(!scene.physical().wire(LEVEL, 0).active);
}

#[test]
fn where_lines_are_not_looked_at_again_we_see_the_end_of_a_level_and_not_of_an_edge() {
    let mut scene = set_up(like(3, false, Leftovers::Dropped));
    scene.fire(0, LEVEL);
    assert_eq!(scene.contents(0)[0].source, WAITS);
    scene.acknowledge(0);
    scene.physical().wire_mut(LEVEL, 0).level = false;
    scene.end(0);
    scene.interrupt(0);
    assert!(!scene.physical().wire(LEVEL, 0).active);
    // To an edge.
    scene.write(0, 0xc0c, 0b1000);
    scene.physical().wire_mut(LEVEL, 0).pending = true;
    scene.interrupt(0);
    let own = scene.contents(0)[0];
    assert_eq!(own.source, LrSource::Hardware { pintid: LEVEL.0 });
}

#[test]
fn more_than_there_is_room_for_asks_for_maintenance() {
    let mut scene = booted();
    for sgi in 0..6 {
        scene.send(1, 1 << 16 | sgi);
    }
    assert_eq!(scene.after_kick(0).len(), 4);
    assert_eq!(scene.interface(0).hcr() & hcr::NPIE, hcr::NPIE);
}

#[test]
fn only_what_may_have_changed_there_is_folded_out_of_list_registers() {
    let mut scene = booted();
    scene.send(1, 1 << 16 | 6);
    assert_eq!(scene.after_kick(0).len(), 1);
    for (offset, is_write, expected) in [
        (SGIR, true, false),
        (SPENDSGIR, false, true),
        (0x200, false, true),
        (0x100, true, true),
        (0x800, false, false),
    ] {
        let before = scene.interface(0).writes();
        if is_write {
            // Of GICD_SGIR: to vCPU 1.
            scene.write(0, offset, 1 << 17);
        } else {
            scene.read(0, offset);
        }
        let is_folded = scene.interface(0).writes() != before;
        assert_eq!(is_folded, expected, "{offset:#x}");
    }
}

#[test]
fn any_access_is_answered() {
    for vcpus in [1, 2, 8] {
        let mut scene = new(vcpus);
        let me = vcpus - 1;
        for offset in 0..0x1_0000 {
            for size in [1, 2, 4, 8] {
                scene.store(me, DISTRIBUTOR + offset, size, u64::MAX);
                scene.settle();
                scene.poll(me, DISTRIBUTOR + offset, size);
            }
        }
        // What is beyond is no device.
        for ipa in [0, 1 << 32, 0xffff_ffff_f000] {
            scene.store(me, ipa, 4, 0);
            assert_eq!(scene.el1(me).esr >> 26, 0x25, "an external abort");
        }
        scene.reset(me);
        assert_eq!(scene.read(0, 0x820), 0);
    }
}

#[test]
fn gicc_dir_deactivates_what_is_in_no_list_register() {
    let mut scene = booted();
    for n in 0..8 {
        scene.write(0, 0x300, 1 << n);
    }
    // An SPI comes and goes: three are in list registers then, and five have none.
    scene.fire(0, LEVEL);
    scene.acknowledge(0);
    scene.physical().wire_mut(LEVEL, 0).level = false;
    scene.end(0);
    assert_eq!(scene.contents(0).len(), 3);
    let mut left = 0xff;
    for n in [5, 0, 7, 2, 1, 6, 3, 4] {
        // As GICC_IAR said it: SGI n of interface 1.
        scene.store(0, GICC_DIR, 4, 1 << 10 | n);
        left &= !(1 << n);
        assert_eq!(scene.read(0, 0x300), left, "{n}");
    }
    assert_eq!(scene.contents(0), []);
}

#[test]
fn nothing_but_gicc_dir_is_in_its_page() {
    let mut scene = booted();
    scene.write(0, 0x300, 1);
    for (offset, size) in [(4, 4), (0, 1), (0, 8), (0xffc, 4)] {
        scene.store(0, GICC_DIR + offset, size, 0);
        assert_eq!(scene.load(0, GICC_DIR + offset, size), Some(0));
    }
    assert_eq!(scene.load(0, GICC_DIR, 4), Some(0), "write-only");
    assert_eq!(scene.read(0, 0x300), 1);
}
