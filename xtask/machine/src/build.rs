//! Builds what runs without an operating system, as flat arm64 Images.

use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use object::elf::{FileHeader64, PT_LOAD, SHF_ALLOC};
use object::read::elf::{ElfFile, ProgramHeader};
use object::{LittleEndian, Object, ObjectSection, SectionFlags};

use crate::workshop::Workshop;
use debian::paths::write_if_new;

mod injection;

/// Build the hypervisor, the test guests, and what starts the hypervisor on a Raspberry Pi 4; print their sizes.
///
/// The results are hypervisor.img, hypervisor-fault-injection.img (the same for tests, which can break itself),
/// guest-tests.img, flat.img, client-example.img, chainloader.img and armstub.img in target/xtask, with the ELF files for debuggers beside them. All but flat, the client and the stub are arm64 Images that any boot loader of that protocol loads.
#[derive(Args)]
pub struct Build {
    /// Build only these, by their names without .img.
    #[arg(value_name = "PROGRAM", value_parser = named)]
    programs: Vec<Program>,
}

impl Build {
    /// Builds and prints the table.
    pub fn execute(self) -> Result<ExitCode> {
        let workshop = Workshop::open()?;
        let programs = match &self.programs[..] {
            [] => &Program::ALL,
            some => some,
        };
        for &program in programs {
            let built = build(&workshop, program)?;
            println!("{}\n{}", built.image.display(), Sizes::of(&built)?);
            program.check(&built, &workshop)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The program of that name.
fn named(name: &str) -> Result<Program, String> {
    let mut all = Program::ALL.into_iter();
    all.find(|program| program.name() == name).ok_or_else(|| {
        let known = Program::ALL.map(Program::name).join(", ");
        format!("there is no such program; there are {known}")
    })
}

/// A program of this workspace that runs on the bare machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The hypervisor.
    Hypervisor,
    /// The hypervisor with fault injection, for tests.
    FaultInjection,
    /// The test guests.
    GuestTests,
    /// A kernel without a header, which says what it finds.
    Flat,
    /// A client of SDEI, for who writes one or its firmware.
    ClientExample,
    /// What receives the hypervisor over a Raspberry Pi's serial line.
    Chainloader,
    /// What runs at EL3 of a Raspberry Pi 4, before the hypervisor.
    Armstub,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Hypervisor,
        Self::FaultInjection,
        Self::GuestTests,
        Self::Flat,
        Self::ClientExample,
        Self::Chainloader,
        Self::Armstub,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hypervisor => "hypervisor",
            Self::FaultInjection => "hypervisor-fault-injection",
            Self::GuestTests => "guest-tests",
            Self::Flat => "flat",
            Self::ClientExample => "client-example",
            Self::Chainloader => "chainloader",
            Self::Armstub => "armstub",
        }
    }

    /// Its package.
    pub const fn package(self) -> &'static str {
        match self {
            Self::FaultInjection => Self::Hypervisor.name(),
            _ => self.name(),
        }
    }

    /// Whether it is an arm64 Image, and not a flat file.
    const fn is_image(self) -> bool {
        !matches!(self, Self::Armstub | Self::Flat | Self::ClientExample)
    }

    /// How large its file may be, in bytes.
    const fn limit(self) -> u64 {
        match self {
            Self::Hypervisor => 378 << 10,
            Self::FaultInjection => 386 << 10,
            Self::GuestTests | Self::Flat | Self::ClientExample => u64::MAX,
            Self::Chainloader => 64 << 10,
            // The page that the board's devicetree reserves.
            Self::Armstub => 4 << 10,
        }
    }

    /// That the image is no larger than it may be and has nothing of this machine in it, and fault injection only where it
    /// belongs; answers its size in bytes.
    pub fn check(self, built: &Built, workshop: &Workshop) -> Result<u64> {
        let image = fs::read(&built.image)?;
        for folder in workshop.target.folders() {
            let name = folder.as_os_str().as_bytes();
            ensure!(
                !image.windows(name.len()).any(|window| window == name),
                "the image of the {} names {}, so that others cannot build the same one",
                self.name(),
                folder.display()
            );
        }
        let elf = fs::read(&built.elf)?;
        match self {
            Self::Hypervisor => injection::check_absent(&elf, &image)?,
            Self::FaultInjection => injection::check_present(&elf, &image)?,
            _ => {}
        }
        let (size, limit) = (image.len() as u64, self.limit());
        ensure!(
            size <= limit,
            "the image of the {} has {size} bytes and may have {limit}; \
             `cargo xtask build` says where they go",
            self.name()
        );
        Ok(size)
    }
}

/// What a build left.
#[derive(Clone, Debug)]
pub struct Built {
    /// The flat file that is loaded.
    pub image: PathBuf,
    /// The ELF file it was made from, for symbols.
    pub elf: PathBuf,
}

