//! How the user wants a kernel compiled: what Linux's own build system hears from the environment.

use anyhow::{Result, ensure};

use crate::tools;

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

    /// The compiler's name.
    pub fn compiler(&self) -> String {
        match self.llvm.as_deref() {
            // A folder, or what stands behind the programs' names.
            Some(folder) if folder.ends_with('/') => format!("{folder}clang"),
            Some(suffix) if suffix.starts_with('-') => format!("clang{suffix}"),
            Some(_) => "clang".to_owned(),
            None => format!("{}gcc", self.cross_compile),
        }
    }

    /// Whether that is the compiler of our own kernels, which can be installed.
    pub fn is_usual(&self) -> bool {
        self.llvm.is_none() && self.cross_compile == tools::cross_prefix()
    }

    /// That the compiler is there, if it is another than that of our own kernels.
    pub fn check(&self) -> Result<()> {
        let compiler = self.compiler();
        let asked = match &self.llvm {
            Some(llvm) => format!("LLVM={llvm}"),
            None => format!("CROSS_COMPILE={}", self.cross_compile),
        };
        ensure!(
            self.is_usual() || tools::find(&compiler).is_some(),
            "{asked} asks for the compiler {compiler}, and that is not in the PATH; install it, or leave {asked} out of the environment"
        );
        Ok(())
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
        assert_eq!(cross.compiler(), "/opt/gcc-15/bin/aarch64-gcc");
        let error = cross.check().unwrap_err().to_string();
        assert!(
            error.starts_with("CROSS_COMPILE=/opt/gcc-15/bin/aarch64- asks for the compiler"),
            "{error}"
        );
    }

    #[test]
    fn llvm_is_named_as_kbuild_has_it() {
        for (llvm, compiler) in [
            ("1", "clang"),
            ("-19", "clang-19"),
            ("/no/such/bin/", "/no/such/bin/clang"),
        ] {
            let flags = flags(&[("LLVM", llvm)], None);
            assert_eq!(flags.compiler(), compiler);
            assert_eq!(flags.cross_compile, "");
            assert!(!flags.is_usual());
        }
        let error = flags(&[("LLVM", "/no/such/bin/")], None).check();
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("LLVM=/no/such/bin/")
        );
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
