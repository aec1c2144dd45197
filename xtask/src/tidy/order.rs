//! The order of a crate's modules: what a file uses lies below it, and nothing below uses what lies above.
//!
//! A file uses another if it names a path into it. That a file names what the modules around it have is no such use:
//! a module and those within it are one. Tests do not count.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::{Import, imports};

/// Files that are in a circle still. The list may only get shorter.
const IN_CIRCLES: &[&str] = &[];

/// What is against the order in `sources`, each a path relative to the workspace and the text without tests.
pub fn faults<'a>(sources: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    judge(&circles(sources), IN_CIRCLES)
}

/// Files that use each other, and how.
struct Circle {
    files: BTreeSet<String>,
    /// Each import between them, as a sentence.
    held_by: Vec<String>,
}

/// Circles that have files which are not `listed`, and listed files that are in no circle.
fn judge(circles: &[Circle], listed: &[&str]) -> Vec<String> {
    let is_listed = |file: &String| listed.contains(&file.as_str());
    let new = circles.iter().filter(|it| !it.files.iter().all(is_listed));
    let mut faults: Vec<String> = new
        .map(|circle| {
            let files: Vec<&str> = circle.files.iter().map(String::as_str).collect();
            format!(
                "these files use each other in a circle: {}; it is held by\n  {}",
                files.join(", "),
                circle.held_by.join("\n  ")
            )
        })
        .collect();
    let is_in_one = |file: &str| circles.iter().any(|circle| circle.files.contains(file));
    let gone = listed.iter().filter(|file| !is_in_one(file));
    faults.extend(gone.map(|file| {
        format!("{file} is in no circle of modules any more; remove it from the list in {LIST}")
    }));
    faults
}

/// Where the list is.
const LIST: &str = "xtask/src/tidy/order.rs";

/// The circles of each crate.
fn circles<'a>(sources: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<Circle> {
    let mut crates: BTreeMap<&str, Vec<Module<'_>>> = BTreeMap::new();
    for (path, text) in sources {
        if let Some((root, file)) = path.split_once("/src/") {
            let module = Module::of(path, file, text);
            crates.entry(root).or_default().push(module);
        }
    }
    crates
        .values()
        .flat_map(|modules| within(modules))
        .collect()
}

/// A file of a crate.
struct Module<'a> {
    path: &'a str,
    /// Where it is in the crate's tree of modules; nothing for the crate's root.
    place: Vec<&'a str>,
    text: &'a str,
}

impl<'a> Module<'a> {
    fn of(path: &'a str, file: &'a str, text: &'a str) -> Self {
        let stem = file.strip_suffix(".rs").unwrap_or(file);
        let place = match stem {
            "main" | "lib" => Vec::new(),
            stem => stem.split('/').collect(),
        };
        Self { path, place, text }
    }
}

