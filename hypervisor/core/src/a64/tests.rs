use super::*;

/// What the encoding index says of a word, independently of the decoder: a name, and the fields that fix it as mask and
/// value (DDI0487 C6.2, one line for each instruction's encoding).
struct Encoding {
    mask: u32,
    value: u32,
    size: u8,
    kind: Kind,
    mode: Mode,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Store,
    Load,
    LoadSigned(bool),
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Post,
    Pre,
    PairPost,
    PairPre,
    PairOffset,
}

const fn encoding(value: u32, size: u8, kind: Kind, mode: Mode) -> Encoding {
    let mask = match mode {
        // Bit 21 to the fixed ones, with the index bits.
        Mode::Post | Mode::Pre => 0xffe0_0c00,
        _ => 0xffc0_0000,
    };
    Encoding {
        mask,
        value,
        size,
        kind,
        mode,
    }
}

const TABLE: [Encoding; 45] = {
    use Kind::{Load, LoadSigned, Store};
    use Mode::{PairOffset, PairPost, PairPre, Post, Pre};
    [
        encoding(0x3800_0400, 1, Store, Post), // STRB
        encoding(0x3800_0c00, 1, Store, Pre),
        encoding(0x3840_0400, 1, Load, Post), // LDRB
        encoding(0x3840_0c00, 1, Load, Pre),
        encoding(0x3880_0400, 1, LoadSigned(true), Post), // LDRSB Xt
        encoding(0x3880_0c00, 1, LoadSigned(true), Pre),
        encoding(0x38c0_0400, 1, LoadSigned(false), Post), // LDRSB Wt
        encoding(0x38c0_0c00, 1, LoadSigned(false), Pre),
        encoding(0x7800_0400, 2, Store, Post), // STRH
        encoding(0x7800_0c00, 2, Store, Pre),
        encoding(0x7840_0400, 2, Load, Post), // LDRH
        encoding(0x7840_0c00, 2, Load, Pre),
        encoding(0x7880_0400, 2, LoadSigned(true), Post), // LDRSH Xt
        encoding(0x7880_0c00, 2, LoadSigned(true), Pre),
        encoding(0x78c0_0400, 2, LoadSigned(false), Post), // LDRSH Wt
        encoding(0x78c0_0c00, 2, LoadSigned(false), Pre),
        encoding(0xb800_0400, 4, Store, Post), // STR Wt
        encoding(0xb800_0c00, 4, Store, Pre),
        encoding(0xb840_0400, 4, Load, Post), // LDR Wt
        encoding(0xb840_0c00, 4, Load, Pre),
        encoding(0xb880_0400, 4, LoadSigned(true), Post), // LDRSW
        encoding(0xb880_0c00, 4, LoadSigned(true), Pre),
        encoding(0xf800_0400, 8, Store, Post), // STR Xt
        encoding(0xf800_0c00, 8, Store, Pre),
        encoding(0xf840_0400, 8, Load, Post), // LDR Xt
        encoding(0xf840_0c00, 8, Load, Pre),
        encoding(0x2800_0000, 4, Store, PairOffset), // STNP W
        encoding(0x2840_0000, 4, Load, PairOffset),  // LDNP W
        encoding(0x2880_0000, 4, Store, PairPost),   // STP W
        encoding(0x28c0_0000, 4, Load, PairPost),    // LDP W
        encoding(0x2900_0000, 4, Store, PairOffset),
        encoding(0x2940_0000, 4, Load, PairOffset),
        encoding(0x2980_0000, 4, Store, PairPre),
        encoding(0x29c0_0000, 4, Load, PairPre),
        encoding(0x68c0_0000, 4, LoadSigned(true), PairPost), // LDPSW
        encoding(0x6940_0000, 4, LoadSigned(true), PairOffset),
        encoding(0x69c0_0000, 4, LoadSigned(true), PairPre),
        encoding(0xa800_0000, 8, Store, PairOffset), // STNP X
        encoding(0xa840_0000, 8, Load, PairOffset),  // LDNP X
        encoding(0xa880_0000, 8, Store, PairPost),   // STP X
        encoding(0xa8c0_0000, 8, Load, PairPost),    // LDP X
        encoding(0xa900_0000, 8, Store, PairOffset),
        encoding(0xa940_0000, 8, Load, PairOffset),
        encoding(0xa980_0000, 8, Store, PairPre),
        encoding(0xa9c0_0000, 8, Load, PairPre),
    ]
};

fn regs() -> GuestRegs {
    let mut regs = GuestRegs::default();
    for (x, n) in regs.x.iter_mut().zip(1..) {
        *x = n * 0x0101_0101_0100;
    }
    regs
}

const STACK: u64 = 0xffff_0000_1234_5670;

