//! `cargo xtask symbolize`: addresses of a crash report become functions.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::lines::Lines;
use crate::symbols::Symbols;
use crate::usage;
use debian::paths;
use debian::progress::Progress;

/// Turn the addresses of a backtrace into functions, and lines of the sources.
///
/// Without addresses, copies standard input and writes the function and its place behind each address in
/// it: paste a whole crash report.
///
/// Exit codes: 0 all is written, 1 the symbols cannot be read, 2 wrong usage.
#[derive(Args)]
pub struct Symbolize {
    /// Addresses, such as 0x800000001234.
    addresses: Vec<String>,
    /// ELF file with the symbols [default: that of the hypervisor built last].
    #[arg(long, value_name = "FILE")]
    elf: Option<PathBuf>,
    /// How far the program had moved from where it was linked; KERNELOFFSET of a Linux kernel.
    #[arg(long, value_name = "OFFSET", default_value = "0x0")]
    offset: String,
}

impl Symbolize {
    /// Prints them.
    pub fn execute(self) -> Result<ExitCode> {
        let Settled { addresses, offset } = self.settle().map_err(usage::wrong)?;
        let elf = match self.elf {
            Some(elf) => elf,
            None => {
                let elf = paths::output("hypervisor.elf")?;
                ensure!(
                    elf.exists(),
                    "there is no {}; `cargo xtask build` makes it",
                    elf.display()
                );
                elf
            }
        };
        let step = Progress::new().lazily("read the symbols");
        let symbols = Symbols::load(&elf)?;
        let lines = Lines::of(&elf, paths::root());
        drop(step);
        for (address, value) in self.addresses.iter().zip(addresses) {
            let value = value.wrapping_sub(offset);
            let place = lines.place(value).map(|place| format!(" ({place})"));
            println!(
                "{address} {}{}",
                symbols.describe(value),
                place.unwrap_or_default()
            );
        }
        if self.addresses.is_empty() {
            let explain = |line: &str| annotate(line, &symbols, Some(&lines), offset);
            copy(io::stdin().lock(), io::stdout().lock(), explain)
                .context("cannot copy standard input to standard output")?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What is asked for, before anything is read.
    fn settle(&self) -> Result<Settled> {
        if let Some(elf) = &self.elf {
            paths::check_input(elf, "--elf")?;
        }
        let offset = hexadecimal(&self.offset)
            .with_context(|| format!("--offset {} is no hexadecimal number", self.offset))?;
        let value = |address: &String| {
            hexadecimal(address).with_context(|| format!("{address} is no hexadecimal number"))
        };
        let addresses = self.addresses.iter().map(value).collect::<Result<_>>()?;
        Ok(Settled { addresses, offset })
    }
}

/// Numbers out of what was typed.
struct Settled {
    addresses: Vec<u64>,
    offset: u64,
}

/// Copies `from` to `to` line by line, what is text of each through `explain`. All other bytes stay as they are: a serial log
/// may have anything in it.
fn copy(
    mut from: impl BufRead,
    mut to: impl Write,
    explain: impl Fn(&str) -> String,
) -> io::Result<()> {
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? != 0 {
        for chunk in line.utf8_chunks() {
            to.write_all(explain(chunk.valid()).as_bytes())?;
            to.write_all(chunk.invalid())?;
        }
        line.clear();
    }
    to.flush()
}

fn hexadecimal(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).ok()
}

/// What explains the addresses in the hypervisor's lines.
pub struct Explainer {
    hypervisor: Symbols,
    lines: Option<Lines>,
    guest: Option<Symbols>,
    /// How far the guest has moved from where it was linked, as its registers told last.
    moved: Option<u64>,
}

impl Explainer {
    /// By the ELF files of the hypervisor and, if it is known, of what its guest is.
    pub fn load(hypervisor: &Path, guest: Option<&Path>) -> Result<Self> {
        Ok(Self::of(
            Symbols::load(hypervisor)?,
            Some(Lines::of(hypervisor, paths::root())),
            // Without them the guest's addresses have to do.
            guest.and_then(|guest| Symbols::load(guest).ok()),
        ))
    }

    fn of(hypervisor: Symbols, lines: Option<Lines>, guest: Option<Symbols>) -> Self {
        Self {
            hypervisor,
            lines,
            guest,
            moved: None,
        }
    }

