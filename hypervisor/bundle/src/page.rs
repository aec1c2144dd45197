//! What stands for a page of a guest's RAM.

use hv_abi::operator::hashes::{PAGE, WORD, Word};
use sha2::{Digest, Sha256};

/// So many words of 8 bytes are read at a time: a block of SHA-256.
pub const BLOCK_WORDS: usize = 8;

const BLOCK: usize = BLOCK_WORDS * 8;

/// Of a page that `read` reads block by block: the words in memory's order from this byte of it on, each once. Zeros in front cost
/// no hash, so a page of zeros costs none.
#[inline(never)]
pub fn word(read: &mut dyn FnMut(u64) -> [u64; BLOCK_WORDS]) -> Word {
    let mut hash: Option<Sha256> = None;
    for at in (0..PAGE).step_by(BLOCK) {
        let words = read(at);
        if hash.is_none() && words.iter().fold(0, |all, word| all | word) == 0 {
            continue;
        }
        let hash = hash.get_or_insert_with(|| {
            let mut hash = Sha256::new();
            for _ in 0..at / BLOCK as u64 {
                hash.update([0; BLOCK]);
            }
            hash
        });
        let mut bytes = [0; BLOCK];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        hash.update(bytes);
    }
    let Some(hash) = hash else {
        return Word::Zeros(1);
    };
    let digest = hash.finalize();
    Word::of_digest(core::array::from_fn::<u8, WORD, _>(|n| {
        digest.get(n).copied().unwrap_or_default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(page: &[u8]) -> Word {
        let mut next = 0;
        word(&mut |at| {
            assert_eq!(at, next, "each block once");
            next += BLOCK as u64;
            let at = at as usize;
            core::array::from_fn(|n| {
                let bytes = &page[at + 8 * n..][..8];
                u64::from_ne_bytes(bytes.try_into().unwrap())
            })
        })
    }

    #[test]
    fn a_page_of_zeros_is_no_hash_and_each_other_is_its_sha_256() {
        let mut page = [0; PAGE as usize];
        assert_eq!(of(&page), Word::Zeros(1));
        // As sha256sum(1) has it: 4095 zeros and a 1.
        page[4095] = 1;
        assert_eq!(of(&page), Word::Hash(0xec5d_e134_c73c_3dfd));
        page.fill(0xff);
        assert_eq!(of(&page), Word::Hash(0xf47a_8ec3_e9af_f231));
    }

    proptest! {
        #[test]
        fn a_bit_that_changes_changes_it(at in 0..4096usize, bit in 0..8u32, first in 0..4096usize) {
            let mut page = [0; PAGE as usize];
            page[first..].fill(7);
            let before = of(&page);
            page[at] ^= 1 << bit;
            prop_assert_ne!(of(&page), before);
        }
    }
}
