//! What a run leaves in its folder, and what to type next.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::symbols;

/// The files of a run's folder, and what each is. With several guests a number is behind a name.
const FILES: [(&str, &str); 9] = [
    (
        "serial.log",
        "all that came over the serial line: the guest's console, and the hypervisor's lines and records",
    ),
    (
        "vmcore",
        "the dump that the guest has saved, for drgn, crash and gdb",
    ),
    ("vmlinux", "the guest's kernel with its symbols"),
    (
        "bundle.itb",
        "what the hypervisor was handed: kernel, ramdisk, command line, and what the guest is to be",
    ),
    (
        "disk.img",
        "the disk that the dump was saved on, as the one member of a tar stream",
    ),
    (
        "wedged.img",
        "the kernel as it was booted: some of its instructions are changed",
    ),
    (
        "truth.elf",
        "the guest's memory when its crash kernel began (--oracle)",
    ),
    (
        "writers.json",
        "who has written to that memory since (--oracle)",
    ),
    (
        "hypervisor.ram",
        "the hypervisor's own memory, for cargo xtask crash show",
    ),
];

/// Puts into `folder` the kernel with its symbols, and a file that says what all of it is.
pub fn complete(folder: &Path, vmlinux: Option<&Path>) -> Result<()> {
    let own = folder.join("vmlinux");
    if let Some(vmlinux) = vmlinux.filter(|path| !are_one(path, &own)) {
        fs::copy(vmlinux, &own)
            .with_context(|| format!("cannot write {}; is the disk full?", own.display()))?;
    }
    let path = folder.join("README");
    fs::write(&path, readme(folder)).with_context(|| format!("cannot write {}", path.display()))
}

/// Whether two paths lead to the same file, which a copy would empty.
fn are_one(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// What each file of `folder` is that a run leaves.
fn readme(folder: &Path) -> String {
    let mut text =
        "What a run of cargo xtask kdump has left. docs/testing.md describes the job.\n\n"
            .to_owned();
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    for (file, what) in FILES {
        for name in names.iter().filter(|name| is_of(file, name)) {
            text += &format!("{name:16} {what}\n");
        }
    }
    let next = next(folder, Some(&folder.join("vmlinux")), false);
    if !next.is_empty() {
        text += "\nTo look at it:\n\n";
        text.extend(next.iter().map(|command| format!("    {command}\n")));
    }
    text
}

/// Whether `name` is `file`, or that of one of several guests: `vmcore-1`.
fn is_of(file: &str, name: &str) -> bool {
    let number = name
        .strip_prefix(file)
        .and_then(|rest| rest.strip_prefix('-'));
    name == file || number.is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
}

/// What to type to see more of the run in `folder`, of the kernel `vmlinux`; if the hypervisor has `crashed`, of that.
pub fn next(folder: &Path, vmlinux: Option<&Path>, crashed: bool) -> Vec<String> {
    let is_there = |path: &Path| fs::metadata(path).is_ok_and(|file| file.len() > 0);
    let vmlinux = vmlinux.filter(|path| is_there(path));
    let (log, vmcore) = (folder.join("serial.log"), folder.join("vmcore"));
    let mut commands = Vec::new();
    if crashed && is_there(&log) {
        commands.push(format!("cargo xtask symbolize < {}", shown(&log)));
    }
    if is_there(&vmcore) {
        commands.push(format!("cargo xtask bt {}", shown(&vmcore)));
    }
    if let Some(vmlinux) = vmlinux.filter(|_| is_there(&vmcore)) {
        // crash gives up on a kernel without modules unless it is told.
        let option = match symbols::has(vmlinux, "modules") {
            Ok(false) => "--no_modules ",
            Ok(true) | Err(_) => "",
        };
        let (vmlinux, vmcore) = (shown(vmlinux), shown(&vmcore));
        commands.push(format!("drgn -c {vmcore} -s {vmlinux}"));
        commands.push(format!("crash {option}{vmlinux} {vmcore}"));
    }
    if is_there(&log) {
        commands.push(format!("less -R {}", shown(&log)));
    }
    commands
}

/// A path as a shell reads it.
fn shown(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// A word as a shell reads it.
pub fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_said_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let file = |name: &str, text: &str| fs::write(path.join(name), text).unwrap();
        assert!(next(path, None, true).is_empty());
        file("serial.log", "x");
        file("vmcore", "");
        file("kernel-elf", "symbols");
        let kernel = path.join("kernel-elf");
        let log = path.join("serial.log").display().to_string();
        assert_eq!(next(path, Some(&kernel), false), [format!("less -R {log}")]);
        assert_eq!(
            next(path, None, true)[0],
            format!("cargo xtask symbolize < {log}")
        );
        file("vmcore", "core");
        let commands = next(path, Some(&kernel), false);
        let dir = path.display();
        assert_eq!(commands[0], format!("cargo xtask bt {dir}/vmcore"));
        assert_eq!(
            commands[1],
            format!("drgn -c {dir}/vmcore -s {dir}/kernel-elf")
        );
        assert_eq!(commands[2], format!("crash {dir}/kernel-elf {dir}/vmcore"));
        // This program has no list of modules, as a kernel without CONFIG_MODULES.
        let without = std::env::current_exe().unwrap();
        let command = &next(path, Some(&without), false)[2];
        assert!(command.starts_with("crash --no_modules "), "{command}");
    }

    #[test]
    fn a_folder_that_is_kept_has_its_symbols_and_says_what_is_what() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        fs::create_dir(&path).unwrap();
        for name in ["serial.log", "vmcore-0", "vmcore-10", "vmcore-x", "other"] {
            fs::write(path.join(name), "x").unwrap();
        }
        let kernel = folder.path().join("vmlinux");
        fs::write(&kernel, "symbols").unwrap();
        complete(&path, Some(&kernel)).unwrap();
        assert_eq!(fs::read(path.join("vmlinux")).unwrap(), b"symbols");
        let text = fs::read_to_string(path.join("README")).unwrap();
        let listed = |name: &str| {
            text.lines()
                .any(|line| line.starts_with(&format!("{name} ")))
        };
        for name in ["serial.log", "vmcore-0", "vmcore-10", "vmlinux"] {
            assert!(listed(name), "{name}: {text}");
        }
        assert!(
            !listed("vmcore-x") && !listed("other") && !listed("truth.elf"),
            "{text}"
        );
        // Again, by a run that finds them.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for folder in [&path, &path.join("."), &link] {
            complete(&path, Some(&folder.join("vmlinux"))).unwrap();
            assert_eq!(fs::read(path.join("vmlinux")).unwrap(), b"symbols");
        }
        complete(&path, None).unwrap();
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_read_more() {
        assert_eq!(quote("/tmp/a-b_c.1"), "/tmp/a-b_c.1");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's"), "'it'\\''s'");
        assert_eq!(quote(""), "''");
    }
}
