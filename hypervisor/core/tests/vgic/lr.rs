//! List registers: the value and its bits.

use hv_core::vgic::{ListReg, LrSource, LrState, hcr};
use proptest::prelude::*;

#[test]
fn a_hardware_interrupt_encodes_as_ihi0069_says() {
    let lr = ListReg {
        vintid: 27,
        priority: 0xa0,
        group1: true,
        state: LrState::Pending,
        source: LrSource::Hardware { pintid: 27 },
        sender: 0,
    };
    assert_eq!(lr.encode_v3(), 0x70a0_001b_0000_001b);
    assert_eq!(lr.encode_v2(), 0xda00_6c1b, "as IHI0048 5.3.10 says");
}

#[test]
fn a_software_interrupt_may_ask_for_maintenance() {
    let lr = ListReg {
        vintid: 33,
        priority: 0xf8,
        group1: false,
        state: LrState::PendingActive,
        source: LrSource::Software { eoi: true },
        sender: 0,
    };
    assert_eq!(lr.encode_v3(), 0xc0f8_0200_0000_0021);
    assert_eq!(lr.encode_v2(), 0x3f88_0021);
}

#[test]
fn a_gicv2_list_register_says_who_sent_an_sgi() {
    let lr = ListReg {
        vintid: 3,
        priority: 0x80,
        group1: false,
        state: LrState::Pending,
        source: LrSource::Software { eoi: false },
        sender: 5,
    };
    assert_eq!(lr.encode_v2(), 0x1800_1403);
}

#[test]
fn an_empty_one_is_zero() {
    assert_eq!(ListReg::EMPTY.encode_v3(), 0);
    assert_eq!(ListReg::decode_v3(0), ListReg::EMPTY);
    assert_eq!(ListReg::EMPTY.encode_v2(), 0);
    assert_eq!(ListReg::decode_v2(0), ListReg::EMPTY);
}

#[test]
fn the_eoi_count_is_the_top_five_bits_of_the_low_word() {
    assert_eq!(hcr::eoi_count(0xf800_4001), 31);
    assert_eq!(hcr::eoi_count(0x0800_0001), 1);
    assert_eq!(hcr::eoi_count(0x1_0000_0001), 0);
}

prop_compose! {
    fn any_list_reg()(
        vintid in 0u32..1020,
        priority: u8,
        group1: bool,
        pending: bool,
        active: bool,
        source in prop_oneof![
            (0u32..1020).prop_map(|pintid| LrSource::Hardware { pintid }),
            any::<bool>().prop_map(|eoi| LrSource::Software { eoi }),
        ],
    ) -> ListReg {
        ListReg { vintid, priority, group1, state: LrState::new(pending, active), source, sender: 0 }
    }
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(lr in any_list_reg()) {
        prop_assert_eq!(ListReg::decode_v3(lr.encode_v3()), lr);
        let coarse = ListReg { priority: lr.priority & 0xf8, ..lr };
        prop_assert_eq!(ListReg::decode_v2(lr.encode_v2()), coarse);
    }

    #[test]
    fn any_bits_decode(raw: u64) {
        let lr = ListReg::decode_v3(raw);
        prop_assert_eq!(ListReg::decode_v3(lr.encode_v3()), lr);
        let lr = ListReg::decode_v2(raw as u32);
        prop_assert_eq!(ListReg::decode_v2(lr.encode_v2()), lr);
    }
}

#[test]
fn an_end_that_only_drops_the_priority_deactivates_nothing() {
    let hcr = 3 << 27 | hcr::EN;
    assert_eq!(hcr::deactivations(hcr, 0), 3);
    assert_eq!(hcr::deactivations(hcr, 1 << 9), 0, "VEOIM");
    assert_eq!(hcr::deactivations(hcr, !(1 << 9)), 3, "all but VEOIM");
}
