//! `dump-guest-memory`: a core file of a guest, which stands still meanwhile, or of one byte, by which drgn asks for VMCOREINFO:
//! then it has that note, and no memory.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use anyhow::{Context, Result, bail, ensure};
use introspection::core_file::CoreFile;
use serde_json::{Value, json};

use super::connection::Files;
use super::pause::Pause;
use super::{hashes, linux, taken};
use crate::operator::Operator;

/// Writes it to the file that `arguments` name; what it is.
pub fn dump(arguments: &Value, operator: &Operator, files: &mut Files) -> Result<Value> {
    ensure!(
        matches!(arguments["paging"], Value::Null | Value::Bool(false)),
        "a guest is dumped by physical address: \"paging\": false"
    );
    ensure!(
        arguments["format"].is_null() || arguments["format"] == "elf",
        "a guest is dumped as ELF; `cargo xtask ctl dump --format kdump` has makedumpfile make another of it"
    );
    let protocol = arguments["protocol"].as_str().unwrap_or_default();
    let name = protocol.strip_prefix("fd:");
    let name = name.context("say to which file: \"protocol\": \"fd:NAME\", after getfd")?;
    match (&arguments["begin"], &arguments["length"]) {
        (Value::Null, Value::Null) => match arguments["pages"].as_str() {
            None | Some("all") => whole(operator, files, name, false),
            Some("kernel") => whole(operator, files, name, true),
            Some("hashes") => hashes::write(operator, files, name),
            Some(other) => bail!("say which pages: all, kernel or hashes, not {other}"),
        },
        (begin, length) if begin.is_u64() && *length == 1 => {
            let mut file = files.take(name)?;
            let core = CoreFile {
                vmcoreinfo: linux::vmcoreinfo(operator)?.note,
                ..CoreFile::default()
            };
            file.write_all(&core.head()).context(UNWRITTEN)?;
            Ok(json!({}))
        }
        _ => bail!("a guest is dumped as a whole, or VMCOREINFO by \"length\": 1"),
    }
}

const UNWRITTEN: &str = "the dump cannot be written";

fn whole(operator: &Operator, files: &mut Files, name: &str, only_kernel: bool) -> Result<Value> {
    let mut file = Sparse::of(files.take(name)?)?;
    let ram = operator.known_ram()?;
    let mut said = Vec::new();
    // It does not change; the first time it is looked for.
    let info = linux::vmcoreinfo(operator);
    let pause = Pause::begin(operator, &mut said)?;
    let source = operator.source()?;
    let taken = taken::take(operator, &source, info, (ram, only_kernel), &mut said)?;
    file.write(&taken.core.head())?;
    for (start, length) in &taken.core.ram {
        source.read(*start, *length, |bytes| {
            ensure!(!files.is_left(), "whoever wanted the dump has gone");
            file.write(bytes)
        })?;
    }
    file.write(&taken.core.tail())?;
    let size = file.end()?;
    let is_consistent = match &pause {
        None => false,
        Some(pause) => pause.holds()?,
    };
    if pause.is_some() && !is_consistent {
        said.push("the guest went on before the dump was done: it is of several moments".into());
    }
    let memory: u64 = taken.core.ram.iter().map(|(_, length)| length).sum();
    Ok(json!({
        "release": taken.release,
        "cpus": taken.told(),
        "memory": memory,
        "bytes": size,
        "consistent": is_consistent,
        "said": said,
    }))
}

/// Smaller runs of zeros are written.
const HOLE: usize = 4096;
static ZEROS: [u8; HOLE] = [0; HOLE];

/// A file in which zeros take no room, if it can have holes.
struct Sparse {
    file: File,
    has_holes: bool,
    /// How many zeros come next.
    zeros: u64,
    /// How much has been given.
    size: u64,
}

impl Sparse {
    fn of(file: File) -> Result<Self> {
        let has_holes = file.metadata().context(UNWRITTEN)?.is_file();
        Ok(Self {
            file,
            has_holes,
            zeros: 0,
            size: 0,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        if !self.has_holes {
            return self.file.write_all(bytes).context(UNWRITTEN);
        }
        let is_zero = |block: &[u8]| *block == ZEROS[..block.len()];
        let blocks: Vec<&[u8]> = bytes.chunks(HOLE).collect();
        for run in blocks.chunk_by(|one, other| is_zero(one) == is_zero(other)) {
            let length: usize = run.iter().map(|block| block.len()).sum();
            if is_zero(run[0]) {
                self.zeros += length as u64;
                continue;
            }
            self.skip()?;
            self.file.write_all(&run.concat()).context(UNWRITTEN)?;
        }
        Ok(())
    }

    fn skip(&mut self) -> Result<()> {
        let zeros = i64::try_from(std::mem::take(&mut self.zeros))?;
        if zeros != 0 {
            self.file
                .seek(SeekFrom::Current(zeros))
                .context(UNWRITTEN)?;
        }
        Ok(())
    }

    /// The size of it all.
    fn end(mut self) -> Result<u64> {
        if self.has_holes {
            self.skip()?;
            let end = self.file.stream_position().context(UNWRITTEN)?;
            self.file.set_len(end).context(UNWRITTEN)?;
        }
        Ok(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Read;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn zeros_are_holes_and_all_is_as_it_was_given() {
        let mut file = tempfile::tempfile().unwrap();
        let mut sparse = Sparse::of(file.try_clone().unwrap()).unwrap();
        let mut all: Vec<u8> = Vec::new();
        let megabyte = vec![0; 1 << 20];
        for bytes in [&[1; 5000][..], &megabyte, &[0, 2], &megabyte[..8192]] {
            sparse.write(bytes).unwrap();
            all.extend(bytes);
        }
        assert_eq!(sparse.end().unwrap(), all.len() as u64);
        let mut read = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut read).unwrap();
        assert!(read == all, "{} and {} bytes", read.len(), all.len());
        let blocks = file.metadata().unwrap().blocks();
        assert!(blocks * 512 < 1 << 19, "{blocks} blocks");
    }

    #[test]
    fn a_pipe_gets_every_zero() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut sparse = Sparse::of(file).unwrap();
        sparse.write(&[0; 8192]).unwrap();
        assert_eq!(sparse.end().unwrap(), 8192);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, [0; 8192]);
    }
}
