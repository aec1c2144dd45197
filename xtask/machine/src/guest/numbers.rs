//! Sizes and addresses as people write them.

use std::fs;

use anyhow::{Context, Result, bail};

/// The least a machine needs: the hypervisor, a kernel and an initial ramdisk.
const MIN_MEMORY_MIB: u64 = 64;
/// 16 TiB: the sum of many such sizes, in bytes, fits into 64 bits.
const MAX_MEMORY_MIB: u64 = 1 << 24;

/// A size such as `512`, `512M` or `2G`, in MiB.
pub fn memory_mib(size: &str) -> Result<u64> {
    let (digits, factor) = match size.strip_suffix(['G', 'g']) {
        Some(digits) => (digits, 1024),
        None => (size.strip_suffix(['M', 'm']).unwrap_or(size), 1),
    };
    let mib = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .with_context(|| format!("`{size}` is no size of memory; write it like 512M or 2G"))?;
    if mib < MIN_MEMORY_MIB {
        bail!("{mib} MiB of RAM are too few; ask for {MIN_MEMORY_MIB}M or more");
    }
    if mib > MAX_MEMORY_MIB {
        bail!("{mib} MiB of RAM are more than a machine has; ask for {MAX_MEMORY_MIB}M or less");
    }
    Ok(mib)
}

/// The host's RAM in MiB, if it says.
pub fn host_memory_mib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

/// The address that `text` is, hexadecimal behind 0x.
pub fn address(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16),
        _ => text.parse(),
    };
    number.map_err(|_| format!("`{text}` is no address; write it like 0x44000000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        assert_eq!(address("0x44000000"), Ok(0x4400_0000));
        assert_eq!(address("4096"), Ok(4096));
        for wrong in [
            "",
            "0x",
            "44G",
            "-1",
            "0x+1",
            "0x1_0000",
            "0x10000000000000000",
        ] {
            let error = address(wrong).unwrap_err();
            assert!(
                error.starts_with(&format!("`{wrong}` is no address")),
                "{error}"
            );
        }
    }

    #[test]
    fn sizes_that_are_none_are_refused() {
        assert_eq!(memory_mib("512").unwrap(), 512);
        assert_eq!(memory_mib("3g").unwrap(), 3072);
        assert_eq!(memory_mib("16384G").unwrap(), 1 << 24);
        for size in [
            "",
            "G",
            "-1",
            "1T",
            "20000000000000000000G",
            "8M",
            "17592186044416M",
            "16385G",
        ] {
            assert!(memory_mib(size).is_err(), "{size}");
        }
    }
}
