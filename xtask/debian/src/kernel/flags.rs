//! How the user wants a kernel compiled: what Linux's own build system hears from the environment.

use anyhow::{Result, bail};

use crate::tools;

/// What kbuild calls of LLVM (Linux, Makefile, `ifneq ($(LLVM),)`).
const LLVM: &[&str] = &[
    "clang",
    "ld.lld",
    "llvm-ar",
    "llvm-nm",
    "llvm-objcopy",
    "llvm-objdump",
    "llvm-readelf",
    "llvm-strip",
];

/// The same of GNU.
const GNU: &[&str] = &[
    "gcc", "ld", "ar", "nm", "objcopy", "objdump", "readelf", "strip",
];

/// By which compiler, and how many files at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    /// LLVM=, as Linux's Documentation/kbuild/llvm.rst has it.
    pub llvm: Option<String>,
    /// CROSS_COMPILE=: what the names of GNU's programs for arm64 begin with.
    pub cross_compile: String,
    /// So many files at a time.
    pub jobs: usize,
}

impl Flags {
    /// Those of our own kernels: the environment has no say.
    pub fn ours() -> Self {
        Self::of(None, |_| None)
    }

    /// Those of the environment; so many `jobs` if they are said, else as many as MAKEFLAGS says, or as the host has CPUs.
    pub fn of_user(jobs: Option<usize>) -> Self {
        Self::of(jobs, |name| std::env::var(name).ok())
    }

    fn of(jobs: Option<usize>, variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        // kbuild takes LLVM=0 for LLVM=1, which nobody means (Documentation/kbuild/llvm.rst).
        let llvm = variable("LLVM").filter(|value| value != "0");
        let cross_compile = variable("CROSS_COMPILE").unwrap_or_else(|| match llvm {
            Some(_) => String::new(),
            None => tools::cross_prefix().to_owned(),
        });
        let said = variable("MAKEFLAGS").and_then(|flags| jobs_of(&flags));
        let host = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            llvm,
            cross_compile,
            jobs: jobs.or(said).unwrap_or(host),
        }
    }

    /// Whether that is the compiler of our own kernels, which can be installed.
    pub fn is_usual(&self) -> bool {
        self.llvm.is_none() && self.cross_compile == tools::cross_prefix()
    }

    /// The programs that kbuild takes for arm64: the compiler, and those that handle what it makes.
    fn programs(&self) -> Vec<String> {
        let (before, behind, others) = match self.llvm.as_deref() {
            // A folder, or what stands behind the programs' names.
            Some(folder) if folder.ends_with('/') => (folder, "", LLVM),
            Some(suffix) if suffix.starts_with('-') => ("", suffix, LLVM),
            Some(_) => ("", "", LLVM),
            None => (self.cross_compile.as_str(), "", GNU),
        };
        let named = others.iter();
        named
            .map(|program| format!("{before}{program}{behind}"))
            .collect()
    }

    /// That these are there, if they are others than those of our own kernels.
    pub fn check(&self) -> Result<()> {
        let mut absent = self.programs();
        // CROSS_COMPILE may begin with a wrapper: `ccache aarch64-`.
        absent.retain(|program| {
            let mut words = program.split_whitespace();
            !words.all(|word| tools::find(word).is_some())
        });
        if self.is_usual() || absent.is_empty() {
            return Ok(());
        }
        let asked = self.asked();
        let absent = absent.join(", ");
        match self.llvm.as_deref() {
            Some(folder) if folder.ends_with('/') => bail!(
                "{asked} asks for programs of LLVM that are not there: {absent}; check the folder, or leave LLVM out of the environment"
            ),
            Some(llvm) => {
                let suffix = if llvm.starts_with('-') { llvm } else { "" };
                bail!(
                    "{asked} asks for programs of LLVM that are not in the PATH: {absent}; on Debian they are in the packages clang{suffix}, lld{suffix} and llvm{suffix}; install them, or leave LLVM out of the environment"
                )
            }
            None => bail!(
                "{asked} asks for programs that are not in the PATH: {absent}; install them, or leave CROSS_COMPILE out of the environment"
            ),
        }
    }

    /// What the user has asked for, as make hears it.
    fn asked(&self) -> String {
        match &self.llvm {
            Some(llvm) => format!("LLVM={llvm}"),
            None => format!("CROSS_COMPILE={}", self.cross_compile),
        }
    }
}

