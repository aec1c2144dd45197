//! What `run` boots: the options of the command line laid over those of a guest file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde::Deserialize;

use crate::el3::El3;

/// The options that describe a guest, on the command line and in a guest file.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// Kernel: an arm64 Image, also gzipped, or a flat binary [default: our Linux].
    ///
    /// A flat binary has no arm64 header and is loaded at RAM base + 0x80000, as QEMU does.
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// Initial ramdisk [default: ours, if the kernel is ours].
    #[arg(long, value_name = "PATH")]
    pub initrd: Option<PathBuf>,
    /// Added to the kernel's command line.
    #[arg(long, value_name = "STR", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Number of CPUs, 1 to 128 [default: 4].
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
    /// Size of RAM, in MiB or with M or G [default: 1G].
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Raw disk image, a virtio-blk device; repeatable.
    #[arg(long = "disk", value_name = "FILE")]
    #[serde(rename = "disks")]
    pub disks: Vec<PathBuf>,
    /// CPU model as QEMU names it [default: neoverse-n1].
    #[arg(long, value_name = "MODEL")]
    pub cpu: Option<String>,
    /// Whether the guest is offered SDEI: on or off [default: on].
    #[arg(long, value_name = "on|off")]
    pub sdei: Option<Switch>,
    /// What runs below the hypervisor, at EL3 [default: none].
    #[arg(long, value_enum, value_name = "WHAT")]
    pub el3: Option<El3>,
    /// The hypervisor's own command line.
    #[arg(long, value_name = "STR", allow_hyphen_values = true)]
    pub hv_append: Option<String>,
    /// Passed to QEMU as it is; repeatable.
    #[arg(long = "qemu-arg", value_name = "ARG", allow_hyphen_values = true)]
    #[serde(rename = "qemu-args")]
    pub qemu_args: Vec<String>,
    /// Give up after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Copy the raw serial stream, hypervisor lines and records included, into this file.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// On or off.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl Options {
    /// The options in a guest file. Relative paths in it are relative to where it is.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the guest file {}", path.display()))?;
        let mut options =
            Self::parse(&text).with_context(|| format!("in the guest file {}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let files = options.kernel.iter_mut().chain(&mut options.initrd);
        for file in files.chain(&mut options.disks).chain(&mut options.log) {
            *file = folder.join(&*file);
        }
        Ok(options)
    }

    fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| {
                1 + text.as_bytes()[..span.start]
                    .iter()
                    .filter(|&&byte| byte == b'\n')
                    .count()
            });
            anyhow!("line {line}: {}", error.message())
        })
    }

    /// These options, and where they say nothing, those of `file`. Lists are joined.
    pub fn over(self, file: Self) -> Self {
        Self {
            kernel: self.kernel.or(file.kernel),
            initrd: self.initrd.or(file.initrd),
            append: self.append.or(file.append),
            cpus: self.cpus.or(file.cpus),
            memory: self.memory.or(file.memory),
            disks: [file.disks, self.disks].concat(),
            cpu: self.cpu.or(file.cpu),
            sdei: self.sdei.or(file.sdei),
            el3: self.el3.or(file.el3),
            hv_append: self.hv_append.or(file.hv_append),
            qemu_args: [file.qemu_args, self.qemu_args].concat(),
            timeout: self.timeout.or(file.timeout),
            log: self.log.or(file.log),
        }
    }

    /// Number of CPUs.
    pub fn cpus(&self) -> Result<u32> {
        match self.cpus.unwrap_or(4) {
            cpus @ 1..=MAX_CPUS => Ok(cpus),
            cpus => bail!("{cpus} CPUs cannot be had; ask for 1 to {MAX_CPUS}"),
        }
    }

    /// Size of RAM in MiB.
    pub fn memory_mib(&self) -> Result<u64> {
        let size = match &self.memory {
            Some(size) => memory_mib(size)?,
            None => 1024,
        };
        let host = host_memory_mib();
        if host.is_some_and(|host| size > host) {
            bail!(
                "{size} MiB of RAM are more than this host has ({} MiB); ask for less",
                host.unwrap_or_default()
            );
        }
        Ok(size)
    }

    /// That every file asked for is there; the first that is not is named.
    pub fn check_files(&self) -> Result<()> {
        let kernel = self.kernel.iter().map(|path| ("kernel", path));
        let initrd = self.initrd.iter().map(|path| ("initrd", path));
        let disks = self.disks.iter().map(|path| ("disk", path));
        for (what, path) in kernel.chain(initrd).chain(disks) {
            let found = fs::metadata(path).with_context(|| {
                format!("there is no {what} {}; check the path", path.display())
            })?;
            if found.is_dir() {
                bail!("the {what} {} is a folder, not a file", path.display());
            }
        }
        Ok(())
    }
}

