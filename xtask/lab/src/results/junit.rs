//! JUnit's XML as continuous-integration servers read it: the elements, their order and their attributes are those of the
//! schema that the Ant task `junitreport` goes by.

use std::io::{self, Write};
use std::time::Duration;

use super::{About, Case, Count, Outcome};

pub fn document(
    out: &mut impl Write,
    about: Option<&About>,
    count: Count,
    cases: &[Case],
) -> io::Result<()> {
    let time: Duration = cases.iter().filter_map(|case| case.time).sum();
    let time = time.as_secs_f64();
    let tests = cases.len();
    let (failures, skipped) = (count.failed, count.skipped);
    // Its dates have no zone.
    let date = about.map_or("", |about| about.date.trim_end_matches('Z'));
    writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    writeln!(out, "<testsuites>")?;
    writeln!(
        out,
        "<testsuite id=\"0\" package=\"halligan\" name=\"halligan\" hostname=\"localhost\" timestamp=\"{date}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" skipped=\"{skipped}\" time=\"{time:.3}\">"
    )?;
    writeln!(out, "<properties>")?;
    for (name, value) in about.into_iter().flat_map(About::named) {
        writeln!(out, "<property name=\"{name}\" value=\"{}\"/>", text(value))?;
    }
    writeln!(out, "</properties>")?;
    for case in cases {
        self::case(out, case)?;
    }
    writeln!(out, "<system-out/>")?;
    writeln!(out, "<system-err/>")?;
    writeln!(out, "</testsuite>")?;
    writeln!(out, "</testsuites>")
}

fn case(out: &mut impl Write, case: &Case) -> io::Result<()> {
    let class = case.name.split('/').next().unwrap_or_default();
    write!(
        out,
        "<testcase classname=\"halligan.{}\" name=\"{}\" time=\"{:.3}\"",
        text(class),
        text(&case.name),
        case.seconds().unwrap_or_default()
    )?;
    match case.outcome {
        Outcome::Passed => writeln!(out, "/>"),
        Outcome::Failed => {
            let first = case.details.first().map(String::as_str).unwrap_or_default();
            writeln!(
                out,
                "><failure type=\"failed\" message=\"{}\">{}</failure></testcase>",
                text(first),
                text(&case.details.join("\n"))
            )
        }
        Outcome::Skipped => {
            let why = case.remark.as_deref().unwrap_or_default();
            writeln!(out, "><skipped message=\"{}\"/></testcase>", text(why))
        }
    }
}

/// Text of an element or an attribute. Characters that XML 1.0 has not (section 2.2) are replaced.
fn text(raw: &str) -> String {
    let mut safe = String::new();
    for c in raw.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\n' | '\t' => safe.push(c),
            '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}
