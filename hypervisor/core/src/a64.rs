//! The loads and stores of A64 that a stage 2 abort's syndrome does not describe and a C compiler makes of accesses to
//! a device: of one general register with pre- or post-index, and of a pair (DDI0487 C4.1, "Loads and Stores").
//!
//! Not decoded are SIMD and floating point, exclusives, atomics, unprivileged accesses, memory tags, and what is CONSTRAINED
//! UNPREDICTABLE (DDI0487 K1.2.7): write-back into a register that is transferred, too, and a pair loaded into one register.

use crate::exit::MmioAccess;
use crate::regs::GuestRegs;

/// The register number that is the stack pointer as a base, and zero as data.
pub const SP: u8 = 31;

/// A load or store with its base register's value put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The virtual address of the first access.
    pub va: u64,
    /// Bytes of each access: 1, 2, 4 or 8.
    pub size: u8,
    /// Store rather than load.
    pub is_write: bool,
    /// A load extends its sign.
    pub sign_extend: bool,
    /// A load fills 64 bits rather than 32.
    pub is_64bit: bool,
    /// The register of the first access; 31 is the zero register.
    pub rt: u8,
    /// That of the second, of a pair.
    pub rt2: Option<u8>,
    /// The register that is written back, [`SP`] among them, and its new value.
    pub write_back: Option<(u8, u64)>,
}

impl Transfer {
    /// Bytes of all accesses.
    pub const fn bytes(&self) -> u64 {
        let accesses = if self.rt2.is_some() { 2 } else { 1 };
        self.size as u64 * accesses
    }

    /// The accesses, in their order, the first at `ipa`.
    pub fn accesses(self, ipa: u64) -> impl Iterator<Item = MmioAccess> {
        let access = move |rt, ipa| MmioAccess {
            ipa,
            size: self.size,
            rt,
            is_write: self.is_write,
            sign_extend: self.sign_extend,
            is_64bit: self.is_64bit,
        };
        let next = ipa.wrapping_add(self.size.into());
        let second = self.rt2.map(|rt| access(rt, next));
        core::iter::once(access(self.rt, ipa)).chain(second)
    }
}

/// Decodes `word`, with the registers as they are and `sp` the stack pointer in use. None for all else.
pub fn decode(word: u32, regs: &GuestRegs, sp: u64) -> Option<Transfer> {
    // op0 xx11, V = 0, bits 25:24 = 00, bit 21 = 0: load/store register with a 9-bit immediate.
    const REGISTER: (u32, u32) = (0x3f20_0000, 0x3800_0000);
    // op0 xx10 with bit 29 = 1, V = 0, bit 25 = 0: load/store register pair.
    const PAIR: (u32, u32) = (0x3e00_0000, 0x2800_0000);
    let base = |rn: u8| match regs.x.get(usize::from(rn)) {
        Some(&x) => x,
        None => sp,
    };
    if word & REGISTER.0 == REGISTER.1 {
        register(word, base)
    } else if word & PAIR.0 == PAIR.1 {
        pair(word, base)
    } else {
        None
    }
}

/// Bits `at` to `at + bits` of `word`.
const fn field(word: u32, at: u32, bits: u32) -> u32 {
    word >> at & ((1 << bits) - 1)
}

/// The same, as a signed number.
const fn signed(word: u32, at: u32, bits: u32) -> u64 {
    ((word << (32 - at - bits)) as i32 >> (32 - bits)) as i64 as u64
}

fn number(word: u32, at: u32) -> u8 {
    field(word, at, 5) as u8
}

/// LDR, LDRB, LDRH, LDRSB, LDRSH, LDRSW, STR, STRB and STRH, immediate pre-indexed and post-indexed.
fn register(word: u32, base: impl Fn(u8) -> u64) -> Option<Transfer> {
    let (rt, rn) = (number(word, 0), number(word, 5));
    let is_pre = match field(word, 10, 2) {
        0b01 => false,
        0b11 => true,
        // Without write-back, where the syndrome describes it, and unprivileged.
        _ => return None,
    };
    let size = field(word, 30, 2);
    let (is_write, sign_extend, is_64bit) = match (field(word, 22, 2), size) {
        (0b00, _) => (true, false, size == 3),
        (0b01, _) => (false, false, size == 3),
        (0b10, 0..=2) => (false, true, true),
        (0b11, 0..=1) => (false, true, false),
        _ => return None,
    };
    if rt == rn && rn != SP {
        return None;
    }
    let from = base(rn);
    let moved = from.wrapping_add(signed(word, 12, 9));
    Some(Transfer {
        va: if is_pre { moved } else { from },
        size: 1 << size,
        is_write,
        sign_extend,
        is_64bit,
        rt,
        rt2: None,
        write_back: Some((rn, moved)),
    })
}

/// LDP, LDPSW, LDNP, STP and STNP of general registers.
fn pair(word: u32, base: impl Fn(u8) -> u64) -> Option<Transfer> {
    let (rt, rn, rt2) = (number(word, 0), number(word, 5), number(word, 10));
    let is_write = field(word, 22, 1) == 0;
    let mode = field(word, 23, 2);
    let (size, sign_extend) = match (field(word, 30, 2), is_write, mode) {
        (0b00, ..) => (4, false),
        (0b10, ..) => (8, false),
        // LDPSW; there is none without allocation, and a store is STGP.
        (0b01, false, 0b01..) => (4, true),
        _ => return None,
    };
    let from = base(rn);
    let moved = from.wrapping_add(signed(word, 15, 7).wrapping_mul(size));
    // No allocation, post-index, offset, pre-index.
    let is_written_back = matches!(mode, 0b01 | 0b11);
    if !is_write && rt == rt2 {
        return None;
    }
    if is_written_back && rn != SP && (rt == rn || rt2 == rn) {
        return None;
    }
    Some(Transfer {
        va: if mode == 0b01 { from } else { moved },
        size: size as u8,
        is_write,
        sign_extend,
        is_64bit: sign_extend || size == 8,
        rt,
        rt2: Some(rt2),
        write_back: is_written_back.then_some((rn, moved)),
    })
}

#[cfg(test)]
mod tests;
