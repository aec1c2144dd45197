use super::*;
use crate::regs::El1Values;

const ALL: Features = Features {
    pan: true,
    ssbs: true,
    mte: true,
    dit: true,
    nmi: true,
};

/// An EL1 with distinct values and SCTLR_EL1.SPAN set, so that PAN stays.
fn el1() -> El1Values {
    El1Values {
        vbar: 0xffff_8000_0001_0800,
        sctlr: 1 << 23,
        sp: [0x11, 0x22],
        elr: 0x33,
        spsr: 0x44,
        esr: 0x55,
        far: 0x66,
    }
}

fn interrupted(pstate: u64) -> GuestRegs {
    GuestRegs {
        x: core::array::from_fn(|n| 0x1000 + n as u64),
        pc: 0xffff_8000_0800_1234,
        pstate,
        is_partial: 0,
    }
}

#[test]
fn handler_starts_at_el1h_with_everything_masked() {
    for mode in [0b0000, 0b0100, 0b0101] {
        assert_eq!(exception_pstate(mode, 1 << 23, Features::default()), 0x3c5);
    }
}

#[test]
fn pan_is_set_when_span_is_clear_and_kept_when_it_is_set() {
    const PAN: u64 = 1 << 22;
    const SPAN: u64 = 1 << 23;
    let pan = Features {
        pan: true,
        ..Features::default()
    };
    assert_eq!(exception_pstate(0x5, 0, pan), 0x3c5 | PAN);
    assert_eq!(exception_pstate(0x5 | PAN, 0, pan), 0x3c5 | PAN);
    assert_eq!(exception_pstate(0x5, SPAN, pan), 0x3c5);
    assert_eq!(exception_pstate(0x5 | PAN, SPAN, pan), 0x3c5 | PAN);
    assert_eq!(exception_pstate(0x5 | PAN, 0, Features::default()), 0x3c5);
}

#[test]
fn ssbs_is_what_dssbs_says() {
    const SSBS: u64 = 1 << 12;
    const DSSBS: u64 = 1 << 44;
    let sctlr = 1 << 23 | 1 << 62;
    assert_eq!(exception_pstate(0x5, sctlr | DSSBS, ALL) & SSBS, SSBS);
    assert_eq!(exception_pstate(0x5 | SSBS, sctlr, ALL) & SSBS, 0);
    assert_eq!(
        exception_pstate(0x5, sctlr | DSSBS, Features::default()) & SSBS,
        0
    );
}

#[test]
fn allint_is_the_opposite_of_spintmask() {
    const ALLINT: u64 = 1 << 13;
    const SPINTMASK: u64 = 1 << 62;
    assert_eq!(exception_pstate(0x5, 0, ALL) & ALLINT, ALLINT);
    assert_eq!(exception_pstate(0x5 | ALLINT, SPINTMASK, ALL) & ALLINT, 0);
    assert_eq!(exception_pstate(0x5, 0, Features::default()) & ALLINT, 0);
}

#[test]
fn tco_is_set_where_there_is_memory_tagging() {
    const TCO: u64 = 1 << 25;
    assert_eq!(exception_pstate(0x5, 0, ALL) & TCO, TCO);
    assert_eq!(exception_pstate(0x5 | TCO, 0, Features::default()) & TCO, 0);
}

#[test]
fn flags_and_dit_stay_and_the_rest_is_cleared() {
    const NZCV: u64 = 0xf << 28;
    const DIT: u64 = 1 << 24;
    // UAO, SS, IL, BTYPE and every bit above 31.
    let cleared = 1 << 23 | 1 << 21 | 1 << 20 | 3 << 10 | !0 << 32;
    let dit = Features {
        dit: true,
        ..Features::default()
    };
    assert_eq!(
        exception_pstate(0x5 | NZCV | DIT | cleared, 0, dit),
        0x3c5 | NZCV | DIT
    );
    assert_eq!(exception_pstate(0x5 | DIT, 0, Features::default()), 0x3c5);
}

#[test]
fn aarch32_state_leaves_nothing_behind_but_flags_dit_and_pan() {
    let scts_span_spintmask = 1 << 23 | 1 << 62;
    let features = Features { mte: false, ..ALL };
    // EL0 Thumb in an IT block: M = 0b10000, T, E, GE, IT, Q, SSBS at [23].
    let interrupted =
        0b1_0000 | 1 << 5 | 1 << 9 | 0xf << 16 | 0x3f << 10 | 3 << 25 | 1 << 27 | 1 << 23;
    assert_eq!(
        exception_pstate(interrupted, scts_span_spintmask, features),
        0x3c5
    );
}

