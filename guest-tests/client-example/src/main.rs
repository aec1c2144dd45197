//! A client of SDEI, as small as it can be: it registers event 0, masks every interrupt, signals the event to itself, and sees that its
//! handler has run. For who writes firmware that answers these calls, or a client that makes them.
//!
//! `docs/firmware.md` says how to run it on the hypervisor and on other firmware, and how to make it your own test: put a line into
//! [`run`] for each call, with the answer that DEN0054 has for it.
#![no_std]
#![no_main]

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use machine::{call, handler, interrupted_masks, mask_interrupts, mpidr, write};

#[expect(unsafe_code, reason = "the machine")]
mod machine;

/// Function identifiers (DEN0054 5.1).
const VERSION: u32 = 0xc400_0020;
const EVENT_REGISTER: u32 = 0xc400_0021;
const EVENT_ENABLE: u32 = 0xc400_0022;
const EVENT_DISABLE: u32 = 0xc400_0023;
const EVENT_UNREGISTER: u32 = 0xc400_0027;
const EVENT_STATUS: u32 = 0xc400_0028;
const EVENT_GET_INFO: u32 = 0xc400_0029;
const PE_MASK: u32 = 0xc400_002b;
const PE_UNMASK: u32 = 0xc400_002c;
const EVENT_SIGNAL: u32 = 0xc400_002f;

/// Answers (DEN0054 5.2).
const SUCCESS: i64 = 0;
const INVALID_PARAMETERS: i64 = -2;
const DENIED: i64 = -3;

/// What the handler is given each time (`ep_argument` of EVENT_REGISTER).
const ARGUMENT: u64 = 0x5de1;

/// How often the handler ran as it should have, and not so.
static HANDLED: AtomicU64 = AtomicU64::new(0);
static STRANGE: AtomicU64 = AtomicU64::new(0);

/// The test. The machine is switched off when it returns.
fn run() {
    let version = call(VERSION, [0; 5]);
    write("SDEI_VERSION");
    if version < 0 {
        write(": there is no SDEI here\n");
        return;
    }
    write(if version >> 48 == 1 {
        ": 1.x\n"
    } else {
        ": not 1.x\n"
    });

    let me = mpidr();
    let mut wrong = 0;
    let mut expect = |name: &str, function: u32, arguments: [u64; 5], expected: i64| {
        let answer = call(function, arguments);
        write(name);
        write(if answer == expected {
            ": ok\n"
        } else {
            ": NOT as DEN0054 has it\n"
        });
        wrong += u32::from(answer != expected);
    };
    expect("enable before register", EVENT_ENABLE, [0; 5], DENIED);
    expect(
        "register",
        EVENT_REGISTER,
        [0, handler(), ARGUMENT, 0, 0],
        SUCCESS,
    );
    expect(
        "register again",
        EVENT_REGISTER,
        [0, handler(), ARGUMENT, 0, 0],
        DENIED,
    );
    expect(
        "info: it can be signalled",
        EVENT_GET_INFO,
        [0, 1, 0, 0, 0],
        0,
    );
    expect("enable", EVENT_ENABLE, [0; 5], SUCCESS);
    expect("status: registered, enabled", EVENT_STATUS, [0; 5], 0b011);
    expect("unmask", PE_UNMASK, [0; 5], SUCCESS);

    mask_interrupts();
    expect(
        "signal, all interrupts masked",
        EVENT_SIGNAL,
        [0, me, 0, 0, 0],
        SUCCESS,
    );
    expect("mask", PE_MASK, [0; 5], 1);
    expect(
        "signal, events masked",
        EVENT_SIGNAL,
        [0, me, 0, 0, 0],
        SUCCESS,
    );
    let early = HANDLED.load(Relaxed);
    expect("unmask", PE_UNMASK, [0; 5], SUCCESS);
    let handled = HANDLED.load(Relaxed);
    expect(
        "signal to nobody",
        EVENT_SIGNAL,
        [0, 0xff_00ff_ffff, 0, 0, 0],
        INVALID_PARAMETERS,
    );
    expect("disable", EVENT_DISABLE, [0; 5], SUCCESS);
    expect("unregister", EVENT_UNREGISTER, [0; 5], SUCCESS);
    expect("status: nothing", EVENT_STATUS, [0; 5], 0);

    let as_due = early == 1 && handled == 2 && STRANGE.load(Relaxed) == 0;
    write(if as_due {
        "the handler ran twice, when it was due\n"
    } else {
        "the handler did NOT run when it was due\n"
    });
    write(if as_due && wrong == 0 {
        "PASSED\n"
    } else {
        "FAILED\n"
    });
}

/// The handler, which the firmware enters once for each event.
fn handle(event: u64, argument: u64, _pc: u64, pstate: u64) {
    let is_due = event == 0 && argument == ARGUMENT && interrupted_masks(pstate);
    let count = if is_due { &HANDLED } else { &STRANGE };
    count.fetch_add(1, Relaxed);
}

/// Says so, and stays.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    write("the client panicked\n");
    loop {
        core::hint::spin_loop();
    }
}
