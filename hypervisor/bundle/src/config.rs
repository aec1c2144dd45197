//! What a guest asks for.

use alloc::string::String;
use alloc::vec::Vec;

use hv_abi::firmware::{Firmware, Unknown};
use hv_abi::policy::Policy;
use hv_abi::psci::Reclaim;
use hv_abi::sdei::{Definition, MAX_EVENTS, Scope, VENDOR_EVENT};
use hv_abi::watchdog::{Act, LONGEST_MS, Last, Nmi, SHORTEST_MS, Watchdog};

use platform::Range;

use crate::{Error, Wanted};

/// The most vCPUs a guest can have.
pub const MAX_VCPUS: u32 = 128;

/// Linux keeps this many bytes of its command line, NUL included (arm64 `COMMAND_LINE_SIZE`).
const BOOTARGS_LIMIT: usize = 2048;

const NO_LINE: &str = "is not one line of fewer than 2048 bytes";

/// Whether a kernel can have this as its command line.
fn is_line(text: &str) -> bool {
    text.len() < BOOTARGS_LIMIT && !text.chars().any(char::is_control)
}

/// A guest's memory is a multiple of this, what one level 2 entry of a table maps.
const MEMORY_UNIT: u64 = 2 << 20;

/// The least flash: a sector.
pub const MIN_FLASH: u64 = 256 << 10;
/// The most: what QEMU's `virt` has room for behind its first.
pub const MAX_FLASH: u64 = 64 << 20;

/// The configuration of one guest, as the bundle carries it and a guest file says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestConfig {
    /// What to call it: letters, digits, `.`, `_` and `-`, at most 31.
    pub name: String,
    /// How many vCPUs, at most [`MAX_VCPUS`]; 0 for as many as the machine has.
    pub vcpus: u32,
    /// The pCPUs that they are to have, by their places in the machine's devicetree; any if empty.
    pub pcpus: Vec<u32>,
    /// Whether they have the affinities of their pCPUs; else those of the machine's first CPUs, whichever they are on.
    pub machine_affinities: bool,
    /// How many bytes of memory, in units of 2 MiB; 0 for all there is.
    pub memory: u64,
    /// Its kernel's command line.
    pub bootargs: String,
    /// Where its devicetree is to be, if that matters: a multiple of 8.
    pub dtb_at: Option<u64>,
    /// Whether it is offered SDEI.
    pub sdei: bool,
    /// Whose firmware it meets: a list as [`Firmware::parse`] reads it.
    pub firmware: String,
    /// SDEI events besides event 0.
    pub events: Vec<Definition>,
    /// What CPU_ON does with a vCPU that is parked in an event.
    pub reclaim: Reclaim,
    /// Whether it may make the calls of [`hv_abi::vendor`], which are for tests.
    pub debug_calls: bool,
    /// How many bytes of flash of its own it has: a power of two from [`MIN_FLASH`] to [`MAX_FLASH`], or 0 for none.
    pub flash: u64,
    /// Whether it has a device by which it says that it has panicked.
    pub pvpanic: bool,
    /// Whether it has a watchdog of its own, and what is done when it does not refresh that.
    pub gwdt: Option<Act>,
    /// What is done when it makes no progress, if anything is.
    pub watchdog: Option<Watchdog>,
    /// The devices of the machine that it gets, as [`crate::Wanted`] reads them; all for an only guest that says nothing.
    pub devices: Option<Vec<String>>,
    /// Whether it may have devices that write to memory as they are told: it can then reach all memory.
    pub trusted: bool,
    /// When it starts, and what becomes of it when it ends.
    pub policy: Policy,
    /// What an NMI does.
    pub nmi: Nmi,
    /// The kernel that saves its memory, if there is one.
    pub dump: Option<DumpConfig>,
    /// The memory of the crash kernel that the guest has loaded itself, if the instant is to be known at which that begins: whole units of 2 MiB
    /// of the guest's RAM.
    pub crashkernel: Option<Range>,
}

/// The configuration of the kernel that saves a guest's memory, the capture kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DumpConfig {
    /// How many bytes of memory are held back for it, in units of 2 MiB.
    pub memory: u64,
    /// Its command line.
    pub bootargs: String,
}

