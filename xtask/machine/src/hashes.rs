//! A file with a hash of each page of a guest that stood still, as `ctl dump --pages hashes` writes it: JSON (`docs/oracle.md`).

use anyhow::{Context, Result, bail, ensure};
use hv_abi::operator::from_base64;
use hv_abi::operator::hashes::{MOST_WORDS, PAGE, WORD, Word};
use introspection::vmcoreinfo::{Range, Vmcoreinfo};
use serde::Deserialize;

/// What such a file calls itself.
pub const FORMAT: &str = "halligan-page-hashes";
/// Another one when a field goes or means something else.
pub const VERSION: u32 = 1;
/// How a page is hashed: the first 64 bits of its SHA-256, the top one set.
pub const ALGORITHM: &str = "sha256/64";
/// How all of it is had.
const MEND: &str = "`cargo xtask ctl dump FILE --pages hashes` writes one";

/// What stands for each page of a guest's RAM.
#[derive(Debug)]
pub struct Hashes {
    /// What the guest's Linux says of itself, if it is one.
    pub info: Option<Vmcoreinfo>,
    /// RAM, ascending, and a word for each page.
    ranges: Vec<(Range, Vec<Word>)>,
}

#[derive(Deserialize)]
struct Stored {
    format: String,
    version: u32,
    page: u64,
    hash: String,
    vmcoreinfo: String,
    ram: Vec<Piece>,
    consistent: bool,
}

#[derive(Deserialize)]
struct Piece {
    start: u64,
    length: u64,
    words: Vec<String>,
}

impl Hashes {
    /// Whether a file that begins so is one, or a piece of one.
    pub fn is_one(first: &[u8]) -> bool {
        first.first() == Some(&b'{')
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// If it is no such file, is cut short, or is of several moments.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let stored: Stored = match serde_json::from_slice(file) {
            Ok(stored) => stored,
            Err(error) if error.is_eof() => {
                bail!("it is cut short; {MEND}")
            }
            Err(error) => bail!("it is no file of page hashes ({error}); {MEND}"),
        };
        ensure!(
            stored.format == FORMAT,
            "it calls itself `{}`, not {FORMAT}; {MEND}",
            stored.format
        );
        ensure!(
            stored.version == VERSION && stored.page == PAGE && stored.hash == ALGORITHM,
            "it has version {} (pages of {} bytes, {}), and version {VERSION} is read here (pages of {PAGE} bytes, {ALGORITHM}); {MEND}",
            stored.version,
            stored.page,
            stored.hash
        );
        ensure!(
            stored.consistent,
            "the guest went on before all was hashed, so it is no truth; pause it by `cargo xtask ctl freeze`, and take it again"
        );
        let mut ranges = Vec::new();
        let mut behind = 0;
        for piece in &stored.ram {
            let Piece { start, length, .. } = *piece;
            let end = start.checked_add(length);
            ensure!(
                start >= behind && start.is_multiple_of(PAGE) && length.is_multiple_of(PAGE),
                "its RAM at {start:#x} is no range of whole pages behind the one before"
            );
            behind = end.with_context(|| format!("its RAM at {start:#x} has no end"))?;
            let words = piece.words();
            let words = words.with_context(|| format!("of its RAM at {start:#x}"))?;
            ranges.push(((start, length), words));
        }
        ensure!(!ranges.is_empty(), "it has no RAM; {MEND}");
        let text = stored.vmcoreinfo.as_bytes();
        let info = (!text.is_empty()).then(|| Vmcoreinfo::of_text(text, &[]));
        Ok(Self { info, ranges })
    }

    /// RAM, ascending.
    pub fn ranges(&self) -> Vec<Range> {
        self.ranges.iter().map(|(range, _)| *range).collect()
    }

    /// What stands for the page at `address`, if it is one of RAM.
    pub fn at(&self, address: u64) -> Option<Word> {
        let next = self
            .ranges
            .partition_point(|((start, _), _)| *start <= address);
        let ((start, _), words) = self.ranges.get(next.checked_sub(1)?)?;
        let number = usize::try_from((address - start) / PAGE).ok()?;
        words.get(number).copied()
    }
}