    /// `line`, the lines before it having been explained, with the functions behind its addresses: the
    /// hypervisor's, and those of the guest in a record of its registers, its backtrace, and its exits.
    pub fn explain(&mut self, line: &str) -> String {
        let explained = annotate(line, &self.hypervisor, self.lines.as_ref(), 0);
        let Some(guest) = &self.guest else {
            return explained;
        };
        if line.contains("@hv-vcpu ") {
            let words = line.split_ascii_whitespace();
            let mut vbar = words.filter_map(|word| word.strip_prefix("vbar_el1="));
            let vbar = vbar.next().and_then(hexadecimal);
            self.moved = vbar.and_then(|vbar| guest.moved(vbar)).or(self.moved);
        } else if ![" guest pc ", " guest 0x"]
            .iter()
            .any(|of| line.contains(of))
        {
            return explained;
        }
        match self.moved {
            Some(moved) => annotate(&explained, guest, None, moved),
            None => explained,
        }
    }
}

/// `lines` of a console with the functions behind the addresses in the hypervisor's own.
pub fn annotate_tail(lines: &[String], hypervisor: &Path, guest: Option<&Path>) -> Vec<String> {
    // Without symbols the addresses have to do.
    let Ok(mut explainer) = Explainer::load(hypervisor, guest) else {
        return lines.to_vec();
    };
    let annotated = lines.iter().map(|line| {
        if line.starts_with("hv: ") {
            explainer.explain(line)
        } else {
            line.clone()
        }
    });
    annotated.collect()
}

/// What the hypervisor says about addresses, and what is not true any more once they are explained.
const HINT: &str = " (cargo xtask symbolize)";

/// `line` with the function, and its place in the sources, behind each hexadecimal number that is an address in one.
fn annotate(line: &str, symbols: &Symbols, lines: Option<&Lines>, offset: u64) -> String {
    let mut annotated = String::with_capacity(line.len());
    let line = line.replace(HINT, "");
    let mut rest = line.as_str();
    while let Some(start) = rest.find("0x") {
        let digits = &rest[start + 2..];
        let end = digits.find(|c: char| !c.is_ascii_hexdigit());
        let end = start + 2 + end.unwrap_or(digits.len());
        annotated.push_str(&rest[..end]);
        let address = hexadecimal(&rest[start..end]).map(|it| it.wrapping_sub(offset));
        if let Some(address) = address
            && let Some((name, into)) = symbols.function(address)
        {
            let place = lines.and_then(|lines| lines.place(address));
            let place = place.map(|place| format!(" ({place})"));
            annotated.push_str(&format!(" <{name}+{into:#x}{}>", place.unwrap_or_default()));
        }
        rest = &rest[end..];
    }
    annotated.push_str(rest);
    annotated
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::tests::program;

    #[test]
    fn addresses_in_a_line_get_their_functions() {
        let symbols = program(&[(0x1000, "one"), (0x2000, "two")]);
        assert_eq!(
            annotate("pc 0x2004, lr 0x101c sp 0x9000 0x", &symbols, None, 0),
            "pc 0x2004 <two+0x4>, lr 0x101c <one+0x1c> sp 0x9000 0x"
        );
        assert_eq!(
            annotate("0x12004", &symbols, None, 0x10000),
            "0x12004 <two+0x4>"
        );
        assert_eq!(annotate("no address", &symbols, None, 0), "no address");
        // What makes this has been called.
        let heading = "backtrace (cargo xtask symbolize):";
        assert_eq!(annotate(heading, &symbols, None, 0), "backtrace:");
    }

    #[test]
    fn bytes_that_are_no_text_pass_as_they_are() {
        let symbols = program(&[(0x1000, "one")]);
        let log = b"\xff\x1e hv: 0x1004\r\nguest \xc3\x28 0x1008\xfe\n\0last 0x1010";
        let mut copied = Vec::new();
        let explain = |line: &str| annotate(line, &symbols, None, 0);
        copy(&log[..], &mut copied, explain).unwrap();
        let expected =
            b"\xff\x1e hv: 0x1004 <one+0x4>\r\nguest \xc3\x28 0x1008 <one+0x8>\xfe\n\0last 0x1010 <one+0x10>";
        assert_eq!(copied, expected);
    }

    #[test]
    fn addresses_of_the_hypervisor_get_their_places_too() {
        let own = std::env::current_exe().unwrap();
        let symbols = Symbols::load(&own).unwrap();
        let address = symbols.address("lab::symbolize::hexadecimal").unwrap();
        let mut explainer = Explainer::load(&own, None).unwrap();
        let explained = explainer.explain(&format!("hv:   {address:#x}"));
        let text = include_str!("symbolize.rs");
        let line = text
            .lines()
            .position(|line| line.starts_with("fn hexadecimal("));
        let place = format!("xtask/lab/src/symbolize.rs:{}", line.unwrap() + 1);
        assert_eq!(
            explained,
            format!("hv:   {address:#x} <lab::symbolize::hexadecimal+0x0 ({place})>")
        );
    }

    #[test]
    fn a_guest_that_has_moved_is_known_by_its_exception_table() {
        let hypervisor = program(&[(0x1000, "hv")]);
        let guest = program(&[(0xf000, "vectors"), (0x20000, "spin")]);
        let mut explainer = Explainer::of(hypervisor, None, Some(guest));
        assert_eq!(
            explainer.explain("  at 0.000001 s: HVC (ESR_EL2 0x0), guest pc 0x120004"),
            "  at 0.000001 s: HVC (ESR_EL2 0x0), guest pc 0x120004",
            "it is not known yet how far it has moved"
        );
        assert_eq!(
            explainer.explain("@hv-vcpu vm=0 vcpu=1 pc=0x120004 x0=0x1004 vbar_el1=0x10f000"),
            "@hv-vcpu vm=0 vcpu=1 pc=0x120004 <spin+0x4> x0=0x1004 <hv+0x4> \
             vbar_el1=0x10f000 <vectors+0x0>"
        );
        // Of one without system registers, and before them the exits.
        assert_eq!(
            explainer.explain("@hv-vcpu vm=0 vcpu=2 pc=0x120008"),
            "@hv-vcpu vm=0 vcpu=2 pc=0x120008 <spin+0x8>"
        );
        assert_eq!(
            explainer.explain("guest pc 0x120004, and 0x120004"),
            "guest pc 0x120004, and 0x120004",
            "what is not of the guest is not explained by it"
        );
        assert_eq!(
            explainer.explain("  at 0.000001 s: HVC (ESR_EL2 0x0), guest pc 0x120004"),
            "  at 0.000001 s: HVC (ESR_EL2 0x0), guest pc 0x120004 <spin+0x4>"
        );
        assert_eq!(
            explainer.explain("hv:   guest 0x120010"),
            "hv:   guest 0x120010 <spin+0x10>"
        );
    }
}