/// What the table says that a word does.
fn expected(word: u32, regs: &GuestRegs) -> Option<Transfer> {
    let mut found = TABLE
        .iter()
        .filter(|encoding| word & encoding.mask == encoding.value);
    let encoding = found.next()?;
    assert!(found.next().is_none(), "{word:#x} is in the table twice");
    let rt = (word & 31) as u8;
    let rn = (word >> 5 & 31) as u8;
    let second = (word >> 10 & 31) as u8;
    let is_pair = !matches!(encoding.mode, Mode::Post | Mode::Pre);
    let immediate = if is_pair {
        let imm7 = i64::from(word >> 15 & 0x7f);
        (imm7 - (imm7 & 0x40) * 2) * i64::from(encoding.size)
    } else {
        let imm9 = i64::from(word >> 12 & 0x1ff);
        imm9 - (imm9 & 0x100) * 2
    };
    let base = if rn == 31 {
        STACK
    } else {
        regs.x[usize::from(rn)]
    };
    let moved = base.wrapping_add_signed(immediate);
    let is_post = matches!(encoding.mode, Mode::Post | Mode::PairPost);
    let writes_back = encoding.mode != Mode::PairOffset;
    let is_write = encoding.kind == Kind::Store;
    let overlaps = rn != 31 && (rt == rn || is_pair && second == rn);
    if writes_back && overlaps || is_pair && !is_write && rt == second {
        return None;
    }
    Some(Transfer {
        va: if is_post { base } else { moved },
        size: encoding.size,
        is_write,
        sign_extend: matches!(encoding.kind, Kind::LoadSigned(_)),
        is_64bit: match encoding.kind {
            Kind::LoadSigned(wide) => wide,
            _ => encoding.size == 8,
        },
        rt,
        rt2: is_pair.then_some(second),
        write_back: writes_back.then_some((rn, moved)),
    })
}

#[test]
fn every_opcode_is_what_the_table_of_encodings_says() {
    // Bits 31:21 and 11:10 tell instructions apart; with them every pair of registers that may be the same or not, and
    // immediates of both signs and at both ends.
    let regs = regs();
    let mut decoded = 0;
    for top in 0..1u32 << 11 {
        for middle in [0u32, 1, 0x3f, 0x40, 0x7f, 0x80, 0xff, 0x100, 0x1ff] {
            for low in 0..64 {
                // 0, 1, 2 and 31.
                let pick = |field: u32| if field == 3 { 31 } else { field };
                let [rt, rn, index] = [low & 3, low >> 2 & 3, low >> 4];
                let word = top << 21 | middle << 12 | index << 10 | pick(rn) << 5 | pick(rt);
                let transfer = decode(word, &regs, STACK);
                assert_eq!(transfer, expected(word, &regs), "{word:#010x}");
                decoded += u32::from(transfer.is_some());
            }
        }
    }
    assert!(decoded > 10_000, "only {decoded} words were instructions");
}

#[test]
fn every_register_and_every_immediate_of_every_encoding_is_taken() {
    let regs = regs();
    for encoding in &TABLE {
        let free = !encoding.mask;
        for low in 0..1u32 << 10 {
            for high in (0..1u32 << 12).step_by(7) {
                let word = encoding.value | (high << 10 | low) & free;
                assert_eq!(
                    decode(word, &regs, STACK),
                    expected(word, &regs),
                    "{word:#010x}"
                );
            }
        }
    }
}

#[test]
fn other_kinds_of_access_are_none() {
    let regs = regs();
    for (word, name) in [
        (0x885f_7c22, "LDXR"),
        (0x88df_fc22, "LDAR"),
        (0xb820_0022, "LDADD"),
        (0xb8a0_8022, "SWPA"),
        (0x88a0_7c22, "CAS"),
        (0x3dc0_0022, "LDR q2, [x1]"),
        (0x3cc1_0422, "LDR q2, [x1], #16"),
        (0xadc0_0c22, "LDP q2, q3, [x1, #0]!"),
        (0x6d40_0c22, "LDP d2, d3, [x1]"),
        (0xb840_0822, "LDTR"),
        (0x6900_0c22, "STGP"),
        (0xb940_0022, "LDR w2, [x1]"),
        (0xb840_0022, "LDUR"),
        (0xb860_6822, "LDR w2, [x1, x0]"),
        (0xf820_0422, "LDRAA"),
        (0x1800_0002, "LDR literal"),
        (0xd50b_7e21, "DC CIVAC"),
        (0, "UDF"),
    ] {
        assert_eq!(decode(word, &regs, STACK), None, "{name}");
    }
}

#[test]
fn the_accesses_of_a_pair_follow_each_other() {
    // LDPSW x2, x3, [x1], #8.
    let transfer = decode(0x68c1_0c22, &regs(), 0).expect("a pair");
    let accesses: alloc::vec::Vec<_> = transfer.accesses(0x1000).collect();
    let places: alloc::vec::Vec<_> = accesses
        .iter()
        .map(|access| (access.ipa, access.rt))
        .collect();
    assert_eq!(places, [(0x1000, 2), (0x1004, 3)]);
    assert!(
        accesses
            .iter()
            .all(|access| access.sign_extend && access.is_64bit && access.size == 4)
    );
    assert_eq!(transfer.bytes(), 8);
}
