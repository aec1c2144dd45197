//! Events that EL3 delivers to a CPU while our guest runs on it, by the thousand, each of which gives back what it
//! interrupted: `probe=0:COUNT` on the hypervisor's command line has it do so at a TRNG call of CPU 1.

use hv_abi::{psci as abi, trng};
use spin::Mutex;

use crate::harness::{TestResult, metric};
use crate::rt::call::{Registers, call_all};
use crate::rt::exception::{self, Frame, Source};
use crate::rt::machine::machine;
use crate::rt::patterns::{self, Across, Context};
use crate::rt::sync::{Flag, eventually};
use crate::rt::{cpu, gic, sysreg};

/// COUNT of the two tests; there are more events where too few of them meet what they are meant for. The first is slow: QEMU then takes interrupts between any two instructions.
const IN_EL2: u64 = 3000;
const OVER_A_GUEST: u64 = 10_000;
const SEED: u64 = 0x0f1e_2d3c_4b5a_6978;
/// Calls between two looks at all registers.
const CALLS: u64 = 100;
/// The SGI that ends a spin.
const ENOUGH: u32 = 7;

/// How many events came back, and how many of them had interrupted the way into the guest and out of it, and the
/// guest.
static MET: Mutex<[u64; 3]> = Mutex::new([0; 3]);
static IS_DONE: Flag = Flag::new();

/// On CPU 1.
fn probe() {
    let mut x: Registers = [0; 18];
    x[0] = trng::VERSION.into();
    let x = call_all(machine().conduit, x);
    *MET.lock() = [x[0], x[1], x[2]];
    IS_DONE.raise();
}

guest_test!(
    c312_events_in_el2s_way_in_and_out_change_no_register,
    cpus = 2,
    boot = own,
    config = "probe-steps",
    timeout = 60
);
fn c312_events_in_el2s_way_in_and_out_change_no_register() -> TestResult {
    let version = call_all(machine().conduit, {
        let mut x: Registers = [0; 18];
        x[0] = abi::VERSION.into();
        x
    })[0];
    let mut before = Context::pattern(SEED);
    before.x[28] = CALLS;
    let mut expected = before;
    expected.x[0] = version;
    expected.x[27] = before.x[27].wrapping_add(CALLS * version);
    expected.x[28] = 0;
    expect_eq!(cpu::start(1, probe), 0);
    let mut rounds = 0u64;
    while !IS_DONE.is_up() {
        let after = patterns::run(Across::Calls, &before);
        if let Some((kind, n)) = after.first_difference(&expected, &[]) {
            fail!(
                "{kind}{n} changed in round {rounds}: {:#x}",
                after.x[n.min(30)]
            );
        }
        rounds += 1;
    }
    let [events, live, _] = *MET.lock();
    metric("events", events, "events");
    metric("in_vectors_and_world_switch", live, "events");
    expect_that!(events >= IN_EL2, "{events} of them");
    expect_that!(live >= IN_EL2 / 10, "{live} of them");
    expect_that!(cpu::wait_off(1));
    Ok(())
}

guest_test!(
    c313_events_over_a_guest_keep_registers_and_memory,
    cpus = 2,
    boot = own,
    config = "probe",
    timeout = 60
);
fn c313_events_over_a_guest_keep_registers_and_memory() -> TestResult {
    static MEMORY: Mutex<[u64; 8192]> = Mutex::new([0; 8192]);
    fn end_the_spin(frame: &mut Frame, intid: u32) -> Source {
        if intid == ENOUGH && frame.elr == patterns::spin_here() {
            assert!(
                frame.x == Context::pattern(SEED).x,
                "registers in the vector"
            );
            frame.elr = patterns::spin_end();
            IS_DONE.lower();
        }
        Source::Leave
    }
    let mut memory = MEMORY.lock();
    let value = |at: usize| SEED.wrapping_mul(2 * at as u64 + 1);
    for (at, word) in memory.iter_mut().enumerate() {
        *word = value(at);
    }
    exception::set_hook(Some(end_the_spin));
    let status = cpu::start(1, || {
        probe();
        // As many as it takes: the first may come before the loop is reached.
        let _ = eventually(|| {
            gic::send_sgi_to(cpu::affinity(0), ENOUGH);
            !IS_DONE.is_up()
        });
    });
    expect_eq!(status, 0);
    let before = Context::pattern(SEED);
    let after = sysreg::with_interrupts(|| patterns::run(Across::Spin, &before));
    if let Some((kind, n)) = after.first_difference(&before, &[]) {
        fail!("{kind}{n} changed: {:#x}", after.x[n.min(30)]);
    }
    let changed = (0..memory.len()).find(|&at| memory[at] != value(at));
    expect_eq!(changed, None);
    let [events, _, over] = *MET.lock();
    metric("events", events, "events");
    metric("over_the_guest", over, "events");
    expect_that!(events >= OVER_A_GUEST, "{events} of them");
    expect_that!(over >= OVER_A_GUEST / 10 * 9, "{over} of them");
    expect_that!(cpu::wait_off(1));
    Ok(())
}