/// The circles of one crate.
fn within(modules: &[Module<'_>]) -> Vec<Circle> {
    let places: BTreeMap<&[&str], usize> = (0..)
        .zip(modules)
        .map(|(number, module)| (module.place.as_slice(), number))
        .collect();
    let mut edges: Vec<BTreeMap<usize, Vec<Import<'_>>>> = Vec::new();
    for (number, module) in (0..).zip(modules) {
        let mut used: BTreeMap<usize, Vec<Import<'_>>> = BTreeMap::new();
        for import in imports(module.text) {
            match target(&places, &module.place, &import) {
                Some(other)
                    if other != number && !module.place.starts_with(&modules[other].place) =>
                {
                    used.entry(other).or_default().push(import);
                }
                _ => {}
            }
        }
        edges.push(used);
    }
    components(&edges)
        .into_iter()
        .map(|members| Circle {
            files: members
                .iter()
                .map(|&it| modules[it].path.to_owned())
                .collect(),
            held_by: held_by(modules, &edges, &members),
        })
        .collect()
}

/// The imports among `members`.
fn held_by(
    modules: &[Module<'_>],
    edges: &[BTreeMap<usize, Vec<Import<'_>>>],
    members: &BTreeSet<usize>,
) -> Vec<String> {
    let mut held_by = Vec::new();
    for &from in members {
        for (to, imports) in edges[from].iter().filter(|(to, _)| members.contains(to)) {
            let names: BTreeSet<String> = imports.iter().map(|it| it.path.join("::")).collect();
            let names: Vec<String> = names.into_iter().collect();
            held_by.push(format!(
                "{}:{} -> {}: {}",
                modules[from].path,
                imports[0].line,
                modules[*to].path,
                names.join(", ")
            ));
        }
    }
    held_by
}

/// The file that `import` of the module at `place` names: the longest path that is one.
fn target(places: &BTreeMap<&[&str], usize>, place: &[&str], import: &Import<'_>) -> Option<usize> {
    let mut at: Vec<&str> = place.iter().chain(&import.within).copied().collect();
    let mut path = import.path.as_slice();
    match path.first()? {
        &"crate" => {
            at.clear();
            path = &path[1..];
        }
        &"self" => path = &path[1..],
        &"super" => {
            while path.first() == Some(&"super") {
                at.pop();
                path = &path[1..];
            }
        }
        // A path that begins with a name begins with a module below, or outside of the crate.
        name => {
            at.push(name);
            if !places.contains_key(at.as_slice()) {
                return None;
            }
            path = &path[1..];
        }
    }
    at.extend(path);
    loop {
        if let Some(&file) = places.get(at.as_slice()) {
            return Some(file);
        }
        at.pop()?;
    }
}

/// The sets of more than one node that all reach each other.
fn components<T>(edges: &[BTreeMap<usize, T>]) -> Vec<BTreeSet<usize>> {
    let reached: Vec<BTreeSet<usize>> = (0..edges.len()).map(|from| reach(edges, from)).collect();
    let mut found: Vec<BTreeSet<usize>> = Vec::new();
    for (node, below) in reached.iter().enumerate() {
        let circle: BTreeSet<usize> = below
            .iter()
            .copied()
            .filter(|&other| reached[other].contains(&node))
            .collect();
        if circle.len() > 1 && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

/// What can be reached from `from`.
fn reach<T>(edges: &[BTreeMap<usize, T>], from: usize) -> BTreeSet<usize> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(node) = next.pop() {
        for &other in edges[node].keys() {
            if reached.insert(other) {
                next.push(other);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(sources: &[(&str, &str)]) -> Vec<Vec<String>> {
        let circles = circles(sources.iter().copied());
        let files = circles.into_iter().map(|circle| circle.files);
        files.map(|files| files.into_iter().collect()).collect()
    }

    #[test]
    fn files_that_use_each_other_are_a_circle_and_what_holds_it_is_said() {
        let sources = [
            (
                "x/src/main.rs",
                "mod a;\nmod b;\nmod c;\nfn main() { a::run() }\n",
            ),
            ("x/src/a.rs", "use crate::{c, b::B};\n"),
            ("x/src/b.rs", "\nuse super::c::{C, D};\n"),
            ("x/src/c.rs", "fn f() { crate::a::g() }\n"),
        ];
        let circles = circles(sources);
        assert_eq!(circles.len(), 1);
        let faults = judge(&circles, &["x/src/a.rs", "x/src/b.rs"]);
        assert_eq!(faults.len(), 1, "c.rs is new in it");
        for said in [
            "circle: x/src/a.rs, x/src/b.rs, x/src/c.rs;",
            "x/src/b.rs:2 -> x/src/c.rs: super::c::C, super::c::D",
            "x/src/c.rs:1 -> x/src/a.rs: crate::a::g",
        ] {
            assert!(faults[0].contains(said), "{faults:?}");
        }
        let listed = ["x/src/a.rs", "x/src/b.rs", "x/src/c.rs"];
        assert_eq!(judge(&circles, &listed), [""; 0]);
    }

    #[test]
    fn a_listed_file_that_is_in_no_circle_goes_from_the_list() {
        let faults = judge(
            &circles([("x/src/a.rs", "use crate::b;\n"), ("x/src/b.rs", "")]),
            &["x/src/a.rs"],
        );
        assert_eq!(faults.len(), 1);
        assert!(
            faults[0].contains("x/src/a.rs is in no circle"),
            "{faults:?}"
        );
        assert!(faults[0].contains("remove it from the list"), "{faults:?}");
    }

    #[test]
    fn a_module_and_those_within_it_are_one() {
        let within = ("x/src/a/inner.rs", "use super::A;\n");
        assert!(files(&[("x/src/a.rs", "mod inner;\npub use inner::B;\n"), within]).is_empty());
        // But what the inner one uses is what the outer one uses.
        let circle = files(&[
            ("x/src/a.rs", "mod inner;\npub use inner::B;\n"),
            ("x/src/a/inner.rs", "use crate::b::B;\n"),
            ("x/src/b.rs", "use crate::a;\n"),
        ]);
        assert_eq!(circle, [["x/src/a.rs", "x/src/a/inner.rs", "x/src/b.rs"]]);
    }

    #[test]
    fn other_crates_and_names_that_are_no_modules_are_no_use() {
        let sources = [
            ("x/src/a.rs", "use b::C;\nfn f() { Vec::new(); x::y() }\n"),
            ("x/src/b.rs", "use crate::a;\n"),
            ("y/src/b.rs", "use crate::a::C;\n"),
        ];
        assert!(
            files(&sources).is_empty(),
            "a begins no path of its own with b"
        );
    }
}
