//! A compiler that has the target's libraries, as rustup installs them: for a machine that cannot fetch those, to see
//! that what is built with them is as good.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Result, ensure};

use super::{Compiler, Library, TRIPLE, Target, link_parts, write_wrapper};

/// A package of which only the libraries below it matter. They are optimised as those that are released.
const MANIFEST: &str = "[package]\nname = \"nothing\"\nedition = \"2024\"\n[workspace]\n";
const SOURCE: &str = "#![no_std]\nextern crate alloc;\n";

/// The libraries.
const LIBRARIES: [&str; 3] = ["libcore-", "liballoc-", "libcompiler_builtins-"];

/// A compiler and its sysroot.
pub struct Prebuilt {
    /// The compiler, for the variable RUSTC.
    pub rustc: PathBuf,
    /// For SYSROOT.
    pub sysroot: PathBuf,
}

impl Prebuilt {
    /// Makes one in `dir`, which is empty; `None` if the compiler at hand has the libraries anyway.
    pub fn make(target: &Target, dir: &Path) -> Result<Option<Self>> {
        let compiler = Compiler::find()?;
        let sources = match &target.library {
            Library::Installed => return Ok(None),
            Library::Sysroot => &compiler.sysroot,
            Library::Shadow(root) => &root.join("sysroot"),
        };
        let built = build(
            target,
            &compiler,
            &sources.join("lib/rustlib/src/rust"),
            dir,
        )?;
        let sysroot = dir.join("sysroot");
        let libraries = sysroot.join("lib/rustlib").join(TRIPLE).join("lib");
        fs::create_dir_all(&libraries)?;
        link_parts(&compiler.sysroot, &sysroot, TRIPLE)?;
        let mut count = 0;
        for entry in fs::read_dir(built)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_one = LIBRARIES.iter().any(|prefix| name.starts_with(prefix));
            if is_one && name.ends_with(".rlib") {
                fs::copy(entry.path(), libraries.join(name))?;
                count += 1;
            }
        }
        ensure!(count == LIBRARIES.len(), "cargo left {count} libraries");
        let rustc = dir.join("rustc");
        write_wrapper(&rustc, &compiler.program, &sysroot)?;
        Ok(Some(Self { rustc, sysroot }))
    }
}

/// Builds the libraries from `sources`, and answers the folder that they are in.
fn build(target: &Target, compiler: &Compiler, sources: &Path, dir: &Path) -> Result<PathBuf> {
    let package = dir.join("nothing");
    fs::create_dir_all(package.join("src"))?;
    fs::write(package.join("Cargo.toml"), MANIFEST)?;
    fs::write(package.join("src/lib.rs"), SOURCE)?;
    // As released: for link-time optimisation, and with places in the sources named by the compiler's commit.
    let flags = format!(
        "-Cembed-bitcode=yes --remap-path-prefix={}=/rustc/{}",
        sources.canonicalize()?.display(),
        compiler.commit
    );
    let output = target
        .cargo()
        .args(["build", "--quiet", "--release"])
        .current_dir(&package)
        .env("CARGO_TARGET_DIR", package.join("target"))
        .env("RUSTFLAGS", flags)
        .stdin(Stdio::null())
        .output()?;
    ensure!(
        output.status.success(),
        "the libraries do not compile: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(package.join("target").join(TRIPLE).join("release/deps"))
}
