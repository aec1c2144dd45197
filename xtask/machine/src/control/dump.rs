//! `dump-guest-memory` of one byte, by which drgn asks for VMCOREINFO: an ELF core with that note, and no memory.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::connection::Files;
use super::linux;
use crate::operator::Operator;

/// Writes it to the file that `arguments` name.
pub fn dump(arguments: &Value, operator: &Operator, files: &mut Files) -> Result<()> {
    ensure!(
        arguments["paging"] == false && arguments["length"] == 1 && arguments["begin"].is_u64(),
        "only VMCOREINFO is dumped, by \"paging\": false and \"length\": 1; a guest's memory is dumped by `cargo xtask ctl nmi`"
    );
    let protocol = arguments["protocol"].as_str().unwrap_or_default();
    let name = protocol.strip_prefix("fd:");
    let name = name.context("say to which file: \"protocol\": \"fd:NAME\", after getfd")?;
    let mut file = files.take(name)?;
    let note = linux::vmcoreinfo(operator)?.note;
    file.write_all(&core(&note))
        .context("the dump cannot be written")
}

/// An ELF core file of AArch64 with one segment of notes.
fn core(note: &[u8]) -> Vec<u8> {
    const HEADER: u16 = 64;
    const SEGMENT: u16 = 56;
    // Class 64, little-endian, version 1; ET_CORE, EM_AARCH64.
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\xb7\0\x01\0\0\0".to_vec();
    // Entry, where program headers are, no sections, no flags.
    for word in [0, u64::from(HEADER), 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    for half in [HEADER, SEGMENT, 1, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    // PT_NOTE, no flags.
    bytes.extend(4u32.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    let size = note.len() as u64;
    for word in [u64::from(HEADER + SEGMENT), 0, 0, size, size, 4] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(note);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    use object::LittleEndian;
    use object::elf::FileHeader64;
    use object::read::elf::{FileHeader, ProgramHeader};

    #[test]
    fn the_note_is_in_an_elf_core() {
        let note = b"\x0b\0\0\0\x04\0\0\0\0\0\0\0VMCOREINFO\0\0A=1\n";
        let bytes = core(note);
        let header = FileHeader64::<LittleEndian>::parse(&*bytes).unwrap();
        let segments = header.program_headers(LittleEndian, &*bytes).unwrap();
        let [segment] = segments else {
            panic!("{}", segments.len())
        };
        let mut notes = segment.notes(LittleEndian, &*bytes).unwrap().unwrap();
        let found = notes.next().unwrap().unwrap();
        assert_eq!(
            (found.name(), found.desc()),
            (&b"VMCOREINFO"[..], &b"A=1\n"[..])
        );
    }
}
