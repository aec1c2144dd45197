//! `cargo xtask bisect-step`: one step of `git bisect run` in a tree of Linux.

mod rule;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use machine::run_dir::RunDir;

use crate::job;
use rule::{Decision, Seen, Step};

/// Judge the commit that a tree of Linux stands at, for `git bisect run`.
///
/// Builds the tree and does the `kdump` job, whose options stand behind `--`. git runs it in the tree, where there is no
/// `cargo xtask`: docs/your-kernel.md has the line that names the program.
///
/// The last line, on standard output, says what the verdict is and why. What cannot be judged is a kernel that does not configure
/// or build, lacks an option that the job needs, or does not come as far as `LAB: up`, where the scenario starts; and whatever is
/// wrong with the machine that it runs on.
///
/// Exit codes: 0 good, 1 bad, 125 cannot be judged. Wrong usage is 125, too: git takes other codes for bad.
#[derive(Args)]
pub struct BisectStep {
    /// The source tree.
    #[arg(long, value_name = "DIR")]
    tree: PathBuf,
    /// Options of kdump.
    #[arg(last = true, value_name = "KDUMP OPTIONS")]
    job: Vec<OsString>,
}

impl BisectStep {
    /// Judges, and says so.
    pub fn execute(self) -> ExitCode {
        let decision = self.decide();
        let decision = decision.unwrap_or_else(|error| {
            supervisor::settle();
            Decision::skip(&format!("{error:#}"))
        });
        let Decision { step, why } = decision;
        println!("bisect-step: {}: {why}", step.name());
        ExitCode::from(step.code())
    }

    fn decide(&self) -> Result<Decision> {
        let mut options = vec!["--tree".into(), self.tree.clone().into_os_string()];
        options.extend(self.job.iter().cloned());
        let mut all = options.clone();
        // This is ours.
        all.extend(["--report", "report.json"].map(OsString::from));
        if let Err(error) = job::check(&all) {
            eprintln!("{error}");
            return Ok(Decision::skip("the options behind -- are wrong"));
        }
        let folder = RunDir::create(None)?;
        let done = job::run(&options, &folder.file("report.json"))?;
        Ok(Decision::of(&Seen {
            document: done.document.as_ref(),
            code: done.status.code(),
            complaint: done.complaint.as_deref(),
        }))
    }
}

/// Ends the program for a command line that is wrong, or one that asks for help: for git, other codes than that mean something.
pub fn end_for_usage(error: &clap::Error) -> ! {
    let is_step = std::env::args_os().any(|word| word == "bisect-step");
    if error.use_stderr() && is_step {
        // Who reads it may be gone.
        let _ = error.print();
        std::process::exit(i32::from(Step::Skip.code()));
    }
    error.exit()
}
