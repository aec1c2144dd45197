//! The end of the machine: off, reset, and reset again. One boot each.

use hv_abi::psci::{self as abi, Status};

use crate::harness::{TestResult, done_before_the_end, needs_hypervisor};
use crate::rt::machine::machine;
use crate::rt::restarted::Shared;
use crate::rt::sync::{Flag, eventually, watch_for_ms};
use crate::rt::{cpu, exception, psci, survivor, sysreg};

/// Boots a reset test sees before it is content.
const BOOTS: u64 = 3;

guest_test!(
    system_reset_boots_the_machine_again_and_again,
    cpus = 1,
    boot = own,
    icount = false,
    timeout = 40
);
fn system_reset_boots_the_machine_again_and_again() -> TestResult {
    if survivor::count_boot("system_reset") < BOOTS {
        psci::system_reset();
    }
    survivor::forget();
    Ok(())
}

guest_test!(
    each_reset_brings_other_seeds,
    cpus = 1,
    boot = own,
    icount = false,
    timeout = 40
);
fn each_reset_brings_other_seeds() -> TestResult {
    needs_hypervisor()?;
    let Some((kaslr, rng)) = machine().seeds() else {
        skip!("neither the machine's devicetree nor its CPUs have anything secret");
    };
    let boots = survivor::count_boot("seeds");
    // The next boot compares one number instead of five.
    let (words, _) = rng.as_chunks::<8>();
    let words = words.iter().map(|&word| u64::from_be_bytes(word));
    let both = words.fold(kaslr, |all, word| all.rotate_left(7) ^ word);
    expect_that!(
        kaslr != 0 && rng != [0; 32],
        "boot {boots} has no seeds, but room for them"
    );
    let before = survivor::exchange(both);
    expect_that!(
        boots == 1 || before != both,
        "boot {boots} has the seeds of the one before"
    );
    if boots < BOOTS {
        psci::system_reset();
    }
    survivor::forget();
    Ok(())
}

guest_test!(
    system_reset2_resets_the_machine_too,
    cpus = 1,
    boot = own,
    icount = false,
    timeout = 40
);
fn system_reset2_resets_the_machine_too() -> TestResult {
    needs_hypervisor()?;
    if survivor::count_boot("system_reset2") < BOOTS {
        let status = psci::call_psci(abi::SYSTEM_RESET2[1], &[0, 0]);
        fail!("SYSTEM_RESET2 returned {status}");
    }
    survivor::forget();
    Ok(())
}

guest_test!(
    system_reset_while_others_run_leaves_them_off,
    cpus = 4,
    boot = own,
    icount = false,
    timeout = 40
);
fn system_reset_while_others_run_leaves_them_off() -> TestResult {
    let boots = survivor::count_boot("system_reset_others");
    for index in 1..cpu::count() {
        expect_that!(cpu::is_off(index), "CPU {index} in boot {boots}");
    }
    if boots < BOOTS {
        static ON: Flag = Flag::new();
        for index in 1..cpu::count() {
            ON.lower();
            // One spins masked, one waits, one takes interrupts: none is in the way.
            let status = cpu::start(index, || {
                ON.raise();
                match sysreg::cpu_index() {
                    1 => loop {
                        core::hint::spin_loop();
                    },
                    2 => sysreg::park(),
                    _ => sysreg::with_interrupts(|| {
                        loop {
                            sysreg::wfi();
                        }
                    }),
                }
            });
            expect_eq!(status, Status::Success as i32);
            expect_that!(ON.wait());
        }
        psci::system_reset();
    }
    survivor::forget();
    Ok(())
}

/// Boots in which a CPU is switched on until the reset; `boots=` says how many otherwise.
const RESTARTED_BOOTS: u64 = 30;

guest_test!(
    system_reset_leaves_no_cpu_running_that_siblings_switch_on,
    cpus = 4,
    boot = own,
    icount = false,
    timeout = 60
);
fn system_reset_leaves_no_cpu_running_that_siblings_switch_on() -> TestResult {
    needs_hypervisor()?;
    const RESTARTED: usize = 1;
    let boots = survivor::count_boot("system_reset_restarted");
    let shared = Shared::find();
    if boots > 1 {
        let before = shared.turns();
        for _ in 0..200_000 {
            core::hint::spin_loop();
        }
        expect_eq!(shared.turns(), before, "the CPU of boot {}", boots - 1);
        expect_that!(cpu::is_off(RESTARTED), "in boot {boots}");
    }
    if boots <= machine().number("boots").unwrap_or(RESTARTED_BOOTS) {
        shared.clear();
        for index in RESTARTED + 1..cpu::count() {
            let status = cpu::start(index, || {
                loop {
                    let _status = Shared::find().switch_on(RESTARTED);
                }
            });
            expect_eq!(status, Status::Success as i32);
        }
        // Some starts more or fewer, so that the end meets the CPU at other places.
        let starts = 3 + boots % 7;
        expect_that!(eventually(|| shared.starts() >= starts));
        shared.announce_the_end();
        psci::system_reset();
    }
    survivor::forget();
    Ok(())
}

guest_test!(
    system_reset_forgets_interrupts,
    cpus = 1,
    boot = own,
    icount = false,
    timeout = 40
);
fn system_reset_forgets_interrupts() -> TestResult {
    let boots = survivor::count_boot("system_reset_irq");
    sysreg::with_interrupts(|| ());
    expect_eq!(exception::count(0, 5), 0, "in boot {boots}");
    if boots < BOOTS {
        crate::rt::gic::send_sgi_to(cpu::affinity(0), 5);
        psci::system_reset();
    }
    survivor::forget();
    Ok(())
}

guest_test!(system_off2_turns_the_machine_off, cpus = 2, boot = own);
fn system_off2_turns_the_machine_off() -> TestResult {
    needs_hypervisor()?;
    let status = cpu::start(1, || sysreg::park());
    expect_eq!(status, Status::Success as i32);
    done_before_the_end();
    let hibernate = u64::from(abi::HIBERNATE_OFF);
    let status = psci::call_psci(abi::SYSTEM_OFF2[1], &[hibernate, 0]);
    fail!("SYSTEM_OFF2 returned {status}");
}

guest_test!(
    system_off_from_a_secondary_stops_a_machine_that_spins,
    cpus = 2,
    boot = own
);
fn system_off_from_a_secondary_stops_a_machine_that_spins() -> TestResult {
    let status = cpu::start(1, || {
        done_before_the_end();
        psci::system_off();
    });
    expect_eq!(status, Status::Success as i32);
    watch_for_ms(5000);
    fail!("the machine is still on");
}
