//! Links the program where QEMU and the board's firmware put a flat binary on a Raspberry Pi 4.

use std::{env, path::PathBuf};

fn main() {
    // Only the bare-metal target is linked by hand; a host build of the workspace just type-checks.
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let script = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../../linker/flat.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    println!("cargo:rustc-link-arg-bins=-T{}", script.display());
    println!("cargo:rustc-link-arg-bins=--build-id=none");
}
