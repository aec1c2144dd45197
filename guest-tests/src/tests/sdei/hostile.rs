//! Guests that misuse events. They may harm themselves, and nobody else.

use hv_abi::sdei::Call;

use super::*;
use crate::harness::needs_sdei;
use crate::rt::machine::machine;
use crate::rt::sdei::End;
use crate::rt::timer::Timer;
use crate::rt::wedge::{self, Wedge};
use crate::rt::{exception, psci, survivor};
use crate::tests::timer::takes_interrupts;

guest_test!(c271_an_entry_that_is_no_memory_of_the_guests_aborts_in_the_guest);
fn c271_an_entry_that_is_no_memory_of_the_guests_aborts_in_the_guest() -> TestResult {
    needs_sdei()?;
    let [_, argument] = sdei::entry();
    let home = machine().home();
    let nowhere = [
        // Registers of devices that are emulated, a hole, and what lies around the guest's RAM.
        machine().uart.region().base,
        machine().gicd.region().base,
        0x3f00_0000,
        // Address 0 is not one that an event can have.
        home.base - 4,
        home.end(),
        home.end() + 0x100_0000,
    ];
    for entry in nowhere {
        let registered = sdei::call(Call::EventRegister, &[0, entry, argument, 0, 0]);
        expect_eq!(registered, SUCCESS, "{entry:#x}");
        expect_eq!([sdei::enable(), sdei::unmask()], [SUCCESS; 2]);
        let mut status = NOT_SUPPORTED;
        let caught = exception::catch_in_event(|| status = sdei::signal(cpu::affinity(0)));
        expect_eq!(status, SUCCESS, "{entry:#x}");
        match caught {
            Ok(()) => fail!("the handler at {entry:#x} did something"),
            Err(fault) => expect_eq!(fault.elr, entry, "{fault:#x?}"),
        }
        expect_eq!([sdei::status(), sdei::unregister()], [ENABLED, SUCCESS]);
    }
    Ok(())
}

guest_test!(
    c272_a_machine_whose_handlers_never_complete_can_be_reset,
    cpus = 4,
    boot = own,
    icount = false,
    timeout = 40
);
fn c272_a_machine_whose_handlers_never_complete_can_be_reset() -> TestResult {
    needs_sdei()?;
    static STUCK: Cell64 = Cell64::new(0);
    let boots = survivor::count_boot("sdei_all_stuck");
    expect_eq!([sdei::status(), sdei::mask()], [0, 0], "boot {boots}");
    for index in 1..cpu::count() {
        expect_that!(cpu::is_off(index), "CPU {index} in boot {boots}");
        sdei::set_hook(
            index,
            Some(|_| {
                STUCK.add(1);
                loop {
                    core::hint::spin_loop();
                }
            }),
        );
        let status = cpu::start(index, || {
            if sdei::get_ready() {
                sdei::signal(cpu::affinity(sysreg::cpu_index()));
            }
        });
        expect_eq!(status, 0);
    }
    let others = cpu::count() as u64 - 1;
    expect_that!(eventually(|| STUCK.get() == others), "boot {boots}");
    if boots == 3 {
        survivor::forget();
        return Ok(());
    }
    // The last one is stuck in its handler, too, when it resets.
    sdei::set_hook(0, Some(|_| psci::system_reset()));
    expect_that!(sdei::get_ready());
    sdei::signal(cpu::affinity(0));
    fail!("the machine was not reset");
}

guest_test!(
    c275_a_handler_that_resumes_into_a_signal_to_itself_for_ever_delays_nobody,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 40
);
fn c275_a_handler_that_resumes_into_a_signal_to_itself_for_ever_delays_nobody() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        sdei::set_hook(
            1,
            Some(|_| match ENOUGH.is_up() {
                true => End::Resume(wedge::escape()),
                false => End::Resume(Wedge::Signal.code().start),
            }),
        );
        if sdei::get_ready() {
            READY.raise();
        }
        wedge::enter(Wedge::Signal);
        sdei::set_hook(1, None);
        note(0, i64::from(takes_interrupts(Timer::Virtual, 3)));
    })?;
    expect_that!(entered(1, 1000));
    for timer in Timer::BOTH {
        expect_that!(takes_interrupts(timer, 50), "{timer:?}");
    }
    expect_eq!(
        [sdei::register(), sdei::enable(), sdei::unmask()],
        [SUCCESS; 3]
    );
    run_handler_here()?;
    release_target()?;
    expect_eq!(noted(0), 1, "it is itself again");
    Ok(())
}

guest_test!(
    c277_resuming_with_vectors_that_are_nowhere_harms_that_cpu_alone,
    cpus = 2,
    boot = own
);
fn c277_resuming_with_vectors_that_are_nowhere_harms_that_cpu_alone() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        note(0, 0);
        note(1, 0);
        sdei::set_hook(
            1,
            Some(|slot| {
                let nowhere = wedge::nowhere()..wedge::nowhere() + 0x800;
                if Wedge::Spin.code().contains(&slot.pc()) {
                    note(0, 1);
                    wedge::lose_vectors();
                    return End::Resume(nowhere.start);
                }
                if ENOUGH.is_up() && nowhere.contains(&slot.pc()) {
                    NOTES[1].add(1);
                    return End::Resume(wedge::escape());
                }
                End::Complete(0)
            }),
        );
        if sdei::get_ready() {
            READY.raise();
        }
        wedge::enter(Wedge::Spin);
        sdei::set_hook(1, None);
        note(2, i64::from(takes_interrupts(Timer::Virtual, 3)));
    })?;
    let is_lost = eventually(|| {
        sdei::signal(cpu::affinity(1));
        noted(0) == 1
    });
    expect_that!(is_lost);
    // From here on CPU 1 aborts at each instruction, and the hypervisor with it.
    for timer in Timer::BOTH {
        expect_that!(takes_interrupts(timer, 50), "{timer:?}");
    }
    ENOUGH.raise();
    let is_back = eventually(|| {
        sdei::signal(cpu::affinity(1));
        cpu::is_off(1)
    });
    expect_that!(is_back);
    expect_eq!([noted(1), noted(2)], [1, 1]);
    Ok(())
}
