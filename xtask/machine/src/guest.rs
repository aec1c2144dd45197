//! What `run` boots: the options of the command line laid over those of a guest file.

mod crashkernel;
mod dump;
mod event;
mod file;
mod flash;
mod keys;
mod net;
mod numbers;
mod policy;
mod several;
mod together;
mod watchdog;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use debian::paths;
use hv_abi::firmware::{Firmware, Unknown};
use hv_abi::operator::Access;
use hv_abi::psci;
use hv_bundle::GuestConfig;
use serde::Deserialize;

use crate::board::Board;
use crate::disk;
use crate::el3::El3;
pub use crashkernel::Crashkernel;
pub use dump::Dump;
pub use event::Event;
pub use flash::Flash;
pub use net::Net;
use numbers::{address, host_memory_mib, memory_mib};
pub use policy::{Start, Then};
pub use watchdog::{Gwdt, Nmi, Watchdog};

/// The options that describe a guest, on the command line and in a guest file.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// Kernel: an arm64 Image, also packed, or a flat binary [default: our Linux].
    ///
    /// Packed by gzip, zstd, xz, lzma, bzip2, lz4 or lzop, or an EFI zboot or FIT image, as Linux's make and distributions have it.
    /// A flat binary has no arm64 header. It, its initrd and its devicetree are where QEMU puts them: the binary at RAM
    /// base + 0x80000, the initrd at half of RAM or 128 MiB, the devicetree behind that.
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// Initial ramdisk [default: ours, if the kernel is ours].
    #[arg(long, value_name = "PATH")]
    pub initrd: Option<PathBuf>,
    /// Where the guest's devicetree is to be: an address in its memory, a multiple of 8, such as 0x44000000.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub dtb_at: Option<u64>,
    /// Added to the kernel's command line.
    #[arg(long, value_name = "STR", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Number of CPUs, 1 to 128 [default: 4].
    #[arg(long, value_name = "N", value_parser = number_of_cpus)]
    pub cpus: Option<Cpus>,
    /// Size of RAM, in MiB or with M or G [default: 1G; on raspi4b all of its 2G].
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Raw disk image, a virtio-blk device; repeatable. On raspi4b one, the SD card, whose size must be a power of 2.
    #[arg(long = "disk", value_name = "FILE")]
    #[serde(rename = "disks")]
    pub disks: Vec<PathBuf>,
    /// Networks, each with a virtio-net device; only a guest file can say them.
    #[arg(skip)]
    pub nets: Vec<Net>,
    /// CPU model as QEMU names it [default: neoverse-n1; raspi4b has its own].
    #[arg(long, value_name = "MODEL")]
    pub cpu: Option<String>,
    /// Whether the guest is offered SDEI: on or off [default: on].
    #[arg(long, value_name = "on|off")]
    pub sdei: Option<Switch>,
    /// Which machine QEMU plays [default: virt].
    #[arg(long, value_enum, value_name = "WHICH")]
    pub machine: Option<Board>,
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
    /// Whose firmware the guest meets: a list of names from docs/firmware.md, joined by commas
    /// [default: spec].
    #[arg(long, value_name = "NAME", value_parser = firmware)]
    pub firmware: Option<String>,
    /// Whether CPU_ON takes back a CPU that is parked in an SDEI event: parked or off [default: off].
    #[arg(long, value_name = "off|parked", require_equals = true, num_args = 0..=1,
          default_missing_value = "parked")]
    pub reclaim: Option<Reclaim>,
    /// What an operator of the machine, who has its console, may do with `cargo xtask ctl`: full, read or off [default: full].
    #[arg(long, value_enum, value_name = "WHAT")]
    pub operator: Option<Operator>,
    /// SDEI events besides event 0; only a guest file can say them.
    #[arg(skip)]
    pub events: Vec<Event>,
    /// Whether the guest may make the calls that are for tests; only a guest file can say it.
    #[arg(skip)]
    pub debug_calls: Option<bool>,
    /// A flash of the guest's own; only a guest file can say it.
    #[arg(skip)]
    pub flash: Option<Flash>,
    /// Whether the guest has a pvpanic device; only a guest file can say it.
    #[arg(skip)]
    pub pvpanic: Option<bool>,
    /// A watchdog of the guest's own, and what is done when it does not refresh that; only a guest file can say it.
    #[arg(skip)]
    #[serde(rename = "sbsa-gwdt")]
    pub gwdt: Option<Gwdt>,
    /// What is done when the guest makes no progress; only a guest file can say it.
    #[arg(skip)]
    pub watchdog: Option<Watchdog>,
    /// What to call the guest; only a guest file can say it.
    #[arg(skip)]
    pub name: Option<String>,
    /// The machine's devices that the guest gets; only a guest file can say it.
    #[arg(skip)]
    pub devices: Option<Vec<String>>,
    /// Whether it may have devices that can reach all memory; only a guest file can say it.
    #[arg(skip)]
    pub trusted: Option<bool>,
    /// Whose affinities its CPUs have; only a guest file can say it.
    #[arg(skip)]
    pub affinity: Option<Affinity>,
    /// Several guests; only a guest file can say them.
    #[arg(skip)]
    #[serde(rename = "guest")]
    pub guests: Vec<Self>,
    /// The transport of its first disk or network; those of the others follow.
    #[arg(skip)]
    #[serde(skip)]
    pub first_slot: Option<u32>,
    /// What an NMI does, rung by rung; only a guest file can say it.
    #[arg(skip)]
    pub nmi: Option<Nmi>,
    /// What saves the guest's memory; only a guest file can say it.
    #[arg(skip)]
    pub dump: Option<Dump>,
    /// Where the crash kernel is that the guest loads itself, whose first instruction is to be known; only a guest file can say it.
    #[arg(skip)]
    pub crashkernel: Option<Crashkernel>,
    /// When it is started, and what becomes of it when it ends; only a guest file can say it.
    #[arg(skip)]
    pub start: Option<Start>,
    /// After it has switched itself off.
    #[arg(skip)]
    pub on_off: Option<Then>,
    /// After it has reset itself.
    #[arg(skip)]
    pub on_reset: Option<Then>,
    /// When it has crashed.
    #[arg(skip)]
    pub on_crash: Option<Then>,
    /// Copy the raw serial stream, hypervisor lines and records included, into this file.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// Whose affinities the CPUs of a guest have.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// Those of the machine's first.
    Own,
    /// Those of the machine's that they are on.
    Machine,
}

