//! What rows need that is made once, before the first of them runs: kernels of source trees, our own kernels, the hypervisor's image.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, ensure};
use lab::kdump::{Kdump, TreeKernel};

use super::options::Options;
use super::rows::Row;

/// The words of a command that choose a source tree and how it is built.
const OF_TREE: [&str; 5] = ["--tree", "--config", "--defconfig", "--pages", "--jobs"];
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

/// What makes that which rows need.
pub trait Make {
    /// Builds a tree by the words about it, and keeps the kernel as the `number`-th; its Image.
    fn tree(&self, about: &[String], number: usize) -> Result<PathBuf>;
    /// What a job needs: the same for jobs that need the same.
    fn parts(&self, words: &[String]) -> Result<String>;
    /// Makes what a job needs.
    fn prepare(&self, words: &[String]) -> Result<()>;
}

/// Has all made that `rows` need. Answers for each row the words of its command, in which a tree is the kernel that was built of it, or
/// why it cannot be run; what has gone wrong is told to `say`, once.
pub fn make(
    make: &impl Make,
    rows: &[(usize, Row)],
    say: impl FnMut(&str),
) -> Vec<Result<Vec<String>, String>> {
    let mut made = Made {
        make,
        say,
        trees: HashMap::new(),
        parts: HashMap::new(),
    };
    rows.iter().map(|(_, row)| made.row(&row.words)).collect()
}

/// What has been made, or why it has not.
struct Made<'a, M, S> {
    make: &'a M,
    say: S,
    /// By the words about them: the Image that was kept.
    trees: HashMap<Vec<String>, Result<PathBuf, String>>,
    /// By what they are.
    parts: HashMap<String, Result<(), String>>,
}

impl<M: Make, S: FnMut(&str)> Made<'_, M, S> {
    fn row(&mut self, words: &[String]) -> Result<Vec<String>, String> {
        let (about_tree, mut words) = split(words);
        if !about_tree.is_empty() {
            let image = self.tree(about_tree)?;
            words.extend([KERNEL.to_owned(), image.to_string_lossy().into_owned()]);
        }
        let parts = self.make.parts(&words);
        let parts = parts.map_err(|error| format!("{error:#}"))?;
        if !self.parts.contains_key(&parts) {
            let made = self.make.prepare(&words);
            let made = self.said(made);
            self.parts.insert(parts.clone(), made);
        }
        self.parts.get(&parts).cloned().unwrap_or(Ok(()))?;
        Ok(words)
    }

    fn tree(&mut self, about: Vec<String>) -> Result<PathBuf, String> {
        if let Some(image) = self.trees.get(&about) {
            return image.clone();
        }
        let built = self.make.tree(&about, 1 + self.trees.len());
        let built = self.said(built);
        self.trees.insert(about, built.clone());
        built
    }

    /// Says an error in full, and keeps its first line for the rows.
    fn said<T>(&mut self, made: Result<T>) -> Result<T, String> {
        made.map_err(|error| {
            (self.say)(&format!("error: {error:#}"));
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            format!("{first} (said in full before the first row)")
        })
    }
}

/// Makes it as `cargo xtask kdump` does.
pub struct ByKdump<'a> {
    /// The options of rows.
    pub options: &'a Options,
    /// Where kernels are kept that were built of trees: rows run for long, and a tree is the user's to change.
    pub folder: &'a Path,
}

impl ByKdump<'_> {
    fn job(&self, words: &[String]) -> Result<Kdump> {
        self.options.job(words).map_err(Error::msg)
    }
}

