//! What the tests of `run` boot.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;

use debian::paths;
use machine::build::{self, Program};
use machine::workshop::Workshop;

/// What is booted.
#[derive(Clone, Copy)]
pub enum Kernel {
    /// The test guest.
    Image,
    /// The same, gzipped in two parts.
    Gzipped,
    /// One instruction without a header, which branches to itself.
    Spin,
    /// A few instructions that say what Linux says when it panics, and then nothing more.
    Panic,
    /// Two instructions that branch to where no memory is, as is what EL1's vectors are after a reset.
    Nowhere,
    /// A vCPU whose vectors its own tables do not map, and another that branches to where no memory is.
    Vector,
    /// Its tables lead to where there is no memory.
    LostTables,
    /// An Image with Xen's words.
    Xen,
    /// An ELF file.
    Elf,
    /// A guest file whose kernel says by pvpanic that it has panicked, and then switches itself off.
    Pvpanic,
    /// A guest file with a flash of a size that there is not.
    WrongFlash,
    /// A guest file with a flash that begins with a file, whose kernel writes what is in that to the console.
    Flash,
    /// A guest file whose flash begins with a file that there is not.
    MissingFlash,
    /// A guest file with a key that there is not.
    BadKey,
    /// None.
    Nothing,
}

/// Writes the text behind it, up to a zero, to the UART at 0x900_0000, and sleeps (DDI0487 C6.2).
const SPEAKER: [u32; 8] = [
    0x1000_0101, // ADR x1, to what is behind
    0xd2a1_2002, // MOVZ x2, #0x900, LSL #16
    0x3840_1420, // LDRB w0, [x1], #1
    0x3400_0060, // CBZ w0, to WFI
    0xb900_0040, // STR w0, [x2]
    0x17ff_fffd, // B, to LDRB
    0xd503_207f, // WFI
    0x17ff_ffff, // B, to WFI
];

/// Says twice by pvpanic that it has panicked, if the device takes that: at 0xb00_0000, the first page from there on where QEMU's
/// `virt` has nothing. Then it calls SYSTEM_OFF (DDI0487 C6.2, DEN0022 5.9).
const PVPANIC: [u32; 8] = [
    0xd2a1_6000, // MOVZ x0, #0xb00, LSL #16
    0x3940_0001, // LDRB w1, [x0]
    0x1200_0021, // AND w1, w1, #1: it has panicked
    0x3900_0001, // STRB w1, [x0]
    0x3900_0001, // STRB w1, [x0]
    0xd2b0_8000, // MOVZ x0, #0x8400, LSL #16
    0xf280_0100, // MOVK x0, #8
    0xd400_0003, // SMC #0
];

/// Writes what is in the flash at 0x400_0000 up to the first erased byte to the UART, and calls SYSTEM_OFF (DDI0487 C6.2,
/// DEN0022 5.9).
const FLASH: [u32; 10] = [
    0xd2a0_8002, // MOVZ x2, #0x400, LSL #16
    0xd2a1_2001, // MOVZ x1, #0x900, LSL #16
    0x3840_1440, // LDRB w0, [x2], #1
    0x7103_fc1f, // CMP w0, #0xff
    0x5400_0060, // B.EQ, to the second MOVZ behind
    0xb900_0020, // STR w0, [x1]
    0x17ff_fffc, // B, to LDRB
    0xd2b0_8000, // MOVZ x0, #0x8400, LSL #16
    0xf280_0100, // MOVK x0, #8
    0xd400_0003, // SMC #0
];

/// Switches CPU 1 on, which branches to 0 (DDI0487 C6.2, DEN0022 5.6).
const SECOND_NOWHERE: [u32; 8] = [
    0xd2b8_8000, // MOVZ x0, #0xc400, LSL #16
    0xf280_0060, // MOVK x0, #3: CPU_ON
    0xd280_0021, // MOVZ x1, #1: the target
    0x1000_0062, // ADR x2, to MOVZ below
    0xd400_0003, // SMC #0
    0x1400_0003, // B, to what is behind
    0xd280_0000, // MOVZ x0, #0
    0xd61f_0000, // BR x0
];

/// Switches stage 1 on with a table of four entries (T0SZ 32, DDI0487 D8.2), of which only the second, with all of RAM, maps
/// anything; sets VBAR_EL1 to an address of the third, and takes an exception.
const UNMAPPED_VECTORS: [u32; 20] = [
    0xd2a8_2000, // MOVZ x0, #0x4100, LSL #16: where the table goes
    0xd2a8_0001, // MOVZ x1, #0x4000, LSL #16
    0xf280_e021, // MOVK x1, #0x701: a block, inner shareable, AF
    0xa900_041f, // STP xzr, x1, [x0]
    0xa901_7c1f, // STP xzr, xzr, [x0, #16]
    0xd518_2000, // MSR TTBR0_EL1, x0
    0xd280_1fe1, // MOVZ x1, #0xff
    0xd518_a201, // MSR MAIR_EL1, x1
    0xd2a0_1001, // MOVZ x1, #0x80, LSL #16: EPD1
    0xf286_a401, // MOVK x1, #0x3520: T0SZ, write-back, inner shareable
    0xf2c0_0041, // MOVK x1, #2, LSL #32: 40 bits of physical address
    0xd518_2041, // MSR TCR_EL1, x1
    0xd2b0_0001, // MOVZ x1, #0x8000, LSL #16
    0xd518_c001, // MSR VBAR_EL1, x1
    0xd538_1001, // MRS x1, SCTLR_EL1
    0xb240_0021, // ORR x1, x1, #1
    0xd503_3fdf, // ISB
    0xd518_1001, // MSR SCTLR_EL1, x1
    0xd503_3fdf, // ISB
    0xd420_0000, // BRK #0
];

