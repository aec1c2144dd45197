//! What is compared: a result that was kept, or what a job is to be done with.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use debian::stock::Release;
use lab::document::Document;

/// The file of a kept result in its folder.
pub const REPORT: &str = "report.json";

/// One of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// A report of `kdump --report`.
    Kept(PathBuf),
    /// A finished kernel.
    Kernel(PathBuf),
    /// A source tree.
    Tree(PathBuf),
    /// A kernel as Debian ships it.
    Stock(&'static str),
    /// Our own kernel.
    Ours,
}

impl Side {
    /// What a word of the command line names.
    pub fn named(word: &str) -> Result<Self> {
        if word == "ours" {
            return Ok(Self::Ours);
        }
        if let Some(name) = word.strip_prefix("stock:") {
            let release = Release::named(name).with_context(|| {
                let known = Release::ALL.map(|release| format!("stock:{}", release.name()));
                format!("there is no {word}; there are {}", known.join(", "))
            })?;
            return Ok(Self::Stock(release.name()));
        }
        let path = Path::new(word);
        ensure!(
            path.exists(),
            "there is no {word}; name a result (what kdump --report wrote, or a folder with {REPORT}), an Image, a tree of Linux, stock:debian-13, or ours"
        );
        let path = path.to_owned();
        if path.is_dir() {
            if path.join(REPORT).is_file() {
                return Ok(Self::Kept(path.join(REPORT)));
            }
            let is_tree = path.join("Makefile").is_file() && path.join("Kconfig").is_file();
            ensure!(
                is_tree,
                "the folder {word} has neither {REPORT}, which kdump --report writes, nor Makefile and Kconfig, as a tree of Linux has"
            );
            return Ok(Self::Tree(path));
        }
        // What is no file may have to be waited for, and can be read only once.
        ensure!(
            path.is_file(),
            "{word} is neither a file nor a folder; write what it gives into a file, and name that"
        );
        Ok(match is_text_of_json(&path)? {
            true => Self::Kept(path),
            false => Self::Kernel(path),
        })
    }

    /// The result, if it is one.
    pub fn read(&self) -> Result<Document> {
        match self {
            Self::Kept(path) => Document::read(path),
            _ => bail!("it is no result"),
        }
    }

    /// The options of `kdump` that choose it; nothing of a result, with which no job is done.
    pub fn options(&self) -> Option<Vec<OsString>> {
        let with = |option: &str, value: &Path| vec![option.into(), value.as_os_str().to_owned()];
        Some(match self {
            Self::Kept(_) => return None,
            Self::Kernel(path) => with("--kernel", path),
            Self::Tree(path) => with("--tree", path),
            Self::Stock(name) => with("--stock", Path::new(name)),
            Self::Ours => Vec::new(),
        })
    }
}

/// Whether a file is JSON, by its name or by how it begins; a kernel begins with something else.
fn is_text_of_json(path: &Path) -> Result<bool> {
    if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        return Ok(true);
    }
    let mut begin = Vec::new();
    let file = File::open(path).and_then(|file| file.take(64).read_to_end(&mut begin));
    file.with_context(|| format!("cannot read {}", path.display()))?;
    match begin.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(byte) => Ok(b"{[".contains(byte)),
        None => bail!("{} is empty", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_named_is_known_by_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let word = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        file("kept/report.json", "{}");
        file("good", " {\"schema\": 1}");
        file("x.json", "no JSON");
        file("Image", "MZ\0\0");
        file("linux/Makefile", "");
        file("linux/Kconfig", "");
        file("other/Makefile", "");
        file("empty", "\n");
        let named = |name: &str| Side::named(&word(name));
        for (name, side) in [
            ("kept", Side::Kept(word("kept/report.json").into())),
            ("good", Side::Kept(word("good").into())),
            ("x.json", Side::Kept(word("x.json").into())),
            ("Image", Side::Kernel(word("Image").into())),
            ("linux", Side::Tree(word("linux").into())),
        ] {
            assert_eq!(named(name).unwrap(), side);
        }
        for (name, said) in [
            ("none", "stock:debian-13, or ours"),
            ("other", "has neither report.json"),
            ("empty", "is empty"),
        ] {
            let error = named(name).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let error = Side::named("/dev/zero").unwrap_err().to_string();
        assert!(
            error.contains("/dev/zero is neither a file nor a folder"),
            "{error}"
        );
        let stock = Side::named("stock:debian-13").unwrap();
        assert_eq!(stock.options().unwrap(), ["--stock", "debian-13"]);
        let error = Side::named("stock:debian-1").unwrap_err().to_string();
        assert!(
            error.contains("there are stock:debian-12, stock:debian-13"),
            "{error}"
        );
        assert_eq!(Side::named("ours").unwrap().options(), Some(Vec::new()));
        assert_eq!(named("kept").unwrap().options(), None);
    }
}
