//! The virtual GICv2: its register file, targets as masks, and SGIs that are pending once per sender.

use hv_core::id::{IntId, Mpidr, VcpuId, VcpuSet};
use hv_core::vgic::{
    Config, Effects, Frame, Leftovers, ListReg, LrSource, LrState, Model, Physical, Read, Vgic, hcr,
};

const V0: VcpuId = VcpuId(0);
const V1: VcpuId = VcpuId(1);
const V2: VcpuId = VcpuId(2);
const TIMER: IntId = IntId(27);
/// Passed through, level sensitive.
const LEVEL: IntId = IntId(49);
/// GICD_SGIR, GICD_CPENDSGIR, GICD_SPENDSGIR (IHI0048 4.1).
const SGIR: u64 = 0xf00;
const CPENDSGIR: u64 = 0xf10;
const SPENDSGIR: u64 = 0xf20;
const TO_OTHERS: u64 = 1 << 24;
const TO_SELF: u64 = 2 << 24;

fn new(vcpus: u64) -> Vgic {
    like(vcpus, true)
}

fn like(vcpus: u64, resamples: bool) -> Vgic {
    let mpidrs: Vec<Mpidr> = (0..vcpus).map(Mpidr::new).collect();
    Vgic::new(&Config {
        mpidrs: &mpidrs,
        last: VcpuSet::EMPTY,
        spis: 64,
        passed_through: &[TIMER, LEVEL],
        priority_bits: 5,
        list_regs: 4,
        model: Model::V2 { resamples },
    })
}

/// Three vCPUs with everything enabled, in group 0, SPIs on vCPU 0; who they are has populated.
fn booted() -> Vgic {
    set_up(new(3))
}

fn set_up(mut vgic: Vgic) -> Vgic {
    for vcpu in [V0, V1, V2] {
        let _ = store(&mut vgic, vcpu, 0x100, !0);
        let _ = contents(&mut vgic, vcpu);
    }
    for n in 8..24 {
        let _ = store(&mut vgic, V0, 0x800 + 4 * n, 0x0101_0101);
    }
    let _ = store(&mut vgic, V0, 0x104, !0);
    let _ = store(&mut vgic, V0, 0, 1);
    vgic
}

fn store(vgic: &mut Vgic, me: VcpuId, offset: u64, value: u32) -> Effects {
    vgic.write(Frame::Banked(me), offset, 4, value.into())
}

fn load(vgic: &mut Vgic, me: VcpuId, offset: u64) -> u64 {
    match vgic.read(me, Frame::Banked(me), offset, 4) {
        Read::Value(value) => value,
        Read::Again { .. } => panic!("{offset:#x} waits for a sibling"),
    }
}

fn send(vgic: &mut Vgic, from: VcpuId, value: u64) -> VcpuSet {
    vgic.write(Frame::Banked(from), SGIR, 4, value).kick
}

fn contents(vgic: &mut Vgic, vcpu: VcpuId) -> Vec<ListReg> {
    let mut lrs = [ListReg::EMPTY; 4];
    let _ = vgic.populate(vcpu, &mut lrs, 0);
    lrs.into_iter()
        .filter(|lr| lr.state != LrState::Invalid)
        .collect()
}

#[test]
fn it_says_what_it_is() {
    let mut vgic = new(3);
    assert_eq!(load(&mut vgic, V0, 4), 2 << 5 | 2);
    assert_eq!(load(&mut vgic, V0, 0xfe8) >> 4 & 0xf, 2, "ArchRev");
    assert_eq!(load(&mut vgic, V0, 0), 0);
    let _ = store(&mut vgic, V0, 0, !0);
    assert_eq!(load(&mut vgic, V0, 0), 0b11, "two groups and nothing else");
    assert_eq!(load(&mut vgic, V0, 0x6100), 0, "no affinity routing");
    assert_eq!(load(&mut vgic, V0, 0xffe8), 0, "nothing beyond 4 KiB");
}

