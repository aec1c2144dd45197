//! Links the client where QEMU puts a flat binary, less the base of RAM: it runs wherever it is loaded.

use std::{env, path::PathBuf};

fn main() {
    // Only the bare-metal target is linked by hand; a host build of the workspace just type-checks.
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let script = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../../linker/client-example.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    println!("cargo:rustc-link-arg-bins=-T{}", script.display());
    println!("cargo:rustc-link-arg-bins=--build-id=none");
}
