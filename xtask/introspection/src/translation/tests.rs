//! Tables made by hand, of each granule.

use super::*;
use crate::memory::tests::Pieces;

const VALID: u64 = 1;
const TABLE: u64 = 3;

/// Memory for tables and what they lead to.
fn memory() -> Pieces {
    let mut pieces = Pieces::default();
    pieces.put(0x4000_0000, &vec![0; 0x10_0000]);
    pieces
}

/// TCR_EL1 with the same sizes in both halves; `granules` is TG1 and TG0.
fn tcr(bits: u64, granules: (u64, u64)) -> u64 {
    (64 - bits) << 16 | (64 - bits) | granules.0 << 30 | granules.1 << 14
}

const FOUR: (u64, u64) = (0b10, 0b00);
const SIXTEEN: (u64, u64) = (0b01, 0b10);
const SIXTY_FOUR: (u64, u64) = (0b11, 0b01);

fn regime(tcr: u64) -> Regime {
    Regime {
        sctlr: 1,
        tcr,
        ttbr0: 0x4000_0000 | 0x0042 << 48,
        ttbr1: 0x4001_0000 | 1,
    }
}

fn physical(regime: &Regime, memory: &mut Pieces, address: u64) -> Result<(u64, u64)> {
    let mapped = regime.translate(memory, address)?;
    Ok((mapped.physical, mapped.left))
}

#[test]
fn pages_and_blocks_of_4_kib_granules_in_48_bits() {
    let mut memory = memory();
    let regime = regime(tcr(48, FOUR));
    // 0xffff_8000_8123_4567: entries 0x100, 2, 9, 0x34.
    memory.put_u64(0x4001_0000 + 8 * 0x100, 0x4002_0000 | TABLE);
    memory.put_u64(0x4002_0000 + 8 * 2, 0x4003_0000 | TABLE);
    memory.put_u64(0x4003_0000 + 8 * 9, 0x4004_0000 | TABLE);
    memory.put_u64(
        0x4004_0000 + 8 * 0x34,
        0x1234_5000 | TABLE | 0x0060 << 48 | 0x700,
    );
    // The next 2 MiB and the next 1 GiB are blocks.
    memory.put_u64(0x4003_0000 + 8 * 10, 0x1_4020_0000 | VALID);
    memory.put_u64(0x4002_0000 + 8 * 3, 0x2_4000_0000 | VALID);
    let mut at = |address| physical(&regime, &mut memory, address).unwrap();
    assert_eq!(at(0xffff_8000_8123_4567), (0x1234_5567, 0xa99));
    assert_eq!(at(0xffff_8000_8140_0001), (0x1_4020_0001, 0x1f_ffff));
    assert_eq!(at(0xffff_8000_c123_4567), (0x2_4123_4567, 0x3edc_ba99));
    let error = regime.translate(&mut memory, 0xffff_8000_8123_5000);
    assert_eq!(
        error.unwrap_err().to_string(),
        "0xffff800081235000 is not mapped: its entry of level 3 is empty"
    );
    let error = regime.translate(&mut memory, 0xffff_8001_0000_0000);
    assert_eq!(
        error.unwrap_err().to_string(),
        "0xffff800100000000 is not mapped: its entry of level 1 is empty"
    );
}

#[test]
fn user_space_goes_by_ttbr0() {
    let mut memory = memory();
    // 39 bits begin at level 1.
    let regime = regime(tcr(39, FOUR));
    memory.put_u64(0x4000_0000 + 8 * 3, 0x4002_0000 | TABLE);
    memory.put_u64(0x4002_0000, 0x8000_0000 | VALID);
    assert_eq!(
        physical(&regime, &mut memory, 0xc000_0010).unwrap().0,
        0x8000_0010
    );
    let error = regime.translate(&mut memory, 0x80_0000_0000).unwrap_err();
    assert_eq!(
        error.to_string(),
        "0x8000000000 is not mapped: it is no address of 39 bits"
    );
}