#[test]
fn the_registers_of_private_interrupts_are_each_vcpus_own() {
    let mut vgic = new(2);
    let _ = store(&mut vgic, V1, 0x100, 1 << 27);
    let _ = store(&mut vgic, V1, 0x400 + 24, 0xf0a0_8040);
    assert_eq!(load(&mut vgic, V1, 0x100), 1 << 27);
    assert_eq!(load(&mut vgic, V1, 0x400 + 24), 0xf0a0_8040);
    assert_eq!(load(&mut vgic, V0, 0x100), 0);
    assert_eq!(load(&mut vgic, V0, 0x400 + 24), 0);
    assert_eq!(load(&mut vgic, V0, 0xc00), 0xaaaa_aaaa, "SGIs are edges");
}

#[test]
fn targets_of_private_interrupts_tell_the_reader_its_own_bit() {
    let mut vgic = new(3);
    for (vcpu, bit) in [(V0, 1), (V1, 2), (V2, 4)] {
        assert_eq!(load(&mut vgic, vcpu, 0x800), bit * 0x0101_0101);
        let _ = store(&mut vgic, vcpu, 0x800, 0);
        assert_eq!(load(&mut vgic, vcpu, 0x81c), bit * 0x0101_0101);
    }
}

#[test]
fn an_only_vcpu_has_no_targets_and_takes_everything() {
    let mut vgic = new(1);
    let _ = store(&mut vgic, V0, 0x104, !0);
    let _ = store(&mut vgic, V0, 0, 1);
    assert_eq!(load(&mut vgic, V0, 0x800), 0);
    let _ = store(&mut vgic, V0, 0x820, 0);
    assert_eq!(vgic.set_line(IntId(33), None, true).kick, VcpuSet::only(V0));
}

#[test]
fn targets_are_masks_of_the_vcpus_there_are() {
    let mut vgic = booted();
    let effects = vgic.write(Frame::Banked(V1), 0x800 + u64::from(LEVEL.0), 1, 0xfe);
    let to = [Some(V1), None, None, None];
    assert_eq!(effects.phys, Some(Physical::Targets { first: LEVEL, to }));
    assert_eq!(load(&mut vgic, V0, 0x830), 0x0101_0601);
    let effects = store(&mut vgic, V0, 0x834, 0x0202_0202);
    assert_eq!(effects.phys, None, "none of them is passed through");
    assert_eq!(vgic.set_line(IntId(53), None, true).kick, VcpuSet::only(V1));
    let effects = store(&mut vgic, V0, 0x834, 0);
    assert_eq!(effects.kick, VcpuSet::EMPTY);
    assert_eq!(contents(&mut vgic, V1), [], "nobody takes it");
}

#[test]
fn one_of_several_targets_takes_an_interrupt_and_another_when_that_is_off() {
    let mut vgic = booted();
    let line = IntId(33);
    let _ = vgic.write(Frame::Banked(V0), 0x800 + 33, 1, 0b110);
    assert_eq!(vgic.set_line(line, None, true).kick, VcpuSet::only(V1));
    let mut lrs = [ListReg::EMPTY; 4];
    let _ = vgic.populate(V1, &mut lrs, 0);
    let effects = vgic.reset_vcpu(V1, &mut lrs, Leftovers::Dropped);
    assert_eq!(effects.kick, VcpuSet::only(V2));
    assert_eq!(contents(&mut vgic, V2).len(), 1);
    let mut lrs = [ListReg::EMPTY; 4];
    let (_, effects) = vgic.populate(V1, &mut lrs, 0);
    assert_eq!(effects.kick, VcpuSet::only(V2), "who gives it back");
    assert_eq!(contents(&mut vgic, V2), []);
    assert_eq!(contents(&mut vgic, V1).len(), 1);
}

