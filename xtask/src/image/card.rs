//! A card as one file: a partition table, a FAT32 file system that the board's firmware boots from, and room for
//! a crash dump. The same files make the same bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, format_volume};

const SECTOR: u64 = 512;
/// Where the first partition begins, and what all sizes are multiples of.
const ALIGNMENT: u64 = 4 << 20;
/// Free room in the file system, for what a user may add.
const SPARE: u64 = 64 << 20;
/// The least that FAT32 takes: 65525 clusters, of 4 KiB here (Microsoft, FAT32 File System Specification).
const LEAST: u64 = 272 << 20;
const CLUSTER: u32 = 4096;
/// For the dump, which has the memory that the kernel uses.
const DUMP: u64 = 1 << 30;

/// Types of partitions: FAT32 by sector number, and data without a file system.
const FAT32: u8 = 0x0c;
const NO_FILES: u8 = 0xda;

/// A file on it: its name and its bytes.
pub type Entry = (String, Vec<u8>);

/// Writes a card with `files` to `path`.
pub fn write(path: &Path, files: &[Entry]) -> Result<()> {
    let build = || -> Result<()> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        fill(file, files)
    };
    build().with_context(|| format!("cannot write the image {}", path.display()))
}

/// The files on the card at `path`.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let read = || -> Result<Vec<Entry>> {
        let mut disk = File::open(path)?;
        let mut sector = [0; 512];
        disk.read_exact(&mut sector)?;
        let size: [u8; 4] = sector[458..462].try_into()?;
        let size = u64::from(u32::from_le_bytes(size)) * SECTOR;
        let system = FileSystem::new(Partition { disk, size, at: 0 }, FsOptions::new())?;
        let mut files = Vec::new();
        for entry in system.root_dir().iter() {
            let entry = entry?;
            if entry.is_file() {
                let mut bytes = Vec::new();
                entry.to_file().read_to_end(&mut bytes)?;
                files.push((entry.file_name(), bytes));
            }
        }
        Ok(files)
    };
    read().with_context(|| format!("cannot read the card {}", path.display()))
}

fn fill(mut disk: File, files: &[Entry]) -> Result<()> {
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let size = (bytes + SPARE).max(LEAST).next_multiple_of(ALIGNMENT);
    ensure!(size < 32 << 30, "the files are too large for a card");
    disk.set_len(ALIGNMENT + size + DUMP)?;
    disk.write_all(&table(&[
        (FAT32, ALIGNMENT, size),
        (NO_FILES, ALIGNMENT + size, DUMP),
    ])?)?;
    let mut partition = Partition { disk, size, at: 0 };
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(CLUSTER)
        .total_sectors(u32::try_from(size / SECTOR)?)
        .volume_id(0x6861_6c6c)
        .volume_label(*b"HALLIGAN   ");
    format_volume(&mut partition, options)?;
    partition.seek(SeekFrom::Start(0))?;
    let system = FileSystem::new(partition, FsOptions::new())?;
    for (name, bytes) in files {
        system.root_dir().create_file(name)?.write_all(bytes)?;
    }
    system.unmount()?;
    Ok(())
}

/// The first sector: a partition of each type, from one byte on, so many bytes long.
fn table(partitions: &[(u8, u64, u64)]) -> Result<[u8; 512]> {
    let mut sector = [0; 512];
    // A number that Linux calls the disk by.
    sector[440..444].copy_from_slice(b"hall");
    for (number, &(kind, start, size)) in partitions.iter().enumerate() {
        let entry = 446 + 16 * number;
        // No cylinders, heads and sectors: all ones.
        sector[entry + 1..entry + 8].fill(0xff);
        sector[entry + 4] = kind;
        let word = |bytes: u64| anyhow::Ok(u32::try_from(bytes / SECTOR)?.to_le_bytes());
        sector[entry + 8..entry + 12].copy_from_slice(&word(start)?);
        sector[entry + 12..entry + 16].copy_from_slice(&word(size)?);
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

/// The first partition of a disk, as a disk of its own.
struct Partition {
    disk: File,
    size: u64,
    at: u64,
}

impl Partition {
    fn limit(&mut self, wanted: usize) -> io::Result<usize> {
        self.disk.seek(SeekFrom::Start(ALIGNMENT + self.at))?;
        let left = self.size.saturating_sub(self.at);
        Ok(wanted.min(usize::try_from(left).unwrap_or(usize::MAX)))
    }
}

impl Read for Partition {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let limit = self.limit(bytes.len())?;
        let count = self.disk.read(&mut bytes[..limit])?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Partition {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let limit = self.limit(bytes.len())?;
        let count = self.disk.write(&bytes[..limit])?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.disk.flush()
    }
}

impl Seek for Partition {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Vec<Entry> {
        vec![
            ("kernel8.img".into(), vec![7; 100_000]),
            ("config.txt".into(), b"arm_64bit=1\n".to_vec()),
            ("bcm2711-rpi-4-b.dtb".into(), vec![1; 5]),
        ]
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("halligan-card-{}-{name}", std::process::id()))
    }

    #[test]
    fn the_files_are_on_the_first_partition() {
        let path = scratch("read");
        write(&path, &files()).unwrap();
        assert_eq!(read(&path).unwrap(), files());
        let disk = File::open(&path).unwrap();
        let size = LEAST;
        let system = FileSystem::new(Partition { disk, size, at: 0 }, FsOptions::new()).unwrap();
        assert_eq!(system.fat_type(), FatType::Fat32);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_same_files_make_the_same_card() {
        let [one, two] = ["one", "two"].map(scratch);
        let mut cards = Vec::new();
        for path in [&one, &two] {
            write(path, &files()).unwrap();
            let mut start = vec![0; 8 << 20];
            let mut file = File::open(path).unwrap();
            file.read_exact(&mut start).unwrap();
            cards.push((start, file.metadata().unwrap().len()));
            std::fs::remove_file(path).unwrap();
        }
        assert!(cards[0] == cards[1]);
    }

    #[test]
    fn the_table_names_both_partitions() {
        let sector = table(&[(FAT32, 4 << 20, 1 << 20), (NO_FILES, 5 << 20, 512)]).unwrap();
        assert_eq!(sector[450], FAT32);
        assert_eq!(sector[454..458], (8192u32).to_le_bytes());
        assert_eq!(sector[466], NO_FILES);
        assert_eq!(sector[474..478], [1, 0, 0, 0]);
        assert_eq!(sector[510..], [0x55, 0xaa]);
    }
}
