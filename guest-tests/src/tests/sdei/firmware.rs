//! Firmware with faults: a guest that chose one meets it. One boot each.

use hv_abi::psci::{AffinityState, Status as Psci};
use hv_abi::sdei::{Call, feature};

use super::*;
use crate::harness::{needs_hypervisor, needs_sdei};
use crate::rt::sdei::End;
use crate::rt::sync::{watch_for_ms, within_ms};
use crate::rt::timer::{self, Timer};
use crate::rt::{exception, gic, psci, wedge};
use crate::tests::timer::takes_interrupts;

/// How long something is given that must not happen, in milliseconds.
const NEVER: u64 = 300;

macro_rules! fault_test {
    ($name:ident, $config:expr, cpus = $cpus:expr) => {
        guest_test!(
            $name,
            cpus = $cpus,
            boot = own,
            icount = false,
            config = $config
        );
    };
}

fault_test!(firmware_absent_answers_not_supported, "absent", cpus = 1);
fn firmware_absent_answers_not_supported() -> TestResult {
    needs_hypervisor()?;
    for call in Call::ALL {
        expect_eq!(sdei::call(call, &[0; 5]), NOT_SUPPORTED, "{call:?}");
    }
    Ok(())
}

fault_test!(
    firmware_version_1_0_is_that_and_no_more,
    "version-1.0",
    cpus = 1
);
fn firmware_version_1_0_is_that_and_no_more() -> TestResult {
    needs_hypervisor()?;
    expect_eq!(sdei::call(Call::Version, &[]), 1 << 48);
    let relative = u64::from(feature::RELATIVE_MODE);
    expect_eq!(sdei::call(Call::Features, &[relative]), INVALID);
    get_ready()?;
    run_handler_here()
}

fault_test!(
    c250_firmware_without_bind_slots_is_out_of_them,
    "no-bind-slots",
    cpus = 1
);
fn c250_firmware_without_bind_slots_is_out_of_them() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::call(Call::Features, &[0]), 0);
    for intid in [16, 27, 30, 32, 33, 64] {
        let status = sdei::call(Call::InterruptBind, &[intid]);
        expect_eq!(status, OUT_OF_RESOURCE, "INTID {intid}");
    }
    expect_eq!(sdei::call(Call::InterruptBind, &[1020]), INVALID);
    Ok(())
}

fault_test!(
    firmware_refuses_to_register_event_0,
    "register-refused",
    cpus = 1
);
fn firmware_refuses_to_register_event_0() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::register(), DENIED);
    expect_eq!(sdei::status(), 0);
    expect_eq!(
        sdei::register_event(0x100, 0, 0),
        SUCCESS,
        "any other it takes"
    );
    Ok(())
}

fault_test!(
    firmware_refuses_to_signal_who_cannot_take_it,
    "signal-refused",
    cpus = 2
);
fn firmware_refuses_to_signal_who_cannot_take_it() -> TestResult {
    needs_sdei()?;
    let me = cpu::affinity(0);
    expect_eq!(sdei::signal(cpu::affinity(1)), INVALID, "off");
    expect_eq!(sdei::unmask(), SUCCESS);
    expect_eq!(sdei::signal(me), INVALID, "unregistered");
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(sdei::signal(me), INVALID, "disabled");
    expect_eq!(sdei::enable(), SUCCESS);
    run_handler_here()?;
    expect_eq!(sdei::mask(), 1);
    expect_eq!(sdei::signal(me), INVALID, "masked");
    start_target(spin_ready)?;
    let status = sdei::signal(cpu::affinity(1));
    let came = entered(1, 1);
    release_target()?;
    expect_eq!(status, SUCCESS);
    expect_that!(came);
    Ok(())
}

fault_test!(firmware_loses_every_third_signal, "signal-lost=3", cpus = 1);
fn firmware_loses_every_third_signal() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    for n in 1..=12 {
        let before = sdei::slot(0).runs();
        expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
        let ran = sdei::slot(0).runs() - before;
        expect_eq!(ran, u64::from(n % 3 != 0), "signal {n}");
    }
    Ok(())
}

