//! Runs the tests that were asked for, and prints the lines that the runner reads.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

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

/// What came of a test.
enum Outcome<'a> {
    Passed,
    Skipped(&'a str),
    /// The place in the source and the reason.
    Failed(fmt::Arguments<'a>),
}

/// Results that have been told, for KTAP, which numbers them.
static TOLD: AtomicU32 = AtomicU32::new(0);

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
    if is_ktap() {
        console::say(format_args!("KTAP version 1"));
        console::say(format_args!("1..{}", planned()));
    }
    if machine.has_argument("list") {
        for test in registered_tests() {
            list(test);
        }
    }
    for argument in machine.arguments() {
        match argument.strip_prefix("test=") {
            Some("shared") => run_all(exempt, is_shared),
            Some("metrics") => run_all(exempt, is_metric),
            Some(name) => run_named(exempt, name),
            None => {}
        }
    }
    console::say(format_args!("DONE"));
}

fn is_shared(test: &Test) -> bool {
    test.boot == Boot::Shared && !test.icount
}

fn is_metric(test: &Test) -> bool {
    test.boot == Boot::Shared && test.icount
}

/// Whether results are to be told as KTAP (the kernel's Documentation/dev-tools/ktap.rst).
fn is_ktap() -> bool {
    machine().has_argument("ktap")
}

/// How many results there will be.
fn planned() -> usize {
    let count =
        |wanted: fn(&Test) -> bool| registered_tests().iter().filter(|it| wanted(it)).count();
    let arguments = machine().arguments();
    let tests = arguments.filter_map(|argument| argument.strip_prefix("test="));
    tests
        .map(|test| match test {
            "shared" => count(is_shared),
            "metrics" => count(is_metric),
            _ => 1,
        })
        .sum()
}

/// Says what came of a test.
fn tell(name: &str, outcome: &Outcome<'_>, say: fn(fmt::Arguments<'_>)) {
    if !is_ktap() {
        return match outcome {
            Outcome::Passed => say(format_args!("PASS {name}")),
            Outcome::Skipped(why) => say(format_args!("SKIP {name} {why}")),
            Outcome::Failed(why) => say(format_args!("FAIL {name} {why}")),
        };
    }
    let number = TOLD.fetch_add(1, Ordering::Relaxed) + 1;
    match outcome {
        Outcome::Passed => say(format_args!("ok {number} {name}")),
        Outcome::Skipped(why) => say(format_args!("ok {number} {name} # SKIP {why}")),
        Outcome::Failed(why) => {
            say(format_args!("# {why}"));
            say(format_args!("not ok {number} {name}"));
        }
    }
}

/// Says something that is no result.
fn remark(line: fmt::Arguments<'_>) {
    match is_ktap() {
        true => console::say(format_args!("# {line}")),
        false => console::say(line),
    }
}

/// Prints one measured number of a test.
pub fn metric(name: &str, value: u64, unit: &str) {
    remark(format_args!("METRIC {name} {value} {unit}"));
}

/// Fails the running test and stops the machine: after a panic there is no test to return to.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    sysreg::mask_all();
    let name = RUNNING.try_lock().and_then(|running| *running);
    // In the middle of another CPU's line, perhaps.
    console::say_last(format_args!(""));
    let name = name.unwrap_or("runtime");
    let why = format_args!("{}", PanicText(info));
    tell(name, &Outcome::Failed(why), console::say_last);
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
    tell(name, &Outcome::Passed, console::say);
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
        None => {
            let why = format_args!("{}:{}: no such test", file!(), line!());
            tell(name, &Outcome::Failed(why), console::say);
        }
    }
}

fn run_all(exempt: Exempt, wanted: impl Fn(&Test) -> bool) {
    let mut lost = None;
    for test in registered_tests() {
        if !wanted(test) {
            continue;
        }
        if let Some((index, culprit)) = lost {
            let (file, line) = (file!(), line!());
            let why = format_args!("{file}:{line}: not run: {culprit} left CPU {index} running");
            tell(test.name, &Outcome::Failed(why), console::say);
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
    remark(format_args!("RUN {}", test.name));
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
        Ok(()) => tell(name, &Outcome::Passed, console::say),
        Err(TestError::Skipped) => tell(name, &Outcome::Skipped(reason), console::say),
        Err(TestError::Failed(file, line)) => {
            let why = format_args!("{file}:{line}: {reason}");
            tell(name, &Outcome::Failed(why), console::say);
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
