//! A writer of cpio archives in the "newc" form, which Linux unpacks at boot
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::io::{Result, Write};

const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;
/// The name of the entry that ends an archive.
const END: &str = "TRAILER!!!";

/// An archive being written. All entries belong to root and have no time.
pub struct Archive<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    /// Adds a directory.
    pub fn dir(&mut self, name: &str) -> Result<()> {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// Adds a character device.
    pub fn char_device(&mut self, name: &str, major: u32, minor: u32) -> Result<()> {
        self.entry(name, CHARACTER_DEVICE | 0o600, (major, minor), &[])
    }

    /// Adds a file with permissions `mode`.
    pub fn file(&mut self, name: &str, mode: u32, data: &[u8]) -> Result<()> {
        self.entry(name, REGULAR | mode, (0, 0), data)
    }

    /// Ends the archive and gives the writer back.
    pub fn finish(mut self) -> Result<W> {
        self.entry(END, 0, (0, 0), &[])?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> Result<()> {
        let too_long = |_| std::io::Error::other(format!("{name} is too long for cpio"));
        let size = u32::try_from(data.len()).map_err(too_long)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_long)?;
        self.entries += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let fields = [
            self.entries, // inode
            mode,
            0, // user
            0, // group
            links,
            0, // time
            size,
            0, // device of the file system
            0,
            device.0,
            device.1,
            name_size,
            0, // checksum, unused in this form
        ];
        write!(self.out, "070701")?;
        for field in fields {
            write!(self.out, "{field:08X}")?;
        }
        self.out.write_all(name.as_bytes())?;
        // Header (110 bytes) with name and zero, and data, each end on 4.
        self.zeros(1 + padding(110 + name.len() + 1))?;
        self.out.write_all(data)?;
        self.zeros(padding(data.len()))
    }

    fn zeros(&mut self, count: usize) -> Result<()> {
        self.out.write_all(&[0; 4][..count])
    }
}

/// Bytes missing to a multiple of four.
fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_laid_out_as_the_kernel_reads_them() {
        let mut archive = Archive::new(Vec::new());
        archive.file("init", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let text = |range: std::ops::Range<usize>| std::str::from_utf8(&bytes[range]).unwrap();
        assert_eq!(text(0..6), "070701");
        assert_eq!(text(14..22), "000081ED"); // mode
        assert_eq!(text(54..62), "00000005"); // size
        assert_eq!(text(94..102), "00000005"); // name size
        assert_eq!(&bytes[110..116], b"init\0\0");
        assert_eq!(&bytes[116..124], b"hello\0\0\0");
        assert_eq!(text(124..130), "070701");
        assert!(text(234..245).starts_with(END));
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn every_entry_starts_on_a_word_whatever_the_name() {
        for name in ["a", "ab", "abc", "abcd"] {
            let mut archive = Archive::new(Vec::new());
            archive.dir(name).unwrap();
            let start = archive.out.len();
            assert_eq!(start % 4, 0, "{name}");
            archive.char_device("c", 5, 1).unwrap();
            assert_eq!(&archive.out[start..start + 6], b"070701");
        }
    }

    #[test]
    fn device_numbers_are_kept() {
        let mut archive = Archive::new(Vec::new());
        archive.char_device("console", 5, 1).unwrap();
        let header = String::from_utf8_lossy(&archive.out[..110]).into_owned();
        assert_eq!(&header[78..94], "0000000500000001");
        assert_eq!(&header[14..22], "00002180");
    }
}