fault_test!(
    firmware_takes_its_time_to_deliver,
    "signal-delayed=20000",
    cpus = 2
);
fn firmware_takes_its_time_to_deliver() -> TestResult {
    needs_sdei()?;
    start_target(spin_ready)?;
    for n in 1..=5 {
        let start = timer::physical_counter();
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        expect_that!(entered(1, n), "signal {n}");
        let waited = timer::physical_counter() - start;
        let least = timer::ticks_of_us(20_000);
        expect_that!(waited >= least, "{waited} of {least} ticks");
    }
    release_target()
}

/// Work of CPU 1: says that it is alive for as long as it is.
fn count() {
    if sdei::register() == 0 {
        READY.raise();
    }
    while !ENOUGH.is_up() {
        NOTES[9].add(1);
        if NOTES[8].get() == 1 {
            NOTES[8].set(NOTHING);
            note(7, i64::from(sdei::enable() == 0 && sdei::unmask() == 0));
        }
    }
}

/// Whether CPU 1 counts on, which a busy host may delay.
fn counts_on() -> bool {
    let before = NOTES[9].get();
    eventually(|| NOTES[9].get() > before + 100)
}

/// Whether CPU 1 counts no more.
fn stands_still() -> bool {
    let before = NOTES[9].get();
    !within_ms(NEVER, || NOTES[9].get() != before)
}

fault_test!(
    d1_a_signal_makes_a_masked_cpu_deaf,
    "masked-signal-deafens",
    cpus = 2
);
fn d1_a_signal_makes_a_masked_cpu_deaf() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        sysreg::with_interrupts(count);
    })?;
    let sgis = exception::count(1, 6);
    gic::send_sgi_to(cpu::affinity(1), 6);
    expect_that!(
        eventually(|| exception::count(1, 6) == sgis + 1),
        "it hears"
    );
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    // It runs, but takes no interrupt, and no event either, though it enables and unmasks.
    NOTES[8].set(1);
    expect_that!(eventually(|| noted(7) == 1));
    gic::send_sgi_to(cpu::affinity(1), 6);
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    watch_for_ms(NEVER);
    expect_eq!(exception::count(1, 6), sgis + 1);
    expect_eq!(sdei::slot(1).runs(), 0);
    expect_that!(counts_on(), "it runs on");
    expect_that!(takes_interrupts(Timer::Virtual, 3), "CPU 0 is well");
    Ok(())
}

fault_test!(
    d2_a_signal_livelocks_a_cpu_with_its_event_disabled,
    "disabled-signal-livelocks",
    cpus = 2
);
fn d2_a_signal_livelocks_a_cpu_with_its_event_disabled() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        sdei::unmask();
        count();
    })?;
    expect_that!(counts_on());
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    expect_that!(eventually(stands_still), "it never runs again");
    let state = psci::affinity_info(cpu::affinity(1));
    expect_eq!(state, AffinityState::On as i32);
    expect_that!(takes_interrupts(Timer::Virtual, 3), "CPU 0 is well");
    Ok(())
}

/// Lets CPU 1 go off inside its event.
fn turn_off_inside() -> TestResult {
    start_target(|| {
        sdei::set_hook(1, Some(|_| cpu::stop_here()));
        if sdei::get_ready() {
            READY.raise();
        }
        wedge::enter(wedge::Wedge::Spin);
    })?;
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    expect_that!(entered(1, 1));
    Ok(())
}

fault_test!(
    firmware_wedges_a_cpu_that_goes_off_inside_its_event,
    "off-in-event-wedges",
    cpus = 2
);
fn firmware_wedges_a_cpu_that_goes_off_inside_its_event() -> TestResult {
    needs_sdei()?;
    turn_off_inside()?;
    expect_that!(!within_ms(NEVER, || cpu::is_off(1)), "it is never off");
    let status = cpu::try_cpu_on(cpu::affinity(1), cpu::entry_address());
    expect_eq!(status, Psci::AlreadyOn as i32);
    Ok(())
}

