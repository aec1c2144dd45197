//! A vmcore: which kernel it is of, and the registers of each CPU that was stopped.
//!
//! Two formats: what makedumpfile writes ("kdump-compressed", described in makedumpfile's
//! IMPLEMENTATION file) and ELF, as `/proc/vmcore` itself is. Only headers and notes are read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use introspection::vmcoreinfo::Vmcoreinfo;
use object::LittleEndian;
use object::elf::{FileHeader64, NT_PRSTATUS, NoteType, PT_LOAD, PT_NOTE, ProgramHeader64};
use object::pod::slice_from_bytes;
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader};

use crate::registers::Registers;

type Header = FileHeader64<LittleEndian>;
type Segment = ProgramHeader64<LittleEndian>;

/// A dump, readable at any place.
pub trait ReadAt {
    /// Exactly `size` bytes from `offset`.
    fn read_at(&self, offset: u64, size: usize) -> Result<Vec<u8>>;

    /// The same into `bytes`.
    fn fill_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(&self.read_at(offset, bytes.len())?);
        Ok(())
    }
}

impl ReadAt for File {
    fn read_at(&self, offset: u64, size: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; size];
        self.fill_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn fill_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.read_exact_at(bytes, offset)
            .with_context(|| format!("the dump is cut short at offset {offset:#x}"))
    }
}

/// What a dump's headers and notes say.
#[derive(Debug)]
pub struct Vmcore {
    /// How the dump is written, in words.
    pub format: &'static str,
    /// One note per CPU that was stopped, in the order of the dumped kernel's CPU numbers.
    pub notes: Vec<Prstatus>,
    /// What the dumped kernel says of itself.
    pub info: Vmcoreinfo,
}

/// The note of one CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prstatus {
    /// The task it ran.
    pub pid: u32,
    /// Its registers.
    pub registers: Registers,
}

impl Vmcore {
    /// Reads the headers and notes of `dump`.
    pub fn read(dump: &impl ReadAt) -> Result<Self> {
        let magic = dump.read_at(0, 8)?;
        if magic == *b"KDUMP   " {
            Self::read_compressed(dump)
        } else if magic.starts_with(b"\x7fELF") {
            Self::read_elf(dump)
        } else {
            bail!("the dump is neither kdump-compressed nor ELF; it begins with {magic:02x?}");
        }
    }

    /// The release of the dumped kernel.
    pub fn release(&self) -> Result<&str> {
        self.info.release()
    }

    /// How far the dumped kernel had moved itself from where it was linked.
    pub fn kaslr_offset(&self) -> Result<u64> {
        let digits = self.info.word("KERNELOFFSET")?;
        u64::from_str_radix(digits, 16)
            .with_context(|| format!("KERNELOFFSET={digits} of the dump is no hexadecimal number"))
    }

    fn read_compressed(dump: &impl ReadAt) -> Result<Self> {
        // struct disk_dump_header: signature, header_version, utsname, timestamp, status, block_size.
        const STATUS: usize = 424;
        const BLOCK_SIZE: usize = 428;
        const INCOMPLETE: u32 = 8;
        // struct kdump_sub_header, one block further on.
        const VMCOREINFO: usize = 32;
        const NOTES: usize = 48;
        let header = dump.read_at(0, 464)?;
        let version = word(&header, 8)?;
        ensure!(
            version >= 4,
            "the dump has header version {version}, which carries no notes; version 4 or later does"
        );
        ensure!(
            word(&header, STATUS)? & INCOMPLETE == 0,
            "makedumpfile marked the dump as incomplete; give it a larger disk"
        );
        let sub_header = dump.read_at(u64::from(word(&header, BLOCK_SIZE)?), 64)?;
        let notes = part(dump, &sub_header, NOTES).context("in the dump's notes")?;
        let info = part(dump, &sub_header, VMCOREINFO).context("in the dump's VMCOREINFO")?;
        let mut vmcore = Self {
            format: "kdump-compressed",
            notes: Vec::new(),
            info: Vmcoreinfo::of_text(&info, &[]),
        };
        vmcore.add_notes(&notes)?;
        Ok(vmcore)
    }

    fn read_elf(dump: &impl ReadAt) -> Result<Self> {
        let mut vmcore = Self {
            format: "ELF",
            notes: Vec::new(),
            info: Vmcoreinfo::of_text(&[], &[]),
        };
        for segment in segments(dump)? {
            if segment.p_type(LittleEndian) == PT_NOTE {
                let size = part_size(segment.p_filesz(LittleEndian))?;
                let notes = dump.read_at(segment.p_offset(LittleEndian), size)?;
                vmcore.add_notes(&notes)?;
            }
        }
        Ok(vmcore)
    }

