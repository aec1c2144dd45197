//! What is written for users keeps to what there is: the recipes of `docs/ci` are YAML whose commands we understand, and a program that Python reads; the index has every page.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use yaml_rust2::{Yaml, YamlLoader};

use crate::Cli;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ci")
}

/// Name and text of each file.
fn recipes() -> Vec<(String, String)> {
    let files = fs::read_dir(folder()).unwrap();
    let mut recipes: Vec<_> = files
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    recipes.sort();
    recipes
}

/// All strings in there.
fn strings(yaml: &Yaml) -> Vec<&str> {
    match yaml {
        Yaml::String(text) => vec![text],
        Yaml::Array(items) => items.iter().flat_map(strings).collect(),
        Yaml::Hash(map) => map.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

/// The words of our commands in a script, up to where the shell sends what they write.
fn commands(script: &str) -> impl Iterator<Item = Vec<&str>> {
    script.lines().filter_map(|line| {
        let (_, words) = line.split_once("cargo xtask ")?;
        let words = words.split_whitespace().take_while(|word| *word != ">");
        Some(words.collect())
    })
}

#[test]
fn each_recipe_is_one_document_whose_commands_we_understand() {
    let recipes = recipes();
    let (recipes, others): (Vec<_>, Vec<_>) =
        recipes.iter().partition(|(name, _)| name.ends_with(".yml"));
    let names: Vec<&str> = recipes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["github.yml", "gitlab.yml", "labgrid.yml", "lava.yml"]
    );
    assert_eq!(others.len(), 1, "{others:?}");
    for (name, text) in recipes {
        let documents = YamlLoader::load_from_str(text).unwrap();
        let [document] = &documents[..] else {
            panic!("{name} has {} documents", documents.len());
        };
        let all = strings(document);
        let commands: Vec<_> = all.iter().flat_map(|script| commands(script)).collect();
        assert!(!commands.is_empty(), "{name} has no command of ours");
        for command in commands {
            let words = ["cargo xtask"].into_iter().chain(command.iter().copied());
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{name}: {command:?}: {error}");
            }
        }
    }
}

#[test]
fn the_program_is_python() {
    let text = fs::read_to_string(folder().join("labgrid_test.py")).unwrap();
    let mut command = supervisor::command("python3");
    let parsed = command
        .args(["-c", "import ast, sys; ast.parse(sys.argv[1])", &text])
        .output();
    // A host without Python has none of labgrid, either.
    if let Ok(output) = parsed {
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn the_page_names_each_recipe() {
    let page = fs::read_to_string(folder().with_extension("md")).unwrap();
    for (name, _) in recipes() {
        assert!(page.contains(&format!("(ci/{name})")), "docs/ci.md: {name}");
    }
}

#[test]
fn the_index_names_each_page() {
    let docs = folder().join("..");
    let index = fs::read_to_string(docs.join("README.md")).unwrap();
    let pages = fs::read_dir(&docs).unwrap().filter_map(|page| {
        let name = page.unwrap().file_name().into_string().unwrap();
        name.ends_with(".md").then_some(name)
    });
    for page in pages.filter(|page| page != "README.md") {
        assert!(
            index.contains(&format!("]({page})")),
            "docs/README.md: {page}"
        );
    }
}
