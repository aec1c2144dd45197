//! The pages of a guest that is paused, by their hashes.

use anyhow::{Context, Result, bail, ensure};
use hv_abi::operator::hashes::{MOST_PAGES, PAGE, WORD, Word};
use hv_abi::operator::{Request, Span, Verb};

use super::{Operator, not_ram};

impl Operator {
    /// Has the `length` bytes of RAM from `ipa` on hashed, both in whole pages of 4 KiB, and gives `take` what stands for them, a
    /// part after the other.
    ///
    /// # Errors
    ///
    /// If nobody answers, the guest is not paused, not all of it is RAM, or `take` fails.
    pub fn hash(
        &self,
        ipa: u64,
        length: u64,
        mut take: impl FnMut(&[Word]) -> Result<()>,
    ) -> Result<()> {
        ensure!(
            ipa.is_multiple_of(PAGE) && length.is_multiple_of(PAGE),
            "{length:#x} bytes of RAM at {ipa:#x} are no whole pages"
        );
        let mut done = 0;
        while done < length {
            let pages = ((length - done) / PAGE).min(MOST_PAGES.into());
            let at = ipa.checked_add(done).with_context(|| not_ram(u64::MAX))?;
            let answers = self.exchange(Request {
                span: Span {
                    ipa: at,
                    length: pages as u16,
                },
                ..Request::new(0, Verb::Hashes, self.vm, 0)
            })?;
            match answers.memory.context("there is no answer")? {
                Err(outside) => bail!(not_ram(outside)),
                Ok(bytes) => {
                    let words = words(&bytes, pages)?;
                    take(&words)?;
                    done += PAGE * words.iter().map(|word| word.pages()).sum::<u64>();
                }
            }
        }
        Ok(())
    }
}

/// The words of an answer, which stand for some of so many pages.
fn words(bytes: &[u8], pages: u64) -> Result<Vec<Word>> {
    let (chunks, rest) = bytes.as_chunks::<WORD>();
    let words: Vec<Word> = chunks
        .iter()
        .map(|word| Word::of_bits(u64::from_be_bytes(*word)))
        .collect();
    let known = words
        .iter()
        .try_fold(0u64, |sum, word| sum.checked_add(word.pages()));
    ensure!(
        rest.is_empty()
            && words.iter().all(|word| word.pages() != 0)
            && known.is_some_and(|known| (1..=pages).contains(&known)),
        "the hypervisor has hashed other pages than {pages}"
    );
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_of_the_pages_that_were_asked_for() {
        let bytes = |words: &[u64]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_be_bytes()).collect()
        };
        let hash = 1 << 63 | 7;
        assert_eq!(
            words(&bytes(&[3, hash]), 4).unwrap(),
            [Word::Zeros(3), Word::Hash(hash)]
        );
        // Fewer than were asked for have had room.
        assert!(words(&bytes(&[hash]), 1024).is_ok());
        for (bad, pages) in [
            (bytes(&[]), 4),
            (bytes(&[0]), 4),
            (bytes(&[hash, 0]), 4),
            (bytes(&[4, hash]), 4),
            (bytes(&[hash])[..7].to_vec(), 4),
            (bytes(&[1 << 62; 4]), 4),
        ] {
            assert!(words(&bad, pages).is_err(), "{bad:x?}");
        }
    }
}