/// Builds `program` for the bare machine and flattens it. An Image says how much memory it takes.
pub fn build(workshop: &Workshop, program: Program) -> Result<Built> {
    let name = program.name();
    let elf = compile(workshop, program)?;
    let bytes = fs::read(&elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let flat = flatten(&bytes).with_context(|| format!("in {}", elf.display()))?;
    if program.is_image() {
        Header::read(&flat).with_context(|| format!("in {}", elf.display()))?;
    }
    let built = Built {
        image: workshop.output(&format!("{name}.img"))?,
        elf: workshop.output(&format!("{name}.elf"))?,
    };
    write_if_new(&built.image, &flat)?;
    write_if_new(&built.elf, &bytes)?;
    Ok(built)
}

/// Runs cargo, and answers where it put the program.
fn compile(workshop: &Workshop, program: Program) -> Result<PathBuf> {
    let (package, name) = (program.package(), program.name());
    let mut cargo = workshop.target.cargo();
    cargo
        .args(["build", "--quiet", "--release"])
        .args(["--package", package, "--bin", name])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(workshop.root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let step = workshop.progress.lazily(format!("compile {name}"));
    let output = cargo.output().context("cannot run cargo")?;
    step.done();
    if !output.status.success() {
        bail!("{name} does not compile; cargo says why above");
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo does not say where it put {name}"))
}

type Elf<'a> = ElfFile<'a, FileHeader64<LittleEndian>>;

/// The bytes of an ELF file's segments as they lie in memory, from the lowest address on; what a
/// segment does not fill, .bss above all, is left out at the end and zero between.
pub fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let elf = Elf::parse(elf).context("it is no ELF file of a 64-bit little-endian machine")?;
    let endian = LittleEndian;
    let mut segments: Vec<(u64, &[u8])> = Vec::new();
    for header in elf.elf_program_headers() {
        if header.p_type(endian) == PT_LOAD {
            let Ok(data) = header.data(endian, elf.data()) else {
                bail!("a segment lies outside the file");
            };
            segments.push((header.p_vaddr(endian), data));
        }
    }
    segments.sort_by_key(|&(address, _)| address);
    let base = segments.first().context("it has no segments to load")?.0;
    let mut flat = Vec::new();
    for (address, data) in segments.into_iter().filter(|(_, data)| !data.is_empty()) {
        let offset = usize::try_from(address - base)?;
        ensure!(
            (flat.len()..LARGEST).contains(&offset),
            "its segments overlap or lie far apart"
        );
        flat.resize(offset, 0);
        flat.extend(data);
    }
    Ok(flat)
}

/// No image of ours comes near this many bytes.
const LARGEST: usize = 64 << 20;

/// What the arm64 boot protocol's header says (Linux, Documentation/arch/arm64/booting.rst).
pub struct Header {
    /// Bytes of memory that the image takes, .bss included.
    pub image_size: u64,
}

impl Header {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn read(image: &[u8]) -> Result<Self> {
        let field = |offset: usize| image.get(offset..offset + 8)?.try_into().ok();
        let magic = image.get(0x38..0x3c);
        ensure!(
            magic == Some(b"ARM\x64"),
            "it does not begin with the header of an arm64 Image"
        );
        let image_size = field(0x10).context("it is too short")?;
        Ok(Self {
            image_size: u64::from_le_bytes(image_size),
        })
    }
}

/// Where a program's bytes go.
struct Sizes {
    rows: Vec<(String, u64)>,
}

impl Sizes {
    fn of(built: &Built) -> Result<Self> {
        let bytes = fs::read(&built.elf)?;
        let elf = Elf::parse(bytes.as_slice())?;
        let mut rows = Vec::new();
        for section in elf.sections() {
            if let SectionFlags::Elf { sh_flags, .. } = section.flags()
                && sh_flags.contains(SHF_ALLOC)
                && section.size() > 0
            {
                rows.push((section.name()?.to_owned(), section.size()));
            }
        }
        let image = fs::read(&built.image)?;
        rows.push(("file".into(), image.len() as u64));
        if let Ok(header) = Header::read(&image) {
            rows.push(("in memory".into(), header.image_size));
        }
        Ok(Self { rows })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, size) in &self.rows {
            writeln!(
                f,
                "  {name:14} {size:8} bytes {:5} KiB",
                size.div_ceil(1024)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with segments at these addresses, each with some bytes more in memory.
    fn elf(segments: &[(u64, &[u8])]) -> Vec<u8> {
        let mut elf = vec![0; 64];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        elf[16] = 2;
        elf[18] = 183;
        elf[20] = 1;
        elf[32] = 64;
        elf[52] = 64;
        elf[54] = 56;
        elf[56] = u8::try_from(segments.len()).unwrap();
        let mut offset = 64 + 56 * segments.len() as u64;
        for (address, data) in segments {
            let size = data.len() as u64;
            elf.extend(1u32.to_le_bytes());
            elf.extend(7u32.to_le_bytes());
            for word in [offset, *address, 0, size, size + 100, 1] {
                elf.extend(word.to_le_bytes());
            }
            offset += size;
        }
        for (_, data) in segments {
            elf.extend(*data);
        }
        elf
    }

    #[test]
    fn segments_lie_by_address_with_zeroes_between_and_no_bss() {
        let elf = elf(&[(0x1008, b"data"), (0x1000, b"text"), (0x2000, b"")]);
        assert_eq!(flatten(&elf).unwrap(), b"text\0\0\0\0data");
    }

    #[test]
    fn overlapping_distant_or_missing_segments_are_refused() {
        assert!(flatten(&elf(&[(0x1000, b"text"), (0x1002, b"data")])).is_err());
        assert!(flatten(&elf(&[(0, b"text"), (1 << 40, b"data")])).is_err());
        assert!(flatten(&elf(&[])).is_err());
        assert!(flatten(b"no ELF file").is_err());
    }

    #[test]
    fn an_image_needs_its_header() {
        let mut image = vec![0; 64];
        assert!(Header::read(&image).is_err());
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        image[0x10] = 0x80;
        assert_eq!(Header::read(&image).unwrap().image_size, 0x80);
        assert!(Header::read(&image[..0x3a]).is_err());
    }
}
