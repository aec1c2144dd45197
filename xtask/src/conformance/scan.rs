//! The tests in the sources whose names begin with the numbers of items.
//!
//! Only what runs counts: a function behind `#[test]`, or what `guest_test!` registers, in a file that its crate
//! compiles. The sources are formatted (`cargo xtask test fmt`), so lines are enough to tell.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail};

use super::items::Number;
use crate::tidy;

/// Where a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In a guest, under the hypervisor.
    Guest,
    /// On the machine that builds.
    Host,
}

/// A test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its file, relative to the workspace.
    pub path: String,
    /// Where it runs.
    pub kind: Kind,
}

/// Every test below `root` that names an item; those of guests first.
pub fn tests(root: &Path) -> Result<Vec<Found>> {
    let sources: Vec<(String, String)> = tidy::rust_sources(root)?;
    let paths: BTreeSet<&str> = sources.iter().map(|(path, _)| path.as_str()).collect();
    let mut found = Vec::new();
    for (path, text) in &sources {
        let kind = if path.starts_with("guest-tests/") {
            Kind::Guest
        } else {
            Kind::Host
        };
        let names = names(text, kind);
        if names.iter().all(|name| numbers(name).is_empty()) {
            continue;
        }
        let is_root = is_root(path);
        if !is_root
            && !sources
                .iter()
                .any(|(parent, text)| declares(parent, text, path, &paths))
        {
            bail!("{path} has tests, but no file declares it as a module");
        }
        for name in names {
            if !numbers(&name).is_empty() {
                let path = path.clone();
                found.push(Found { name, path, kind });
            }
        }
    }
    found.sort_by(|a, b| (a.kind as u8, &a.path, &a.name).cmp(&(b.kind as u8, &b.path, &b.name)));
    Ok(found)
}

/// The items that a name begins with: C120 for `c120_...`, two for `c131_c132_...`.
pub fn numbers(name: &str) -> Vec<Number> {
    let digits = |word: &str| {
        let digits = word.strip_prefix('c').filter(|digits| digits.len() == 3)?;
        digits.parse().ok().map(Number)
    };
    name.split('_').map_while(digits).collect()
}

/// The names of the tests in a file.
fn names(text: &str, kind: Kind) -> Vec<String> {
    let mut names = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line.starts_with("/*") {
            // Nobody comments tests out like that and is believed.
            while let Some(line) = lines.next()
                && !line.contains("*/")
            {}
            continue;
        }
        match kind {
            Kind::Guest => {
                let Some(rest) = line.strip_prefix("guest_test!(") else {
                    continue;
                };
                let rest = if rest.is_empty() {
                    lines.next().unwrap_or("")
                } else {
                    rest
                };
                names.extend(identifier(rest));
            }
            Kind::Host if line == "#[test]" => {
                let after = lines.by_ref().find(|line| !line.starts_with("//"));
                // Any further attribute, as `#[ignore]`, makes it a test that may not run.
                let name = after.and_then(|line| line.strip_prefix("fn "));
                names.extend(name.and_then(identifier));
            }
            Kind::Host => {}
        }
    }
    names
}

fn identifier(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let name = &text[..end.unwrap_or(text.len())];
    (!name.is_empty()).then(|| name.to_owned())
}

/// Whether cargo compiles a file for itself.
fn is_root(path: &str) -> bool {
    let Some((folder, file)) = path.rsplit_once('/') else {
        return false;
    };
    matches!(file, "lib.rs" | "main.rs") || folder.ends_with("/tests") && !folder.contains("/src/")
}

/// Whether `parent` declares the file at `path` as its module.
fn declares(parent: &str, text: &str, path: &str, paths: &BTreeSet<&str>) -> bool {
    let Some(module) = path.strip_suffix(".rs") else {
        return false;
    };
    let Some((folder, name)) = module.rsplit_once('/') else {
        return false;
    };
    let is_parent = parent == format!("{folder}.rs")
        || parent == format!("{folder}/lib.rs")
        || parent == format!("{folder}/main.rs");
    let declaration = format!("mod {name};");
    is_parent
        && paths.contains(parent)
        && text.lines().any(|line| {
            let line = line.trim();
            line == declaration
                || line.ends_with(&format!(" {declaration}")) && !line.starts_with("//")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_numbers_it_begins_with() {
        let of = |name| numbers(name).iter().map(|n| n.0).collect::<Vec<_>>();
        assert_eq!(of("c120_unregister"), [120]);
        assert_eq!(of("c131_c132_c133_nested"), [131, 132, 133]);
        assert_eq!(of("reaches_c120"), [0; 0]);
        assert_eq!(of("c12_short"), [0; 0]);
        assert_eq!(of("cold_start"), [0; 0]);
        assert_eq!(of("c001_and_c002"), [1]);
    }

    #[test]
    fn only_what_runs_is_a_test() {
        let host = "#[test]\nfn c001_a() {}\nfn c002_b() {}\n// #[test]\nfn c003_c() {}\n\
                    #[test]\n#[ignore]\nfn c004_d() {}\n/*\n#[test]\nfn c005_e() {}\n*/\n\
                    mod tests {\n    #[test]\n    fn c006_f() {}\n}\n";
        assert_eq!(names(host, Kind::Host), ["c001_a", "c006_f"]);
        let guest = "guest_test!(c001_a);\nfn c001_a() -> TestResult {}\n// guest_test!(c002_b);\n\
                     guest_test!(\n    c003_c,\n    cpus = 2\n);\nfn c004_d() {}\n#[test]\nfn c005_e() {}\n";
        assert_eq!(names(guest, Kind::Guest), ["c001_a", "c003_c"]);
    }

    #[test]
    fn a_file_counts_if_it_is_compiled() {
        let paths = BTreeSet::from(["a/src/lib.rs", "a/src/b.rs", "a/src/b/c.rs"]);
        let declares = |parent, text, path| declares(parent, text, path, &paths);
        assert!(declares("a/src/lib.rs", "pub mod b;\n", "a/src/b.rs"));
        assert!(declares("a/src/b.rs", "mod c;\n", "a/src/b/c.rs"));
        assert!(!declares("a/src/b.rs", "// mod c;\n", "a/src/b/c.rs"));
        assert!(!declares("a/src/lib.rs", "mod c;\n", "a/src/b/c.rs"));
        assert!(is_root("a/src/lib.rs") && is_root("a/tests/b.rs") && is_root("a/tests/b/main.rs"));
        assert!(
            !is_root("a/src/b.rs") && !is_root("a/tests/b/c.rs") && !is_root("a/src/tests/b.rs")
        );
    }
}
