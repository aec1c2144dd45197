//! That fault injection is in the test image, and not in the image that people deploy.

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSymbol};

/// Functions of fault injection.
const FUNCTIONS: [&str; 7] = [
    "wedged_here",
    "break_now",
    "break_vectors",
    "broken_vectors",
    "guest_enter_stuck",
    "at_trng_call",
    "fault_injection",
];
/// What it says, and where it panics.
const STRINGS: [&str; 4] = [
    "asked to panic",
    "breaking on purpose",
    "is not understood",
    "fault_injection.rs",
];

/// That neither a symbol of `elf` nor a string of its `image` is one of fault injection's.
pub fn check_absent(elf: &[u8], image: &[u8]) -> Result<()> {
    let names = names(elf)?;
    for function in FUNCTIONS {
        let found = names.iter().find(|name| name.contains(function));
        ensure!(
            found.is_none(),
            "the image has the function {} of fault injection, which is for the test image",
            found.map_or("", |name| name)
        );
    }
    for string in STRINGS {
        ensure!(
            !has(image, string),
            "the image says {string:?}, which is for the test image"
        );
    }
    Ok(())
}

/// That all of them are there, so that their absence elsewhere says something.
pub fn check_present(elf: &[u8], image: &[u8]) -> Result<()> {
    let names = names(elf)?;
    for function in FUNCTIONS {
        ensure!(
            names.iter().any(|name| name.contains(function)),
            "the test image has no {function}"
        );
    }
    for string in STRINGS {
        ensure!(has(image, string), "the test image does not say {string:?}");
    }
    Ok(())
}

fn names(elf: &[u8]) -> Result<Vec<String>> {
    let elf = object::File::parse(elf).context("it is no ELF file")?;
    let names = elf.symbols().filter_map(|symbol| symbol.name().ok());
    let names: Vec<String> = names.map(str::to_owned).collect();
    ensure!(!names.is_empty(), "the ELF file has no symbols");
    Ok(names)
}

fn has(image: &[u8], string: &str) -> bool {
    image
        .windows(string.len())
        .any(|window| window == string.as_bytes())
}