/// How many jobs make's flags ask for, such as `-j8`, `-j 8`, `--jobs=8`, or `rw -j8` as make hands them on.
fn jobs_of(flags: &str) -> Option<usize> {
    let mut words = flags.split_whitespace();
    while let Some(word) = words.next() {
        let number = match word {
            "-j" | "--jobs" => words.next(),
            _ => word
                .strip_prefix("--jobs=")
                .or_else(|| word.strip_prefix("-j")),
        };
        if let Some(jobs) = number.and_then(|number| number.parse().ok()) {
            return Some(jobs).filter(|jobs| *jobs > 0);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(variables: &[(&str, &str)], jobs: Option<usize>) -> Flags {
        let find = |name: &str| {
            let mut all = variables.iter();
            all.find(|(own, _)| *own == name)
                .map(|(_, value)| (*value).to_owned())
        };
        Flags::of(jobs, find)
    }

    #[test]
    fn the_environment_is_heard() {
        let usual = flags(&[], None);
        assert_eq!(usual, Flags::ours());
        assert!(usual.is_usual() && usual.jobs > 0);
        assert_eq!(flags(&[("CROSS_COMPILE", "")], None), usual);
        let cross = flags(&[("CROSS_COMPILE", "/opt/gcc-15/bin/aarch64-")], None);
        assert_eq!(cross.programs()[0], "/opt/gcc-15/bin/aarch64-gcc");
        let error = cross.check().unwrap_err().to_string();
        for part in [
            "CROSS_COMPILE=/opt/gcc-15/bin/aarch64- asks for programs that are not in the PATH: /opt/gcc-15/bin/aarch64-gcc, ",
            "leave CROSS_COMPILE out",
        ] {
            assert!(error.contains(part), "{error}");
        }
        // A wrapper has to be there, too.
        let wrapped = |word: &str| {
            let prefix = format!("{word} {}", tools::cross_prefix());
            flags(&[("CROSS_COMPILE", &prefix)], None).check()
        };
        assert!(wrapped("no-such-wrapper").is_err());
        assert_eq!(
            wrapped("env").is_ok(),
            GNU.iter()
                .all(|name| tools::find(&format!("{}{name}", tools::cross_prefix())).is_some())
        );
    }

    #[test]
    fn llvm_is_named_as_kbuild_has_it() {
        for (llvm, compiler, linker) in [
            ("1", "clang", "ld.lld"),
            ("-19", "clang-19", "ld.lld-19"),
            ("/no/such/bin/", "/no/such/bin/clang", "/no/such/bin/ld.lld"),
        ] {
            let flags = flags(&[("LLVM", llvm)], None);
            assert_eq!(flags.programs()[..2], [compiler, linker]);
            assert_eq!(flags.cross_compile, "");
            assert!(!flags.is_usual());
        }
        for (llvm, parts) in [
            ("/no/such/bin/", ["LLVM=/no/such/bin/ ", "check the folder"]),
            (
                "-0",
                ["clang-0, ld.lld-0, ", "packages clang-0, lld-0 and llvm-0;"],
            ),
        ] {
            let error = flags(&[("LLVM", llvm)], None).check().unwrap_err();
            for part in parts {
                assert!(error.to_string().contains(part), "{error}");
            }
        }
        assert_eq!(flags(&[("LLVM", "0")], None), Flags::ours());
    }

    #[test]
    fn jobs_are_those_of_the_option_and_then_of_make() {
        let make = [("MAKEFLAGS", "-j3")];
        assert_eq!(flags(&make, None).jobs, 3);
        assert_eq!(flags(&make, Some(7)).jobs, 7);
        for (text, jobs) in [
            ("-j8", Some(8)),
            ("-j 8", Some(8)),
            ("--jobs=8", Some(8)),
            ("rw -j8 --jobserver-auth=fifo:/tmp/x", Some(8)),
            ("-j", None),
            ("-j0", None),
            ("k", None),
        ] {
            assert_eq!(jobs_of(text), jobs, "{text}");
        }
    }
}
