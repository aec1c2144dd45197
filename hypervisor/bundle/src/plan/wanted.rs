//! Which of the machine's devices a guest asks for.

use alloc::string::String;

use platform::{Device, DeviceKind};

use crate::Error;

/// One word of a guest's `devices`: `all`, a kind (`virtio`, `rtc`, `gpio`, `sd`), one of a kind by its number from 0 in the
/// order of addresses (`virtio:3`), or a path of the machine's devicetree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// Whatever nobody has.
    All,
    /// All of a kind that nobody has.
    Kind(DeviceKind),
    /// One of a kind.
    Numbered(DeviceKind, usize),
    /// One by its node.
    Path(&'a str),
}

impl<'a> Wanted<'a> {
    /// Reads a word.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn parse(word: &'a str) -> Result<Self, Error> {
        let refusal = || {
            let mut place = String::from("devices: ");
            place.push_str(word);
            let what = "is neither a kind of device nor a path";
            let mend = "take virtio, rtc, gpio, sd, one of them such as virtio:0, all, or a path of the machine's devicetree";
            Error::invalid(&place, what, mend)
        };
        if word.starts_with('/') {
            return Ok(Self::Path(word));
        }
        let (name, number) = match word.split_once(':') {
            Some((name, number)) => (name, Some(number)),
            None => (word, None),
        };
        let kind = match name {
            "all" if number.is_none() => return Ok(Self::All),
            "virtio" => DeviceKind::VirtioMmio,
            "rtc" => DeviceKind::Rtc,
            "gpio" => DeviceKind::Gpio,
            "sd" => DeviceKind::Sd,
            _ => return Err(refusal()),
        };
        match number {
            None => Ok(Self::Kind(kind)),
            Some(number) => match number.parse() {
                // `str::parse` takes a plus sign.
                Ok(number) if !word.contains('+') => Ok(Self::Numbered(kind, number)),
                _ => Err(refusal()),
            },
        }
    }

    /// Whether the device is one of those. `earlier` is how many of its kind are at lower addresses.
    #[must_use]
    pub fn is(self, device: &Device, earlier: usize) -> bool {
        match self {
            Self::All => true,
            Self::Kind(kind) => device.kind == kind,
            Self::Numbered(kind, number) => device.kind == kind && number == earlier,
            Self::Path(path) => device.path == path,
        }
    }

    /// Whether it names one device, which must then be there for this guest.
    #[must_use]
    pub const fn is_one(self) -> bool {
        matches!(self, Self::Numbered(..) | Self::Path(_))
    }
}

/// Whether a device writes to memory where it is told, by itself or through firmware, and nothing checks where: whoever has
/// one can reach all memory.
#[must_use]
pub const fn reaches_memory(kind: DeviceKind) -> bool {
    match kind {
        DeviceKind::VirtioMmio | DeviceKind::Sd | DeviceKind::Supply => true,
        DeviceKind::Rtc | DeviceKind::Gpio => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_numbers_and_paths_are_read() {
        assert_eq!(Wanted::parse("all"), Ok(Wanted::All));
        assert_eq!(Wanted::parse("rtc"), Ok(Wanted::Kind(DeviceKind::Rtc)));
        let third = Wanted::Numbered(DeviceKind::VirtioMmio, 3);
        assert_eq!(Wanted::parse("virtio:3"), Ok(third));
        let path = "/virtio_mmio@a000000";
        assert_eq!(Wanted::parse(path), Ok(Wanted::Path(path)));
    }

    #[test]
    fn what_is_no_device_is_named() {
        for word in [
            "",
            "disk",
            "virtio:",
            "virtio:x",
            "virtio:+1",
            "virtio:-1",
            "all:1",
        ] {
            let error = Wanted::parse(word).expect_err(word);
            assert!(
                alloc::format!("{error}")
                    .starts_with(&alloc::format!("devices: {word} is neither")),
                "{error}"
            );
        }
    }
}
