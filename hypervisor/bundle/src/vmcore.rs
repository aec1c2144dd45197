//! What a capture kernel finds of a guest that is dumped: an ELF core header, as kexec has it made for `/proc/vmcore` (Linux
//! `fs/proc/vmcore.c`, `kernel/crash_core.c`), which says where memory is and holds the registers.
//!
//! It is in one piece of memory of the capture kernel's own: ELF header, program headers, notes. Linux copies header and program headers out
//! of its linear map, so they have to be there, and follows `p_offset` of all else as a physical address.

mod cpus;
mod info;
mod kallsyms;

use platform::Range;

use crate::{Error, MAX_VCPUS, Piece};

pub use cpus::{By, Cpus};
pub use info::{VmcoreInfo, find_info};

/// Bytes of an ELF header (`Elf64_Ehdr`).
const HEADER: u64 = 64;
/// Bytes of a program header (`Elf64_Phdr`).
const PROGRAM_HEADER: u64 = 56;
/// Bytes of a note's header (`Elf64_Nhdr`): three words.
const NOTE_HEADER: usize = 12;

/// Bytes of what describes a vCPU in NT_PRSTATUS (`struct elf_prstatus` of arm64).
const PRSTATUS: usize = 392;
/// Where in that is the number of the task (`pr_pid`).
const PRSTATUS_PID: usize = 32;
/// Where the registers begin (`pr_reg`): x0 to x30, sp, pc, pstate.
const PRSTATUS_REG: usize = 112;
/// Bytes of NT_FPREGSET (`struct user_fpsimd_state`): v0 to v31, fpsr, fpcr, and two words that are reserved.
const FPREGSET: usize = 528;

const NT_PRSTATUS: u32 = 1;
const NT_FPREGSET: u32 = 2;

/// The name of both, NUL included and padded to words.
const CORE: &[u8; 8] = b"CORE\0\0\0\0";

/// Bytes of the notes of one vCPU.
const VCPU_NOTES: usize = 2 * (NOTE_HEADER + CORE.len()) + PRSTATUS + FPREGSET;

/// The most bytes of VMCOREINFO that are copied: Linux has a page for it, which has 64 KiB at most.
const MOST_INFO: u64 = 64 << 10;

/// The most CPUs of Linux's that are dumped.
const MAX_CPUS: usize = MAX_VCPUS as usize;

/// The registers of a vCPU that was on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The stack pointer that it used.
    pub sp: u64,
    /// Where it was.
    pub pc: u64,
    /// PSTATE, as SPSR_EL2 has it.
    pub pstate: u64,
    /// v0 to v31.
    pub v: [u128; 32],
    /// FPSR and FPCR.
    pub fp_status: [u32; 2],
    /// TTBR1_EL1 and VBAR_EL1, which no note has: by them the guest's VMCOREINFO is known.
    pub kernel: [u64; 2],
    /// The affinity fields of its MPIDR_EL1, by which Linux knows the CPU.
    pub affinity: u64,
}

/// What is dumped.
#[derive(Clone, Copy, Debug)]
pub struct Vmcore<'a> {
    /// Where the header is, as the capture kernel finds it; as many bytes as [`room`] says.
    pub place: Range,
    /// The guest's memory.
    pub ram: &'a [Piece],
    /// Its VMCOREINFO, if it has been found.
    pub info: Option<VmcoreInfo>,
}

/// How many bytes the header takes at most, of a guest with so many vCPUs and pieces of memory.
#[must_use]
pub const fn room(vcpus: usize, pieces: usize) -> u64 {
    notes_at(pieces) + (vcpus * VCPU_NOTES) as u64 + MOST_INFO + NOTE_HEADER as u64
}

/// Where the notes begin: behind the header and the program headers, of which one is of the notes.
const fn notes_at(pieces: usize) -> u64 {
    HEADER + PROGRAM_HEADER * (1 + pieces as u64)
}