impl Default for GuestConfig {
    fn default() -> Self {
        Self {
            name: String::from("guest"),
            vcpus: 0,
            pcpus: Vec::new(),
            machine_affinities: false,
            memory: 0,
            bootargs: String::new(),
            dtb_at: None,
            sdei: true,
            firmware: String::new(),
            events: Vec::new(),
            reclaim: Reclaim::Off,
            debug_calls: false,
            flash: 0,
            pvpanic: false,
            gwdt: None,
            watchdog: None,
            devices: None,
            trusted: false,
            policy: Policy::USUAL,
            nmi: Nmi::default(),
            dump: None,
            crashkernel: None,
        }
    }
}

impl GuestConfig {
    /// Checks what can be checked without a machine.
    ///
    /// # Errors
    ///
    /// Names the first key that makes no sense.
    #[inline(never)]
    pub fn check(&self) -> Result<(), Error> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if self.name.is_empty() || self.name.len() > 31 || !self.name.bytes().all(fits) {
            return Err(Error::invalid(
                "name",
                "is not 1 to 31 letters, digits, '.', '_' or '-'",
                "choose another name",
            ));
        }
        if self.vcpus > MAX_VCPUS {
            return Err(Error::invalid(
                "vcpus",
                "is more than 128",
                "ask for 128 or fewer",
            ));
        }
        let listed = self.pcpus.len();
        if listed != 0 && listed != self.vcpus as usize {
            return Err(Error::invalid(
                "cpus",
                "lists another number of CPUs than there are vCPUs",
                "list each pCPU once",
            ));
        }
        for word in self.devices.iter().flatten() {
            Wanted::parse(word)?;
        }
        if !self.memory.is_multiple_of(MEMORY_UNIT) {
            return Err(Error::invalid(
                "memory",
                "is not a multiple of 2 MiB",
                "round it up",
            ));
        }
        if !is_line(&self.bootargs) {
            return Err(Error::invalid("bootargs", NO_LINE, "shorten it"));
        }
        self.check_dump()?;
        if let Some(range) = self.crashkernel {
            check_crashkernel(range)?;
        }
        // Linux Documentation/arch/arm64/booting.rst, and Devicetree Specification 5.6.
        if self.dtb_at.is_some_and(|at| !at.is_multiple_of(8)) {
            return Err(Error::invalid(
                "dtb-at",
                "is not a multiple of 8",
                "choose another address",
            ));
        }
        if let Err(Unknown(word)) = Firmware::parse(&self.firmware) {
            let mut place = String::from("firmware: ");
            place.push_str(word);
            return Err(Error::invalid(
                &place,
                "is no firmware and no fault",
                "take names from docs/firmware.md, joined by commas",
            ));
        }
        let is_flash =
            |size: u64| size.is_power_of_two() && (MIN_FLASH..=MAX_FLASH).contains(&size);
        if self.flash != 0 && !is_flash(self.flash) {
            return Err(Error::invalid(
                "flash",
                "is no power of two from 256 KiB to 64 MiB",
                "ask for 64M, or less",
            ));
        }
        let is_limit = |ms: u32| (SHORTEST_MS..=LONGEST_MS).contains(&ms);
        if self.watchdog.is_some_and(|it| !is_limit(it.limit_ms)) {
            return Err(Error::invalid(
                "watchdog",
                "has a limit that is not from 10 ms to a day",
                "choose another, such as 10s",
            ));
        }
        self.check_events()?;
        let is_nmi =
            |event: &Definition| event.number == self.nmi.event && event.scope == Scope::Private;
        let has_event = self.nmi.event == 0 || self.events.iter().any(is_nmi);
        if !has_event || !is_limit(self.nmi.limit_ms) {
            return Err(Error::invalid(
                "nmi",
                "has an event that is none of the private ones of events, or a limit that is not from 10 ms to a day",
                "choose another",
            ));
        }
        Ok(())
    }

    /// The firmware that `firmware` names; none that is known has been checked to be so.
    pub fn firmware(&self) -> Firmware {
        if self.sdei {
            Firmware::parse(&self.firmware).unwrap_or_default()
        } else {
            Firmware::ABSENT
        }
    }

    /// What is said of dumps: no end is followed by one if there is no memory for it.
    fn check_dump(&self) -> Result<(), Error> {
        let Some(dump) = &self.dump else {
            let watchdog = self
                .watchdog
                .map_or([Act::Report; 2], |it| [it.one, it.all]);
            let mut acts = watchdog.into_iter().chain(self.gwdt);
            let is_watched = acts.any(|act| act == Act::Dump);
            if self.policy.dumps() || is_watched || self.nmi.last == Last::Dump {
                return Err(Error::invalid(
                    "dump",
                    "is not said, and without it no memory is held back for the dump that the guest's configuration asks for",
                    "say it, such as dump = { memory = \"192M\" }",
                ));
            }
            return Ok(());
        };
        if dump.memory == 0 || !dump.memory.is_multiple_of(MEMORY_UNIT) {
            return Err(Error::invalid(
                "dump memory",
                "is not a multiple of 2 MiB, or nothing",
                "ask for 192M, or what its kernel needs",
            ));
        }
        if !is_line(&dump.bootargs) {
            return Err(Error::invalid("dump append", NO_LINE, "shorten it"));
        }
        Ok(())
    }

    fn check_events(&self) -> Result<(), Error> {
        let wrong = |what| {
            let mend = "give at most 32 different numbers from 1 to 0x3fffffff";
            Err(Error::invalid("events", what, mend))
        };
        if self.events.len() > MAX_EVENTS {
            return wrong("are more than 32");
        }
        for (at, event) in self.events.iter().enumerate() {
            if event.number == 0 || event.number >= VENDOR_EVENT {
                return wrong("have a number that cannot be defined");
            }
            let mut before = self.events.iter().take(at);
            if before.any(|other| other.number == event.number) {
                return wrong("have a number twice");
            }
        }
        Ok(())
    }

    /// Checks that what is left of a machine's CPUs is enough.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn check_cpus(&self, cpus: u32) -> Result<(), Error> {
        match self.vcpus > cpus {
            true => Err(Error::TooMany {
                key: "vcpus",
                wanted: self.vcpus.into(),
                available: cpus.into(),
            }),
            false => Ok(()),
        }
    }

    /// Checks that so many bytes of memory are enough.
    ///
    /// # Errors
    ///
    /// If they are not.
    pub fn check_memory(&self, memory: u64) -> Result<(), Error> {
        match self.memory > memory {
            true => Err(Error::TooMany {
                key: "memory",
                wanted: self.memory,
                available: memory,
            }),
            false => Ok(()),
        }
    }
}