#[test]
fn each_origin_has_its_vector() {
    for (pstate, offset) in [
        (0x3c4, 0x000),
        (0x3c5, 0x200),
        (0x000, 0x400),
        (0x010, 0x600),
        (0x1f0, 0x600),
    ] {
        let mut regs = interrupted(pstate);
        let mut el1 = el1();
        take_sync(&mut regs, &mut el1, Features::default(), 0xe5, 0xfa);
        assert_eq!(regs.pc, 0xffff_8000_0001_0800 + offset, "from {pstate:#x}");
        assert_eq!(regs.pstate, 0x3c5);
        assert_eq!((el1.elr, el1.spsr), (0xffff_8000_0800_1234, pstate));
        assert_eq!((el1.esr, el1.far), (0xe5, 0xfa));
        assert_eq!(regs.x, interrupted(pstate).x);
        assert_eq!(el1.sp, [0x11, 0x22]);
    }
}

#[test]
fn undefined_says_how_long_the_instruction_is() {
    let mut regs = interrupted(0x3c5);
    let mut el1 = el1();
    inject_undefined(&mut regs, &mut el1, ALL, 0x6232_0000 | 1 << 25);
    assert_eq!((el1.esr, el1.far), (1 << 25, 0));
    assert_eq!(el1.elr, 0xffff_8000_0800_1234);

    let mut regs = interrupted(0x30);
    inject_undefined(&mut regs, &mut el1, ALL, 0x6032_0000 & !(1 << 25));
    assert_eq!(el1.esr, 0);
    assert_eq!(regs.pc, 0xffff_8000_0001_0e00);
}

#[test]
fn external_abort_is_named_by_access_and_origin() {
    for (access, pstate, esr) in [
        (Access::Fetch, 0x000, 0x8200_0010),
        (Access::Fetch, 0x3c5, 0x8600_0010),
        (Access::Data, 0x000, 0x9200_0010),
        (Access::Data, 0x010, 0x9200_0010),
        (Access::Data, 0x3c4, 0x9600_0010),
        (Access::Data, 0x3c5, 0x9600_0010),
    ] {
        let mut regs = interrupted(pstate);
        let mut el1 = el1();
        // A level 3 translation fault at stage 2 with a valid syndrome of a 64-bit load.
        let stage2 = 0x9000_0000 | 1 << 25 | 1 << 24 | 3 << 22 | 1 << 15 | 0x7;
        inject_external_abort(
            &mut regs,
            &mut el1,
            ALL,
            (access, None),
            stage2,
            0xfeed_0000,
        );
        assert_eq!(el1.esr, esr, "{access:?} from {pstate:#x}");
        assert_eq!(el1.far, 0xfeed_0000);
    }
}

#[test]
fn external_abort_keeps_write_cache_maintenance_and_far_not_valid() {
    const WNR: u64 = 1 << 6;
    const CM: u64 = 1 << 8;
    const FNV: u64 = 1 << 10;
    let mut el1 = el1();
    let stage2 = 0x9200_0047 | CM | FNV;
    let mut regs = interrupted(0x3c5);
    inject_external_abort(&mut regs, &mut el1, ALL, (Access::Data, None), stage2, 0);
    assert_eq!(el1.esr, 0x9600_0010 | WNR | CM | FNV);
    let mut regs = interrupted(0x3c5);
    inject_external_abort(&mut regs, &mut el1, ALL, (Access::Fetch, None), stage2, 0);
    assert_eq!(el1.esr, 0x8600_0010 | FNV);
}

#[test]
fn external_abort_on_a_walk_names_the_level() {
    // DDI0487 D24.2, DFSC and IFSC: 0b010011 at level -1, 0b0101LL at 0 to 3.
    for (level, status) in [(-1, 0x13), (0, 0x14), (1, 0x15), (2, 0x16), (3, 0x17)] {
        // S1PTW, which only EL2 has in its syndrome.
        let stage2 = 0x9200_0086;
        for (access, class) in [(Access::Data, 0x9600_0000), (Access::Fetch, 0x8600_0000)] {
            let (mut regs, mut el1) = (interrupted(0x3c5), el1());
            inject_external_abort(
                &mut regs,
                &mut el1,
                ALL,
                (access, Some(level)),
                stage2,
                0xfeed,
            );
            assert_eq!((el1.esr, el1.far), (class | status, 0xfeed));
        }
    }
}
