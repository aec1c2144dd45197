//! The forms of QEMU's human monitor that are understood (`human-monitor-command`): what drgn uses, and what people look with. They are
//! taken apart here. Nothing reaches QEMU's monitor, where `migrate exec:` is a shell.

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};
use hv_abi::operator::Verb;

use crate::operator::{Operator, Range, VcpuAnswer};

/// So much is shown at a time at most, in bytes.
const MOST: u64 = 4096;

/// A command that is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `xp /NxS ADDRESS`: memory by physical address.
    Memory {
        /// How many words.
        count: u64,
        /// How many bytes each has.
        size: u64,
        /// Where.
        address: u64,
    },
    /// `info registers`, or with `-a` of all vCPUs.
    Registers {
        /// Of all.
        all: bool,
    },
    /// `info mtree -f`: where RAM is.
    Map,
}

impl Command {
    /// Takes a line apart.
    pub fn parse(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            ["xp", address] => Self::memory("/1xw", address),
            ["xp", format, address] => Self::memory(format, address),
            ["info", "registers"] => Ok(Self::Registers { all: false }),
            ["info", "registers", "-a"] => Ok(Self::Registers { all: true }),
            ["info", "mtree", "-f"] => Ok(Self::Map),
            ["gpa2hva", ..] => bail!("the guest's memory is not this process's"),
            _ => bail!(
                "of the human monitor there are `xp /NxS ADDRESS`, `info registers [-a]` and `info mtree -f`, and not `{}`",
                line.trim()
            ),
        }
    }

    /// The format is /, a number, x, and b, h, w or g, in QEMU's order or any other.
    fn memory(format: &str, address: &str) -> Result<Self> {
        let known = || format!("`{format}` is no format of `xp`; write /16xb, /8xh, /4xw or /2xg");
        let letters = format.strip_prefix('/').with_context(known)?;
        let end = letters.find(|letter: char| !letter.is_ascii_digit());
        let (digits, letters) = letters.split_at(end.unwrap_or(letters.len()));
        let count = match digits {
            "" => 1,
            digits => digits.parse().ok().with_context(known)?,
        };
        let mut size = 4;
        for letter in letters.chars() {
            size = match letter {
                'x' => size,
                'b' => 1,
                'h' => 2,
                'w' => 4,
                'g' => 8,
                _ => bail!(known()),
            };
        }
        ensure!(
            (1..=MOST / size).contains(&count),
            "`xp` shows {MOST} bytes at a time at most"
        );
        let parsed = match address.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => address.parse(),
        };
        Ok(Self::Memory {
            count,
            size,
            address: parsed.with_context(|| format!("`{address}` is no address"))?,
        })
    }

    /// What it shows.
    pub fn execute(self, operator: &Operator) -> Result<String> {
        match self {
            Self::Memory {
                count,
                size,
                address,
            } => {
                let length = usize::try_from(count * size)?;
                Ok(match operator.read(address, length) {
                    Ok(bytes) => memory(address, size as usize, &bytes),
                    // As QEMU says that there is no memory; drgn knows the words.
                    Err(error) => format!("{address:016x}: Cannot access memory: {error:#}\r\n"),
                })
            }
            Self::Registers { all } => {
                let count = operator.ask(Verb::Status, 0)?.vm.map_or(0, |vm| vm.vcpus);
                let mut text = String::new();
                for vcpu in 0..if all { count } else { count.min(1) } {
                    let number = u8::try_from(vcpu)?;
                    let answers = operator.ask(Verb::Registers, number)?;
                    text.push_str(&registers(vcpu, answers.vcpus.get(&number)));
                }
                Ok(text)
            }
            Self::Map => Ok(map(&operator.ram())),
        }
    }
}

/// Words in lines of 8 or 16 bytes, as QEMU has them.
fn memory(address: u64, size: usize, bytes: &[u8]) -> String {
    let line = if size == 1 { 8 } else { 16 };
    let mut text = String::new();
    for (at, part) in (address..).step_by(line).zip(bytes.chunks(line)) {
        let _ = write!(text, "{at:016x}:");
        for word in part.chunks(size) {
            let value = word
                .iter()
                .rev()
                .fold(0u64, |value, byte| value << 8 | u64::from(*byte));
            let _ = write!(text, " 0x{value:0width$x}", width = 2 * size);
        }
        text.push_str("\r\n");
    }
    text
}

