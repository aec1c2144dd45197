use super::*;
use crate::regs::El1Values;

/// LDR w2, [x1], #4, and STR w2, [x1], #4.
const LOAD: u32 = 0xb840_4422;
const STORE: u32 = 0xb800_4422;
/// LDP x2, x3, [x1].
const PAIR: u32 = 0xa940_0c22;
/// LDR w2, [sp], #16.
const FROM_SP: u32 = 0xb841_07e2;

const FAR: u64 = 0xffff_8000_0000_0104;
const READ: Undescribed = Undescribed {
    ipa: 0x0800_0104,
    is_write: false,
};

fn regs(x1: u64, pstate: u64) -> GuestRegs {
    let mut regs = GuestRegs {
        pstate,
        ..GuestRegs::default()
    };
    regs.x[1] = x1;
    regs
}

fn judge(regs: &GuestRegs, el1: &El1Values, word: u32) -> Verdict {
    Attempts::default().judge((READ, FAR), regs, el1, Some(word))
}

#[test]
fn what_agrees_is_performed() {
    let el1 = El1Values::default();
    for pstate in [pstate::EL0T, pstate::EL1T, pstate::EL1H] {
        let Verdict::Perform(transfer) = judge(&regs(FAR, pstate), &el1, LOAD) else {
            panic!("not performed in state {pstate:#x}");
        };
        assert_eq!((transfer.va, transfer.rt, transfer.size), (FAR, 2, 4));
        assert_eq!(transfer.write_back, Some((1, FAR + 4)));
    }
    // A tag in the top byte.
    let tagged = regs(FAR ^ 0x5a << 56, pstate::EL1H);
    assert!(matches!(judge(&tagged, &el1, LOAD), Verdict::Perform(_)));
}

#[test]
fn what_disagrees_is_tried_again() {
    let el1 = El1Values::default();
    let at = |address| regs(address, pstate::EL1H);
    assert_eq!(judge(&at(FAR), &el1, STORE), Verdict::Retry, "direction");
    assert_eq!(judge(&at(FAR + 4), &el1, LOAD), Verdict::Retry, "address");
    assert_eq!(judge(&at(FAR + 4096), &el1, LOAD), Verdict::Retry, "page");
    assert_eq!(judge(&at(FAR), &el1, 0), Verdict::Retry, "no load");
    let unread = Attempts::default().judge((READ, FAR), &at(FAR), &el1, None);
    assert_eq!(unread, Verdict::Retry);
}

#[test]
fn a_pair_that_crosses_a_page_is_never_performed() {
    let el1 = El1Values::default();
    let judge = |offset: u64| {
        let far = 0x1000 + offset;
        let exit = Undescribed {
            ipa: 0x0800_0000 + offset,
            is_write: false,
        };
        let mut attempts = Attempts::default();
        attempts.judge((exit, far), &regs(far, pstate::EL1H), &el1, Some(PAIR))
    };
    assert!(matches!(judge(0xff0), Verdict::Perform(_)));
    for offset in 0xff1..0x1000 {
        assert_eq!(judge(offset), Verdict::Retry, "offset {offset:#x}");
    }
}

#[test]
fn the_tries_are_bounded_and_begin_anew_after_a_success_or_an_abort() {
    let el1 = El1Values::default();
    let regs = regs(FAR, pstate::EL1H);
    let mut attempts = Attempts::default();
    let mut judge = |word| attempts.judge((READ, FAR), &regs, &el1, Some(word));
    for _ in 0..3 {
        for _ in 0..Attempts::MOST {
            assert_eq!(judge(STORE), Verdict::Retry);
        }
        assert_eq!(judge(STORE), Verdict::Refuse);
        for _ in 0..Attempts::MOST {
            assert_eq!(judge(STORE), Verdict::Retry);
        }
        assert!(matches!(judge(LOAD), Verdict::Perform(_)));
    }
}

#[test]
fn aarch32_and_big_endian_are_refused_at_once() {
    const E0E: u64 = 1 << 24;
    const EE: u64 = 1 << 25;
    let judge = |pstate, sctlr| {
        let el1 = El1Values {
            sctlr,
            ..El1Values::default()
        };
        judge(&regs(FAR, pstate), &el1, LOAD)
    };
    assert_eq!(judge(pstate::AARCH32, 0), Verdict::Refuse);
    assert_eq!(judge(pstate::EL0T, E0E), Verdict::Refuse);
    assert_eq!(judge(pstate::EL1H, EE), Verdict::Refuse);
    assert_eq!(judge(pstate::EL1T, EE), Verdict::Refuse);
    assert!(matches!(judge(pstate::EL0T, EE), Verdict::Perform(_)));
    assert!(matches!(judge(pstate::EL1H, E0E), Verdict::Perform(_)));
}

#[test]
fn the_stack_pointer_is_the_one_in_use() {
    let el1 = El1Values {
        sp: [FAR, FAR + 0x1000],
        ..El1Values::default()
    };
    let judge = |pstate| judge(&regs(0, pstate), &el1, FROM_SP);
    assert!(matches!(judge(pstate::EL1T), Verdict::Perform(_)));
    assert!(matches!(judge(pstate::EL0T), Verdict::Perform(_)));
    assert_eq!(judge(pstate::EL1H), Verdict::Retry);
}
