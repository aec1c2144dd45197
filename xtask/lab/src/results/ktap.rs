//! KTAP version 1 (Linux, Documentation/dev-tools/ktap.rst). How many results there will be is not known when they begin, so
//! there is no plan.

use std::io::{self, Write};

use super::{About, Case, Count, Outcome};

pub fn begin(out: &mut impl Write, about: &About) -> io::Result<()> {
    writeln!(out, "KTAP version 1")?;
    for (name, value) in about.named() {
        note(out, &format!("{name}: {value}"))?;
    }
    Ok(())
}

/// A result, and before it, as the format has it, what is to be said of it.
pub fn case(out: &mut impl Write, number: u32, case: &Case) -> io::Result<()> {
    if let Some(seconds) = case.seconds() {
        let remark = case.remark.as_deref().unwrap_or_default();
        note(out, format!("{seconds:.1} s {remark}").trim_end())?;
    }
    for detail in &case.details {
        note(out, detail)?;
    }
    let name = name(&case.name);
    match case.outcome {
        Outcome::Passed => writeln!(out, "ok {number} {name}"),
        Outcome::Failed => writeln!(out, "not ok {number} {name}"),
        Outcome::Skipped => {
            let why = case.remark.as_deref().unwrap_or_default();
            writeln!(out, "ok {number} {name} # SKIP {}", line(why))
        }
    }
}

/// A diagnostic.
pub fn note(out: &mut impl Write, text: &str) -> io::Result<()> {
    writeln!(out, "# {}", line(text))
}

pub fn end(out: &mut impl Write, count: Count) -> io::Result<()> {
    let Count {
        passed,
        failed,
        skipped,
    } = count;
    // The kernel's own tests end with such a line.
    let total = passed + failed + skipped;
    note(
        out,
        &format!("Totals: pass:{passed} fail:{failed} skip:{skipped} total:{total}"),
    )
}

/// A name in which nothing is taken for a directive.
fn name(name: &str) -> String {
    line(name).replace('#', "_")
}

/// Text that stays in its line.
fn line(text: &str) -> String {
    text.replace(char::is_control, " ")
}
