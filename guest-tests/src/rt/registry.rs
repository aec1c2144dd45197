//! What an image registers with the runtime: its main function and its tests, which the linker collects.

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
    /// What the guest is to be offered in a boot of its own: whose firmware, `reclaim`, `ramdisk`, `disk`, `virtio`, `watchdog` or `probe`.
    pub config: &'static str,
    /// Seconds after which the runner gives up.
    pub timeout: u32,
    /// The test itself.
    pub run: fn() -> TestResult,
}

/// Why a test did not pass; the harness keeps the words, so that results stay small.
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
    (@boot) => { $crate::rt::registry::Boot::Shared };
    (@boot shared) => { $crate::rt::registry::Boot::Shared };
    (@boot own) => { $crate::rt::registry::Boot::Own };
    ($name:ident $(, cpus = $cpus:expr)? $(, boot = $boot:ident)? $(, icount = $icount:expr)? $(, config = $config:expr)? $(, timeout = $timeout:expr)? $(,)?) => {
        const _: () = {
            #[used]
            #[expect(unsafe_code, reason = "the section is read as a slice of `Test`s")]
            // SAFETY: only `Test`s go into this section, whole ones.
            #[unsafe(link_section = ".guest_tests")]
            static TEST: $crate::rt::registry::Test = $crate::rt::registry::Test {
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

/// Registers what the boot CPU runs once the runtime is up: `entry!(main)`, once in the image.
macro_rules! entry {
    ($main:path) => {
        const _: () = {
            #[expect(unsafe_code, reason = "the runtime calls it by its symbol")]
            // SAFETY: no other symbol has this name, and the type is what `run_main` calls.
            #[unsafe(no_mangle)]
            extern "C" fn guest_main() {
                $main();
            }
        };
    };
}

unsafe extern "C" {
    static __guest_tests_start: u64;
    static __guest_tests_end: u64;
    safe fn guest_main();
}

/// Every test of the image.
pub fn registered_tests() -> &'static [Test] {
    let start = (&raw const __guest_tests_start).cast::<Test>();
    let end = &raw const __guest_tests_end;
    let count = (end as usize - start as usize) / size_of::<Test>();
    // SAFETY: `guest_test!` puts whole `Test`s, and nothing else, between the two symbols of guest.ld.
    unsafe { core::slice::from_raw_parts(start, count) }
}

/// Runs what `entry!` registered.
pub(super) fn run_main() {
    guest_main();
}
