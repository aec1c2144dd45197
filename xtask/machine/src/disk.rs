//! Disk images that a user gives: raw ones, looked at before anything boots, as QEMU is told that they are raw.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Where images that are not raw say so, what they are, and how they become raw.
const OTHERS: [(usize, &[u8], &str, &str); 9] = [
    (0, b"QFI\xfb", "a qcow2 image", CONVERT),
    (0, b"KDMV", "a VMDK image", CONVERT),
    (0, b"# Disk Descriptor", "a VMDK image", CONVERT),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI image", CONVERT),
    (0, b"vhdxfile", "a VHDX image", CONVERT),
    (0, b"conectix", "a VHD image", CONVERT),
    (0, b"\xfd7zXZ\0", "packed by xz", "unpack it with xz -d"),
    (
        0,
        b"\x1f\x8b\x08",
        "packed by gzip",
        "unpack it with gzip -d",
    ),
    (
        0,
        b"\x28\xb5\x2f\xfd",
        "packed by zstd",
        "unpack it with zstd -d",
    ),
];

const CONVERT: &str = "convert it with qemu-img convert -O raw";

/// What a disk's size must be a multiple of: a sector of virtio-blk and of SD cards.
const SECTOR: u64 = 512;

/// That `disks` can be the disks of a machine: each is raw, whole, writable and there once. Those of a `card` slot have a
/// size that is a power of 2.
pub fn check(disks: &[PathBuf], card: bool) -> Result<()> {
    let mut before = Vec::new();
    for path in disks {
        check_one(path, card)?;
        let place = path.canonicalize().unwrap_or_else(|_| path.clone());
        ensure!(
            !before.contains(&place),
            "the disk {} is given twice; make a copy of it",
            path.display()
        );
        before.push(place);
    }
    Ok(())
}

fn check_one(path: &Path, card: bool) -> Result<()> {
    let shown = path.display();
    let opened = File::options().read(true).write(true).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            bail!("the disk {shown} cannot be written; make a copy of it that can")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot open the disk {shown}")),
    };
    let mut head = Vec::new();
    file.by_ref().take(SECTOR).read_to_end(&mut head)?;
    if let Some((is, mend)) = other(&head) {
        bail!("the disk {shown} is {is} and would be taken as raw; {mend}");
    }
    let found = file.metadata()?;
    // A block device says no size here.
    if !found.is_file() {
        return Ok(());
    }
    let size = found.len();
    ensure!(
        size != 0 && size.is_multiple_of(SECTOR),
        "the disk {shown} has {size} bytes, which is no number of sectors of {SECTOR}; copy it again, or make it longer with truncate"
    );
    ensure!(
        !card || size.is_power_of_two(),
        "the SD card {shown} has {size} bytes, which is no power of 2; make it longer with truncate -s {}",
        size.next_power_of_two()
    );
    Ok(())
}

/// What an image that begins so is, if it is not raw, and what is to be done with it.
fn other(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let is = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    let found = OTHERS.iter().find(|(at, magic, ..)| is(*at, magic));
    found.map(|(_, _, is, mend)| (*is, *mend))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn refused(bytes: &[u8], card: bool) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        fs::write(&path, bytes).unwrap();
        check(&[path], card).unwrap_err().to_string()
    }

    #[test]
    fn images_that_are_not_raw_are_named_with_the_mend() {
        for (at, magic, is, mend) in OTHERS {
            let mut bytes = vec![0; 1024];
            bytes[at..at + magic.len()].copy_from_slice(magic);
            let error = refused(&bytes, false);
            assert!(error.contains(is) && error.ends_with(mend), "{error}");
        }
    }

    #[test]
    fn raw_images_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        fs::write(&a, [0; 1536]).unwrap();
        fs::write(&b, [0; 1024]).unwrap();
        check(&[a.clone(), b.clone()], false).unwrap();
        check(std::slice::from_ref(&b), true).unwrap();
        let error = check(&[a], true).unwrap_err().to_string();
        assert!(
            error.contains("no power of 2") && error.ends_with("truncate -s 2048"),
            "{error}"
        );
        let again = folder.path().join(".").join("b");
        let error = check(&[b, again], false).unwrap_err().to_string();
        assert!(error.contains("is given twice"), "{error}");
    }

    #[test]
    fn what_is_no_disk_is_named() {
        assert!(refused(b"", false).contains("has 0 bytes"));
        assert!(refused(&[0; 513], false).contains("has 513 bytes"));
        let error = check(&["/no/such/disk".into()], false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("/no/such/disk"), "{error}");
    }
}