#[test]
fn granules_of_16_and_64_kib() {
    let mut memory = memory();
    // 47 bits of 16 KiB pages: levels 1 to 3 of 11 bits each.
    let sixteen = regime(tcr(47, SIXTEEN));
    memory.put_u64(0x4001_0000 + 8 * 0x400, 0x4002_0000 | TABLE);
    memory.put_u64(0x4002_0000 + 8 * 5, 0x4003_0000 | TABLE);
    memory.put_u64(0x4002_0000 + 8 * 6, 0x9600_0000 | VALID);
    memory.put_u64(0x4003_0000 + 8 * 7, 0x5555_4000 | TABLE);
    let address = 0xffff_8000_0000_0000 | 0x400 << 36;
    let mut at = |address| physical(&sixteen, &mut memory, address).unwrap();
    assert_eq!(at(address | 5 << 25 | 7 << 14 | 9), (0x5555_4009, 0x3ff7));
    assert_eq!(at(address | 6 << 25 | 9), (0x9600_0009, (32 << 20) - 9));

    let mut memory = self::memory();
    // 42 bits of 64 KiB pages: levels 2 and 3 of 13 bits each.
    let large = regime(tcr(42, SIXTY_FOUR));
    memory.put_u64(0x4001_0000 + 8 * 3, 0x4002_0000 | TABLE);
    memory.put_u64(0x4002_0000 + 8, 0x7777_0000 | TABLE);
    memory.put_u64(0x4001_0000 + 8 * 4, 0xa000_0000 | VALID);
    let address = 0xffff_fc00_0000_0000u64;
    let mut at = |address| physical(&large, &mut memory, address).unwrap();
    assert_eq!(at(address | 3 << 29 | 1 << 16 | 2), (0x7777_0002, 0xfffe));
    assert_eq!(at(address | 4 << 29 | 2), (0xa000_0002, (512 << 20) - 2));
}

#[test]
fn addresses_of_52_bits() {
    // TCR_EL1.DS: 4 KiB pages, five levels, bits 51:50 of an address in bits 9:8.
    let mut memory = memory();
    let mut regime = regime(tcr(52, FOUR) | 1 << 59);
    memory.put_u64(0x4001_0000 + 8 * 0xf, 0x4002_0000 | TABLE);
    memory.put_u64(0x4002_0000 + 8 * 0x1ff, 0x4003_0000 | TABLE);
    memory.put_u64(0x4003_0000 + 8 * 0x1ff, 0x4004_0000 | TABLE);
    memory.put_u64(0x4004_0000 + 8 * 0x1ff, 0x4005_0000 | TABLE);
    memory.put_u64(0x4005_0000 + 8 * 0x1ff, 0xabcd_e000 | 0b10 << 8 | TABLE);
    let found = physical(&regime, &mut memory, u64::MAX - 7).unwrap();
    assert_eq!(found, (1 << 51 | 0xabcd_eff8, 8));

    // TCR_EL1.IPS: 64 KiB pages, bits 51:48 in bits 15:12, of TTBR1_EL1 in bits 5:2.
    let mut memory = Pieces::default();
    memory.put(0x9_0000_4001_0000, &vec![0; 0x1_0000]);
    memory.put(0x4002_0000, &vec![0; 0x2_0000]);
    regime.tcr = tcr(52, SIXTY_FOUR) | 0b110 << 32;
    regime.ttbr1 = 0x4001_0000 | 0x9 << 2;
    memory.put_u64(0x9_0000_4001_0000 + 8 * 0x3ff, 0x4002_0000 | TABLE);
    memory.put_u64(0x4002_0000 + 8 * 0x1fff, 0x4003_0000 | TABLE);
    memory.put_u64(0x4003_0000 + 8 * 0x1fff, 0x3_0000 | 0xc << 12 | TABLE);
    let found = physical(&regime, &mut memory, u64::MAX - 7).unwrap();
    assert_eq!(found, (0xc_0000_0003_fff8, 8));
}