impl Vmcore<'_> {
    /// Writes the header: `write` is given how far into the place, and what goes there. `vcpus` are those that are dumped, each with the
    /// number of its CPU, and `copy` copies so many bytes of the guest's memory to the place. Answers how many vCPUs there are.
    ///
    /// # Errors
    ///
    /// If the place is too small.
    #[inline(never)]
    pub fn write<'r>(
        &self,
        vcpus: impl Iterator<Item = (u32, &'r Registers)>,
        mut write: impl FnMut(u64, &[u8]),
        copy: impl FnOnce(u64, Range),
    ) -> Result<usize, Error> {
        let first = notes_at(self.ram.len());
        let info = self.info.map_or(0, |info| info.note.size);
        let (mut end, mut count) = (first, 0);
        for (number, registers) in vcpus {
            let notes = notes_of(number, registers);
            if end + notes.len() as u64 + info + NOTE_HEADER as u64 > self.place.size {
                return Err(Error::invalid(
                    "the header of the dump",
                    "has no room for all vCPUs",
                    "hold more memory back",
                ));
            }
            write(end, &notes);
            (end, count) = (end + notes.len() as u64, count + 1);
        }
        if let Some(info) = self.info {
            copy(end, info.note);
            // Notes are padded to words, and what Linux has behind this one is zeros as well.
            let padded = info.note.size.next_multiple_of(4);
            write(
                end + info.note.size,
                &[0; 4][..(padded - info.note.size) as usize],
            );
            end += padded;
        }
        // A note without a name ends them (`update_note_header_size_elf64`).
        write(end, &[0; NOTE_HEADER]);
        end += NOTE_HEADER as u64;
        write(0, &self.header());
        let notes = Range::new(self.place.start + first, end - first);
        write(HEADER, &program_header(PT_NOTE, 0, notes));
        for (index, piece) in (1..).zip(self.ram) {
            let memory = Range::new(piece.ipa, piece.size);
            let address = self.info.map_or(0, |info| info.linear(piece.ipa));
            let header = program_header(PT_LOAD, address, memory);
            write(HEADER + PROGRAM_HEADER * index, &header);
        }
        Ok(count)
    }

    /// `Elf64_Ehdr`: a core file of 64 bits, little-endian, of EM_AARCH64.
    fn header(&self) -> [u8; HEADER as usize] {
        const IDENT: [u8; 16] = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0";
        const ET_CORE: u64 = 4;
        const EM_AARCH64: u64 = 183;
        let count = 1 + self.ram.len() as u64;
        let mut bytes = [0; HEADER as usize];
        let mut fields = Fields(&mut bytes);
        fields.put(&IDENT);
        for (value, size) in [
            (ET_CORE, 2),
            (EM_AARCH64, 2),
            // e_version, e_entry, e_phoff, e_shoff, e_flags.
            (1, 4),
            (0, 8),
            (HEADER, 8),
            (0, 8),
            (0, 4),
            // e_ehsize, e_phentsize, e_phnum.
            (HEADER, 2),
            (PROGRAM_HEADER, 2),
            (count, 2),
        ] {
            fields.number(value, size);
        }
        bytes
    }
}

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// `Elf64_Phdr` of memory that is found at its physical address, and by its kernel at `address`.
fn program_header(kind: u32, address: u64, memory: Range) -> [u8; PROGRAM_HEADER as usize] {
    /// Of what is memory: read, write and execute, as kexec has it.
    const RWX: u64 = 7;
    let flags = if kind == PT_LOAD { RWX } else { 0 };
    let mut bytes = [0; PROGRAM_HEADER as usize];
    let mut fields = Fields(&mut bytes);
    for (value, size) in [
        (kind.into(), 4),
        (flags, 4),
        // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align.
        (memory.start, 8),
        (address, 8),
        (memory.start, 8),
        (memory.size, 8),
        (memory.size, 8),
        (0, 8),
    ] {
        fields.number(value, size);
    }
    bytes
}

/// NT_PRSTATUS and NT_FPREGSET of a vCPU. The number of its task is one more than its own, by which drgn and QEMU know whose it is.
fn notes_of(number: u32, registers: &Registers) -> [u8; VCPU_NOTES] {
    let mut bytes = [0; VCPU_NOTES];
    let mut fields = Fields(&mut bytes);
    fields.note(PRSTATUS, NT_PRSTATUS);
    fields.skip(PRSTATUS_PID);
    fields.number(u64::from(number) + 1, 4);
    fields.skip(PRSTATUS_REG - PRSTATUS_PID - 4);
    for value in registers.x {
        fields.number(value, 8);
    }
    for value in [registers.sp, registers.pc, registers.pstate] {
        fields.number(value, 8);
    }
    fields.skip(PRSTATUS - PRSTATUS_REG - 34 * 8);
    fields.note(FPREGSET, NT_FPREGSET);
    for value in registers.v {
        fields.put(&value.to_le_bytes());
    }
    for value in registers.fp_status {
        fields.number(value.into(), 4);
    }
    bytes
}

/// Little-endian fields, one after the other.
struct Fields<'a>(&'a mut [u8]);

impl Fields<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let whole = core::mem::take(&mut self.0);
        let (now, later) = whole.split_at_mut(bytes.len().min(whole.len()));
        now.copy_from_slice(bytes.get(..now.len()).unwrap_or_default());
        self.0 = later;
    }

    fn skip(&mut self, size: usize) {
        let whole = core::mem::take(&mut self.0);
        self.0 = whole.split_at_mut(size.min(whole.len())).1;
    }

    fn number(&mut self, value: u64, size: usize) {
        self.put(value.to_le_bytes().get(..size).unwrap_or_default());
    }

    /// The header and the name of one of ours.
    fn note(&mut self, size: usize, kind: u32) {
        // With its NUL, without its padding.
        const NAME: u64 = 5;
        self.number(NAME, 4);
        self.number(size as u64, 4);
        self.number(kind.into(), 4);
        self.put(CORE);
    }
}