    /// Takes the notes that matter out of a row of ELF notes, which an empty one ends early.
    fn add_notes(&mut self, bytes: &[u8]) -> Result<()> {
        // Linux aligns the notes of a dump to 4 bytes, whatever p_align says.
        let notes = NoteIterator::<Header>::new(LittleEndian, 4, bytes)?;
        for note in notes {
            let note = note.context("a note is cut short")?;
            match (note.name(), note.n_type(LittleEndian)) {
                (b"", _) if note.desc().is_empty() => break,
                (b"CORE", NT_PRSTATUS) => self.notes.push(Prstatus::parse(note.desc())?),
                (b"VMCOREINFO", NoteType(0)) => {
                    self.info = Vmcoreinfo::of_text(note.desc(), &[]);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The segments of an ELF dump.
fn segments(dump: &impl ReadAt) -> Result<Vec<Segment>> {
    let bytes = dump.read_at(0, size_of::<Header>())?;
    let header = Header::parse(bytes.as_slice()).ok();
    let header = header.filter(|header| header.is_little_endian());
    let header = header.context("the dump is no 64-bit little-endian ELF file")?;
    ensure!(
        usize::from(header.e_phentsize(LittleEndian)) == size_of::<Segment>(),
        "the dump's program headers are not those of a 64-bit ELF file"
    );
    let count = usize::from(header.e_phnum(LittleEndian));
    let table = dump.read_at(header.e_phoff(LittleEndian), count * size_of::<Segment>())?;
    let Ok((segments, _)) = slice_from_bytes::<Segment>(&table, count) else {
        bail!("the dump's program headers are cut short");
    };
    Ok(segments.to_vec())
}

/// A part of memory that an ELF dump has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Its virtual address.
    pub linear: u64,
    /// Its physical address.
    pub physical: u64,
    /// How many bytes.
    pub size: u64,
    /// Where they are in the file.
    pub offset: u64,
}

/// All parts of memory that an ELF dump has, in its order.
pub fn loads(dump: &impl ReadAt) -> Result<Vec<Load>> {
    let segments = segments(dump)?.into_iter();
    let loads = segments.filter(|segment| segment.p_type(LittleEndian) == PT_LOAD);
    let load = |segment: Segment| Load {
        linear: segment.p_vaddr(LittleEndian),
        physical: segment.p_paddr(LittleEndian),
        size: segment.p_filesz(LittleEndian),
        offset: segment.p_offset(LittleEndian),
    };
    Ok(loads.map(load).collect())
}

impl Prstatus {
    /// Reads `struct elf_prstatus` of arm64: pr_pid at 32, pr_reg at 112.
    fn parse(content: &[u8]) -> Result<Self> {
        const PID: usize = 32;
        const REGISTERS: usize = 112;
        let mut words = [0; Registers::COUNT];
        for (number, value) in words.iter_mut().enumerate() {
            *value = long(content, REGISTERS + 8 * number).context("in a CPU's note")?;
        }
        Ok(Self {
            pid: word(content, PID).context("in a CPU's note")?,
            registers: Registers::from_words(&words),
        })
    }
}

/// The part of the dump whose offset and size stand at `place` in the sub header.
fn part(dump: &impl ReadAt, sub_header: &[u8], place: usize) -> Result<Vec<u8>> {
    let size = part_size(long(sub_header, place + 8)?)?;
    ensure!(size > 0, "it is empty");
    dump.read_at(long(sub_header, place)?, size)
}

/// Notes are some hundred bytes per CPU; what claims to be larger than this is no such thing.
fn part_size(size: u64) -> Result<usize> {
    const LIMIT: u64 = 16 << 20;
    ensure!(size <= LIMIT, "the dump claims {size} bytes of notes");
    Ok(usize::try_from(size)?)
}

fn bytes<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N]> {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .with_context(|| format!("it is cut short at offset {offset}"))
}

fn word(from: &[u8], offset: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes(from, offset)?))
}

fn long(from: &[u8], offset: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes(from, offset)?))
}

/// Copies the vmcore off a disk on which the guest wrote it, as the one member of a tar stream.
/// Answers its size.
pub fn extract(disk: &mut File, vmcore: &mut File) -> Result<u64> {
    extract_from(disk, 0, vmcore)
}

/// The same where the stream begins at byte `start` of the disk.
pub fn extract_from(disk: &mut File, start: u64, vmcore: &mut File) -> Result<u64> {
    let mut header = [0; 512];
    disk.seek(SeekFrom::Start(start))?;
    disk.read_exact(&mut header)
        .context("the dump disk is empty")?;
    ensure!(
        header[257..262] == *b"ustar",
        "the guest has written no dump to its disk"
    );
    let name = header[..100].split(|&byte| byte == 0).next();
    ensure!(
        name == Some(b"vmcore"),
        "the dump disk holds something that is not named vmcore"
    );
    let size = tar_size(&header[124..136]).context("the dump disk's tar header is damaged")?;
    let copied = io::copy(&mut disk.take(size), vmcore).context("cannot copy the vmcore")?;
    ensure!(
        copied == size,
        "the vmcore is cut short: {copied} bytes of {size} are on the disk"
    );
    vmcore.flush()?;
    Ok(size)
}

/// A size in a tar header: octal digits, or big-endian binary if the first bit is set (from 8 GiB).
fn tar_size(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 != 0 {
        return Some(u64::from_be_bytes(*field.last_chunk()?));
    }
    let digits = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(digits.trim_matches(['\0', ' ']), 8).ok()
}

#[cfg(test)]
mod tests;
