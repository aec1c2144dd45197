//! `cargo xtask symbolize`: addresses of a crash report become functions.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::symbols::Symbols;
use crate::workshop;

/// Turn the addresses of a backtrace into functions.
///
/// Without addresses, copies standard input and writes the function behind each address in it: paste
/// a whole crash report.
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
        let elf = match self.elf {
            Some(elf) => elf,
            None => {
                let elf = workshop::output("hypervisor.elf")?;
                ensure!(
                    elf.exists(),
                    "there is no {}; `cargo xtask build` makes it",
                    elf.display()
                );
                elf
            }
        };
        let symbols = Symbols::load(&elf)?;
        let offset = hexadecimal(&self.offset)
            .with_context(|| format!("--offset {} is no hexadecimal number", self.offset))?;
        for address in &self.addresses {
            let value = hexadecimal(address)
                .with_context(|| format!("{address} is no hexadecimal number"))?;
            println!("{address} {}", symbols.describe(value.wrapping_sub(offset)));
        }
        if self.addresses.is_empty() {
            for line in io::stdin().lock().lines() {
                println!("{}", annotate(&line?, &symbols, offset));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn hexadecimal(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).ok()
}

/// `lines` of a console with the functions of the hypervisor behind the addresses in its own.
pub fn annotate_tail(lines: &[String], hypervisor: &Path) -> Vec<String> {
    // Without symbols the addresses have to do.
    let Ok(symbols) = Symbols::load(hypervisor) else {
        return lines.to_vec();
    };
    let annotated = lines.iter().map(|line| {
        if line.starts_with("hv: ") {
            annotate(line, &symbols, 0)
        } else {
            line.clone()
        }
    });
    annotated.collect()
}

/// `line` with the function behind each hexadecimal number that is an address in one.
pub fn annotate(line: &str, symbols: &Symbols, offset: u64) -> String {
    let mut annotated = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find("0x") {
        let digits = &rest[start + 2..];
        let end = digits.find(|c: char| !c.is_ascii_hexdigit());
        let end = start + 2 + end.unwrap_or(digits.len());
        annotated.push_str(&rest[..end]);
        let address = hexadecimal(&rest[start..end]);
        let function = address.and_then(|address| symbols.function(address.wrapping_sub(offset)));
        if let Some((name, into)) = function {
            annotated.push_str(&format!(" <{name}+{into:#x}>"));
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
            annotate("pc 0x2004, lr 0x101c sp 0x9000 0x", &symbols, 0),
            "pc 0x2004 <two+0x4>, lr 0x101c <one+0x1c> sp 0x9000 0x"
        );
        assert_eq!(annotate("0x12004", &symbols, 0x10000), "0x12004 <two+0x4>");
        assert_eq!(annotate("no address", &symbols, 0), "no address");
    }
}
