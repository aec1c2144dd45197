//! SDEI (DEN0054): discovery.

use hv_abi::sdei::Call;

use crate::harness::{TestResult, needs_hypervisor};
use crate::rt::call::call;
use crate::rt::machine::machine;

guest_test!(sdei_version_is_1_1);
fn sdei_version_is_1_1() -> TestResult {
    needs_hypervisor()?;
    if machine().has_argument("nosdei") {
        skip!("the guest is configured without SDEI");
    }
    let Some(conduit) = machine().sdei_conduit else {
        fail!("the devicetree has no node compatible with arm,sdei-1.0");
    };
    let version = call(conduit, Call::Version as u32, &[]);
    expect_that!(version >= 0, "{version}");
    expect_eq!(version >> 32, 0x1_0001);
    Ok(())
}
