//! What the hypervisor costs, in instructions of all levels. Three numbers are promises.

use hv_abi::psci as abi;
use hv_abi::sdei;

use crate::harness::{TestResult, metric, needs_hypervisor, needs_icount, needs_sdei};
use crate::rt::bench;
use crate::rt::bench::latency::{self, Latency};
use crate::rt::call::Conduit;
use crate::rt::gic::{self, gicd};
use crate::rt::machine::machine;
use crate::rt::{cpu, sdei as rt_sdei, start};

/// Promised for an SMC that asks for PSCI_VERSION.
const SMC_BUDGET: u64 = 200;
/// Promised from SDEI_EVENT_SIGNAL to the first instruction of a wedged CPU's handler.
const SIGNAL_BUDGET: u64 = 1000;
/// Promised from the machine's reset to the guest's first instruction, with a bundle of 8 MiB.
const START_BUDGET: u64 = 50_000_000;
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
    c280_unmasking_costs_no_more_when_an_event_is_pending,
    cpus = 1,
    boot = shared,
    icount = true,
    timeout = 60
);
fn c280_unmasking_costs_no_more_when_an_event_is_pending() -> TestResult {
    needs_icount()?;
    needs_sdei()?;
    let unmask = || bench::call(machine().conduit, sdei::Call::PeUnmask as u32);
    let idle = unmask();
    expect_eq!([rt_sdei::register(), rt_sdei::mask()], [0, 1]);
    expect_eq!(rt_sdei::signal(cpu::affinity(0)), 0);
    // Pending and disabled: looked at each time, and never due.
    let pending = unmask();
    metric("pe_unmask", idle, "instructions");
    metric("pe_unmask_with_an_event_pending", pending, "instructions");
    expect_that!(pending <= idle + 20, "{pending} instead of {idle}");
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
    /// An SPI of the first 32 that no device of `virt` has.
    const UNUSED: u32 = 1 << 12;
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
        bench::write32(gicd, [enables, gicd::ICENABLER + 4], UNUSED),
        "instructions",
    );
    if !gic::v2::is_it() {
        let typer = bench::read32(gic::redistributor(), gic::GICR_TYPER);
        metric("gicr_typer_read", typer, "instructions");
    }
    Ok(())
}

guest_test!(
    the_cost_of_console_output,
    cpus = 1,
    boot = shared,
    icount = true,
    timeout = 60
);
fn the_cost_of_console_output() -> TestResult {
    /// UARTDR, UARTFR, UARTCR and its LBE (DDI0183 3.3).
    const DR: u64 = 0x00;
    const FR: u64 = 0x18;
    const CR: u64 = 0x30;
    const LOOPBACK: u32 = 1 << 7;
    needs_icount()?;
    let uart = machine().uart;
    metric("uart_fr_read", bench::read32(uart, FR), "instructions");
    let character = bench::character(uart, FR, DR, b'\n');
    metric("uart_character", character, "instructions");
    if !machine().has_argument("bare") {
        // Something is received, so that each read exits.
        uart.write32(CR, uart.read32(CR) | LOOPBACK);
        uart.write32(DR, b'\n'.into());
        let exits = bench::read32(uart, FR);
        uart.write32(CR, uart.read32(CR) & !LOOPBACK);
        uart.read32(DR);
        metric("uart_fr_read_that_exits", exits, "instructions");
    }
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

guest_test!(
    a_guest_of_8_mib_starts_within_50_million_instructions,
    cpus = 1,
    boot = own,
    icount = true,
    config = "ramdisk",
    timeout = 60
);
fn a_guest_of_8_mib_starts_within_50_million_instructions() -> TestResult {
    needs_icount()?;
    needs_hypervisor()?;
    // Nobody has written the physical counter: CNTVOFF_EL2 is not in it.
    let cost = bench::instructions_of(start::first_tick());
    metric("reset_to_first_instruction", cost, "instructions");
    expect_that!(cost <= START_BUDGET, "it costs {cost}");
    Ok(())
}

/// Prints mean and worst; a measurement that did not end is a failure.
fn report(name: &str, latency: Option<Latency>) -> Result<Latency, crate::harness::TestError> {
    let Some(latency) = latency else {
        fail!("{name}: the other CPU did not do its part");
    };
    metric(name, latency.mean, "instructions");
    Ok(latency)
}

guest_test!(
    c174_event_0_reaches_a_wedged_cpu_within_1000_instructions,
    cpus = 2,
    boot = shared,
    icount = true,
    timeout = 60
);
fn c174_event_0_reaches_a_wedged_cpu_within_1000_instructions() -> TestResult {
    needs_icount()?;
    needs_sdei()?;
    let latency = report("sdei_signal_to_wedged", latency::signal_to_wedged())?;
    metric("sdei_signal_to_wedged_worst", latency.worst, "instructions");
    // With a GICv2 half as much again is allowed, as of all counts.
    let budget = match gic::v2::is_it() {
        true => SIGNAL_BUDGET * 3 / 2,
        false => SIGNAL_BUDGET,
    };
    expect_that!(latency.worst <= budget, "{latency:?}");
    Ok(())
}

guest_test!(
    the_latency_of_interrupts,
    cpus = 2,
    boot = shared,
    icount = true,
    timeout = 60
);
fn the_latency_of_interrupts() -> TestResult {
    needs_icount()?;
    report("sgi_to_self", latency::sgi_to_self())?;
    report("virtual_timer_in_wfi", latency::timer_in_wfi())?;
    report("virtual_timer_end", latency::timer_end())?;
    report("sgi_to_spinning", latency::sgi_to_other(false))?;
    report("sgi_to_wfi", latency::sgi_to_other(true))?;
    Ok(())
}

guest_test!(
    the_latency_of_cpus,
    cpus = 2,
    boot = shared,
    icount = true,
    timeout = 60
);
fn the_latency_of_cpus() -> TestResult {
    needs_icount()?;
    report("cpu_on_to_first_instruction", latency::cpu_on())?;
    report("cpu_off_until_off", latency::cpu_off())?;
    Ok(())
}

guest_test!(
    the_cost_of_an_sgi_to_3_others,
    cpus = 4,
    boot = own,
    icount = true,
    config = "-",
    timeout = 60
);
fn the_cost_of_an_sgi_to_3_others() -> TestResult {
    broadcast("sgi_to_3_others_each")
}

guest_test!(
    the_cost_of_an_sgi_to_63_others,
    cpus = 64,
    boot = own,
    icount = true,
    config = "-",
    timeout = 60
);
fn the_cost_of_an_sgi_to_63_others() -> TestResult {
    broadcast("sgi_to_63_others_each")
}

/// By ICC_SGI1R_EL1 with IRM, which a GICv2 does not have; one with eight CPUs has no 63 others either.
fn broadcast(name: &str) -> TestResult {
    needs_icount()?;
    if gic::v2::is_it() {
        skip!("a GICv2");
    }
    report(name, latency::sgi_to_all_others())?;
    Ok(())
}