/// Registers as QEMU has them, as far as they are known.
fn registers(number: u32, vcpu: Option<&VcpuAnswer>) -> String {
    let mut text = format!("\r\nCPU#{number}\r\n");
    let Some((vcpu, pc)) = vcpu.and_then(|vcpu| Some((vcpu, vcpu.pc?))) else {
        text.push_str(" it is off, or does not answer\r\n");
        return text;
    };
    let pstate = vcpu.pstate.unwrap_or_default();
    let value = |name: &str| vcpu.registers.get(name).copied();
    let mut named = vec![(" PC".to_owned(), pc)];
    let general = (0..31).filter_map(|n| Some((format!("X{n:02}"), value(&format!("x{n}"))?)));
    named.extend(general);
    let sp = if pstate & 0b1101 == 0b0101 {
        "sp_el1"
    } else {
        "sp_el0"
    };
    named.extend(value(sp).map(|sp| (" SP".to_owned(), sp)));
    for line in named.chunks(4) {
        let words: Vec<String> = line
            .iter()
            .map(|(name, value)| format!("{name}={value:016x}"))
            .collect();
        let _ = write!(text, "{}\r\n", words.join(" "));
    }
    let _ = write!(text, "PSTATE={pstate:08x}\r\n");
    text
}

/// RAM as one flat view.
fn map(ram: &[Range]) -> String {
    let mut text =
        "FlatView #0\r\n AS \"memory\", root: system\r\n Root memory region: system\r\n".to_owned();
    for (start, length) in ram {
        let last = start + length.saturating_sub(1);
        let _ = write!(
            text,
            "  {start:016x}-{last:016x} (prio 0, ram): guest.ram\r\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood_and_nothing_else() {
        let read = |count, size| Command::Memory {
            count,
            size,
            address: 0x4000_0000,
        };
        for (line, expected) in [
            ("xp /16xb 0x40000000", read(16, 1)),
            ("  xp  /2gx 1073741824 ", read(2, 8)),
            ("xp /x 0x40000000", read(1, 4)),
            ("xp 0x40000000", read(1, 4)),
            ("info registers -a", Command::Registers { all: true }),
            ("info mtree -f", Command::Map),
        ] {
            assert_eq!(Command::parse(line).unwrap(), expected, "{line}");
        }
        for line in [
            "",
            "migrate \"exec:touch /tmp/made\"",
            "xp /16xb 0x40000000; quit",
            "xp /16i 0x40000000",
            "xp /16xb $pc",
            "xp /5000xb 0",
            "xp /18446744073709551615xg 0",
            "xp /0xb 0",
            "x /16xb 0",
            "info mtree",
            "gpa2hva 0x40000000",
            "device_del a",
        ] {
            assert!(Command::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn memory_is_shown_as_qemu_shows_it() {
        let bytes: Vec<u8> = (0..18).collect();
        assert_eq!(
            memory(0x4000_0000, 1, &bytes[..10]),
            "0000000040000000: 0x00 0x01 0x02 0x03 0x04 0x05 0x06 0x07\r\n0000000040000008: 0x08 0x09\r\n"
        );
        assert_eq!(
            memory(0x10, 8, &bytes[..16]),
            "0000000000000010: 0x0706050403020100 0x0f0e0d0c0b0a0908\r\n"
        );
    }

    #[test]
    fn the_map_has_ranges_of_ram() {
        let text = map(&[(0x4000_0000, 0x2000_0000)]);
        assert!(
            text.contains("\n  0000000040000000-000000005fffffff (prio 0, ram): "),
            "{text}"
        );
    }

    #[test]
    fn registers_name_the_stack_pointer_in_use() {
        let mut vcpu = VcpuAnswer {
            state: "on".into(),
            pc: Some(0x1234),
            pstate: Some(0x3c5),
            has_serror: false,
            callers: Vec::new(),
            late: None,
            registers: [("x0", 1), ("x30", 2), ("sp_el0", 3), ("sp_el1", 4)]
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
        };
        let text = registers(1, Some(&vcpu));
        assert!(
            text.contains("CPU#1\r\n PC=0000000000001234 X00=0000000000000001 X30="),
            "{text}"
        );
        assert!(
            text.contains(" SP=0000000000000004\r\nPSTATE=000003c5"),
            "{text}"
        );
        vcpu.pstate = Some(0);
        assert!(registers(1, Some(&vcpu)).contains(" SP=0000000000000003"));
        assert!(registers(1, None).contains("does not answer"));
    }
}
