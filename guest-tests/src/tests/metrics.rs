//! What the hypervisor costs, in instructions of all levels. Two numbers are promises.

use hv_abi::psci as abi;
use hv_abi::sdei;

use crate::harness::{TestResult, metric, needs_hypervisor, needs_icount};
use crate::rt::bench;
use crate::rt::call::Conduit;
use crate::rt::gic::{self, gicd};
use crate::rt::machine::machine;

/// Promised for an SMC that asks for PSCI_VERSION.
const SMC_BUDGET: u64 = 200;
/// An identifier nobody answers.
const UNKNOWN: u32 = 0x8200_0000;

guest_test!(
    an_smc_round_trip_costs_at_most_200_instructions,
    cpus = 1,
    boot = shared,
    icount = true,
    timeout = 60
);
fn an_smc_round_trip_costs_at_most_200_instructions() -> TestResult {
    needs_icount()?;
    needs_hypervisor()?;
    let cost = bench::call(Conduit::Smc, abi::VERSION);
    metric("smc_psci_version", cost, "instructions");
    expect_that!(cost <= SMC_BUDGET, "it costs {cost}");
    Ok(())
}

guest_test!(
    the_cost_of_calls,
    cpus = 1,
    boot = shared,
    icount = true,
    timeout = 60
);
fn the_cost_of_calls() -> TestResult {
    needs_icount()?;
    let conduits = match machine().has_argument("bare") {
        true => &[Conduit::Hvc][..],
        false => &Conduit::BOTH[..],
    };
    for conduit in conduits {
        let (version, unknown, sdei_version) = match conduit {
            Conduit::Hvc => ("hvc_psci_version", "hvc_unknown", "hvc_sdei_version"),
            Conduit::Smc => ("smc_psci_version", "smc_unknown", "smc_sdei_version"),
        };
        metric(version, bench::call(*conduit, abi::VERSION), "instructions");
        metric(unknown, bench::call(*conduit, UNKNOWN), "instructions");
        let id = sdei::Call::Version as u32;
        metric(sdei_version, bench::call(*conduit, id), "instructions");
    }
    Ok(())
}

guest_test!(
    the_cost_of_interrupt_controller_registers,
    cpus = 1,
    boot = shared,
    icount = true,
    timeout = 60
);
fn the_cost_of_interrupt_controller_registers() -> TestResult {
    needs_icount()?;
    let gicd = gic::distributor();
    let enables = gicd::ISENABLER + 4;
    metric(
        "gicd_iidr_read",
        bench::read32(gicd, gicd::IIDR),
        "instructions",
    );
    metric(
        "gicd_isenabler_read",
        bench::read32(gicd, enables),
        "instructions",
    );
    metric(
        "gicd_isenabler_write",
        bench::write32(gicd, enables, 0),
        "instructions",
    );
    let typer = bench::read32(gic::redistributor(), gic::GICR_TYPER);
    metric("gicr_typer_read", typer, "instructions");
    Ok(())
}

guest_test!(
    the_cost_of_an_identification_register,
    cpus = 1,
    boot = shared,
    icount = true,
    timeout = 60
);
fn the_cost_of_an_identification_register() -> TestResult {
    needs_icount()?;
    metric(
        "id_aa64pfr0_read",
        bench::read_identification(),
        "instructions",
    );
    Ok(())
}
