//! `cargo xtask tidy`: the house rules that a program can check.

mod imports;
mod order;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;

use debian::paths;

/// Check the house rules.
///
/// Which files may contain unsafe code, assembly and calls of EL3, what files may be called and how long
/// they may be, words that no code contains, that the modules of a crate do not use each other in circles,
/// and that docs/smc-services.md names every call a guest can make.
#[derive(Args)]
pub struct Tidy {}

impl Tidy {
    /// Checks, and prints what is against the rules.
    pub fn execute(self) -> Result<ExitCode> {
        check(paths::root())?;
        println!("tidy");
        Ok(ExitCode::SUCCESS)
    }
}

/// Checks the workspace at `root`; the error lists all that is against the rules.
pub fn check(root: &Path) -> Result<()> {
    let mut faults = Vec::new();
    let sources = sources(root)?;
    for source in &sources {
        faults.extend(source.faults());
    }
    faults.extend(order::faults(product_files(&sources)));
    faults.extend(missing_calls(root, &sources));
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

/// The Rust files that are no tests, and their text without tests.
fn product_files(sources: &[Source]) -> impl Iterator<Item = (&str, &str)> {
    let files = sources.iter().filter(|it| it.is_rust() && !it.is_test());
    files.map(|source| (source.path.as_str(), source.code()))
}

/// Crates without unsafe code; their root says so and the compiler holds them to it.
const SAFE_CRATES: [&str; 15] = [
    "hypervisor/abi/src/lib.rs",
    "hypervisor/core/src/lib.rs",
    "hypervisor/bundle/src/lib.rs",
    "hypervisor/drivers/src/lib.rs",
    "hypervisor/testbed/src/lib.rs",
    "platform/src/lib.rs",
    "platform/dtb/src/lib.rs",
    "hypervisor/chainloader/protocol/src/lib.rs",
    "xtask/src/main.rs",
    "xtask/debian/src/lib.rs",
    "xtask/machine/src/lib.rs",
    "xtask/lab/src/lib.rs",
    "xtask/introspection/src/lib.rs",
    "xtask/report-schema/src/lib.rs",
    "xtask/supervisor/src/lib.rs",
];

/// Files that may let their modules, or a single item, contain unsafe code: the census of their crates.
const UNSAFE_CENSUS: [&str; 10] = [
    "hypervisor/src/modules.rs",
    "hypervisor/src/test_image.rs",
    "hypervisor/src/boot.rs",
    "hypervisor/src/gic.rs",
    "guest-tests/src/main.rs",
    "guest-tests/src/rt/registry.rs",
    "hypervisor/chainloader/src/main.rs",
    "guest-tests/armstub/src/main.rs",
    "guest-tests/flat/src/main.rs",
    "guest-tests/client-example/src/main.rs",
];

/// The folder of the test guests, which are assembly by nature.
const TEST_GUESTS: &str = "guest-tests/";

/// Files of the hypervisor that may contain assembly.
const ASSEMBLY: [&str; 11] = [
    "entry.rs",
    "copy.rs",
    "fault.rs",
    "fault_injection.rs",
    "guest.rs",
    "sdei_entry.rs",
    "sysregs.rs",
    "sysregs/cache.rs",
    "sysregs/leftovers.rs",
    "sysregs/translation.rs",
    "sysregs/vectors.rs",
];

/// The only files of the hypervisor that may call what is above it.
const CALLS_EL3: [&str; 2] = ["hypervisor/src/sysregs.rs", "hypervisor/src/sdei_entry.S"];

/// Names that say nothing of what is inside.
const BANNED_NAMES: [&str; 8] = [
    "mod", "util", "utils", "common", "misc", "helper", "helpers", "manager",
];

/// What is left in the code by mistake.
const BANNED_WORDS: [&str; 4] = ["todo!(", "unimplemented!(", "dbg!(", "FIXME"];

/// Lines a file may have, its tests aside; some 400 are the aim.
const LONGEST_FILE: usize = 450;

/// A source file.
struct Source {
    /// Relative to the workspace, with slashes.
    path: String,
    text: String,
}

impl Source {
    fn faults(&self) -> Vec<String> {
        let mut faults = self.name_faults();
        faults.extend(self.unsafe_faults());
        faults.extend(self.call_faults());
        // This file has to name what it bans.
        if self.path != "xtask/src/tidy.rs" {
            faults.extend(self.word_faults());
        }
        faults
    }

    fn fault(&self, what: impl std::fmt::Display) -> String {
        format!("{}: {what}", self.path)
    }

    fn name_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let stem = Path::new(&self.path).file_stem();
        let stem = stem.unwrap_or_default().to_string_lossy();
        if BANNED_NAMES.contains(&stem.as_ref()) {
            faults.push(self.fault(format_args!(
                "`{stem}` says nothing of what is inside; name the thing"
            )));
        }
        let length = self.code().lines().count();
        if length > LONGEST_FILE && !self.is_test() {
            faults.push(self.fault(format_args!(
                "{length} lines are more than {LONGEST_FILE}; split it along a boundary"
            )));
        }
        faults
    }

    fn word_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (number, line) in (1..).zip(self.text.lines()) {
            for word in BANNED_WORDS {
                if line.contains(word) {
                    faults.push(self.fault(format_args!("line {number} contains `{word}`")));
                }
            }
            let prints = line.contains("println!(") || line.contains("print!(");
            if prints && !self.path.starts_with("xtask/") && !self.is_test() && self.is_rust() {
                let own = self.path.ends_with("/build.rs") || self.path.starts_with(TEST_GUESTS);
                if !own {
                    faults.push(self.fault(format_args!("line {number} prints; log or return it")));
                }
            }
        }
        faults
    }

    fn unsafe_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let path = self.path.as_str();
        if SAFE_CRATES.contains(&path) && !self.text.contains("#![forbid(unsafe_code)]") {
            faults.push(self.fault("this crate must say #![forbid(unsafe_code)]"));
        }
        if !self.is_rust() || path == "xtask/src/tidy.rs" {
            return faults;
        }
        let lifts = ["expect(unsafe_code", "allow(unsafe_code"];
        let dense: String = self.text.split_whitespace().collect();
        if lifts.iter().any(|lift| dense.contains(lift)) && !UNSAFE_CENSUS.contains(&path) {
            faults.push(self.fault(format_args!(
                "it lifts the ban on unsafe code; only {} may, where all rooms are listed",
                UNSAFE_CENSUS.join(", ")
            )));
        }
        if let Some(file) = path.strip_prefix("hypervisor/src/")
            && self.text.contains("asm!(")
            && !ASSEMBLY.contains(&file)
        {
            faults.push(self.fault(format_args!(
                "it contains assembly; only {} may",
                ASSEMBLY.join(", ")
            )));
        }
        faults
    }

    /// Instructions that call what is above, where none may be: in the hypervisor, whose image with all its programs
    /// has them in few files that say whom they call.
    fn call_faults(&self) -> Vec<String> {
        let hypervisor = self.path.starts_with("hypervisor/") && !self.path.contains("/tests/");
        if !hypervisor || CALLS_EL3.contains(&self.path.as_str()) {
            return Vec::new();
        }
        let calls = (1..).zip(self.text.lines()).filter(|(_, line)| {
            if self.is_rust() {
                ["\"smc ", "\"smc\"", "\"hvc "]
                    .iter()
                    .any(|it| line.contains(it))
            } else {
                instructions(line).any(|it| it == "smc" || it == "hvc")
            }
        });
        calls
            .map(|(number, _)| {
                self.fault(format_args!(
                    "line {number} calls what is above; only {} may",
                    CALLS_EL3.join(" and ")
                ))
            })
            .collect()
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether it is a file of tests.
    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    /// The text without the tests at its end.
    fn code(&self) -> &str {
        let end = self
            .text
            .find("\n#[cfg(test)]\n")
            .unwrap_or(self.text.len());
        &self.text[..end]
    }
}

