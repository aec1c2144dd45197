//! Colours for people. Who writes has them always; [`screen`] takes them out where nobody sees or wants them.

use std::io::Stdout;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

use super::Outcome;

/// Standard output that keeps colours on a terminal only, and as NO_COLOR, CLICOLOR and CLICOLOR_FORCE say.
pub type Screen = AutoStream<Stdout>;

/// It.
pub fn screen() -> Screen {
    anstream::stdout()
}

/// Whether it keeps them.
pub fn has_colour() -> bool {
    AutoStream::choice(&std::io::stdout()) != ColorChoice::Never
}

/// How an outcome is shown.
pub const fn style(outcome: Outcome) -> Style {
    let colour = match outcome {
        Outcome::Passed => AnsiColor::Green,
        Outcome::Failed => AnsiColor::Red,
        Outcome::Skipped => AnsiColor::Yellow,
    };
    colour.on_default()
}

/// What lines of a report begin with, and the outcome that they tell of.
const VERDICTS: [(&str, Outcome); 2] = [("PASSED", Outcome::Passed), ("FAILED", Outcome::Failed)];

/// A report for people whose verdicts, and those of each CPU, have colours.
pub fn painted(report: &str) -> String {
    let lines = report.lines().map(|line| {
        let of_all = VERDICTS.iter().find(|(word, _)| line.starts_with(word));
        if let Some((_, outcome)) = of_all {
            let style = style(*outcome);
            return format!("{style}{line}{style:#}\n");
        }
        // Such as `  CPU 2   ok  stopped by SDEI`.
        let of_cpu = line.strip_prefix("  CPU ").and_then(|rest| {
            let (number, rest) = rest.split_once(' ')?;
            let word = rest.split_whitespace().next()?;
            let outcome = match word {
                "ok" => Outcome::Passed,
                "BAD" => Outcome::Failed,
                _ => return None,
            };
            let (before, after) = rest.split_once(word)?;
            let style = style(outcome);
            Some(format!(
                "  CPU {number} {before}{style}{word}{style:#}{after}\n"
            ))
        });
        of_cpu.unwrap_or_else(|| format!("{line}\n"))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_have_colours_and_nothing_else_changes() {
        let report = "\nStop ladder\n  CPU 0   ok  panicked\n  CPU 12  BAD not stopped: ok\n  CPU 3   backtrace at a+0x0\nFAILED: CPU 12\n";
        let painted = painted(report);
        assert_eq!(anstream::adapter::strip_str(&painted).to_string(), report);
        let (green, red) = (style(Outcome::Passed), style(Outcome::Failed));
        let lines: Vec<&str> = painted.lines().collect();
        assert_eq!(lines[2], format!("  CPU 0   {green}ok{green:#}  panicked"));
        assert_eq!(
            lines[3],
            format!("  CPU 12  {red}BAD{red:#} not stopped: ok")
        );
        assert_eq!(lines[5], format!("{red}FAILED: CPU 12{red:#}"));
        assert_eq!(
            (lines[1], lines[4]),
            ("Stop ladder", "  CPU 3   backtrace at a+0x0")
        );
    }
}