impl Piece {
    /// A word for each page, one of zeros for each of zeros.
    fn words(&self) -> Result<Vec<Word>> {
        let pages = self.length / PAGE;
        let mut words = Vec::new();
        let mut buffer = [0; MOST_WORDS * WORD];
        for text in &self.words {
            let length = from_base64(text.as_bytes(), &mut buffer);
            let length = length.filter(|length| length.is_multiple_of(WORD));
            let length = length.context("its words are no base64 of 8 bytes each")?;
            let (chunks, _) = buffer[..length].as_chunks::<WORD>();
            for chunk in chunks {
                let word = Word::of_bits(u64::from_be_bytes(*chunk));
                let left = pages - words.len() as u64;
                ensure!(
                    (1..=left).contains(&word.pages()),
                    "it has hashes of more than its {pages} pages"
                );
                match word {
                    Word::Hash(_) => words.push(word),
                    Word::Zeros(count) => {
                        words.resize(words.len() + count as usize, Word::Zeros(1));
                    }
                }
            }
        }
        ensure!(
            words.len() as u64 == pages,
            "it has hashes of {} pages, and {pages} are there; {MEND}",
            words.len()
        );
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_abi::operator::Base64;
    use serde_json::{Value, json};

    const HASH: u64 = 1 << 63 | 0x1234;

    fn packed(words: &[u64]) -> String {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        Base64(&bytes).to_string()
    }

    fn file() -> Value {
        json!({
            "format": FORMAT, "version": VERSION, "page": PAGE, "hash": ALGORITHM,
            "release": "7.3.4", "vmcoreinfo": "OSRELEASE=7.3.4\n", "cpus": [],
            "ram": [
                { "start": 0x4000_0000, "length": 0x6000, "words": [packed(&[2, HASH]), packed(&[3])] },
                { "start": 0x5000_0000, "length": 0x1000, "words": [packed(&[HASH + 1])] },
            ],
            "consistent": true,
        })
    }

    fn parsed(file: &Value) -> Result<Hashes> {
        Hashes::parse(file.to_string().as_bytes())
    }

    #[test]
    fn each_page_has_its_word() {
        let hashes = parsed(&file()).unwrap();
        assert_eq!(
            hashes.ranges(),
            [(0x4000_0000, 0x6000), (0x5000_0000, 0x1000)]
        );
        let zero = Some(Word::Zeros(1));
        for (address, word) in [
            (0x3fff_f000, None),
            (0x4000_0000, zero),
            (0x4000_1fff, zero),
            (0x4000_2000, Some(Word::Hash(HASH))),
            (0x4000_5000, zero),
            (0x4000_6000, None),
            (0x5000_0000, Some(Word::Hash(HASH + 1))),
            (0x5000_1000, None),
        ] {
            assert_eq!(hashes.at(address), word, "{address:#x}");
        }
        let info = hashes.info.unwrap();
        assert_eq!(info.release().unwrap(), "7.3.4");
        let mut other = file();
        other["vmcoreinfo"] = "".into();
        assert!(parsed(&other).unwrap().info.is_none());
    }

    #[test]
    fn what_is_no_whole_file_of_hashes_says_why_and_what_to_do() {
        let text = file().to_string();
        for cut in [1, text.len() / 2, text.len() - 1] {
            let error = Hashes::parse(&text.as_bytes()[..cut]).unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with("it is cut short; `cargo"), "{error}");
        }
        let first = "/ram/0/words";
        let cases: [(&str, Value, &str); 11] = [
            ("/format", "another".into(), "it calls itself `another`"),
            ("/version", 2.into(), "it has version 2"),
            ("/page", 16384.into(), "pages of 16384 bytes"),
            ("/hash", "crc32".into(), "crc32"),
            ("/consistent", false.into(), "the guest went on"),
            ("/ram", json!([]), "it has no RAM"),
            ("/ram/1/start", 0x4000_5000.into(), "no range of whole"),
            ("/ram/0/length", 0x6001.into(), "no range of whole"),
            (first, json!([packed(&[2, HASH])]), "hashes of 3 pages"),
            (first, json!([packed(&[7])]), "more than its 6 pages"),
            (first, json!(["AAAA"]), "no base64 of 8 bytes"),
        ];
        for (place, value, said) in cases {
            let mut bad = file();
            *bad.pointer_mut(place).unwrap() = value;
            let error = format!("{:#}", parsed(&bad).unwrap_err());
            assert!(error.contains(said), "{place}: {error}");
        }
        for other in ["{\"a\": 1}", "[]", "\x7fELF"] {
            let error = Hashes::parse(other.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("no file of page hashes"), "{error}");
        }
    }
}