/// The mnemonics in a line of assembly: of several instructions there, each behind its labels.
fn instructions(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split_once("//").map_or(line, |(code, _)| code);
    code.split(';').filter_map(|statement| {
        let behind_labels = statement
            .rsplit_once(": ")
            .map_or(statement, |(_, rest)| rest);
        behind_labels.split_whitespace().next()
    })
}

/// The Rust sources below `root`: path relative to it, with slashes, and text.
pub fn rust_sources(root: &Path) -> Result<Vec<(String, String)>> {
    let sources = sources(root)?.into_iter();
    let rust = sources.filter(Source::is_rust);
    Ok(rust.map(|source| (source.path, source.text)).collect())
}

/// All sources below `root`, build output aside.
fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut folders: Vec<PathBuf> = ["hypervisor", "platform", "guest-tests", "xtask", "linker"]
        .iter()
        .map(|name| root.join(name))
        .filter(|path| path.is_dir())
        .collect();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder)
            .with_context(|| format!("cannot read the folder {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path
                .extension()
                .is_some_and(|kind| kind == "rs" || kind == "S")
            {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let path = path.strip_prefix(root)?.to_string_lossy().into_owned();
                sources.push(Source { path, text });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

/// Where the contract with guests is written down.
const CONTRACT: &str = "docs/smc-services.md";

/// The calls that the contract does not name.
fn missing_calls(root: &Path, sources: &[Source]) -> Vec<String> {
    let Ok(contract) = fs::read_to_string(root.join(CONTRACT)) else {
        return vec![format!(
            "{CONTRACT} is missing; guests read there what they may call"
        )];
    };
    let psci = sources
        .iter()
        .find(|source| source.path == "hypervisor/abi/src/psci.rs")
        .map(|source| psci_calls(&source.text))
        .unwrap_or_default();
    let words: BTreeSet<&str> = contract
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .collect();
    hv_abi::sdei::Call::ALL
        .iter()
        .map(|call| sdei_name(&format!("{call:?}")))
        .chain(psci)
        .filter(|name| !words.contains(name.as_str()))
        .map(|name| format!("{CONTRACT} does not name {name}"))
        .collect()
}

/// `EventRegister` as DEN0054 writes it, `SDEI_EVENT_REGISTER`.
fn sdei_name(variant: &str) -> String {
    let mut name = "SDEI".to_owned();
    for c in variant.chars() {
        if c.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

/// The PSCI calls that `text` gives identifiers to, as DEN0022 writes them.
fn psci_calls(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("pub const "))
        .filter(|rest| rest.contains("= 0x8400_") || rest.contains("= [0x8400_"))
        .filter_map(|rest| rest.split(':').next())
        .map(|name| match name {
            "VERSION" | "FEATURES" => format!("PSCI_{name}"),
            name => name.to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> Vec<String> {
        let source = Source {
            path: path.into(),
            text: text.into(),
        };
        source.faults()
    }

    #[test]
    fn unsafe_code_stays_in_its_rooms() {
        let text = "#![expect(\n    unsafe_code,\n    reason = \"x\"\n)]\n";
        assert_eq!(faults("hypervisor/src/modules.rs", text), [""; 0]);
        assert_eq!(faults("hypervisor/src/vm.rs", text).len(), 1);
        assert_eq!(faults("platform/src/lib.rs", "//! A crate.\n").len(), 1);
        assert_eq!(
            faults("hypervisor/src/sysregs.rs", "asm!(\"isb\")"),
            [""; 0]
        );
        assert_eq!(faults("hypervisor/src/vm.rs", "asm!(\"isb\")").len(), 1);
        assert_eq!(
            faults("hypervisor/src/guest.rs", "asm!(\"smc #0\")").len(),
            1
        );
    }

    #[test]
    fn assembly_calls_el3_in_one_file_only() {
        let calls = |text| faults("hypervisor/src/guest.S", text).len();
        assert_eq!(calls("    smc     #0\n    ret\n1:  hvc #0\n"), 2);
        assert_eq!(calls("    mov x0, xzr; smc #0 // the firmware's\n"), 1);
        assert_eq!(
            calls("    nop // smc #0 is for others\nsmc_done:\n    b smc_done\n"),
            0
        );
        assert_eq!(
            faults("hypervisor/src/sdei_entry.S", "    smc #0\n"),
            [""; 0]
        );
        assert_eq!(faults("guest-tests/src/rt/user.S", "    smc #0\n"), [""; 0]);
        assert_eq!(
            faults("hypervisor/src/guest.S", "    nop // FIXME\n").len(),
            1
        );
    }

    #[test]
    fn names_words_and_lengths_are_held_to() {
        assert_eq!(faults("platform/src/utils.rs", "").len(), 1);
        assert_eq!(faults("platform/src/a.rs", "    todo!()\n").len(), 1);
        assert_eq!(faults("platform/src/a.rs", "println!(\"x\")\n").len(), 1);
        assert_eq!(faults("xtask/src/a.rs", "println!(\"x\")\n"), [""; 0]);
        let long = "//\n".repeat(451);
        assert_eq!(faults("platform/src/a.rs", &long).len(), 1);
        assert_eq!(faults("platform/src/a/tests.rs", &long), [""; 0]);
        let tested = format!("{}\n#[cfg(test)]\n{long}", "//\n".repeat(449));
        assert_eq!(faults("platform/src/a.rs", &tested), [""; 0]);
    }

    #[test]
    fn calls_are_named_as_the_specifications_do() {
        assert_eq!(
            sdei_name("EventCompleteAndResume"),
            "SDEI_EVENT_COMPLETE_AND_RESUME"
        );
        let text = "pub const VERSION: u32 = 0x8400_0000;\n\
                    pub const CPU_ON: [u32; 2] = [0x8400_0003, 0xC400_0003];\n\
                    pub const VERSION_1_1: u32 = 0x0001_0001;\n";
        assert_eq!(psci_calls(text), ["PSCI_VERSION", "CPU_ON"]);
    }
}
