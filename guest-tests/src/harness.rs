//! Tests, their registry, and the lines the runner reads.

use core::fmt;

use spin::Mutex;

use crate::rt::machine::machine;
use crate::rt::text::Text;
use crate::rt::{console, cpu, exception, gic, psci, sdei, sysreg, timer};

/// Whether a test can share its boot with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// It leaves the machine as it found it.
    Shared,
    /// It wedges, resets or otherwise spends the machine.
    Own,
}

/// A registered test.
pub struct Test {
    /// A sentence.
    pub name: &'static str,
    /// CPUs it needs.
    pub cpus: usize,
    /// Whether it can share its boot.
    pub boot: Boot,
    /// Whether it counts instructions.
    pub icount: bool,
    /// What the guest is to be offered in a boot of its own: whose firmware, `reclaim`, `ramdisk` or `probe`.
    pub config: &'static str,
    /// Seconds after which the runner gives up.
    pub timeout: u32,
    /// The test itself.
    pub run: fn() -> TestResult,
}

/// Why a test did not pass; the words are in `REASON`, so that results stay small.
#[derive(Debug)]
pub enum TestError {
    /// Something was not as it should be, at this file and line.
    Failed(&'static str, u32),
    /// The test does not apply here.
    Skipped,
}

/// What a test returns.
pub type TestResult = Result<(), TestError>;

/// Registers the function of the same name: `guest_test!(name, cpus = 2, boot = own)`. What is left
/// out is `cpus = 1, boot = shared, icount = false, config = "-", timeout = 20`; the order is that.
macro_rules! guest_test {
    (@or $default:expr) => { $default };
    (@or $default:expr, $value:expr) => { $value };
    (@boot) => { $crate::harness::Boot::Shared };
    (@boot shared) => { $crate::harness::Boot::Shared };
    (@boot own) => { $crate::harness::Boot::Own };
    ($name:ident $(, cpus = $cpus:expr)? $(, boot = $boot:ident)? $(, icount = $icount:expr)? $(, config = $config:expr)? $(, timeout = $timeout:expr)? $(,)?) => {
        const _: () = {
            #[used]
            #[expect(unsafe_code, reason = "the section is read as a slice of `Test`s")]
            // SAFETY: only `Test`s go into this section, whole ones.
            #[unsafe(link_section = ".guest_tests")]
            static TEST: $crate::harness::Test = $crate::harness::Test {
                name: stringify!($name),
                cpus: guest_test!(@or 1 $(, $cpus)?),
                boot: guest_test!(@boot $($boot)?),
                icount: guest_test!(@or false $(, $icount)?),
                config: guest_test!(@or "-" $(, $config)?),
                timeout: guest_test!(@or 20 $(, $timeout)?),
                run: $name,
            };
        };
    };
}

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
pub fn run() {
    let machine = machine();
    let tests = crate::rt::registered_tests();
    if machine.has_argument("list") {
        for test in tests {
            list(test);
        }
    }
    for argument in machine.arguments() {
        match argument.strip_prefix("test=") {
            Some("shared") => run_all(|test| test.boot == Boot::Shared && !test.icount),
            Some("metrics") => run_all(|test| test.boot == Boot::Shared && test.icount),
            Some(name) => run_named(tests, name),
            None => {}
        }
    }
    console::say(format_args!("DONE"));
}

/// Prints one measured number of a test.
pub fn metric(name: &str, value: u64, unit: &str) {
    console::say(format_args!("METRIC {name} {value} {unit}"));
}

/// Fails the running test with `reason`, and stops the machine. For what leaves no test to return to.
pub fn fail_and_stop(reason: fmt::Arguments<'_>) -> ! {
    sysreg::mask_all();
    let name = RUNNING.try_lock().and_then(|running| *running);
    // In the middle of another CPU's line, perhaps.
    console::say_last(format_args!(""));
    console::say_last(format_args!("FAIL {} {reason}", name.unwrap_or("runtime")));
    console::say_last(format_args!("DONE"));
    psci::system_off()
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

fn run_named(tests: &'static [Test], name: &str) {
    match tests.iter().find(|test| test.name == name) {
        Some(test) => {
            run_one(test);
        }
        None => console::say(format_args!(
            "FAIL {name} {}:{}: no such test",
            file!(),
            line!()
        )),
    }
}

fn run_all(wanted: impl Fn(&Test) -> bool) {
    let mut lost = None;
    for test in crate::rt::registered_tests() {
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
        run_one(test);
        if let Err(index) = tidy_up() {
            lost = Some((index, test.name));
        }
    }
}

fn run_one(test: &'static Test) {
    *RUNNING.lock() = Some(test.name);
    console::say(format_args!("RUN {}", test.name));
    let is_v2 = crate::rt::gic::v2::is_it();
    let mut exempt = crate::tests::gicv2::NOT_APPLICABLE.iter();
    let exempt = exempt.find(|(name, _)| is_v2 && *name == test.name);
    let result = if let Some((_, why)) = exempt {
        Err(skipped(format_args!("with a GICv2: {why}")))
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
