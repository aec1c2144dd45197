//! `kdump --tree` hears LLVM, CROSS_COMPILE and MAKEFLAGS. Stand-ins take the places of make and the compilers, which write down how
//! they are called; so nothing is compiled, and no compiler has to be there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, ensure};

use super::demand;
use crate::test::own;
use machine::run_dir::RunDir;

/// Configures as kbuild does when it is asked for everything that is in a file, and builds nothing.
const MAKE: &str = r#"#!/bin/sh
echo "$*" >> "${0%/*}/calls"
for word; do
    case $word in
    allnoconfig) cp "$KCONFIG_ALLCONFIG" "$KCONFIG_CONFIG" ;;
    Image)
        echo "x.c:1:1: error: a stand-in compiles nothing"
        exit 1
        ;;
    esac
done
"#;

const LLVM: [&str; 8] = [
    "clang",
    "ld.lld",
    "llvm-ar",
    "llvm-nm",
    "llvm-objcopy",
    "llvm-objdump",
    "llvm-readelf",
    "llvm-strip",
];
const GNU: [&str; 8] = [
    "gcc", "ld", "ar", "nm", "objcopy", "objdump", "readelf", "strip",
];

/// A tree and programs that do as if.
struct Stage {
    tree: PathBuf,
    programs: PathBuf,
    cache: PathBuf,
}

impl Stage {
    fn set(folder: &RunDir) -> Result<Self> {
        let tree = folder.file("tree");
        for part in ["Makefile", "Kbuild", "arch/arm64/Kconfig"] {
            let part = tree.join(part);
            fs::create_dir_all(part.parent().unwrap_or(&tree))?;
            fs::write(part, "")?;
        }
        let programs = folder.file("programs");
        fs::create_dir(&programs)?;
        program(&programs.join("make"), MAKE)?;
        for name in LLVM {
            for suffix in ["", "-15"] {
                program(&programs.join(format!("{name}{suffix}")), "#!/bin/sh\n")?;
            }
        }
        for name in GNU {
            program(&programs.join(format!("arm64-none-{name}")), "#!/bin/sh\n")?;
        }
        Ok(Self {
            tree,
            programs,
            cache: folder.file("cache"),
        })
    }

    /// What comes of `kdump --tree` where these variables are set, and how make was called.
    fn kdump(&self, variables: &[(&str, &str)]) -> Result<(Output, String)> {
        let calls = self.programs.join("calls");
        fs::write(&calls, "")?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = own::xtask()?;
        command.args(["kdump", "--tree"]).arg(&self.tree);
        for name in ["LLVM", "CROSS_COMPILE", "MAKEFLAGS"] {
            command.env_remove(name);
        }
        command
            .env("PATH", format!("{}:{path}", self.programs.display()))
            .env("HALLIGAN_CACHE", &self.cache)
            .envs(variables.iter().copied());
        let output = command.output().context("cannot run xtask")?;
        Ok((output, fs::read_to_string(&calls)?))
    }
}

fn program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

pub fn flags() -> Result<String> {
    let folder = RunDir::create(None)?;
    let stage = Stage::set(&folder)?;
    let llvm = format!("{}/", stage.programs.display());
    let gnu = format!("{}/arm64-none-", stage.programs.display());
    for (variables, said) in [
        (&[("LLVM", "1")][..], "CROSS_COMPILE= LLVM=1"),
        (&[("LLVM", "-15")], "CROSS_COMPILE= LLVM=-15"),
        (&[("LLVM", &*llvm)], &*format!("CROSS_COMPILE= LLVM={llvm}")),
        (
            &[("CROSS_COMPILE", &*gnu)],
            &*format!("CROSS_COMPILE={gnu}"),
        ),
        (
            &[("CROSS_COMPILE", "arm64-none-")],
            "CROSS_COMPILE=arm64-none-",
        ),
        (
            &[("LLVM", "1"), ("CROSS_COMPILE", "arm64-none-")],
            "CROSS_COMPILE=arm64-none- LLVM=1",
        ),
    ] {
        let variables = [variables, &[("MAKEFLAGS", "-j3")]].concat();
        let (output, calls) = stage.kdump(&variables)?;
        demand(&output, false, &["error: a stand-in compiles nothing"])
            .with_context(|| format!("{variables:?}"))?;
        let calls: Vec<&str> = calls.lines().collect();
        let (configure, build) = (
            format!("{said} allnoconfig"),
            format!("{said} -j3 Image vmlinux"),
        );
        ensure!(
            calls.len() == 2 && calls[0].ends_with(&configure) && calls[1].ends_with(&build),
            "{variables:?}: make was called with {calls:#?}"
        );
        ensure!(
            calls.iter().all(|call| call.contains(" ARCH=arm64 ")),
            "make was called with {calls:#?}"
        );
    }
    // What is not there is said before make is called.
    program(&stage.programs.join("clang-0"), "#!/bin/sh\n")?;
    let (output, calls) = stage.kdump(&[("LLVM", "-0")])?;
    let said = [
        "LLVM=-0 asks for programs of LLVM that are not in the PATH: ld.lld-0, ",
        "clang-0, lld-0 and llvm-0",
    ];
    demand(&output, false, &said)?;
    ensure!(calls.is_empty(), "make was called with {calls}");
    Ok(String::new())
}