fault_test!(
    d3_a_cpu_that_went_off_inside_its_event_comes_back_deaf,
    "off-in-event-keeps-priority",
    cpus = 2
);
fn d3_a_cpu_that_went_off_inside_its_event_comes_back_deaf() -> TestResult {
    needs_sdei()?;
    turn_off_inside()?;
    expect_that!(cpu::wait_off(1), "off it is");
    sdei::set_hook(1, None);
    start_target(|| {
        if sdei::get_ready() {
            READY.raise();
        }
        gic::enable(Timer::Virtual.intid());
        Timer::Virtual.fire_in(timer::ticks_of_us(100));
        sysreg::with_interrupts(count);
    })?;
    expect_that!(counts_on(), "and comes back");
    let sgis = exception::count(1, 6);
    gic::send_sgi_to(cpu::affinity(1), 6);
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    watch_for_ms(NEVER);
    expect_eq!(exception::count(1, 6), sgis, "no SGI");
    expect_eq!(exception::count(1, Timer::Virtual.intid()), 0, "no timer");
    expect_eq!(sdei::slot(1).runs(), 1, "no event");
    Ok(())
}

fault_test!(
    firmware_keeps_the_sgi_that_a_cpu_never_took,
    "off-keeps-pending",
    cpus = 2
);
fn firmware_keeps_the_sgi_that_a_cpu_never_took() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        READY.raise();
        let _in_time = ENOUGH.wait();
    })?;
    gic::send_sgi_to(cpu::affinity(1), 6);
    release_target()?;
    // Off, and still it waits there for the CPU that comes back, unless that clears it.
    let pending = gic::private_of(cpu::affinity(1)).read32(gic::gicd::ISPENDR);
    expect_eq!(pending & 1 << 6, 1 << 6);
    Ok(())
}

fault_test!(
    firmware_like_tf_a_2_12_answers_as_it_does,
    "tfa-2.12",
    cpus = 2
);
fn firmware_like_tf_a_2_12_answers_as_it_does() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::call(Call::Version, &[]), 1 << 48);
    expect_eq!(sdei::call(Call::Features, &[0]), 0);
    let [address, argument] = sdei::entry();
    let register = |address, flags, affinity| {
        sdei::call(
            Call::EventRegister,
            &[0, address, argument, flags, affinity],
        )
    };
    expect_eq!(register(address, 2, 0), INVALID, "relative mode");
    expect_eq!(register(address, 1, 1 << 40), INVALID, "affinity");
    expect_eq!(register(address + 1, 0, 0), SUCCESS, "alignment");
    expect_eq!(sdei::unregister(), SUCCESS);
    start_target(spin_ready)?;
    let far = cpu::affinity(1) | 1 << 48;
    expect_eq!(sdei::signal(far), SUCCESS, "foreign bits");
    expect_that!(entered(1, 1));
    release_target()?;
    get_ready()?;
    sdei::set_hook(
        0,
        Some(|_| {
            note(0, sdei::call(Call::EventCompleteAndResume, &[2]));
            End::Complete(0)
        }),
    );
    run_handler_here()?;
    expect_eq!(noted(0), DENIED, "resume address");
    Ok(())
}

fault_test!(
    firmware_like_tf_a_2_13_refuses_signals,
    "tfa-2.13",
    cpus = 2
);
fn firmware_like_tf_a_2_13_refuses_signals() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::signal(cpu::affinity(1)), INVALID, "off");
    expect_eq!(sdei::signal(cpu::affinity(0)), INVALID, "masked");
    get_ready()?;
    run_handler_here()?;
    expect_that!(takes_interrupts(Timer::Virtual, 3));
    Ok(())
}