#[test]
fn an_sgi_reaches_those_on_the_list_the_others_or_the_sender() {
    let mut vgic = booted();
    let set = |ids: &[VcpuId]| {
        ids.iter().fold(VcpuSet::EMPTY, |mut set, &id| {
            set.insert(id);
            set
        })
    };
    assert_eq!(send(&mut vgic, V1, 0xf9 << 16 | 1), set(&[V0]));
    assert_eq!(
        send(&mut vgic, V1, 0b101 << 16 | 1 << 15 | 2),
        set(&[V0, V2])
    );
    assert_eq!(
        send(&mut vgic, V1, TO_OTHERS | 0xff << 16 | 3),
        set(&[V0, V2])
    );
    assert_eq!(send(&mut vgic, V1, TO_SELF | 4), set(&[V1]));
    assert_eq!(send(&mut vgic, V1, TO_OTHERS | TO_SELF | 5), VcpuSet::EMPTY);
}

#[test]
fn the_list_register_of_an_sgi_names_its_sender() {
    let mut vgic = booted();
    let _ = send(&mut vgic, V2, 1 << 16 | 3);
    let expected = ListReg {
        vintid: 3,
        priority: 0,
        group1: false,
        state: LrState::Pending,
        source: LrSource::Software { eoi: false },
        sender: 2,
    };
    assert_eq!(contents(&mut vgic, V0), [expected]);
}