/// What can be said of the place of a crash kernel without a machine.
fn check_crashkernel(Range { start, size }: Range) -> Result<(), Error> {
    let is_whole = size != 0 && (start | size).is_multiple_of(MEMORY_UNIT);
    if !is_whole || start.checked_add(size).is_none() {
        return Err(Error::invalid(
            "crashkernel",
            "is not whole units of 2 MiB",
            "round size and address, such as 256M@0x60000000",
        ));
    }
    Ok(())
}

/// Reads the place of a crash kernel as its guest's command line has it, `SIZE@ADDRESS`.
///
/// # Errors
///
/// If it is none, or not whole units of 2 MiB.
pub fn parse_crashkernel(text: &str) -> Result<Range, Error> {
    let Some((size, start)) = text.split_once('@') else {
        let what = "does not say where the crash kernel is";
        let mend = "say it as SIZE@ADDRESS, such as 256M@0x60000000";
        return Err(Error::invalid("crashkernel", what, mend));
    };
    let range = Range::new(parse_size(start)?, parse_size(size)?);
    check_crashkernel(range)?;
    Ok(range)
}

/// Reads a size such as `512M`, `2G`, `64K`, `0x200000` or a number of bytes.
///
/// # Errors
///
/// If it is none, or more than 64 bits hold.
pub fn parse_size(text: &str) -> Result<u64, Error> {
    let refusal = || {
        Error::invalid(
            text,
            "is no size",
            "write it like 512M, 2G or a number of bytes",
        )
    };
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (text.get(..text.len() - 1), 10),
        Some(b'm' | b'M') => (text.get(..text.len() - 1), 20),
        Some(b'g' | b'G') => (text.get(..text.len() - 1), 30),
        _ => (Some(text), 0),
    };
    let (digits, radix) = match digits.and_then(|digits| digits.strip_prefix("0x")) {
        Some(hex) => (hex, 16),
        None => (digits.unwrap_or_default(), 10),
    };
    u64::from_str_radix(digits, radix)
        .ok()
        .filter(|_| !digits.starts_with('+'))
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(refusal)
}

