//! What rows need that is made once, before the first of them runs: kernels of source trees, our own kernels, the hypervisor's image.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use debian::progress::Progress;
use lab::kdump::TreeKernel;

use super::options::Options;
use super::rows::Row;

/// The words of a command that choose a source tree and how it is built.
const OF_TREE: [&str; 4] = ["--tree", "--config", "--defconfig", "--jobs"];
const TREE: &str = "--tree";
const KERNEL: &str = "--kernel";

/// That the kernels and trees which rows name are there.
pub fn check(rows: &[(usize, Row)]) -> Result<()> {
    for (_, row) in rows {
        for (option, is_there, kind) in [
            (TREE, Path::is_dir as fn(&Path) -> bool, "folder"),
            (KERNEL, Path::is_file as fn(&Path) -> bool, "kernel"),
        ] {
            let Some(path) = value(&row.words, option) else {
                continue;
            };
            let mend = match path.contains('~') {
                true => {
                    "a shell puts in the home folder for ~ at the beginning of a word only: write the path out"
                }
                false => "check the path",
            };
            ensure!(
                is_there(Path::new(path)),
                "there is no {kind} {path}, which the row {} has; {mend}",
                row.name
            );
        }
    }
    Ok(())
}

/// Makes all that `rows` need, in `folder` what has to stay as it is. Answers for each row the words of its command, in which a tree is
/// the kernel that was built of it, or why it cannot be run; what has gone wrong is said once.
pub fn make(
    options: &Options,
    rows: &[(usize, Row)],
    folder: &Path,
    progress: &Progress,
) -> Vec<Result<Vec<String>, String>> {
    let mut maker = Maker {
        options,
        folder,
        progress,
        trees: HashMap::new(),
        parts: HashMap::new(),
    };
    let words = rows.iter().map(|(_, row)| maker.row(&row.words));
    words.collect()
}

struct Maker<'a> {
    options: &'a Options,
    folder: &'a Path,
    progress: &'a Progress,
    /// By the words about them: the Image that was kept.
    trees: HashMap<Vec<String>, Result<PathBuf, String>>,
    /// By what they are.
    parts: HashMap<String, Result<(), String>>,
}

impl Maker<'_> {
    fn row(&mut self, words: &[String]) -> Result<Vec<String>, String> {
        let (about_tree, mut words) = split(words);
        if !about_tree.is_empty() {
            let image = match self.trees.get(&about_tree) {
                Some(image) => image.clone(),
                None => {
                    let built = self.tree(&about_tree);
                    let built = self.said(built);
                    self.trees.insert(about_tree, built.clone());
                    built
                }
            }?;
            words.extend([KERNEL.to_owned(), image.to_string_lossy().into_owned()]);
        }
        let parts = self.options.job(&words)?.parts();
        let parts = parts.map_err(|error| format!("{error:#}"))?;
        if !self.parts.contains_key(&parts) {
            let job = self.options.job(&words)?;
            let made = job.prepare();
            let made = self.said(made);
            self.parts.insert(parts.clone(), made);
        }
        self.parts.get(&parts).cloned().unwrap_or(Ok(()))?;
        Ok(words)
    }

    /// Says an error in full, and keeps its first line for the rows.
    fn said<T>(&self, made: Result<T>) -> Result<T, String> {
        made.map_err(|error| {
            supervisor::settle();
            self.progress.say(&format!("error: {error:#}"));
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            format!("{first} (said in full before the first row)")
        })
    }

    /// Builds a tree, and keeps what is built: rows run for long, and the tree is the user's to change.
    fn tree(&self, about: &[String]) -> Result<PathBuf> {
        let job = self.options.job(about).map_err(|why| anyhow!("{why}"))?;
        let TreeKernel {
            image,
            vmlinux,
            config,
        } = job.build_tree()?.context("there is no tree")?;
        let kept = self.folder.join(format!("kernel-{}", 1 + self.trees.len()));
        let own = || {
            format!(
                "cannot keep the kernel in {}; is the disk full?",
                kept.display()
            )
        };
        fs::create_dir_all(&kept).with_context(own)?;
        for (file, name) in [
            (&image, "Image"),
            (&vmlinux, "vmlinux"),
            (&config, ".config"),
        ] {
            fs::copy(file, kept.join(name)).with_context(own)?;
        }
        Ok(kept.join("Image"))
    }
}

/// The value of an option among the words of a command.
fn value<'a>(words: &'a [String], option: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| word == option)?;
    words.get(at + 1).map(String::as_str)
}

/// Words about a tree, and the others.
fn split(words: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut own, mut others) = (Vec::new(), Vec::new());
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match OF_TREE.contains(&word.as_str()) {
            true => {
                own.push(word.clone());
                own.extend(rest.next().cloned());
            }
            false => others.push(word.clone()),
        }
    }
    (own, others)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_is_about_a_tree_is_told_from_the_rest() {
        let (own, others) = split(&words(
            "--scenario nmi --tree ../linux --defconfig defconfig --cpus 2 --oracle",
        ));
        assert_eq!(own, words("--tree ../linux --defconfig defconfig"));
        assert_eq!(others, words("--scenario nmi --cpus 2 --oracle"));
    }

    #[test]
    fn a_kernel_that_is_not_there_is_named_with_its_row() {
        let refused = |line: &str| {
            let row = Row {
                name: "kdump".into(),
                words: words(line),
                fails_with: None,
            };
            check(&[(1, row)]).unwrap_err().to_string()
        };
        let error = refused("--kernel /no/Image");
        assert_eq!(
            error,
            "there is no kernel /no/Image, which the row kdump has; check the path"
        );
        assert!(refused("--tree ~/linux").contains("write the path out"));
        assert!(refused("--tree /no/tree").contains("there is no folder /no/tree"));
    }
}
