//! The True Random Number Generator interface (DEN0098), version 1.0: what each call answers, given a source.
//!
//! Random bits are written into the guest's registers by the source itself and stay nowhere else. A call asks
//! for at most three words, so its cost has a bound.

use hv_abi::{psci, smccc, trng};

use crate::regs::GuestRegs;

/// Where randomness comes from.
pub trait Entropy {
    /// Fills `words` with bits nobody can foretell; false when there are none now, and then `words` is void.
    /// It gives up after a bounded time.
    fn fill(&mut self, words: &mut [u64]) -> bool;
}

/// A call with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `TRNG_VERSION`
    Version,
    /// `TRNG_FEATURES` of this function identifier
    Features(u32),
    /// `TRNG_GET_UUID`
    GetUuid,
    /// `TRNG_RND32` of this many bits
    Rnd32(u64),
    /// `TRNG_RND64` of this many bits
    Rnd64(u64),
}

/// Reads the call `function` with x1. `None` is a function that does not exist here.
pub const fn decode(function: u32, x1: u64) -> Option<Call> {
    Some(match function {
        trng::VERSION => Call::Version,
        // Arguments of SMC32 functions are W registers (DEN0028 2.6).
        trng::FEATURES => Call::Features(x1 as u32),
        trng::GET_UUID => Call::GetUuid,
        trng::RND32 => Call::Rnd32(x1 & 0xffff_ffff),
        trng::RND64 => Call::Rnd64(x1),
        _ => return None,
    })
}

/// Performs a call: the answer is in x0, and in x1 to x3 where there is more. Without a source the whole
/// interface is not there.
pub fn answer<E: Entropy>(call: Call, source: Option<E>, regs: &mut GuestRegs) {
    let [status, words @ ..] = &mut regs.x;
    let Some(words) = words.first_chunk_mut() else {
        return;
    };
    let Some(mut source) = source else {
        *status = smccc::NOT_SUPPORTED as u64;
        return;
    };
    *status = match call {
        Call::Version => trng::VERSION_1_0.into(),
        Call::Features(function) if decode(function, 0).is_some() => trng::Status::Success as u64,
        Call::Features(_) => trng::Status::NotSupported as i64 as u64,
        Call::GetUuid => {
            let [first, rest @ ..] = smccc::uuid_words(trng::UUID);
            *words = rest.map(u64::from);
            first.into()
        }
        Call::Rnd32(bits) => draw(&mut source, words, bits, 32) as i64 as u64,
        Call::Rnd64(bits) => draw(&mut source, words, bits, 64) as i64 as u64,
    };
}

/// Puts `bits` random bits into x3, x2 and x1, the lowest first, `width` into each; the others are 0 (DEN0098,
/// TRNG_RND).
fn draw(source: &mut impl Entropy, words: &mut [u64; 3], bits: u64, width: u64) -> trng::Status {
    *words = [0; 3];
    if !(1..=3 * width).contains(&bits) {
        return trng::Status::InvalidParameters;
    }
    let wanted = bits.div_ceil(width) as usize;
    let unused = words.len().saturating_sub(wanted);
    if !words
        .get_mut(unused..)
        .is_some_and(|used| source.fill(used))
    {
        *words = [0; 3];
        return trng::Status::NoEntropy;
    }
    for (word, below) in words.iter_mut().rev().zip([0, width, 2 * width]) {
        *word &= low_bits(bits.saturating_sub(below).min(width));
    }
    trng::Status::Success
}

/// A mask of the lowest `count` bits, at most 64.
const fn low_bits(count: u64) -> u64 {
    match count {
        0 => 0,
        count => u64::MAX >> (64 - count),
    }
}

/// Whether the firmware behind `call` (function, first argument; w0 of the answer) can be asked for random
/// bits. Asks only what it may: that SMCCC is 1.1 or newer, which PSCI knows, and then for the interface and
/// for RND64 (DEN0098, discovery).
pub fn is_offered(mut call: impl FnMut(u32, u32) -> i32) -> bool {
    call(psci::FEATURES, smccc::VERSION) >= 0
        && call(smccc::VERSION, 0) >= smccc::VERSION_1_1 as i32
        && call(trng::VERSION, 0) >> 16 == 1
        && call(trng::FEATURES, trng::RND64) >= 0
}

#[cfg(test)]
mod tests;
