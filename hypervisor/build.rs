//! Hands the linker script to the linker; nothing is generated.

fn main() {
    // Asked when this runs, not when it is compiled: a target directory may have come from another checkout.
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = format!("{package}/../linker/hypervisor.ld");
    println!("cargo::rerun-if-changed={script}");
    println!("cargo::rerun-if-changed=src");
    let target = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if target == "none" {
        println!("cargo::rustc-link-arg-bins=-T{script}");
        println!("cargo::rustc-link-arg-bins=-zmax-page-size=4096");
        println!("cargo::rustc-link-arg-bins=--no-pie");
    }
}
