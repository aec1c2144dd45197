//! The page of many jobs: a table that leads to the page of each.

use maud::{Markup, html};

use super::timeline::millis;
use super::{printable, whole};

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it must be.
    Passed,
    /// It had to fail, and did for its reason.
    FailedAsItMust,
    /// It is not as it must be.
    Failed,
    /// It has not been done.
    NotRun,
}

/// A job.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// Its name.
    pub name: &'a str,
    /// What became of it.
    pub verdict: Verdict,
    /// How long it took, in seconds.
    pub seconds: Option<f64>,
    /// How long the rung of SDEI took, in microseconds.
    pub sdei_us: Option<u64>,
    /// What is wrong, or what it failed with as it must.
    pub faults: &'a [String],
    /// The command that does it again.
    pub command: &'a str,
    /// The folder of its page, from the folder of this one.
    pub folder: Option<&'a str>,
}

/// Its name in each folder.
pub const OF_JOB: &str = "page.html";

/// The page of these jobs.
pub fn list(title: &str, jobs: &[Job<'_>]) -> String {
    let count = |verdict: Verdict| jobs.iter().filter(|job| job.verdict == verdict).count();
    let good = count(Verdict::Passed) + count(Verdict::FailedAsItMust);
    let (failed, left) = (count(Verdict::Failed), count(Verdict::NotRun));
    let body = html! {
        header id="about" {
            h1 { (printable(title)) }
            p {
                span class=(if failed == 0 { "good" } else { "bad" }) { (good) " as they must be, " (failed) " not" }
                @if left > 0 { ", " (left) " not run" }
            }
        }
        table {
            tr { th { "job" } th { "verdict" } th class="number" { "time" } th class="number" { "SDEI rung" } }
            @for job in jobs { (row(job)) }
        }
        @if failed > 0 {
            h2 id="again" { "To do again what failed" }
            @for job in jobs.iter().filter(|job| job.verdict == Verdict::Failed) {
                p { code { (printable(job.command)) } }
            }
        }
    };
    whole(title, &body)
}

fn row(job: &Job<'_>) -> Markup {
    let (class, word) = match job.verdict {
        Verdict::Passed => ("good", "passed"),
        Verdict::FailedAsItMust => ("good", "fails as it must"),
        Verdict::Failed => ("bad", "failed"),
        Verdict::NotRun => ("weak", "not run"),
    };
    html! {
        tr {
            td {
                @match job.folder {
                    Some(folder) => { a href=(format!("{folder}/{OF_JOB}")) { (printable(job.name)) } }
                    None => { (printable(job.name)) }
                }
                @for fault in job.faults { br; span class="weak" { (printable(fault)) } }
            }
            td { span class=(class) { (word) } }
            td class="number" { (job.seconds.map_or("-".to_owned(), |time| format!("{time:.0} s"))) }
            td class="number" { (job.sdei_us.map_or("-".to_owned(), millis)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_leads_to_its_page_and_what_failed_is_said() {
        let faults = ["CPU 2 is <missing>".to_owned()];
        let job = |name, verdict, folder: Option<&'static str>| Job {
            name,
            verdict,
            seconds: folder.map(|_| 21.4),
            sdei_us: folder.map(|_| 5741),
            faults: if verdict == Verdict::Failed {
                &faults
            } else {
                &[]
            },
            command: "cargo xtask kdump --scenario nmi",
            folder,
        };
        let page = list(
            "A matrix",
            &[
                job("kdump", Verdict::Passed, Some("001-kdump")),
                job("kdump/sdei=off", Verdict::FailedAsItMust, Some("002-x")),
                job("nmi", Verdict::Failed, Some("003-nmi")),
                job("panic", Verdict::NotRun, None),
            ],
        );
        for part in [
            "<a href=\"003-nmi/page.html\">nmi</a>",
            "CPU 2 is &lt;missing&gt;",
            "<span class=\"bad\">2 as they must be, 1 not</span>, 1 not run",
            "21 s",
            "5.741 ms",
            "<td>panic</td>",
            "<code>cargo xtask kdump --scenario nmi</code>",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("<script") && !page.contains("http"));
    }
}