/// What the hypervisor's sets of CPUs hold.
const MAX_CPUS: u32 = 128;

/// The least a machine needs: the hypervisor, a kernel and an initial ramdisk.
const MIN_MEMORY_MIB: u64 = 64;

/// A size such as `512`, `512M` or `2G`, in MiB.
fn memory_mib(size: &str) -> Result<u64> {
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
    Ok(mib)
}

/// The host's RAM in MiB, if it says.
fn host_memory_mib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_guest_file_is_read() {
        let options = Options::parse(
            r#"
            kernel = "Image"
            initrd = "initrd.gz"
            append = "quiet"
            cpus = 8
            memory = "2G"
            disks = ["a.img"]
            cpu = "cortex-a72"
            sdei = "off"
            el3 = "tfa"
            hv-append = "crash=reset"
            qemu-args = ["-d", "int"]
            timeout = 60
            log = "serial.log"
            "#,
        )
        .unwrap();
        assert_eq!(options.cpus().unwrap(), 8);
        assert_eq!(
            memory_mib(options.memory.as_deref().unwrap()).unwrap(),
            2048
        );
        assert_eq!(options.sdei, Some(Switch::Off));
        assert_eq!(options.el3, Some(El3::Tfa));
        assert_eq!(options.qemu_args, ["-d", "int"]);
    }

    #[test]
    fn unknown_key_is_named_with_its_line() {
        let error = Options::parse("cpus = 4\ncors = 2\n")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("line 2: unknown field `cors`"), "{error}");
    }

    #[test]
    fn wrong_type_is_named_with_its_line() {
        let error = Options::parse("\n\ncpus = \"many\"\n")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("line 3: "), "{error}");
    }

    #[test]
    fn command_line_wins_and_lists_join() {
        let file = Options {
            cpus: Some(8),
            cpu: Some("cortex-a53".into()),
            disks: vec!["a".into()],
            ..Options::default()
        };
        let line = Options {
            cpus: Some(2),
            disks: vec!["b".into()],
            ..Options::default()
        };
        let merged = line.over(file);
        assert_eq!(merged.cpus, Some(2));
        assert_eq!(merged.cpu.as_deref(), Some("cortex-a53"));
        assert_eq!(merged.disks, [PathBuf::from("a"), PathBuf::from("b")]);
    }

    #[test]
    fn sizes_that_are_none_are_refused() {
        assert_eq!(memory_mib("512").unwrap(), 512);
        assert_eq!(memory_mib("3g").unwrap(), 3072);
        for size in ["", "G", "-1", "1T", "20000000000000000000G", "8M"] {
            assert!(memory_mib(size).is_err(), "{size}");
        }
    }

    #[test]
    fn too_many_cpus_are_refused() {
        let options = |cpus| Options {
            cpus: Some(cpus),
            ..Options::default()
        };
        assert_eq!(options(128).cpus().unwrap(), 128);
        assert!(options(0).cpus().is_err());
        assert!(options(129).cpus().is_err());
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let options = Options {
            disks: vec!["/no/such/disk".into()],
            ..Options::default()
        };
        let error = options.check_files().unwrap_err().to_string();
        assert!(error.contains("disk /no/such/disk"), "{error}");
    }
}