#[cfg(test)]
mod tests {
    use hv_abi::policy::After;
    use hv_abi::sdei::Priority;
    use hv_abi::watchdog::Act;

    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("2g"), Ok(2 << 30));
        assert_eq!(parse_size("64K"), Ok(64 << 10));
        assert_eq!(parse_size("0x200000"), Ok(2 << 20));
        assert_eq!(parse_size("4096"), Ok(4096));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "M",
            "12Q",
            "-1",
            "+1",
            "0x",
            "1.5G",
            "é",
            "99999999999G",
            "0x+1",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_default_makes_sense() {
        assert_eq!(GuestConfig::default().check(), Ok(()));
    }

    fn dump(memory: u64, bootargs: &str) -> Option<DumpConfig> {
        Some(DumpConfig {
            memory,
            bootargs: bootargs.into(),
        })
    }

    #[test]
    fn each_senseless_key_is_named() {
        let refused = |change: fn(&mut GuestConfig)| {
            let mut config = GuestConfig::default();
            change(&mut config);
            match config.check() {
                Err(Error::Invalid { place, .. }) => place,
                other => panic!("accepted: {other:?}"),
            }
        };
        assert_eq!(refused(|config| config.name = "a b".into()), "name");
        assert_eq!(refused(|config| config.name.clear()), "name");
        assert_eq!(refused(|config| config.vcpus = 129), "vcpus");
        assert_eq!(refused(|config| config.memory = 3 << 20), "memory");
        assert_eq!(
            refused(|config| config.bootargs = "a\nb".into()),
            "bootargs"
        );
        assert_eq!(
            refused(|config| config.bootargs = "a".repeat(2048)),
            "bootargs"
        );
        assert_eq!(
            refused(|config| config.firmware = "spec,tfa-1".into()),
            "firmware: tfa-1"
        );
        assert_eq!(
            refused(|config| config.dtb_at = Some(0x4400_0004)),
            "dtb-at"
        );
        for limit_ms in [0, 9, 24 * 3600 * 1000 + 1] {
            let config = GuestConfig {
                watchdog: Some(Watchdog {
                    limit_ms,
                    one: Act::Report,
                    all: Act::Report,
                }),
                ..GuestConfig::default()
            };
            assert!(config.check().is_err(), "{limit_ms}");
        }
        assert_eq!(
            refused(|config| config.policy.on_reset = After::Dump),
            "dump"
        );
        assert_eq!(refused(|config| config.nmi.last = Last::Dump), "dump");
        assert_eq!(
            refused(|config| config.dump = dump(3 << 20, "")),
            "dump memory"
        );
        assert_eq!(refused(|config| config.dump = dump(0, "")), "dump memory");
        assert_eq!(
            refused(|config| config.dump = dump(2 << 20, "a\nb")),
            "dump append"
        );
        assert_eq!(refused(|config| config.nmi.event = 0x100), "nmi");
        assert_eq!(refused(|config| config.nmi.limit_ms = 9), "nmi");
        assert_eq!(refused(|config| config.flash = 3 << 20), "flash");
        assert_eq!(refused(|config| config.flash = 128 << 20), "flash");
        assert_eq!(refused(|config| config.flash = 128 << 10), "flash");
        let event = |number| Definition {
            number,
            scope: Scope::Shared,
            priority: Priority::Critical,
        };
        for numbers in [&[0][..], &[1 << 30], &[7, 8, 7], &[1; 33]] {
            let config = GuestConfig {
                events: numbers.iter().copied().map(event).collect(),
                ..GuestConfig::default()
            };
            assert!(config.check().is_err(), "{numbers:?}");
        }
    }

    #[test]
    fn more_than_the_machine_has_is_refused() {
        let config = GuestConfig {
            vcpus: 4,
            memory: 1 << 30,
            ..GuestConfig::default()
        };
        assert_eq!(
            (config.check_cpus(4), config.check_memory(1 << 30)),
            (Ok(()), Ok(()))
        );
        assert!(config.check_cpus(3).is_err());
        assert!(config.check_memory(512 << 20).is_err());
    }
}