/// The CPUs of a guest.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum Cpus {
    /// So many.
    Number(u32),
    /// These pCPUs, by their places in the machine's devicetree.
    List(Vec<u32>),
}

impl Cpus {
    /// How many.
    fn count(&self) -> u32 {
        match self {
            Self::Number(count) => *count,
            Self::List(list) => u32::try_from(list.len()).unwrap_or(u32::MAX),
        }
    }
}

impl From<u32> for Cpus {
    fn from(count: u32) -> Self {
        Self::Number(count)
    }
}

fn number_of_cpus(text: &str) -> Result<Cpus, std::num::ParseIntError> {
    text.parse().map(Cpus::Number)
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

/// What the operator of a machine may do.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Operator {
    /// All there is.
    Full,
    /// Look at the guest, and type to it.
    Read,
    /// Type to it.
    Off,
}

/// What CPU_ON does with a CPU that is parked in an SDEI event.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Reclaim {
    /// It says ALREADY_ON.
    Off,
    /// It takes it back.
    Parked,
}

/// `text` if it names firmware; the word that does not.
pub fn firmware(text: &str) -> Result<String, String> {
    match Firmware::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(Unknown(word)) => Err(format!(
            "`{word}` is no firmware and no fault; docs/firmware.md has the names"
        )),
    }
}

/// What the hypervisor is to do about parked CPUs.
pub const fn reclaim(parked: bool) -> psci::Reclaim {
    if parked {
        psci::Reclaim::Parked
    } else {
        psci::Reclaim::Off
    }
}

impl Options {
    /// The options in a guest file. Relative paths in it are relative to where it is.
    pub fn read(path: &Path) -> Result<Self> {
        paths::check_kind(path, "the guest file")?;
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the guest file {}", path.display()))?;
        let mut options =
            file::parse(&text).with_context(|| format!("in the guest file {}", path.display()))?;
        options.be_relative_to(path.parent().unwrap_or(Path::new("")));
        Ok(options)
    }

    fn be_relative_to(&mut self, folder: &Path) {
        let files = self.kernel.iter_mut().chain(&mut self.initrd);
        let flash = self.flash.iter_mut().filter_map(Flash::file_mut);
        let dump = self.dump.iter_mut().flat_map(Dump::files_mut);
        let files = files
            .chain(&mut self.disks)
            .chain(&mut self.log)
            .chain(dump);
        for file in files.chain(flash) {
            *file = folder.join(&*file);
        }
        for guest in &mut self.guests {
            guest.be_relative_to(folder);
        }
    }

    /// These options, and where they say nothing, those of `file`. Lists are joined.
    pub fn over(self, file: Self) -> Self {
        Self {
            kernel: self.kernel.or(file.kernel),
            initrd: self.initrd.or(file.initrd),
            dtb_at: self.dtb_at.or(file.dtb_at),
            append: self.append.or(file.append),
            cpus: self.cpus.or(file.cpus),
            memory: self.memory.or(file.memory),
            disks: [file.disks, self.disks].concat(),
            nets: [file.nets, self.nets].concat(),
            cpu: self.cpu.or(file.cpu),
            sdei: self.sdei.or(file.sdei),
            machine: self.machine.or(file.machine),
            el3: self.el3.or(file.el3),
            hv_append: self.hv_append.or(file.hv_append),
            qemu_args: [file.qemu_args, self.qemu_args].concat(),
            firmware: self.firmware.or(file.firmware),
            reclaim: self.reclaim.or(file.reclaim),
            events: [file.events, self.events].concat(),
            debug_calls: self.debug_calls.or(file.debug_calls),
            flash: self.flash.or(file.flash),
            pvpanic: self.pvpanic.or(file.pvpanic),
            gwdt: self.gwdt.or(file.gwdt),
            watchdog: self.watchdog.or(file.watchdog),
            name: self.name.or(file.name),
            devices: self.devices.or(file.devices),
            trusted: self.trusted.or(file.trusted),
            affinity: self.affinity.or(file.affinity),
            guests: [file.guests, self.guests].concat(),
            first_slot: None,
            nmi: self.nmi.or(file.nmi),
            dump: self.dump.or(file.dump),
            crashkernel: self.crashkernel.or(file.crashkernel),
            start: self.start.or(file.start),
            on_off: self.on_off.or(file.on_off),
            on_reset: self.on_reset.or(file.on_reset),
            on_crash: self.on_crash.or(file.on_crash),
            operator: self.operator.or(file.operator),
            timeout: self.timeout.or(file.timeout),
            log: self.log.or(file.log),
        }
    }

