//! EL1 test kernels: what a guest may rely on, checked from inside a guest.
//!
//! One arm64 Image with many tests. `/chosen/bootargs` says which to run, and each ends in one line:
//! `PASS name`, `FAIL name file:line: why` or `SKIP name why`. The same image runs on the bare machine,
//! where what only a hypervisor promises is skipped; `docs/testing.md` has the words.
#![no_std]
#![no_main]

#[macro_use]
#[expect(
    unsafe_code,
    reason = "the runtime: entry, vectors, system registers, device memory, calls"
)]
mod rt;
#[macro_use]
mod harness;
mod tests;

entry!(main);

fn main() {
    harness::run(tests::gicv2::exempt);
}
