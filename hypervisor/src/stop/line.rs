//! Lines of reports: past the console's lock, since who holds it may be stuck, and those of the stopper also into the
//! record that the next boot finds.

use core::fmt::{self, Write};

use super::slots;
use crate::{console, crash_record};

/// Writes one framed line. Use `report_line!`.
pub fn write(text: fmt::Arguments<'_>) {
    console::write_past_lock(&mut Tee, text);
}

/// Writes one line of a report: `report_line!("@hv-stop pcpu={id}")`.
#[macro_export]
macro_rules! report_line {
    ($($argument:tt)*) => {
        $crate::stop::line::write(format_args!($($argument)*))
    };
}

/// Into the UART and into the record.
struct Tee;

impl Write for Tee {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if slots::is_stopper() {
            // SAFETY: there is one stopper, and it is this pCPU.
            unsafe { crash_record::append(text.as_bytes()) };
        }
        console::put_past_lock(text);
        Ok(())
    }
}
