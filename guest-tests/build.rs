//! Links the guest tests as one position-independent image at address 0.

use std::{env, path::PathBuf};

fn main() {
    // Only the bare-metal target is linked by hand; a host build of the workspace just type-checks.
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let script = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../linker/guest.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    println!("cargo:rustc-link-arg-bins=-T{}", script.display());
    // The prebuilt `core` is compiled for a static link, so its constants keep pointers in read-only
    // sections: `notext` lets the linker describe those with relative relocations, which start.S applies.
    for argument in [
        "-pie",
        "-znotext",
        "-znorelro",
        "--no-dynamic-linker",
        "--build-id=none",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