#[test]
fn a_small_first_table_is_found_where_it_is() {
    // 40 bits of 4 KiB pages: the first table has two entries, and is aligned to 64 bytes.
    let mut memory = memory();
    let mut regime = regime(tcr(40, FOUR));
    regime.ttbr1 = 0x4001_0040;
    memory.put_u64(0x4001_0048, 0x4002_0000 | TABLE);
    memory.put_u64(0x4002_0000, 0x4000_0000 | VALID);
    let found = physical(&regime, &mut memory, 0xffff_ff80_0000_0123).unwrap();
    assert_eq!(found.0, 0x4000_0123);
}

#[test]
fn tags_and_halves_that_are_off() {
    let mut memory = memory();
    let mut regime = regime(tcr(39, FOUR) | 1 << 37);
    memory.put_u64(0x4000_0000, 0x8000_0000 | VALID);
    let found = physical(&regime, &mut memory, 0xab00_0000_0000_0010).unwrap();
    assert_eq!(found.0, 0x8000_0010, "TCR_EL1.TBI0");
    assert!(
        regime
            .translate(&mut memory, 0xab40_0000_0000_0010)
            .is_err()
    );
    regime.tcr |= 1 << 7;
    let error = regime.translate(&mut memory, 0x10).unwrap_err().to_string();
    assert_eq!(error, "0x10 is not mapped: TCR_EL1 switches TTBR0_EL1 off");
    regime.sctlr = 0;
    assert_eq!(physical(&regime, &mut memory, 0x10).unwrap(), (0x10, 0xff0));
}

#[test]
fn a_table_that_leads_out_of_memory_or_is_reserved_is_an_error() {
    let mut memory = memory();
    let regime = regime(tcr(48, FOUR));
    memory.put_u64(0x4001_0000 + 8 * 0x100, 0x9_0000_0000 | TABLE);
    let error = regime.translate(&mut memory, 0xffff_8000_0000_0000);
    assert!(format!("{:#}", error.unwrap_err()).contains("table of level 1 at 0x900000000"));
    // A block at level 0, and a page that is none.
    memory.put_u64(0x4001_0000 + 8 * 0x100, 0x9_0000_0000 | VALID);
    let error = regime.translate(&mut memory, 0xffff_8000_0000_0000);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("level 0 is reserved")
    );
    // A table that names itself is left after four levels.
    memory.put_u64(0x4001_0000 + 8 * 0x100, 0x4001_0000 | TABLE);
    let address = 0xffff_0000_0000_0000 | 0x100 << 39 | 0x100 << 30 | 0x100 << 21 | 0x100 << 12;
    assert_eq!(
        physical(&regime, &mut memory, address).unwrap().0,
        0x4001_0000
    );
}

#[test]
fn reading_goes_over_the_end_of_a_page() {
    let mut memory = memory();
    let regime = regime(tcr(39, FOUR));
    memory.put_u64(0x4001_0000 + 8 * 0x1ff, 0x4002_0000 | TABLE);
    memory.put_u64(0x4002_0000 + 8 * 0x1ff, 0x4003_0000 | TABLE);
    memory.put_u64(0x4003_0000 + 8 * 0x1fe, 0x4004_1000 | TABLE);
    memory.put_u64(0x4003_0000 + 8 * 0x1ff, 0x4004_0000 | TABLE);
    memory.put_u64(0x4004_1ff8, 0x1111);
    memory.put_u64(0x4004_0000, 0x2222);
    let mut bytes = [0; 16];
    regime
        .read(&mut memory, 0xffff_ffff_ffff_eff8, &mut bytes)
        .unwrap();
    assert_eq!(bytes[..2], [0x11, 0x11]);
    assert_eq!(bytes[8..10], [0x22, 0x22]);
}

#[test]
fn a_signed_address_is_stripped() {
    let regime = regime(tcr(48, FOUR));
    assert_eq!(regime.strip(0x002b_8000_8123_4567), 0x8000_8123_4567);
    assert_eq!(regime.strip(0xffab_8000_8123_4567), 0xffff_8000_8123_4567);
    assert_eq!(regime.strip(0x2a00_0000_0040_0000), 0x40_0000);
}