#[test]
fn an_sgi_of_two_senders_comes_twice_with_a_maintenance_interrupt_between() {
    let mut vgic = booted();
    let _ = send(&mut vgic, V1, 1 << 16 | 3);
    let _ = send(&mut vgic, V2, 1 << 16 | 3);
    let _ = send(&mut vgic, V2, 1 << 16 | 3);
    let mut lrs = [ListReg::EMPTY; 4];
    let mut seen = Vec::new();
    loop {
        let _ = vgic.populate(V0, &mut lrs, 0);
        match lrs[0].state {
            LrState::Invalid => break,
            LrState::Pending => lrs[0].state = LrState::Active,
            LrState::Active => lrs[0].state = LrState::Invalid,
            LrState::PendingActive => panic!("one sender at a time"),
        }
        seen.push((lrs[0].sender, lrs[0].state, lrs[0].source));
    }
    let (waits, last) = (
        LrSource::Software { eoi: true },
        LrSource::Software { eoi: false },
    );
    let expected = [
        (1, LrState::Active, waits),
        (1, LrState::Invalid, waits),
        (2, LrState::Active, last),
        (2, LrState::Invalid, last),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn an_sgi_sent_again_while_it_is_active_joins_it_or_waits() {
    for (sender, state, source) in [
        (
            V1,
            LrState::PendingActive,
            LrSource::Software { eoi: false },
        ),
        (V2, LrState::Active, LrSource::Software { eoi: true }),
    ] {
        let mut vgic = booted();
        let _ = send(&mut vgic, V1, 1 << 16 | 3);
        let mut lrs = [ListReg::EMPTY; 4];
        let _ = vgic.populate(V0, &mut lrs, 0);
        lrs[0].state = LrState::Active;
        assert_eq!(send(&mut vgic, sender, 1 << 16 | 3), VcpuSet::only(V0));
        let _ = vgic.populate(V0, &mut lrs, 0);
        assert_eq!(
            (lrs[0].sender, lrs[0].state, lrs[0].source),
            (1, state, source)
        );
    }
}

#[test]
fn a_pending_sgi_shows_its_senders_and_can_be_taken_back_from_each() {
    let mut vgic = booted();
    let _ = send(&mut vgic, V1, 1 << 16 | 6);
    let _ = send(&mut vgic, V2, 1 << 16 | 6);
    let mut lrs = [ListReg::EMPTY; 4];
    let _ = vgic.populate(V0, &mut lrs, 0);
    let _ = vgic.fold(V0, &lrs, 0);
    assert_eq!(load(&mut vgic, V0, SPENDSGIR + 4), 0b110 << 16);
    assert_eq!(load(&mut vgic, V1, SPENDSGIR + 4), 0, "not vCPU 1's own");
    assert_eq!(load(&mut vgic, V0, 0x200), 1 << 6);
    let _ = store(&mut vgic, V0, 0x280, !0);
    assert_eq!(
        load(&mut vgic, V0, 0x200),
        1 << 6,
        "ICPENDR does not reach SGIs"
    );
    let _ = store(&mut vgic, V0, 0x200, 0xff);
    assert_eq!(load(&mut vgic, V0, 0x200), 1 << 6, "nor does ISPENDR");
    let _ = store(&mut vgic, V0, CPENDSGIR + 4, 0b010 << 16);
    assert_eq!(load(&mut vgic, V0, CPENDSGIR + 4), 0b100 << 16);
    assert_eq!(contents(&mut vgic, V0)[0].sender, 2);
    let _ = vgic.write(Frame::Banked(V0), CPENDSGIR + 6, 1, 0xff);
    assert_eq!(contents(&mut vgic, V0), []);
    assert_eq!(load(&mut vgic, V0, 0x200), 0);
    let effects = vgic.write(Frame::Banked(V0), SPENDSGIR + 6, 1, 0xff);
    assert_eq!(effects.kick, VcpuSet::only(V0));
    assert_eq!(load(&mut vgic, V0, SPENDSGIR + 4), 0b111 << 16);
}

#[test]
fn what_one_sender_takes_back_leaves_the_list_register_at_the_fold() {
    let mut vgic = booted();
    let _ = send(&mut vgic, V1, 1 << 16 | 6);
    let mut lrs = [ListReg::EMPTY; 4];
    let _ = vgic.populate(V0, &mut lrs, 0);
    let _ = vgic.write(Frame::Banked(V0), CPENDSGIR + 6, 1, 0b10);
    let _ = vgic.populate(V0, &mut lrs, 0);
    assert_eq!(lrs[0], ListReg::EMPTY);
}

#[test]
fn a_vcpu_that_is_reset_forgets_who_sent_it_what() {
    for (leftovers, senders) in [(Leftovers::Dropped, 0), (Leftovers::Kept, 0b100)] {
        let mut vgic = booted();
        let _ = send(&mut vgic, V2, 1 << 16 | 3);
        let mut lrs = [ListReg::EMPTY; 4];
        let _ = vgic.populate(V0, &mut lrs, 0);
        let _ = vgic.reset_vcpu(V0, &mut lrs, leftovers);
        assert_eq!(load(&mut vgic, V0, SPENDSGIR), senders << 24);
        assert_eq!(load(&mut vgic, V0, 0x100), 0);
    }
}

#[test]
fn a_hardware_list_register_is_for_the_pcpu_that_took_the_interrupt() {
    let mut vgic = booted();
    let _ = vgic.forward(V0, LEVEL);
    let own = contents(&mut vgic, V0)[0];
    assert_eq!(own.source, LrSource::Hardware { pintid: LEVEL.0 });
    let mut vgic = booted();
    let _ = vgic.forward(V1, LEVEL);
    let mut lrs = [ListReg::EMPTY; 4];
    let _ = vgic.populate(V0, &mut lrs, 0);
    assert_eq!(lrs[0].source, LrSource::Software { eoi: true });
    lrs[0].state = LrState::Invalid;
    let effects = vgic.fold(V0, &lrs, 0);
    assert_eq!(effects.deactivate.iter().collect::<Vec<_>>(), [LEVEL]);
}

#[test]
fn where_lines_are_not_looked_at_again_we_see_the_end_of_a_level_and_not_of_an_edge() {
    let mut vgic = set_up(like(3, false));
    let _ = vgic.forward(V0, LEVEL);
    let mut lrs = [ListReg::EMPTY; 4];
    let _ = vgic.populate(V0, &mut lrs, 0);
    assert_eq!(lrs[0].source, LrSource::Software { eoi: true });
    lrs[0].state = LrState::Invalid;
    let (_, effects) = vgic.populate(V0, &mut lrs, 0);
    assert_eq!(effects.deactivate.iter().collect::<Vec<_>>(), [LEVEL]);
    // To an edge.
    let _ = store(&mut vgic, V0, 0xc0c, 0b1000);
    let _ = vgic.forward(V0, LEVEL);
    let own = contents(&mut vgic, V0)[0];
    assert_eq!(own.source, LrSource::Hardware { pintid: LEVEL.0 });
}

#[test]
fn more_than_there_is_room_for_asks_for_maintenance() {
    let mut vgic = booted();
    for sgi in 0..6 {
        let _ = send(&mut vgic, V1, 1 << 16 | sgi);
    }
    let mut lrs = [ListReg::EMPTY; 4];
    let (entry, _) = vgic.populate(V0, &mut lrs, 0);
    assert_eq!((entry.used, entry.hcr & hcr::NPIE), (4, hcr::NPIE));
}

#[test]
fn only_what_may_have_changed_there_is_folded_out_of_list_registers() {
    let banked = Frame::Banked(V0);
    assert!(!banked.is_in_list_regs(SGIR, true));
    assert!(banked.is_in_list_regs(SPENDSGIR, false));
    assert!(banked.is_in_list_regs(0x200, false));
    assert!(banked.is_in_list_regs(0x100, true));
    assert!(!banked.is_in_list_regs(0x800, false));
}

#[test]
fn any_access_is_answered() {
    for vcpus in [1, 2, 8] {
        let mut vgic = new(vcpus);
        let me = VcpuId(vcpus as u8 - 1);
        for offset in (0..0x1_0000).chain([u64::MAX, 1 << 32]) {
            for size in [1, 2, 4, 8] {
                let _ = vgic.write(Frame::Banked(me), offset, size, u64::MAX);
                let _ = vgic.read(me, Frame::Banked(me), offset, size);
            }
        }
        let mut lrs = [ListReg::EMPTY; 4];
        for n in 0..vcpus as u8 {
            let _ = vgic.populate(VcpuId(n), &mut lrs, 31);
        }
        for block in vgic.spi_blocks() {
            let _ = vgic.reset_spis(block);
        }
        assert_eq!(load(&mut vgic, me, 0x820), 0);
    }
}

#[test]
fn gicc_dir_deactivates_what_is_in_no_list_register() {
    let mut vgic = booted();
    for n in 0..8 {
        let _ = store(&mut vgic, V0, 0x300, 1 << n);
    }
    // Four are in list registers, and four have none.
    let mut lrs = [ListReg::EMPTY; 4];
    let _ = vgic.populate(V0, &mut lrs, 0);
    let mut left = 0xff;
    for n in [5, 0, 7, 2, 1, 6, 3, 4] {
        let _ = vgic.fold(V0, &lrs, 0);
        let dir = Frame::Deactivate(V0);
        assert!(dir.is_in_list_regs(0, true));
        // As GICC_IAR said it: SGI n of interface 1.
        let _ = vgic.write(dir, 0, 4, 1 << 10 | n);
        left &= !(1 << n);
        assert_eq!(load(&mut vgic, V0, 0x300), left, "{n}");
        let _ = vgic.populate(V0, &mut lrs, 0);
    }
    assert!(lrs.iter().all(|lr| lr.state == LrState::Invalid));
}

#[test]
fn nothing_but_gicc_dir_is_in_its_page() {
    let mut vgic = booted();
    let dir = Frame::Deactivate(V0);
    let _ = store(&mut vgic, V0, 0x300, 1);
    for (offset, size) in [(4, 4), (0, 1), (0, 8), (0xffc, 4)] {
        let effects = vgic.write(dir, offset, size, 0);
        assert!(effects.is_empty());
        assert_eq!(vgic.read(V0, dir, offset, size), Read::Value(0));
    }
    assert_eq!(vgic.read(V0, dir, 0, 4), Read::Value(0), "write-only");
    assert_eq!(load(&mut vgic, V0, 0x300), 1);
}
