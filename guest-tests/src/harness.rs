//! Runs the tests that were asked for, and prints the lines that the runner reads.

use core::fmt;
use core::panic::PanicInfo;

use spin::Mutex;

use crate::rt::machine::machine;
use crate::rt::registry::{Boot, Test, registered_tests};
use crate::rt::text::Text;
use crate::rt::{console, cpu, exception, gic, psci, sdei, sysreg, timer};

pub use crate::rt::registry::{TestError, TestResult};

/// Why the test of this name does not apply on this machine, if so.
pub type Exempt = fn(name: &str) -> Option<&'static str>;

/// Ends the test as failed, with a formatted reason.
macro_rules! fail {
    ($($text:tt)*) => {
        return Err($crate::harness::failed(file!(), line!(), format_args!($($text)*)))
    };
}

/// Ends the test as not applicable.
macro_rules! skip {
    ($($text:tt)*) => {
        return Err($crate::harness::skipped(format_args!($($text)*)))
    };
}

/// Fails unless both sides are equal. An optional format says which case this was.
macro_rules! expect_eq {
    ($left:expr, $right:expr $(,)?) => {
        expect_eq!($left, $right, "")
    };
    ($left:expr, $right:expr, $($context:tt)+) => {{
        let (left, right) = ($left, $right);
        if left != right {
            fail!(
                "{} is {left:#x?}, expected {right:#x?} {}",
                stringify!($left),
                format_args!($($context)+)
            );
        }
    }};
}

/// Fails unless the condition holds.
macro_rules! expect_that {
    ($condition:expr $(,)?) => {
        expect_that!($condition, "")
    };
    ($condition:expr, $($context:tt)+) => {
        if !$condition {
            fail!("{} does not hold {}", stringify!($condition), format_args!($($context)+));
        }
    };
}

static RUNNING: Mutex<Option<&'static str>> = Mutex::new(None);
static REASON: Mutex<Text<320>> = Mutex::new(Text::new());

/// A failure at `file` and `line`.
pub fn failed(file: &'static str, line: u32, reason: fmt::Arguments<'_>) -> TestError {
    *REASON.lock() = Text::format(reason);
    TestError::Failed(file, line)
}

/// A test that does not apply.
pub fn skipped(reason: fmt::Arguments<'_>) -> TestError {
    *REASON.lock() = Text::format(reason);
    TestError::Skipped
}

/// Does what the boot arguments ask for, and ends with `DONE`.
pub fn run(exempt: Exempt) {
    let machine = machine();
    if machine.has_argument("list") {
        for test in registered_tests() {
            list(test);
        }
    }
    for argument in machine.arguments() {
        match argument.strip_prefix("test=") {
            Some("shared") => run_all(exempt, |test| test.boot == Boot::Shared && !test.icount),
            Some("metrics") => run_all(exempt, |test| test.boot == Boot::Shared && test.icount),
            Some(name) => run_named(exempt, name),
            None => {}
        }
    }
    console::say(format_args!("DONE"));
}

/// Prints one measured number of a test.
pub fn metric(name: &str, value: u64, unit: &str) {
    console::say(format_args!("METRIC {name} {value} {unit}"));
}

/// Fails the running test and stops the machine: after a panic there is no test to return to.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    sysreg::mask_all();
    let name = RUNNING.try_lock().and_then(|running| *running);
    // In the middle of another CPU's line, perhaps.
    console::say_last(format_args!(""));
    console::say_last(format_args!(
        "FAIL {} {}",
        name.unwrap_or("runtime"),
        PanicText(info)
    ));
    console::say_last(format_args!("DONE"));
    psci::system_off()
}

struct PanicText<'a>(&'a PanicInfo<'a>);

impl fmt::Display for PanicText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.location() {
            Some(at) => write!(
                f,
                "{}:{}: panic: {}",
                at.file(),
                at.line(),
                self.0.message()
            ),
            None => write!(f, "panic: {}", self.0.message()),
        }
    }
}

/// Prints the running test's success and `DONE`, for a test whose last act ends the machine. Should
/// the machine go on, the test fails after all, and a failure outweighs a success.
pub fn done_before_the_end() {
    let name = RUNNING.lock().unwrap_or("runtime");
    console::say(format_args!("PASS {name}"));
    console::say(format_args!("DONE"));
}

/// Skips unless a hypervisor is below; what the bare machine does is QEMU's affair.
pub fn needs_hypervisor() -> TestResult {
    if machine().has_argument("bare") {
        skip!("only a hypervisor promises this");
    }
    Ok(())
}

/// Skips unless there is an SDEI; that there must be one is a test of its own.
pub fn needs_sdei() -> TestResult {
    if !sdei::is_available() {
        skip!("there is no SDEI here");
    }
    Ok(())
}

/// Skips unless instructions are counted.
pub fn needs_icount() -> TestResult {
    if !machine().has_argument("icount") {
        skip!("instructions are counted under -icount only");
    }
    Ok(())
}

fn list(test: &Test) {
    let boot = match test.boot {
        Boot::Shared => "shared",
        Boot::Own => "own",
    };
    let icount = if test.icount { "yes" } else { "no" };
    console::say(format_args!(
        "TEST {} cpus={} boot={boot} icount={icount} config={} timeout={}",
        test.name, test.cpus, test.config, test.timeout
    ));
}

fn run_named(exempt: Exempt, name: &str) {
    match registered_tests().iter().find(|test| test.name == name) {
        Some(test) => {
            run_one(exempt, test);
        }
        None => console::say(format_args!(
            "FAIL {name} {}:{}: no such test",
            file!(),
            line!()
        )),
    }
}

fn run_all(exempt: Exempt, wanted: impl Fn(&Test) -> bool) {
    let mut lost = None;
    for test in registered_tests() {
        if !wanted(test) {
            continue;
        }
        if let Some((index, culprit)) = lost {
            console::say(format_args!(
                "FAIL {} {}:{}: not run: {culprit} left CPU {index} running",
                test.name,
                file!(),
                line!()
            ));
            continue;
        }
        run_one(exempt, test);
        if let Err(index) = tidy_up() {
            lost = Some((index, test.name));
        }
    }
}

fn run_one(exempt: Exempt, test: &'static Test) {
    *RUNNING.lock() = Some(test.name);
    console::say(format_args!("RUN {}", test.name));
    let result = if let Some(why) = exempt(test.name) {
        Err(skipped(format_args!("{why}")))
    } else if test.cpus > cpu::count() {
        let count = cpu::count();
        Err(skipped(format_args!(
            "needs {} CPUs, there are {count}",
            test.cpus
        )))
    } else {
        (test.run)()
    };
    let reason = *REASON.lock();
    let (name, reason) = (test.name, reason.as_str());
    match result {
        Ok(()) => console::say(format_args!("PASS {name}")),
        Err(TestError::Skipped) => console::say(format_args!("SKIP {name} {reason}")),
        Err(TestError::Failed(file, line)) => {
            console::say(format_args!("FAIL {name} {file}:{line}: {reason}"));
        }
    }
}

/// Puts the machine back as a fresh test expects it.
fn tidy_up() -> Result<(), usize> {
    sysreg::mask_all();
    for timer in timer::Timer::BOTH {
        timer.stop();
    }
    cpu::stop_others()?;
    sdei::forget();
    gic::start_distributor();
    gic::start_cpu();
    exception::forget();
    Ok(())
}
