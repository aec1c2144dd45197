//! Linux's own build system, run on an unpacked source tree.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use super::FRAGMENT;
use super::flags::Flags;
use crate::cache::unwritable;
use crate::progress::Progress;

/// Where our fragment is, for messages.
pub const FRAGMENT_NAME: &str = "guest-tests/linux/kernel.config";

/// What a build of our own kernel prints, in lines; only for the display.
pub const OUR_LINES: usize = 1300;

/// A source tree, and where and how it is built.
pub struct Build {
    /// The tree, which stays as it is.
    pub source: PathBuf,
    /// What is made of it.
    pub objects: PathBuf,
    /// By what.
    pub flags: Flags,
}

impl Build {
    /// The build system, with everything of the machine kept out of its output.
    fn kbuild(&self) -> Command {
        let mut make = supervisor::command("make");
        make.arg("-C")
            .arg(&self.source)
            .arg(format!("O={}", self.objects.display()))
            .arg("ARCH=arm64")
            .arg(format!("CROSS_COMPILE={}", self.flags.cross_compile))
            .env("KBUILD_BUILD_USER", "halligan")
            .env("KBUILD_BUILD_HOST", "halligan")
            .env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
            // Scripts of the tree leave nothing there.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            // cargo's own jobserver is not for make.
            .env_remove("MAKEFLAGS")
            .env_remove("CARGO_MAKEFLAGS")
            .env_remove("LLVM")
            .env("LC_ALL", "C");
        if let Some(llvm) = &self.flags.llvm {
            make.arg(format!("LLVM={llvm}"));
        }
        make
    }

    /// Has kbuild's `targets` make the configuration in the file `config`, of `given` lines and nothing else that can be left
    /// out, or of what is in that file.
    pub fn configure(&self, config: &Path, targets: &[&str], given: Option<&str>) -> Result<()> {
        let what = format!("make {}", targets.join(" "));
        let mut make = self.kbuild();
        make.args(targets).env("KCONFIG_CONFIG", config);
        if let Some(given) = given {
            let path = self.objects.join("fragment");
            fs::write(&path, given).map_err(|error| unwritable(&path, &error))?;
            make.env("KCONFIG_ALLCONFIG", path);
        }
        let log = self.objects.join("configure.log");
        run(&mut make, &log, &what, Child::wait)
    }

    /// Builds Image and vmlinux; what an interrupted run has done is kept. So many `lines` are expected, if that is known.
    pub fn make(&self, what: &str, lines: Option<usize>, progress: &Progress) -> Result<()> {
        let jobs = self.flags.jobs;
        let mut step = progress.step(format!("{what} with {jobs} jobs"));
        let log = self.objects.join("build.log");
        let mut make = self.kbuild();
        make.arg(format!("-j{jobs}")).args(["Image", "vmlinux"]);
        // Of so many some are of the run that was interrupted.
        let from = match lines {
            Some(_) => 0,
            None => fs::metadata(&log).map_or(0, |log| log.len()),
        };
        let mut seen = Lines::of(&log, from);
        run(&mut make, &log, "make Image", |child| {
            step.wait(child, || {
                seen.read();
                match lines {
                    Some(lines) => format!("about {} %", (seen.count * 100 / lines).min(99)),
                    None => format!("{} steps, {}", seen.count, seen.last),
                }
            })
        })?;
        step.done();
        Ok(())
    }
}

/// Makes the configuration of our own kernel and sees that it has all that the fragment asks.
pub fn configure(build: &Build) -> Result<()> {
    let (fragment, config) = (
        build.objects.join("fragment"),
        build.objects.join(".config"),
    );
    if config.exists() && fs::read_to_string(&fragment).ok().as_deref() == Some(FRAGMENT) {
        // A build that was interrupted goes on with the same file.
        return Ok(());
    }
    let configured = build
        .configure(&config, &["allnoconfig"], Some(FRAGMENT))
        .and_then(|()| {
            let text = fs::read_to_string(&config).context("make allnoconfig wrote nothing")?;
            let absent = absent(FRAGMENT, &text);
            if !absent.is_empty() {
                bail!("this Linux cannot be configured with {}", absent.join(" "));
            }
            Ok(())
        });
    if configured.is_err() && fragment.exists() {
        // So that the next run configures again.
        fs::remove_file(&fragment)?;
    }
    configured
}

/// The lines of the fragment that the configuration lacks.
pub fn absent<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let wanted = fragment.lines().filter(|line| line.starts_with("CONFIG_"));
    wanted
        .filter(|line| !config.lines().any(|has| has == *line))
        .collect()
}

/// The lines of a file that grows, from some place on.
struct Lines {
    path: PathBuf,
    at: u64,
    count: usize,
    /// The last whole one.
    last: String,
}

impl Lines {
    fn of(path: &Path, at: u64) -> Self {
        Self {
            path: path.to_owned(),
            at,
            count: 0,
            last: String::new(),
        }
    }

    fn read(&mut self) {
        let mut new = Vec::new();
        if let Ok(mut file) = File::open(&self.path)
            && file.seek(SeekFrom::Start(self.at)).is_ok()
            && file.read_to_end(&mut new).is_ok()
        {
            // Half a line is read again when it is whole.
            let end = new.iter().rposition(|byte| *byte == b'\n');
            let whole = new.get(..end.map_or(0, |end| end + 1)).unwrap_or_default();
            self.at += whole.len() as u64;
            for line in String::from_utf8_lossy(whole).lines() {
                self.count += 1;
                self.last = line.split_whitespace().collect::<Vec<_>>().join(" ");
            }
        }
    }
}

