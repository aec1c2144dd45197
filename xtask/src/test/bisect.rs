//! `bisect-step` and `compare` on a real tree, Debian's source of Linux: of ten commits one has the SDEI rung left out, and one does
//! not compile.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::own;
use crate::ledger::Ledger;
use debian::kernel::tree;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

const NAME: &str = "tree/bisect";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [NAME].into_iter()
}

/// Runs it, if it is named: a kernel is built several times.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    if !ledger.names(NAME) {
        return;
    }
    match tree::unpacked(&workshop.cache, "bisect", &workshop.progress) {
        Ok(None) => ledger.skipped(NAME, "the cache has no source package of Linux"),
        Ok(Some(tree)) => ledger.check(NAME, || try_all(&tree)),
        Err(error) => ledger.failed(NAME, Duration::ZERO, &format!("{error:#}")),
    }
}

/// Where the SDEI rung begins in Linux 7.3, and the same for a kernel that skips it.
const FAULTY: &str = "arch/arm64/kernel/smp.c";

/// The file that does not compile in one commit.
const BROKEN: &str = "lib/ctype.c";

/// Files that a harmless commit adds a comment to; few others are compiled for them.
const HARMLESS: [&str; 8] = [
    "lib/argv_split.c",
    "lib/bcd.c",
    "lib/cmdline.c",
    "lib/hexdump.c",
    "lib/kasprintf.c",
    "lib/llist.c",
    "lib/sort.c",
    "lib/uuid.c",
];

/// Which of the ten commits has what; the others are harmless.
const BREAKS_AT: usize = 5;
const MENDED_AT: usize = 6;
const FAULT_AT: usize = 7;
const COMMITS: usize = 10;

fn try_all(tree: &Path) -> Result<String> {
    let git = Git { tree };
    git.begin()?;
    let commits = history(&git)?;
    let folder = RunDir::create(None)?;
    let started = Instant::now();
    git.run(&["bisect", "start", &commits[COMMITS - 1], &commits[0]])?;
    let own = std::env::current_exe()?;
    let mut step = git.command();
    step.args(["bisect", "run"])
        .arg(own)
        .args(["bisect-step", "--tree"])
        .arg(tree);
    let said = own::succeed(&mut step)?;
    let took = started.elapsed();
    let found = format!("{} is the first bad commit", commits[FAULT_AT - 1]);
    ensure!(
        said.contains(&found),
        "it has not found {}:\n{said}",
        commits[FAULT_AT - 1]
    );
    for words in [
        "bisect-step: good: ",
        "bisect-step: bad: ",
        "bisect-step: cannot be judged: ",
    ] {
        ensure!(said.contains(words), "no step says `{words}`:\n{said}");
    }
    let steps = said.matches("bisect-step: ").count();
    git.run(&["bisect", "reset"])?;
    let good = kdump(&git, &commits[MENDED_AT - 1], &folder.file("good.json"))?;
    let bad = kdump(&git, &commits[FAULT_AT - 1], &folder.file("bad.json"))?;
    compared(&good, &bad)?;
    Ok(format!("{steps} steps in {} s", took.as_secs()))
}

/// Makes the commits, and answers them, oldest first.
fn history(git: &Git<'_>) -> Result<Vec<String>> {
    let mut commits = vec![git.head()?];
    let mut harmless = HARMLESS.iter().cycle();
    for number in 1..COMMITS {
        let at = number + 1;
        match at {
            FAULT_AT => git.edit(FAULTY, skip_sdei)?,
            BREAKS_AT => git.edit(BROKEN, |text| {
                Ok(text + "#error this commit does not compile\n")
            })?,
            MENDED_AT => {
                git.edit(BROKEN, |text| {
                    Ok(text.replace("#error this commit does not compile\n", ""))
                })?;
            }
            _ => {
                let file = harmless.next().context("there is a file")?;
                git.edit(file, |text| Ok(format!("{text}/* commit {at} */\n")))?;
            }
        }
        git.run(&[
            "commit",
            "--quiet",
            "--all",
            "--message",
            &format!("commit {at}"),
        ])?;
        commits.push(git.head()?);
    }
    Ok(commits)
}

/// Leaves out what Linux does when the IPI did not stop a CPU.
fn skip_sdei(text: String) -> Result<String> {
    let rung = text.find("retry stop with SDEI NMI");
    let rung = rung.with_context(|| format!("{FAULTY} has no SDEI rung"))?;
    let before = text.get(..rung).unwrap_or_default();
    // The condition of the block that says so.
    let at = before.rfind("if (").context("it has no condition")?;
    let (head, tail) = text.split_at(at);
    let tail = tail.replacen("if (", "if (0 && ", 1);
    Ok(format!("{head}{tail}"))
}

fn kdump(git: &Git<'_>, commit: &str, report: &Path) -> Result<PathBuf> {
    git.run(&["checkout", "--quiet", commit])?;
    let mut command = own::xtask()?;
    command
        .args(["kdump", "--tree"])
        .arg(git.tree)
        .arg("--report")
        .arg(report);
    let output = command.output().context("cannot run xtask")?;
    ensure!(
        report.is_file(),
        "there is no report of {commit}:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(report.to_owned())
}

/// That `compare` shows what the fault does, and finds a result no worse than itself.
fn compared(good: &Path, bad: &Path) -> Result<()> {
    let mut same = own::xtask()?;
    own::succeed(same.arg("compare").args([good, good]))?;
    let output = own::xtask()?.arg("compare").args([good, bad]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.code() == Some(1),
        "{}:\n{said}",
        output.status
    );
    for words in [
        "worse   B fails and A passes",
        "worse   CPU 2 is missing from the dump of B",
        "only A  | ",
        "retry stop with SDEI NMI",
        "B is worse",
    ] {
        ensure!(
            said.contains(words),
            "compare does not say `{words}`:\n{said}"
        );
    }
    Ok(())
}

/// git in the tree. Only the folders that commits touch are in it: the tree has 90,000 files.
struct Git<'a> {
    tree: &'a Path,
}

impl Git<'_> {
    /// A new history with one commit, whatever an interrupted test has left.
    fn begin(&self) -> Result<()> {
        let old = self.tree.join(".git");
        if old.is_dir() {
            self.run(&["bisect", "reset"])?;
            self.run(&["checkout", "--quiet", "--force", "first"])?;
            fs::remove_dir_all(&old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
        self.run(&["init", "--quiet", "--initial-branch", "main"])?;
        self.run(&["add", "--force", "arch/arm64/kernel", "lib"])?;
        self.run(&["commit", "--quiet", "--message", "commit 1"])?;
        self.run(&["tag", "first"])
    }

    fn command(&self) -> std::process::Command {
        let mut git = supervisor::command("git");
        git.arg("-C").arg(self.tree);
        for (name, value) in [("GIT_AUTHOR", "halligan"), ("GIT_COMMITTER", "halligan")] {
            git.env(format!("{name}_NAME"), value)
                .env(format!("{name}_EMAIL"), "halligan@localhost");
        }
        git.env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1");
        git
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        own::succeed(self.command().args(words)).map(|_| ())
    }

    fn head(&self) -> Result<String> {
        let commit = own::succeed(self.command().args(["rev-parse", "HEAD"]))?;
        Ok(commit.trim().to_owned())
    }

    fn edit(&self, file: &str, change: impl Fn(String) -> Result<String>) -> Result<()> {
        let path = self.tree.join(file);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let new = change(text.clone())?;
        if new == text {
            bail!("{file} has nothing to change");
        }
        fs::write(&path, new).with_context(|| format!("cannot write {}", path.display()))
    }
}
