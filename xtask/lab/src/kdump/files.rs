//! The files that a guest is given, made of those that the user named.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::build_id;
use debian::{cache, paths};
use machine::payload;
use machine::workshop::Workshop;

/// `words`, and `more` behind them.
pub fn join(words: &str, more: Option<&str>) -> String {
    let all = [words, more.unwrap_or_default().trim()];
    let all: Vec<&str> = all.into_iter().filter(|part| !part.is_empty()).collect();
    all.join(" ")
}

/// A ramdisk of `first` and, over it, `second`. Linux unpacks one archive behind the other, each packed as it likes, with zeros
/// up to a multiple of 4 bytes between (Documentation/driver-api/early-userspace/buffer-format.rst).
pub fn joined(workshop: &Workshop, first: &Path, second: &Path) -> Result<PathBuf> {
    let read = |path: &Path| {
        fs::read(path).with_context(|| format!("cannot read the initrd {}", path.display()))
    };
    let mut bytes = read(first)?;
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(read(second)?);
    let path = workshop.output(&format!("initrd-{}.img", &cache::digest(&bytes)[..16]))?;
    paths::write_if_new(&path, &bytes)?;
    Ok(path)
}

/// The Image that is packed in `kernel`, which is to be that of `vmlinux`. The capture kernel is the same one, and kexec takes no
/// packed Image.
pub fn unpack(workshop: &Workshop, kernel: &Path, vmlinux: Option<&Path>) -> Result<PathBuf> {
    let step = workshop.progress.lazily("read the kernel");
    let unpacked = payload::read_kernel(kernel, payload::USUAL_MIB)?;
    if let Some(vmlinux) = vmlinux {
        build_id::check(&unpacked, kernel, vmlinux)?;
    }
    let name = format!("kernel-{}.img", &cache::digest(&unpacked)[..16]);
    let image = workshop.output(&name)?;
    paths::write_if_new(&image, &unpacked)?;
    step.done();
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_joined_by_one_space() {
        assert_eq!(join("a b", None), "a b");
        assert_eq!(join("a", Some(" quiet ")), "a quiet");
        assert_eq!(join("", Some("wedge=1:mask")), "wedge=1:mask");
        assert_eq!(join("", None), "");
    }
}
