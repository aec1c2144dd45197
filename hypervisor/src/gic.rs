//! The physical interrupt controller, as EL2 drives it. GICv3 now; `gic/v3.rs` is the hardware.

#[expect(
    unsafe_code,
    reason = "registers of the distributor and redistributors"
)]
pub mod v3;
