//! The serial stream taken apart: what the guest wrote, what the hypervisor said, and the records in it.
//!
//! The framing is `hv_abi::console`; the records are listed in `docs/console.md`.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, anyhow};
use hv_abi::console::{Deframer, Piece};

/// A part of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Bytes that a guest wrote, as it wrote them.
    Guest {
        /// The number of its VM.
        vm: u8,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// One line of the hypervisor.
    Line(Line),
}

/// Splits the stream; fed with whatever the pipe delivered.
#[derive(Default)]
pub struct Splitter {
    deframer: Deframer,
    line: Vec<u8>,
}

impl Splitter {
    /// Takes `bytes` apart. A hypervisor line that is not yet whole stays inside until it is.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Part> {
        let mut parts = Vec::new();
        let (mut guest, mut own) = (Vec::new(), 0);
        let said = |vm, guest: &mut Vec<u8>, parts: &mut Vec<Part>| {
            if !guest.is_empty() {
                let bytes = std::mem::take(guest);
                parts.push(Part::Guest { vm, bytes });
            }
        };
        for &byte in bytes {
            match self.deframer.push(byte) {
                Piece::Guest { vm, byte } => {
                    if vm != own {
                        said(own, &mut guest, &mut parts);
                        own = vm;
                    }
                    guest.push(byte);
                }
                Piece::Line(byte) => self.line.push(byte),
                Piece::EndOfLine => {
                    said(own, &mut guest, &mut parts);
                    let raw = std::mem::take(&mut self.line);
                    parts.push(Part::Line(Line::parse(&String::from_utf8_lossy(&raw))));
                }
                Piece::Nothing => {}
            }
        }
        said(own, &mut guest, &mut parts);
        parts
    }
}

/// A line of the hypervisor: `[seconds.micros p<pcpu>] text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Microseconds of the system counter, if the line carried its prefix.
    pub time_us: Option<u64>,
    /// The pCPU that wrote it, if the line carried its prefix.
    pub pcpu: Option<u32>,
    /// What follows the prefix.
    pub text: String,
}

impl Line {
    /// Reads a line. A line without the prefix, such as one cut by a crash report, is all text.
    pub fn parse(raw: &str) -> Self {
        prefix(raw).unwrap_or_else(|| Self {
            time_us: None,
            pcpu: None,
            text: raw.to_owned(),
        })
    }

    /// The record in this line, if it is one. A malformed record is an error, not a sentence.
    pub fn record(&self) -> Option<Result<Record>> {
        self.text
            .strip_prefix('@')
            .map(|rest| Record::parse(rest).with_context(|| format!("in the record `{self}`")))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(time_us), Some(pcpu)) = (self.time_us, self.pcpu) {
            let (seconds, micros) = (time_us / 1_000_000, time_us % 1_000_000);
            write!(f, "[{seconds:5}.{micros:06} p{pcpu}] ")?;
        }
        f.write_str(&self.text)
    }
}

fn prefix(raw: &str) -> Option<Line> {
    let (prefix, text) = raw.strip_prefix('[')?.split_once("] ")?;
    let (time, pcpu) = prefix.trim_start().split_once(" p")?;
    let (seconds, micros) = time.split_once('.')?;
    if micros.len() != 6 {
        return None;
    }
    let seconds: u64 = seconds.parse().ok()?;
    let micros: u64 = micros.parse().ok()?;
    Some(Line {
        time_us: Some(seconds.checked_mul(1_000_000)?.checked_add(micros)?),
        pcpu: Some(pcpu.parse().ok()?),
        text: text.to_owned(),
    })
}

/// A line for programs: `@name key=value key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The word after `@`.
    pub name: String,
    fields: BTreeMap<String, String>,
}

impl Record {
    fn parse(text: &str) -> Result<Self> {
        let mut words = text.split_ascii_whitespace();
        let name = words.next().context("it has no name")?.to_owned();
        let mut fields = BTreeMap::new();
        for word in words {
            let (key, value) = word
                .split_once('=')
                .with_context(|| format!("`{word}` is no key=value"))?;
            if fields.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(anyhow!("`{key}` occurs twice"));
            }
        }
        Ok(Self { name, fields })
    }

    /// All keys and their values, as written.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(key, value)| (&**key, &**value))
    }

    /// The value of `key`, as written.
    pub fn word(&self, key: &str) -> Result<&str> {
        self.fields
            .get(key)
            .map(String::as_str)
            .with_context(|| format!("the record @{} has no `{key}`", self.name))
    }

    /// The value of `key`, a number in decimal or with 0x in hexadecimal.
    pub fn number(&self, key: &str) -> Result<u64> {
        let word = self.word(key)?;
        let value = match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => word.parse(),
        };
        value.with_context(|| format!("{key}={word} in the record @{} is no number", self.name))
    }

    /// The value of `key`, an index.
    pub fn index(&self, key: &str) -> Result<u32> {
        let value = self.number(key)?;
        u32::try_from(value)
            .with_context(|| format!("{key}={value} in the record @{} is no index", self.name))
    }
}

