//! A GICv2 as a guest sees it (IHI0048), and the tests that are about a GICv3.

use crate::harness::TestResult;
use crate::rt::exception::{self, Frame, Source};
use crate::rt::gic::v2::{self, gicc};
use crate::rt::gic::{self, gicd};
use crate::rt::sync::{Cell64, eventually};
use crate::rt::{cpu, sysreg};

/// Tests that do not apply with a GICv2, and the reason in the architecture.
const NOT_APPLICABLE: [(&str, &str); 3] = [
    (
        "the_distributor_is_a_gicv3_with_room_for_every_cpu",
        "with a GICv2: affinity routing and ArchRev 3 are GICv3's; its_distributor_says_that_it_is_a_gicv2 is this one's",
    ),
    (
        "an_sgi_that_a_cpu_never_took_is_gone_when_it_is_off",
        "with a GICv2: private registers are banked: no CPU sees another's",
    ),
    (
        "firmware_keeps_the_sgi_that_a_cpu_never_took",
        "with a GICv2: private registers are banked: no CPU sees another's",
    ),
];

/// Why the test of this name does not apply with the GIC that the machine has.
pub fn exempt(name: &str) -> Option<&'static str> {
    let mut about_v3 = NOT_APPLICABLE.iter();
    let &(_, why) = about_v3.find(|(test, _)| v2::is_it() && *test == name)?;
    Some(why)
}

/// Skips unless the GIC is a GICv2.
fn needs_gicv2() -> TestResult {
    if !v2::is_it() {
        skip!("with a GICv3: it is about a GICv2");
    }
    Ok(())
}

guest_test!(its_distributor_says_that_it_is_a_gicv2);
fn its_distributor_says_that_it_is_a_gicv2() -> TestResult {
    needs_gicv2()?;
    let gicd = gic::distributor();
    // ICPIDR2.ArchRev (IHI0048 4.3.18).
    expect_eq!(gicd.read32(gicd::PIDR2_V2) >> 4 & 0xf, 2);
    let typer = gicd.read32(gicd::TYPER);
    expect_eq!(typer >> 5 & 7, cpu::count() as u32 - 1, "CPU interfaces");
    expect_eq!(typer >> 10 & 1, 0, "no second security state");
    let own = gicd.read8(gicd::ITARGETSR);
    let expected = if cpu::count() == 1 {
        0
    } else {
        v2::target(cpu::affinity(0))
    };
    expect_eq!(own, expected, "what tells a CPU its number");
    Ok(())
}

guest_test!(acknowledging_an_sgi_names_its_sender, cpus = 4);
fn acknowledging_an_sgi_names_its_sender() -> TestResult {
    needs_gicv2()?;
    static SENDERS: Cell64 = Cell64::new(0);
    SENDERS.set(0);
    exception::set_hook(Some(|_: &mut Frame, _| {
        SENDERS.set(SENDERS.get() << 4 | u64::from(v2::last_sender()));
        Source::Silence
    }));
    for index in 1..4 {
        let status = cpu::start(index, || gic::send_sgi_to(cpu::affinity(0), 5));
        expect_eq!(status, 0);
        expect_that!(cpu::wait_off(index));
    }
    gic::send_sgi_to(cpu::affinity(0), 5);
    let shown = gic::private().read8(gicd::SPENDSGIR + 5);
    expect_eq!(shown, 0b1111, "four are pending");
    sysreg::with_interrupts(|| eventually(|| exception::count(0, 5) == 4));
    expect_eq!(exception::count(0, 5), 4, "one for each sender");
    let mut seen = 0u64;
    for n in 0..4 {
        seen |= 1 << (SENDERS.get() >> (4 * n) & 0xf);
    }
    expect_eq!(seen, 0b1111, "{:#x}", SENDERS.get());
    Ok(())
}

guest_test!(an_sgi_can_be_taken_back_from_one_sender, cpus = 2);
fn an_sgi_can_be_taken_back_from_one_sender() -> TestResult {
    needs_gicv2()?;
    let status = cpu::start(1, || gic::send_sgi_to(cpu::affinity(0), 6));
    expect_eq!(status, 0);
    expect_that!(cpu::wait_off(1));
    gic::send_sgi_to(cpu::affinity(0), 6);
    let private = gic::private();
    private.write8(gicd::CPENDSGIR + 6, v2::target(cpu::affinity(0)));
    let left = private.read8(gicd::SPENDSGIR + 6);
    expect_eq!(left, v2::target(cpu::affinity(1)));
    sysreg::with_interrupts(|| ());
    expect_eq!(exception::count(0, 6), 1);
    Ok(())
}

guest_test!(with_eoimode_an_interrupt_stays_active_until_it_is_deactivated);
fn with_eoimode_an_interrupt_stays_active_until_it_is_deactivated() -> TestResult {
    needs_gicv2()?;
    let gicc = v2::interface();
    gicc.write32(gicc::CTLR, v2::ENABLE | v2::EOI_MODE);
    gic::send_sgi_to(cpu::affinity(0), 3);
    expect_eq!(gic::acknowledge(), 3);
    gicc.write32(gicc::EOIR, v2::word(3));
    let after_end = (gic::running_priority(), gic::is_set(gicd::ISACTIVER, 3));
    gicc.write32(gicc::DIR, v2::word(3));
    let is_active = gic::is_set(gicd::ISACTIVER, 3);
    gicc.write32(gicc::CTLR, v2::ENABLE);
    expect_eq!(after_end, (gic::IDLE_PRIORITY, true));
    expect_that!(!is_active);
    Ok(())
}
