//! The pages of a guest that stands still, by their hashes: a file that says what its memory is and can be had over a serial line
//! (`docs/oracle.md`).

use std::fs::File;
use std::io::Write;

use anyhow::{Context, Result, bail, ensure};
use hv_abi::operator::Base64;
use hv_abi::operator::hashes::{PAGE, Word};
use serde_json::{Value, json};

use super::connection::Files;
use super::pause::Pause;
use super::{linux, taken};
use crate::hashes::{ALGORITHM, FORMAT, VERSION};
use crate::operator::Operator;

/// What has been written.
#[derive(Default)]
struct Written {
    bytes: u64,
    pages: u64,
    zeros: u64,
}

/// Writes it to the file that is called so; what it is.
pub fn write(operator: &Operator, files: &mut Files, name: &str) -> Result<Value> {
    let mut file = files.take(name)?;
    let ram = operator.known_ram()?;
    let mut said = Vec::new();
    let info = linux::vmcoreinfo(operator);
    let Some(pause) = Pause::begin(operator, &mut said)? else {
        bail!(
            "a guest that runs cannot be hashed, as its pages would be of several moments: {}",
            said.join("; ")
        );
    };
    let source = operator.source()?;
    let text = info.as_ref().map_or(String::new(), |info| {
        String::from_utf8_lossy(info.text()).into_owned()
    });
    let taken = taken::take(operator, &source, info, (ram.clone(), false), &mut said)?;
    let cpus = taken
        .core
        .cpus
        .iter()
        .map(|cpu| json!({ "cpu": cpu.number, "registers": &cpu.registers[..] }));
    let head = json!({
        "format": FORMAT,
        "version": VERSION,
        "page": PAGE,
        "hash": ALGORITHM,
        "release": taken.release,
        "vmcoreinfo": text,
        "cpus": cpus.collect::<Value>(),
    });
    let mut written = Written::default();
    // All but its end: what comes next is in the same object.
    let head = head.to_string();
    let head = head.strip_suffix('}').context("it is no object")?;
    written.put(&mut file, &format!("{head},\n\"ram\":["))?;
    for (n, (start, length)) in ram.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        let head = format!("{comma}\n{{\"start\":{start},\"length\":{length},\"words\":[");
        written.put(&mut file, &head)?;
        let mut comma = "";
        operator.hash(*start, *length, |words| {
            ensure!(!files.is_left(), "whoever wanted the hashes has gone");
            written.count(words);
            let bytes: Vec<u8> = words
                .iter()
                .flat_map(|word| word.bits().to_be_bytes())
                .collect();
            written.put(&mut file, &format!("{comma}\n\"{}\"", Base64(&bytes)))?;
            comma = ",";
            Ok(())
        })?;
        written.put(&mut file, "]}")?;
    }
    let is_consistent = pause.holds()?;
    written.put(
        &mut file,
        &format!("],\n\"consistent\":{is_consistent}}}\n"),
    )?;
    if !is_consistent {
        said.push("the guest went on before all was hashed: it is of several moments".into());
    }
    let memory: u64 = ram.iter().map(|(_, length)| length).sum();
    Ok(json!({
        "release": taken.release,
        "cpus": taken.told(),
        "memory": memory,
        "bytes": written.bytes,
        "pages": written.pages,
        "zeros": written.zeros,
        "consistent": is_consistent,
        "said": said,
    }))
}

impl Written {
    fn put(&mut self, file: &mut File, text: &str) -> Result<()> {
        self.bytes += text.len() as u64;
        file.write_all(text.as_bytes())
            .context("the hashes cannot be written")
    }

    fn count(&mut self, words: &[Word]) {
        for word in words {
            self.pages += word.pages();
            self.zeros += match word {
                Word::Hash(_) => 0,
                Word::Zeros(count) => *count,
            };
        }
    }
}