/// The same switch of stage 1 on, by a table at 0, where QEMU's `virt` has its flash and a guest nothing.
fn lost_tables() -> impl Iterator<Item = u32> {
    /// MOVZ x0, #0.
    const AT_0: u32 = 0xd280_0000;
    let rest = UNMAPPED_VECTORS.into_iter().skip(1);
    // No table is written.
    let rest = rest.filter(|word| ![0xa900_041f, 0xa901_7c1f].contains(word));
    [AT_0].into_iter().chain(rest)
}

/// The file that stands for `kernel`.
pub fn file(workshop: &Workshop, kernel: Kernel) -> Result<PathBuf> {
    let image = build::build(workshop, Program::GuestTests)?;
    let (name, bytes) = match kernel {
        Kernel::Image | Kernel::Nothing => return Ok(image.image),
        Kernel::Elf => return Ok(image.elf),
        Kernel::Gzipped => {
            let bytes = fs::read(&image.image)?;
            let mut packed = Vec::new();
            for half in bytes.chunks(bytes.len().div_ceil(2)) {
                let mut encoder = GzEncoder::new(packed, Compression::fast());
                encoder.write_all(half)?;
                packed = encoder.finish()?;
            }
            ("run-test.gz", packed)
        }
        // DDI0487 C6.2.26: B with an offset of 0.
        Kernel::Spin => ("run-test.bin", 0x1400_0000_u32.to_le_bytes().to_vec()),
        Kernel::Panic => {
            let mut bytes: Vec<u8> = SPEAKER.into_iter().flat_map(u32::to_le_bytes).collect();
            bytes.extend(
                b"[    0.170000] Kernel panic - not syncing: test\r\n\
                [    0.180000] CPU: 0 PID: 1 Comm: swapper/0\r\n\
                [    0.190000] ---[ end Kernel panic - not syncing: test ]---\r\n\0",
            );
            ("run-panic.bin", bytes)
        }
        // DDI0487 C6.2: MOVZ x0, #0; BR x0.
        Kernel::Nowhere => {
            let bytes = [0xd280_0000_u32, 0xd61f_0000].map(u32::to_le_bytes);
            ("run-nowhere.bin", bytes.concat())
        }
        Kernel::Vector => {
            let words = SECOND_NOWHERE.into_iter().chain(UNMAPPED_VECTORS);
            let bytes = words.flat_map(u32::to_le_bytes).collect();
            ("run-vector.bin", bytes)
        }
        Kernel::LostTables => {
            let bytes = lost_tables().flat_map(u32::to_le_bytes).collect();
            ("run-lost-tables.bin", bytes)
        }
        Kernel::Xen => {
            let mut bytes = fs::read(&image.image)?;
            bytes.extend(b"Xen heap: %lukB free");
            ("run-xen.bin", bytes)
        }
        Kernel::Pvpanic => {
            let bytes: Vec<u8> = PVPANIC.into_iter().flat_map(u32::to_le_bytes).collect();
            paths::write_if_new(&workshop.output("run-pvpanic.bin")?, &bytes)?;
            let text = "kernel = \"run-pvpanic.bin\"\npvpanic = true\n";
            ("run-pvpanic.toml", text.as_bytes().to_vec())
        }
        Kernel::WrongFlash => ("run-flash.toml", b"flash = \"3M\"\n".to_vec()),
        Kernel::Flash => {
            let bytes: Vec<u8> = FLASH.into_iter().flat_map(u32::to_le_bytes).collect();
            paths::write_if_new(&workshop.output("run-flash.bin")?, &bytes)?;
            let contents = b"the flash begins with its file\r\n";
            paths::write_if_new(&workshop.output("run-flash.contents")?, contents)?;
            let text = "kernel = \"run-flash.bin\"\nflash = \"run-flash.contents\"\n";
            ("run-flash-file.toml", text.as_bytes().to_vec())
        }
        Kernel::MissingFlash => (
            "run-flash-missing.toml",
            b"flash = \"/nonexistent/flash\"\n".to_vec(),
        ),
        Kernel::BadKey => ("run-test.toml", b"cors = 2\n".to_vec()),
    };
    let path = workshop.output(name)?;
    paths::write_if_new(&path, &bytes)?;
    Ok(path)
}
