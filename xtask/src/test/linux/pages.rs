//! Whether a dump is true, page by page, of a Linux that stands still while it is dumped twice: by us, which is the truth, and by
//! makedumpfile in its capture kernel.

mod matrix;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use introspection::oracle::Report;

use super::super::own::{self, Running};
use super::super::screen::Screen;
use super::{Run, TIMEOUT};
use crate::ledger::Ledger;
use lab::kdump::Lab;
use lab::oracle::{Question, judge};
use lab::plan;
use lab::vmcore;
use machine::board::Board;
use machine::control;
use machine::el3::El3;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

pub use matrix::run as run_matrix;

/// A level that is true with our kernel and Debian's makedumpfile, and what is wrong is found.
const TRUE: &str = "linux/pages/level-23-is-true";
/// A level with which that makedumpfile (before f50c015) loses pages of Linux 7.1 and later.
const KNOWN_FAULT: &str = "linux/pages/level-31-lacks-slabs";

/// A file of hashes says of a dump what all of memory says. Run when it is named.
const HASHES: &str = "linux/pages/hashes-say-the-same";

/// What is broken on purpose.
const FUNCTION: &str = "__crash_kexec";
/// What level 30 leaves out is what we do, which keep zeros.
const OWN_LEVEL: u32 = 30;

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [TRUE, KNOWN_FAULT, HASHES]
        .into_iter()
        .chain(BAD.map(|bad| bad.name))
}

/// Them, on the usual machine.
pub fn runs<'a>(workshop: &Workshop, lab: &'a Lab, ledger: &Ledger) -> Vec<Run<'a>> {
    if workshop.board != Board::Virt || workshop.el3 != El3::None {
        return Vec::new();
    }
    let mut runs: Vec<Run<'a>> = vec![
        (TRUE.to_owned(), Box::new(move || is_true(lab))),
        (KNOWN_FAULT.to_owned(), Box::new(known_fault)),
    ];
    if ledger.names(HASHES) {
        runs.push((HASHES.to_owned(), Box::new(hashes_agree)));
    }
    for bad in BAD.iter().filter(|bad| ledger.names(bad.name)) {
        runs.push((bad.name.to_owned(), Box::new(|| bad.is_said())));
    }
    runs
}

/// A capture kernel that can save nothing. Run when it is named.
struct Bad {
    name: &'static str,
    capture_words: &'static str,
    disk_mib: u64,
    /// What it says.
    says: &'static str,
}

const BAD: [Bad; 2] = [
    Bad {
        name: "linux/capture/full-disk",
        capture_words: "",
        disk_mib: 1,
        says: "LAB: fail the dump cannot be written to the disk",
    },
    Bad {
        name: "linux/capture/no-proc-vmcore",
        // As a kernel without CONFIG_PROC_VMCORE.
        capture_words: " initcall_blacklist=vmcore_init",
        disk_mib: 2048,
        says: "LAB: fail there is no /proc/vmcore",
    },
];

impl Bad {
    /// It says so, and the guest starts anew.
    fn is_said(&self) -> Result<String> {
        let mut guest = Guest::start_with(&Setup {
            capture_words: self.capture_words,
            disk_mib: self.disk_mib,
            ..Setup::default()
        })?;
        guest.screen.wait_for("LAB: last cpu=")?;
        guest.ctl(&["capture"])?;
        guest.screen.wait_for(self.says)?;
        guest.screen.wait_for("LAB: up")?;
        Ok(String::new())
    }
}

/// What is to be dumped, and how.
struct Setup<'a> {
    level: u32,
    /// Of its capture kernel, if it is not the usual.
    initrd: Option<&'a Path>,
    /// More for its kernel.
    words: &'a str,
    /// More for its capture kernel.
    capture_words: &'a str,
    disk_mib: u64,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            level: 23,
            initrd: None,
            words: "",
            capture_words: "",
            disk_mib: 2048,
        }
    }
}

/// A guest that is dumped.
struct Guest {
    _run: Running,
    socket: PathBuf,
    screen: Screen,
    folder: RunDir,
}

impl Guest {
    /// All of its CPUs are wedged in the end; its capture kernel has makedumpfile leave out what this level does.
    fn start(level: u32) -> Result<Self> {
        Self::start_with(&Setup {
            level,
            ..Setup::default()
        })
    }

    fn start_with(setup: &Setup<'_>) -> Result<Self> {
        let folder = RunDir::create(None)?;
        let (socket, file) = (folder.file(control::NAME), folder.file("guest.toml"));
        let &Setup {
            level,
            initrd,
            words,
            capture_words,
            disk_mib,
        } = setup;
        plan::create_disk(&folder.file("disk.img"), disk_mib)?;
        let initrd = initrd.map_or(String::new(), |path| {
            format!("initrd = \"{}\", ", path.display())
        });
        let text = format!(
            "append = \"lab.do=nmi lab.wedge=0,1,2,3 lab.panic=0 lab.capture=no{words}\"\ncpus = 4\nmemory = \"768M\"\n\
             disks = [\"disk.img\"]\n\
             dump = {{ memory = \"320M\", {initrd}append = \"console=ttyAMA0 maxcpus=1 panic=5 lab.do=save lab.level={level}{capture_words}\" }}\n"
        );
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = own::run(&file, TIMEOUT)?;
        command.arg("--control").arg(&socket);
        let mut run = Running(command.spawn().context("cannot run xtask")?);
        let output = run.0.stdout.take().context("it has no output")?;
        Ok(Self {
            _run: run,
            socket,
            screen: Screen::of(output),
            folder,
        })
    }

    fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = own::xtask()?;
        command.args(["ctl", "--control"]).arg(&self.socket);
        own::succeed(command.args(arguments))
    }

    /// A core file of it, with all pages or the kernel's.
    fn core(&self, pages: &str) -> Result<PathBuf> {
        let path = self.folder.file(pages);
        let text = path.to_str().context("its name is no text")?;
        self.ctl(&["dump", "--pages", pages, text])?;
        Ok(path)
    }

    /// What makedumpfile has saved of it.
    fn capture(&mut self) -> Result<PathBuf> {
        self.ctl(&["capture"])?;
        self.screen.wait_for("LAB: dump done")?;
        self.screen.wait_for("LAB: done")?;
        let path = self.folder.file("vmcore");
        let mut file = File::create_new(&path)?;
        vmcore::extract(&mut File::open(self.folder.file("disk.img"))?, &mut file)?;
        Ok(path)
    }
}

fn ask(truth: &Path, dump: &Path, level: Option<u32>) -> Result<Report> {
    judge(&Question {
        level,
        ..Question::new(truth, dump)
    })
}

/// Both dumps are true, and one byte that is another is found, and named.
fn is_true(lab: &Lab) -> Result<String> {
    let mut guest = Guest::start(23)?;
    guest.screen.wait_for("LAB: last cpu=")?;
    guest.ctl(&["freeze"])?;
    let (truth, kernels) = (guest.core("all")?, guest.core("kernel")?);
    let saved = guest.capture()?;
    let report = ask(&truth, &saved, None)?;
    ensure!(report.is_true() && report.level == 23, "{report}");
    own::succeed(own::xtask()?.arg("oracle").args([&truth, &saved]))?;
    let own = ask(&truth, &kernels, Some(OWN_LEVEL))?;
    ensure!(own.is_true(), "{own}");
    // Of both, what makedumpfile has is in ours as it is.
    let between = ask(&saved, &kernels, Some(OWN_LEVEL))?;
    ensure!(between.is_true(), "{between}");
    let place = break_function(lab, &kernels)?;
    let broken = ask(&truth, &kernels, Some(OWN_LEVEL))?;
    let [page] = &broken.different.first[..] else {
        anyhow::bail!("one page is another\n{broken}");
    };
    ensure!(
        page.differs_from == Some(place)
            && page.differing == 1
            && page.belongs.contains(&format!("{FUNCTION}+0x0"))
            && broken.missing.pages == 0,
        "{broken}"
    );
    let equal = report.classes.first().map_or(0, |line| line.count.pages);
    Ok(format!("{equal} pages are equal"))
}

/// Both truths are of one pause, and so is each dump.
fn hashes_agree() -> Result<String> {
    let mut guest = Guest::start(23)?;
    guest.screen.wait_for("LAB: last cpu=")?;
    guest.ctl(&["freeze"])?;
    let began = Instant::now();
    let hashes = guest.core("hashes")?;
    let (seconds, size) = (began.elapsed().as_secs(), fs::metadata(&hashes)?.len());
    let (truth, kernels) = (guest.core("all")?, guest.core("kernel")?);
    let saved = guest.capture()?;
    for (dump, level) in [(&saved, None), (&kernels, Some(OWN_LEVEL))] {
        let (whole, hashed) = (ask(&truth, dump, level)?, ask(&hashes, dump, level)?);
        ensure!(
            whole.is_true() && hashed.classes == whole.classes && hashed.untold.is_none(),
            "{whole}\n{hashed}"
        );
    }
    Ok(format!("{size} bytes of hashes in {seconds} s"))
}

/// Changes a bit of that function in an ELF dump; its physical address.
fn break_function(lab: &Lab, dump: &Path) -> Result<u64> {
    let file = File::options().read(true).write(true).open(dump)?;
    let core = vmcore::Vmcore::read(&file)?;
    let symbols = lab::symbols::Symbols::load(lab.vmlinux()?)?;
    let linked = symbols.address(FUNCTION);
    let linked = linked.with_context(|| format!("the kernel has no {FUNCTION}"))?;
    let place = linked
        .wrapping_add(core.kaslr_offset()?)
        .wrapping_sub(core.info.number("kimage_voffset")?);
    let loads = vmcore::loads(&file)?;
    let mut loads = loads.into_iter();
    let load = loads.find(|load| place >= load.physical && place - load.physical < load.size);
    let load = load.with_context(|| format!("the dump has no {FUNCTION}"))?;
    let at = load.offset + (place - load.physical);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 0x10], at)?;
    Ok(place)
}

/// makedumpfile takes pages of slabs for a program's. Once Debian's no longer does, level 31 can be the usual one, and this says so.
fn known_fault() -> Result<String> {
    let mut guest = Guest::start(31)?;
    guest.screen.wait_for("LAB: last cpu=")?;
    guest.ctl(&["freeze"])?;
    let truth = guest.core("all")?;
    let saved = guest.capture()?;
    // As a user meets it.
    let mut command = own::xtask()?;
    let output = command.arg("oracle").args([&truth, &saved]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.code() == Some(1) && said.contains("FAILED: the dump lacks "),
        "exit code {:?}\n{said}",
        output.status.code()
    );
    let report = ask(&truth, &saved, None)?;
    let first = &report.missing.first;
    let are_kernels = first.iter().all(|page| page.kind == "kernel");
    let has_slab = first
        .iter()
        .any(|page| page.belongs.contains("the slab cache "));
    ensure!(
        report.different.pages == 0 && !first.is_empty() && are_kernels && has_slab,
        "level 31 is to lack pages of slabs; if it does no longer, make it the usual one in guest-tests/linux/init\n{report}"
    );
    Ok(report.failures().join("; "))
}
