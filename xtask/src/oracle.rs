//! `cargo xtask oracle`: whether a dump is true, page by page.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use debian::paths;
use lab::oracle::{self, Question};
use lab::usage;

/// Hold a dump of Linux against what its memory was, page by page.
///
/// Each page is equal; different; absent and excludable at the dump's level by its own `struct page`; absent and required; or present
/// and needless. Of what is different or absent and required the first ten are told, with what they belong to. See docs/oracle.md.
///
/// Exit codes: 0 the dump is true, 1 pages are different, or absent and required, or it cannot be judged, which is said, 2 wrong usage.
#[derive(Args)]
pub struct Oracle {
    /// The guest's memory at the instant that the dump is of: an ELF core, as `cargo xtask ctl dump` writes it of a guest that is
    /// frozen, or with --pages hashes a hash of each page. Or another dump of that instant: then only the pages that it has are judged.
    truth: PathBuf,
    /// The dump: what makedumpfile writes (kdump-compressed, packed by zlib, lzo or zstd), or ELF.
    dump: PathBuf,
    /// What the dump leaves out, as makedumpfile's -d has it: the sum of 1 zeros, 2 cache, 4 cache with private data, 8 user, 16 free
    /// [default: what the dump says; 0 if it is ELF].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..32))]
    level: Option<u32>,
    /// Who wrote to the memory after that instant: a log of the hypervisor with @write, or a JSON array, see docs/oracle.md.
    #[arg(long, value_name = "FILE")]
    writers: Option<PathBuf>,
    /// Write all that was found to this file, as JSON.
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
}

impl Oracle {
    /// Judges it.
    pub fn execute(self) -> Result<ExitCode> {
        self.check().map_err(usage::wrong)?;
        let writers = match &self.writers {
            Some(path) => oracle::writers(path)?,
            None => Vec::new(),
        };
        let report = oracle::judge(&Question {
            level: self.level,
            writers: &writers,
            ..Question::new(&self.truth, &self.dump)
        })?;
        print!("{report}");
        if let Some(path) = &self.report {
            let json = serde_json::to_string_pretty(&report)?;
            fs::write(path, json)
                .with_context(|| format!("cannot write the report {}", path.display()))?;
        }
        for failure in report.failures() {
            println!("FAILED: {failure}");
        }
        Ok(match report.is_true() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }

    /// A folder is no dump, and a FIFO may have to be waited for.
    fn check(&self) -> Result<()> {
        if let Some(path) = &self.report {
            paths::check_output(path, "--report")?;
        }
        paths::check_input(&self.truth, "TRUTH")?;
        paths::check_input(&self.dump, "DUMP")?;
        self.writers
            .as_ref()
            .map_or(Ok(()), |path| paths::check_input(path, "--writers"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_named_and_not_waited_for() {
        let file = std::env::current_exe().unwrap();
        for (truth, dump, said) in [
            (
                "/dev/zero".into(),
                file.clone(),
                "TRUTH /dev/zero is no file",
            ),
            (file, "/".into(), "DUMP / is a folder"),
        ] {
            let oracle = Oracle {
                truth,
                dump,
                level: None,
                writers: None,
                report: None,
            };
            let error = oracle.check().unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
