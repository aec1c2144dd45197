//! Memory that nobody else is to read or write, for a guest beside one that tries.

use crate::harness::TestResult;
use crate::rt::machine::machine;
use crate::rt::search::{self, Line};
use crate::rt::{console, sysreg};

/// What each doubleword begins as; where it is changes the lower half, which says where it was read from.
const CANARY: u64 = 0xca9a_2b1d_0000_0000;

fn line(at: u64) -> Line {
    core::array::from_fn(|word| CANARY | (at + 8 * word as u64))
}

guest_test!(
    a_canary_in_every_line_of_memory_stays,
    cpus = 1,
    boot = own,
    icount = false,
    config = "-",
    timeout = 500
);
fn a_canary_in_every_line_of_memory_stays() -> TestResult {
    search::fill_ram(line);
    console::say(format_args!("CANARIES"));
    // Beside another guest, until somebody types that it has done what it does.
    while machine().has_argument("until-typed") && !console::is_typed_to() {
        sysreg::relax();
    }
    if let Some((at, line)) = search::first_unlike(line) {
        fail!("at {at:#x} is {line:#x?}");
    }
    Ok(())
}
