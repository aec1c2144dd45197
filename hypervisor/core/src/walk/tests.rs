use super::*;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::RefCell;

/// Granules by the bits of an offset, and their codes in TG0 and TG1.
const GRANULES: [(u32, [u64; 2]); 3] = [(12, [0, 2]), (14, [2, 1]), (16, [1, 3])];
const HOLE: u64 = 0x0b0b_0000;

fn tcr(half: usize, code: u64, bits: u32) -> u64 {
    (64 - u64::from(bits)) << [0, 16][half] | code << [14, 30][half]
}

/// The level at which a walk through `tables` ends, and the addresses that it has read.
fn walk(regime: Regime, va: u64, tables: &BTreeMap<u64, [u8; 8]>) -> (i8, Vec<u64>) {
    let read = RefCell::new(Vec::new());
    let level = regime.last_level(va, |address| {
        read.borrow_mut().push(address);
        tables.get(&address).copied()
    });
    (level, read.into_inner())
}

#[test]
fn a_first_table_that_is_not_there_ends_the_walk_at_the_first_level() {
    // DDI0487 D8.2.8 to D8.2.10: the first level by granule and bits of address.
    for (page, bits, level) in [
        (12, 25, 2),
        (12, 30, 2),
        (12, 31, 1),
        (12, 39, 1),
        (12, 40, 0),
        (12, 48, 0),
        (14, 25, 3),
        (14, 26, 2),
        (14, 36, 2),
        (14, 37, 1),
        (14, 47, 1),
        (14, 48, 0),
        (16, 25, 3),
        (16, 29, 3),
        (16, 30, 2),
        (16, 42, 2),
        (16, 43, 1),
        (16, 52, 1),
    ] {
        for half in [0, 1] {
            let code = GRANULES.iter().find(|granule| granule.0 == page).unwrap().1[half];
            let va = if half == 1 { !0 << bits } else { 0 };
            let regime = Regime {
                tcr: tcr(half, code, bits),
                ttbr: [[HOLE, 0], [0, HOLE]][half],
                ..Regime::default()
            };
            let (found, read) = walk(regime, va, &BTreeMap::new());
            assert_eq!(found, level, "{page} {bits} {half}");
            let expected: &[u64] = if level == 3 { &[] } else { &[HOLE] };
            assert_eq!(read, expected);
        }
    }
}

/// A descriptor of a table at `address`, with attributes around it that are none of the address.
const fn leads_to(address: u64) -> u64 {
    const NS_TABLE_AND_KIN: u64 = 0x1f << 59;
    address | NS_TABLE_AND_KIN | 0xb00 | TABLE
}

#[test]
fn tables_are_followed_by_each_index_in_either_byte_order_to_the_one_that_is_not_there() {
    // Level 0 with index 0x155, 1 with 0xaa, 2 with 0x1ff.
    let va = 0x155 << 39 | 0xaa << 30 | 0x1ff << 21 | 0x33 << 12 | 0x123;
    // Bit 55 chooses, and the bits above those that are translated are none of the index.
    let tagged = va | 0x5a << 56;
    let chain = [
        (0x4000_0000 + 8 * 0x155, 0x4000_1000),
        (0x4000_1000 + 8 * 0xaa, 0x4000_2000),
        (0x4000_2000 + 8 * 0x1ff, HOLE),
    ];
    for (sctlr, is_big) in [(0, false), (EE, true)] {
        let regime = Regime {
            sctlr,
            tcr: tcr(0, 0, 48),
            // An ASID and CnP are none of the address.
            ttbr: [0x4000_0000 | 0x77 << 48 | 1, !0],
        };
        for known in 0..=chain.len() {
            let tables = chain.iter().take(known).map(|&(at, to)| {
                let bytes = leads_to(to);
                (
                    at,
                    if is_big {
                        bytes.to_be_bytes()
                    } else {
                        bytes.to_le_bytes()
                    },
                )
            });
            let tables: BTreeMap<_, _> = tables.collect();
            let (level, read) = walk(regime, tagged, &tables);
            assert_eq!(level, known as i8);
            let expected = chain.iter().take(known + 1).map(|&(at, _)| at);
            assert_eq!(read, expected.collect::<Vec<_>>());
        }
    }
}

#[test]
fn addresses_of_52_bits_have_their_upper_bits_elsewhere() {
    const HIGH: u64 = 0xd << 48;
    // 64 KiB: bits 15 to 12 of a descriptor, 5 to 2 of TTBR.
    let wide = Regime {
        tcr: tcr(0, 1, 48) | 0b110 << 32,
        ttbr: [0x4000_0000 | 0xd << 2, 0],
        ..Regime::default()
    };
    let tables = BTreeMap::from([(
        HIGH | 0x4000_0000,
        leads_to(0x5000_0000 | 0xd << 12).to_le_bytes(),
    )]);
    let (level, read) = walk(wide, 0, &tables);
    assert_eq!(
        (level, read),
        (2, [HIGH | 0x4000_0000, HIGH | 0x5000_0000].to_vec())
    );
    // 4 KiB with DS: bits 9 and 8 are 51 and 50, and there is a level -1.
    let ds = Regime {
        tcr: tcr(0, 0, 52) | DS,
        ttbr: [0x4000_0000 | 0xd << 2, 0],
        ..Regime::default()
    };
    let descriptor = 0x5000_0000 | 1 << 48 | 0b11 << 8 | TABLE;
    let tables = BTreeMap::from([(HIGH | 0x4000_0000, descriptor.to_le_bytes())]);
    let (level, read) = walk(ds, 0, &tables);
    assert_eq!(
        (level, read),
        (0, [HIGH | 0x4000_0000, HIGH | 0x5000_0000].to_vec())
    );
    assert_eq!(walk(ds, 0, &BTreeMap::new()).0, -1);
}

#[test]
fn a_walk_ends_whatever_the_registers_and_tables_say() {
    let mut word = 0x1234_5678_9abc_def1u64;
    let mut next = || {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        word ^ word >> 29
    };
    for _ in 0..100_000 {
        let regime = Regime {
            sctlr: next(),
            tcr: next(),
            ttbr: [next(), next()],
        };
        let (descriptor, reads) = (next() | TABLE, RefCell::new(0));
        let level = regime.last_level(next(), |address| {
            assert!(address < 1 << 52 && address.is_multiple_of(8));
            *reads.borrow_mut() += 1;
            Some(if regime.sctlr & EE != 0 {
                descriptor.to_be_bytes()
            } else {
                descriptor.to_le_bytes()
            })
        });
        assert_eq!(level, 3, "all entries are tables");
        assert!(reads.into_inner() <= 4, "level 3 is not read");
    }
}
