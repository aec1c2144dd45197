//! What stands for the pages of a guest's RAM in an answer to [`Verb::Hashes`](super::Verb::Hashes), and in files: words of 8 bytes,
//! the most significant first.
//!
//! A word whose top bit is set is one page that is not full of zeros: the first 64 bits of its SHA-256, the top one set. Any other
//! is so many pages of zeros in a row, one at least. So most of a guest that uses little of its RAM takes no room, and no page of
//! zeros is taken for another.

/// The size of a page, whatever the guest's own are.
pub const PAGE: u64 = 4096;

/// So many words are in an answer at most, and so many pages are hashed for it: it takes as long on the line as the longest answer
/// to [`Verb::Memory`](super::Verb::Memory).
pub const MOST_WORDS: usize = 96;

/// So many pages are looked at for one request at most, if most are zeros.
pub const MOST_PAGES: u16 = 1024;

/// So many bytes have a word.
pub const WORD: usize = 8;

/// Set in a word that is a hash.
const HASH: u64 = 1 << 63;

/// What a word stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// A page with this hash, as the word has it.
    Hash(u64),
    /// So many pages of zeros.
    Zeros(u64),
}

impl Word {
    /// Of a page that is not full of zeros, by the first bytes of its SHA-256.
    #[must_use]
    pub const fn of_digest(first: [u8; WORD]) -> Self {
        Self::Hash(u64::from_be_bytes(first) | HASH)
    }

    /// What `bits` stand for.
    #[must_use]
    pub const fn of_bits(bits: u64) -> Self {
        if bits & HASH == 0 {
            Self::Zeros(bits)
        } else {
            Self::Hash(bits)
        }
    }

    /// As a word.
    #[must_use]
    pub const fn bits(self) -> u64 {
        match self {
            Self::Hash(bits) => bits,
            Self::Zeros(count) => count,
        }
    }

    /// How many pages it stands for.
    #[must_use]
    pub const fn pages(self) -> u64 {
        match self {
            Self::Hash(_) => 1,
            Self::Zeros(count) => count,
        }
    }
}

/// The words of one answer, as they are made: page by page, as many as have room.
#[derive(Clone, Copy, Debug)]
pub struct Hashes {
    bytes: [u8; MOST_WORDS * WORD],
    /// How many bytes there are in front of `last`.
    length: usize,
    /// The word that may grow.
    last: Option<Word>,
}

impl Hashes {
    /// Of no page.
    pub const fn new() -> Self {
        Self {
            bytes: [0; MOST_WORDS * WORD],
            length: 0,
            last: None,
        }
    }

    /// Adds the next page or pages. Whether there is room for whatever comes next; what finds none is left out.
    #[must_use]
    pub fn push(&mut self, next: Word) -> bool {
        self.last = match (self.last, next) {
            (Some(Word::Zeros(before)), Word::Zeros(more)) => {
                Some(Word::Zeros(before.saturating_add(more)))
            }
            (before, next) => {
                self.put(before);
                Some(next)
            }
        };
        self.length + WORD < self.bytes.len()
    }

    fn put(&mut self, word: Option<Word>) {
        if let Some(word) = word
            && let Some(slot) = self.bytes.get_mut(self.length..self.length + WORD)
        {
            slot.copy_from_slice(&word.bits().to_be_bytes());
            self.length += WORD;
        }
    }

    /// All words.
    #[must_use]
    pub fn bytes(&mut self) -> &[u8] {
        let last = self.last.take();
        self.put(last);
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Default for Hashes {
    fn default() -> Self {
        Self::new()
    }
}