    /// What the hypervisor is told of the guest, whose kernel gets `bootargs`.
    pub fn config(&self, bootargs: &str) -> GuestConfig {
        GuestConfig {
            bootargs: bootargs.to_owned(),
            dtb_at: self.dtb_at,
            sdei: self.sdei != Some(Switch::Off),
            firmware: self.firmware.clone().unwrap_or_default(),
            events: self.events.iter().copied().map(Into::into).collect(),
            reclaim: reclaim(self.reclaim == Some(Reclaim::Parked)),
            debug_calls: self.debug_calls.unwrap_or_default(),
            flash: self.flash_bytes().unwrap_or_default(),
            pvpanic: self.pvpanic.unwrap_or_default(),
            gwdt: self.gwdt.map(|it| it.0),
            watchdog: self.watchdog.map(|it| it.0),
            name: self.name.clone().unwrap_or(GuestConfig::default().name),
            devices: self.devices_of_only(),
            trusted: self.trusted.unwrap_or_default(),
            nmi: self.nmi.map(|it| it.0).unwrap_or_default(),
            policy: self.policy(),
            dump: self.dump.as_ref().map(Dump::config),
            crashkernel: self.crashkernel.map(|it| it.0),
            ..GuestConfig::default()
        }
    }

    /// The same of a guest that shares the machine: it has some of the CPUs and of the memory.
    pub fn config_of_many(&self, bootargs: &str) -> Result<GuestConfig> {
        let pcpus = match &self.cpus {
            Some(Cpus::List(list)) => list.clone(),
            Some(Cpus::Number(_)) | None => Vec::new(),
        };
        Ok(GuestConfig {
            vcpus: self.cpus()?,
            pcpus,
            devices: self.devices.clone(),
            machine_affinities: self.affinity == Some(Affinity::Machine),
            memory: self.own_memory_mib()? << 20,
            ..self.config(bootargs)
        })
    }

    /// What the operator of the machine may do.
    pub const fn operator(&self) -> Access {
        match self.operator {
            None | Some(Operator::Full) => Access::Full,
            Some(Operator::Read) => Access::Read,
            Some(Operator::Off) => Access::Off,
        }
    }

    /// Bytes of the guest's flash; 0 if it has none.
    pub fn flash_bytes(&self) -> Result<u64> {
        self.flash.as_ref().map_or(Ok(0), Flash::bytes)
    }

    /// The file that the guest's flash begins with.
    pub fn flash_file(&self) -> Option<&Path> {
        self.flash.as_ref().and_then(Flash::file)
    }

    /// Number of CPUs.
    pub fn cpus(&self) -> Result<u32> {
        match self.cpus.as_ref().map_or(4, Cpus::count) {
            cpus @ 1..=MAX_CPUS => Ok(cpus),
            cpus => bail!("{cpus} CPUs cannot be had; ask for 1 to {MAX_CPUS}"),
        }
    }

    /// Size of the guest's own RAM in MiB; 0 if it says nothing.
    pub fn own_memory_mib(&self) -> Result<u64> {
        self.memory.as_deref().map_or(Ok(0), memory_mib)
    }

    /// Size of the machine's RAM in MiB.
    pub fn memory_mib(&self) -> Result<u64> {
        let own = self.machine.unwrap_or_default().memory_mib();
        let size = match (&self.memory, &own) {
            (Some(size), _) => memory_mib(size)?,
            (None, Some(own)) => *own.end(),
            (None, None) => 1024,
        };
        if let Some(own) = own.filter(|own| !own.contains(&size)) {
            let (least, most) = (own.start(), own.end());
            bail!("this machine has {least} to {most} MiB of RAM, not {size}; leave out --memory");
        }
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
        for guest in &self.guests {
            guest.check_files()?;
        }
        let dump = self.dump.iter().flat_map(Dump::files);
        for (what, path) in kernel.chain(initrd).chain(disks).chain(dump) {
            fs::metadata(path).with_context(|| {
                format!("there is no {what} {}; check the path", path.display())
            })?;
            paths::check_kind(path, &format!("the {what}"))?;
        }
        disk::check(&self.disks, self.machine == Some(Board::Raspi4b))
    }
}

/// What the hypervisor's sets of CPUs hold.
const MAX_CPUS: u32 = 128;

#[cfg(test)]
mod tests;