/// Collects the guest's bytes into lines, without their line ends.
#[derive(Default)]
pub struct GuestLines {
    open: Vec<u8>,
}

impl GuestLines {
    /// The lines that `bytes` completed.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.open);
                    lines.push(String::from_utf8_lossy(&line).into_owned());
                }
                b'\r' => {}
                byte => self.open.push(byte),
            }
        }
        lines
    }

    /// What has been written of a line that has no end yet.
    pub fn open(&self) -> String {
        String::from_utf8_lossy(&self.open).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Part {
        Part::Line(Line::parse(text))
    }

    fn guest(vm: u8, bytes: &[u8]) -> Part {
        let bytes = bytes.to_vec();
        Part::Guest { vm, bytes }
    }

    #[test]
    fn each_guest_has_its_bytes_whoever_comes_between() {
        let mut splitter = Splitter::default();
        let stream = b"\x1e\x1f0> one\r\n\x1e\x1f12> two\x1e\x1f\r\n0> three\x1e\r\n[    0.000001 p0] hello\r\n\x1e\x1f0> \x1e\x1e\x1f12> ";
        let whole = splitter.push(stream);
        let expected = [
            guest(0, b"one\r\n"),
            guest(12, b"two"),
            guest(0, b"three"),
            line("[    0.000001 p0] hello"),
            guest(0, b"\x1e\x1f12> "),
        ];
        assert_eq!(whole, expected);
        // However it is cut.
        for at in 0..stream.len() {
            let mut splitter = Splitter::default();
            let mut bytes: Vec<Vec<u8>> = vec![Vec::new(); 13];
            for piece in [&stream[..at], &stream[at..]] {
                for part in splitter.push(piece) {
                    if let Part::Guest { vm, bytes: own } = part {
                        bytes[usize::from(vm)].extend(own);
                    }
                }
            }
            assert_eq!(bytes[0], b"one\r\nthree\x1e\x1f12> ", "{at}");
            assert_eq!(bytes[12], b"two", "{at}");
        }
    }

    #[test]
    fn guest_bytes_pass_unchanged_around_hypervisor_lines() {
        let mut splitter = Splitter::default();
        let parts = splitter.push(b"log\x1e\r\n[    0.000001 p0] hello\r\nin: \x00\xff\r\n");
        assert_eq!(
            parts,
            [
                guest(0, b"log"),
                line("[    0.000001 p0] hello"),
                guest(0, b"in: \x00\xff\r\n"),
            ]
        );
    }

    #[test]
    fn a_line_split_between_reads_is_one_line() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.push(b"\x1e[    1.5000"), []);
        assert_eq!(
            splitter.push(b"00 p3] text\r\nx"),
            [line("[    1.500000 p3] text"), guest(0, b"x")]
        );
    }

    #[test]
    fn a_guest_cannot_forge_a_line() {
        let mut splitter = Splitter::default();
        let parts = splitter.push(b"\x1e\x1e[    0.000001 p0] @vm-off vm=0\r\n");
        assert_eq!(parts, [guest(0, b"\x1e[    0.000001 p0] @vm-off vm=0\r\n")]);
    }

    #[test]
    fn prefix_is_read_and_written_alike() {
        let text = "[   12.034518 p2] @vm-off vm=0";
        let line = Line::parse(text);
        assert_eq!(line.time_us, Some(12_034_518));
        assert_eq!(line.pcpu, Some(2));
        assert_eq!(line.text, "@vm-off vm=0");
        assert_eq!(line.to_string(), text);
        assert_eq!(Line::parse("[ x p2] y").text, "[ x p2] y");
    }

    #[test]
    fn record_gives_words_and_numbers() {
        let line = Line::parse("[    1.000000 p1] @trace vm=0 vcpu=2 event=cpu-on a=0xff b=12");
        let record = line.record().unwrap().unwrap();
        assert_eq!(record.name, "trace");
        assert_eq!(record.index("vcpu").unwrap(), 2);
        assert_eq!(record.word("event").unwrap(), "cpu-on");
        assert_eq!(record.number("a").unwrap(), 255);
        assert_eq!(record.number("b").unwrap(), 12);
        let missing = record.number("c").unwrap_err().to_string();
        assert_eq!(missing, "the record @trace has no `c`");
        assert!(record.number("event").is_err());
    }

    #[test]
    fn malformed_record_is_an_error_and_a_sentence_is_no_record() {
        assert!(Line::parse("@trace vm").record().unwrap().is_err());
        assert!(Line::parse("@trace vm=0 vm=1").record().unwrap().is_err());
        assert!(Line::parse("@").record().unwrap().is_err());
        assert!(Line::parse("guest 0 started").record().is_none());
    }

    #[test]
    fn guest_lines_end_at_line_feeds() {
        let mut lines = GuestLines::default();
        assert_eq!(lines.push(b"one\r\ntw"), ["one"]);
        assert_eq!(lines.open(), "tw");
        assert_eq!(lines.push(b"o\n\n"), ["two", ""]);
    }
}