impl Make for ByKdump<'_> {
    fn tree(&self, about: &[String], number: usize) -> Result<PathBuf> {
        let built = self.job(about)?.build_tree()?;
        let TreeKernel {
            image,
            vmlinux,
            config,
        } = built.context("there is no tree")?;
        let kept = self.folder.join(format!("kernel-{number}"));
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

    fn parts(&self, words: &[String]) -> Result<String> {
        self.job(words)?.parts()
    }

    fn prepare(&self, words: &[String]) -> Result<()> {
        self.job(words)?.prepare()
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
    use std::cell::RefCell;

    use super::*;

    /// Makes nothing, and knows what it was asked for.
    #[derive(Default)]
    struct Asked(RefCell<Vec<String>>);

    impl Make for Asked {
        fn tree(&self, about: &[String], number: usize) -> Result<PathBuf> {
            self.0.borrow_mut().push(about.join(" "));
            let is_bad = about.iter().any(|word| word == "bad");
            ensure!(!is_bad, "the tree bad does not build\nsmp.c: error");
            Ok(format!("kernel-{number}/Image").into())
        }

        fn parts(&self, words: &[String]) -> Result<String> {
            Ok(value(words, KERNEL).unwrap_or("ours").to_owned())
        }

        fn prepare(&self, words: &[String]) -> Result<()> {
            let parts = self.parts(words)?;
            self.0.borrow_mut().push(parts.clone());
            ensure!(parts != "none", "there is no none");
            Ok(())
        }
    }

    fn row(line: &str) -> (usize, Row) {
        let row = Row {
            name: "kdump".into(),
            words: words(line),
            fails_with: None,
        };
        (1, row)
    }

    #[test]
    fn each_thing_is_made_once_and_what_goes_wrong_is_said_once() {
        let rows = [
            "--cpus 2",
            "--tree bad --cpus 2",
            "--cpus 2 --tree good --jobs 3",
            "--tree bad --cpus 4",
            "--tree good --jobs 3 --cpus 4",
            "--tree good --defconfig defconfig",
            "--kernel none --cpus 2",
            "--kernel none --cpus 4",
            "--cpus 4",
        ]
        .map(row);
        let asked = Asked::default();
        let mut said = Vec::new();
        let made = make(&asked, &rows, |line| said.push(line.to_owned()));
        assert_eq!(
            *asked.0.borrow(),
            [
                "ours",
                "--tree bad",
                "--tree good --jobs 3",
                "kernel-2/Image",
                "--tree good --defconfig defconfig",
                "kernel-3/Image",
                "none"
            ]
        );
        assert_eq!(
            said,
            [
                "error: the tree bad does not build\nsmp.c: error",
                "error: there is no none"
            ]
        );
        let bad = "the tree bad does not build (said in full before the first row)";
        let none = "there is no none (said in full before the first row)";
        let wanted = [
            Ok("--cpus 2"),
            Err(bad),
            Ok("--cpus 2 --kernel kernel-2/Image"),
            Err(bad),
            Ok("--cpus 4 --kernel kernel-2/Image"),
            Ok("--kernel kernel-3/Image"),
            Err(none),
            Err(none),
            Ok("--cpus 4"),
        ];
        let wanted = wanted.map(|one| one.map(words).map_err(str::to_owned));
        assert_eq!(made, wanted);
    }

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_is_about_a_tree_is_told_from_the_rest() {
        let (own, others) = split(&words(
            "--scenario nmi --tree ../linux --pages 64k --defconfig defconfig --cpus 2 --oracle",
        ));
        assert_eq!(
            own,
            words("--tree ../linux --pages 64k --defconfig defconfig")
        );
        assert_eq!(others, words("--scenario nmi --cpus 2 --oracle"));
    }

    #[test]
    fn a_kernel_that_is_not_there_is_named_with_its_row() {
        let refused = |line: &str| check(&[row(line)]).unwrap_err().to_string();
        let error = refused("--kernel /no/Image");
        assert_eq!(
            error,
            "there is no kernel /no/Image, which the row kdump has; check the path"
        );
        assert!(refused("--tree ~/linux").contains("write the path out"));
        assert!(refused("--tree /no/tree").contains("there is no folder /no/tree"));
    }
}
