//! `kdump --tree` on a real tree, Debian's source of Linux: built, built again, and with what goes wrong in a user's tree.

mod flags;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use super::own;
use crate::ledger::Ledger;
use debian::kernel::tree;
use machine::workshop::Workshop;

const NAME: &str = "tree/debians-source";
const FLAGS: &str = "tree/flags";

/// The same source with pages of another size: it dumps itself, and the hypervisor dumps it, both of which the oracle holds against memory.
const PAGES: [(&str, &str); 2] = [("tree/pages-16k", "16k"), ("tree/pages-64k", "64k")];

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [NAME, FLAGS].into_iter().chain(PAGES.map(|(name, _)| name))
}

/// Runs them; those that build a kernel only if they are named.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    ledger.check(FLAGS, flags::flags);
    run_one(workshop, ledger, NAME, try_all);
    for (name, pages) in PAGES {
        run_one(workshop, ledger, name, |tree| dump_pages(tree, pages));
    }
}

fn run_one(
    workshop: &Workshop,
    ledger: &mut Ledger,
    name: &str,
    test: impl FnOnce(&Path) -> Result<String>,
) {
    if !ledger.names(name) {
        return;
    }
    match tree::unpacked(&workshop.cache, "source", &workshop.progress) {
        Ok(None) => ledger.skipped(name, "the cache has no source package of Linux"),
        Ok(Some(tree)) => ledger.check(name, || test(&tree)),
        Err(error) => ledger.failed(name, Duration::ZERO, &format!("{error:#}")),
    }
}

/// Dumps the kernel of `tree` with pages of `size` both ways, and says how many of them are equal.
fn dump_pages(tree: &Path, size: &str) -> Result<String> {
    let mut equal = Vec::new();
    for scenario in ["kdump", "assisted"] {
        let mut kdump = own::xtask()?;
        kdump.args(["kdump", "--pages", size, "--scenario", scenario]);
        kdump.args(["--oracle", "--timeout", "600", "--tree"]);
        let said = own::succeed(kdump.arg(tree))?;
        let number = size.trim_end_matches('k');
        ensure!(
            said.contains(&format!("(pages of {number} KiB)")),
            "{scenario}: it has other pages\n{said}"
        );
        let mut lines = said.lines().map(str::trim);
        let line = lines.find(|line| line.starts_with("equal "));
        let line =
            line.with_context(|| format!("{scenario}: no page is said to be equal\n{said}"))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        equal.push(format!("{scenario}: {}", words.join(" ")));
    }
    Ok(equal.join("; "))
}

/// A line that is put into a file of the tree, and what must come of it.
struct Wrong {
    file: &'static str,
    /// The line that it is put behind; at the end if that is none.
    behind: Option<&'static str>,
    line: &'static str,
    /// What must be said, on either stream.
    said: &'static [&'static str],
}

/// What is in each such line.
const MARK: &str = "halligan: put in by a test";

const WRONGS: [Wrong; 3] = [
    Wrong {
        file: "lib/Kconfig.debug",
        behind: Some("config LKDTM"),
        line: "\tdepends on BROKEN # halligan: put in by a test",
        said: &[
            "CONFIG_LKDTM=y of guest-tests/linux/kernel.config did not take: it needs ",
            "BROKEN is not set",
            "CONFIG_LKDTM is not set: it wedges a CPU",
            "--scenario panic: no CPU is wedged",
        ],
    },
    Wrong {
        file: "drivers/misc/lkdtm/core.c",
        behind: None,
        line: "#error nobody compiles this /* halligan: put in by a test */",
        said: &[
            "does not build: make Image failed:",
            "error: #error nobody compiles this",
            "all of its output is in ",
        ],
    },
    Wrong {
        file: "arch/arm64/kernel/smp.c",
        behind: None,
        line: "static int __init halligan_hang(void) { for (;;) cpu_relax(); return 0; } early_initcall(halligan_hang); /* halligan: put in by a test */",
        said: &["FAILED: ", ": no CPU was wedged", "To see more:"],
    },
];

fn try_all(tree: &Path) -> Result<String> {
    for wrong in &WRONGS {
        restore(&tree.join(wrong.file))?;
    }
    let before = listing(tree)?;
    let first = kdump(tree, &[])?;
    demand(&first, true, &["PASSED in "])?;
    ensure!(before == listing(tree)?, "the tree is not as it was");
    let again = kdump(tree, &[])?;
    demand(&again, true, &["PASSED in "])?;
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(
        !said.contains(" CC "),
        "what has not changed is compiled again:\n{said}"
    );
    for wrong in &WRONGS {
        let path = tree.join(wrong.file);
        put(&path, wrong)?;
        let output = kdump(tree, &["--timeout", "120"]);
        restore(&path)?;
        demand(&output?, false, wrong.said).with_context(|| wrong.file.to_owned())?;
    }
    Ok(String::new())
}

fn put(path: &Path, wrong: &Wrong) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let mut lines: Vec<&str> = text.lines().collect();
    let at = match wrong.behind {
        None => lines.len(),
        Some(behind) => {
            let at = lines.iter().position(|line| *line == behind);
            1 + at.with_context(|| format!("{} has no line {behind}", path.display()))?
        }
    };
    lines.insert(at, wrong.line);
    write(path, &lines)
}

/// Takes out what was put in, by a test that was interrupted, too.
fn restore(path: &Path) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let lines: Vec<&str> = text.lines().collect();
    match lines.iter().any(|line| line.contains(MARK)) {
        true => {
            let own = lines.into_iter().filter(|line| !line.contains(MARK));
            write(path, &own.collect::<Vec<_>>())
        }
        false => Ok(()),
    }
}

fn write(path: &Path, lines: &[&str]) -> Result<()> {
    fs::write(path, lines.join("\n") + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}

fn kdump(tree: &Path, more: &[&str]) -> Result<Output> {
    let mut command = own::xtask()?;
    command.args(["kdump", "--tree"]).arg(tree).args(more);
    command.output().context("cannot run xtask")
}

fn demand(output: &Output, passes: bool, said: &[&str]) -> Result<()> {
    let all = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let all = all.join("\n");
    ensure!(
        output.status.success() == passes,
        "{}:\n{all}",
        output.status
    );
    for words in said {
        ensure!(all.contains(words), "it does not say `{words}`:\n{all}");
    }
    Ok(())
}

/// Each file of the tree, its size and when it was written.
fn listing(tree: &Path) -> Result<BTreeMap<PathBuf, (u64, SystemTime)>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![tree.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let data = entry.metadata()?;
            if data.is_dir() {
                folders.push(entry.path());
            }
            files.insert(entry.path(), (data.len(), data.modified()?));
        }
    }
    Ok(files)
}