/// Runs a command with its output at the end of `log`, waiting by `wait`.
pub fn run(
    command: &mut Command,
    log: &Path,
    what: &str,
    wait: impl FnOnce(&mut Child) -> std::io::Result<ExitStatus>,
) -> Result<()> {
    let file = File::options().create(true).append(true).open(log);
    let file = file.map_err(|error| unwritable(log, &error))?;
    let start = file.metadata()?.len();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    if wait(&mut child)?.success() {
        return Ok(());
    }
    let mut output = File::open(log)?;
    output.seek(SeekFrom::Start(start))?;
    let lines: Vec<String> = BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .collect();
    if lines
        .iter()
        .any(|line| line.contains("No space left on device"))
    {
        bail!("{what}: the disk is full: make room or set HALLIGAN_CACHE to another disk");
    }
    bail!(
        "{what} failed:\n  {}\nall of its output is in {}",
        complaint(&lines).join("\n  "),
        log.display()
    )
}

/// So many lines of a complaint are shown.
const SHOWN: usize = 16;

/// What a failed command complains of: from the first error on, which a compiler shows with the lines that it is about, or what
/// it said last.
fn complaint(lines: &[String]) -> Vec<&str> {
    const MARKS: [&str; 4] = ["rror:", "undefined reference", "undefined symbol", "*** "];
    let first_with = |mark: &&str| lines.iter().position(|line| line.contains(*mark));
    let first = MARKS.iter().find_map(first_with);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let Some(first) = first else {
        let from = lines.len().saturating_sub(SHOWN);
        return match lines.get(from..).unwrap_or_default() {
            [] => vec!["it said nothing"],
            last => last.to_vec(),
        };
    };
    // GCC says before it in which function.
    let before = first.checked_sub(1);
    let is_head = |at: &usize| {
        lines
            .get(*at)
            .is_some_and(|line| line.contains("In function"))
    };
    let from = before.filter(is_head).unwrap_or(first);
    let shown = lines.get(from..).unwrap_or_default().iter().take(SHOWN);
    // What other jobs still say is not about it.
    let is_make = |line: &str| line.starts_with("make[") || line.starts_with("make: ");
    let mut shown: Vec<&str> = shown.copied().collect();
    if let Some(end) = shown.iter().skip(1).position(|line| is_make(line)) {
        shown.truncate(end + 2);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_kconfig_dropped_are_named() {
        let fragment = "# a comment\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_N=128\n";
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=1280\n";
        assert_eq!(absent(fragment, config), ["CONFIG_B=y", "CONFIG_N=128"]);
    }

    #[test]
    fn fragment_asks_for_what_the_project_is_about() {
        for option in [
            "ARM_SDEI_NMI",
            "KEXEC_FILE",
            "PROC_VMCORE",
            "LKDTM",
            "ARM64_VA_BITS_48",
        ] {
            let line = format!("CONFIG_{option}=y");
            assert!(FRAGMENT.lines().any(|has| has == line), "{line}");
        }
    }

    #[test]
    fn failed_command_names_its_error_and_its_log() {
        let log = std::env::temp_dir().join(format!("halligan-run-{}", std::process::id()));
        let mut command = supervisor::command("sh");
        command.args(["-c", "echo x.c:1: error: no; echo last; exit 1"]);
        let error = run(&mut command, &log, "make", Child::wait)
            .unwrap_err()
            .to_string();
        assert!(error.contains("x.c:1: error: no"), "{error}");
        assert!(error.contains(&*log.to_string_lossy()), "{error}");
        fs::remove_file(log).unwrap();
    }

    fn shown(text: &str) -> Vec<String> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        complaint(&lines).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn a_compilers_complaint_is_shown_with_its_lines_and_no_others() {
        let text = "  CC      kernel/fork.o\n../arch/arm64/kernel/smp.c: In function 'smp_send_stop':\n\
                    ../arch/arm64/kernel/smp.c:9:3: error: 'nobody' undeclared\n    9 |   nobody();\n      |   ^~~~~~\n\
                    make[4]: *** [smp.o] Error 1\n  CC      mm/slub.o\nmake: *** [__sub-make] Error 2\n";
        assert_eq!(
            shown(text),
            [
                "../arch/arm64/kernel/smp.c: In function 'smp_send_stop':",
                "../arch/arm64/kernel/smp.c:9:3: error: 'nobody' undeclared",
                "    9 |   nobody();",
                "      |   ^~~~~~",
                "make[4]: *** [smp.o] Error 1",
            ]
        );
    }

    #[test]
    fn a_linkers_complaint_and_makes_own_are_shown() {
        let text = "  LD      vmlinux\nld: smp.o: undefined reference to `nobody'\nmake[2]: *** [vmlinux] Error 1\n";
        assert_eq!(shown(text)[0], "ld: smp.o: undefined reference to `nobody'");
        let text = "  HOSTCC  x\nmake[1]: *** No rule to make target 'y'.  Stop.\n";
        assert_eq!(
            shown(text),
            ["make[1]: *** No rule to make target 'y'.  Stop."]
        );
        assert_eq!(shown("one\ntwo\n"), ["one", "two"]);
        assert_eq!(shown(""), ["it said nothing"]);
    }

    #[test]
    fn a_log_is_read_line_by_line() {
        let log = std::env::temp_dir().join(format!("halligan-lines-{}", std::process::id()));
        fs::write(&log, "old\n").unwrap();
        let mut lines = Lines::of(&log, 4);
        fs::write(&log, "old\n  CC      a.o\n  CC      b").unwrap();
        lines.read();
        assert_eq!((lines.count, lines.last.as_str()), (1, "CC a.o"));
        fs::write(&log, "old\n  CC      a.o\n  CC      b.o\n").unwrap();
        lines.read();
        assert_eq!((lines.count, lines.last.as_str()), (2, "CC b.o"));
        fs::remove_file(log).unwrap();
    }
}
