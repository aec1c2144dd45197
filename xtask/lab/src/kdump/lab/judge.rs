//! What a run has come to: what was seen of it, and its dump, held against the plan.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::Lab;
use crate::capture::Capture;
use crate::kdump::checks::{check_backtraces, check_run};
use crate::kdump::report::Judged;
use crate::ladder::Ladder;
use crate::patch::PANIC_EVENT;
use crate::plan::{Plan, Scenario};
use crate::symbols::Symbols;
use crate::verdict::{Evidence, Verdict};
use crate::vmcore::{self, Vmcore};
use crate::watch::GuestRun;

impl Lab {
    /// Judges a run whose dump goes to the first of `files` and is on the disk that is the second.
    pub(in crate::kdump) fn judge(
        &self,
        plan: &Plan,
        (path, disk): &(PathBuf, PathBuf),
        seen: &GuestRun,
    ) -> Result<Option<Judged>> {
        check_run(plan, seen)?;
        if !plan.scenario.dumps() {
            if plan.scenario == Scenario::SysrqL {
                check_backtraces(plan, &seen.story)?;
            }
            return Ok(None);
        }
        let mut disk = File::open(disk)?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let bytes = vmcore::extract(&mut disk, &mut file)?;
        let dump = Vmcore::read(&file).context("cannot read the vmcore")?;
        let ladder = match plan.scenario {
            Scenario::Assisted => Ladder::below(plan.cpus),
            _ => Ladder::of(plan.cpus, &seen.story, &seen.drain),
        };
        let own;
        let symbols = match &self.symbols {
            Some(symbols) => symbols,
            None => {
                let image = fs::read(&self.kernel)
                    .with_context(|| format!("cannot read {}", self.kernel.display()))?;
                own = Symbols::of_image(&image, &dump.info)
                    .context("the kernel's functions stay without names")?;
                &own
            }
        };
        let evidence = Evidence {
            cpus: plan.cpus,
            wedge: &plan.wedge,
            story: &seen.story,
            drain: &seen.drain,
            notes: &dump.notes,
            symbols,
            kaslr_offset: dump.kaslr_offset()?,
            stays_in_handler: plan.stays_in_handler(),
            is_masked: plan.is_masked(),
            event: plan.by_event.then_some(PANIC_EVENT.number),
        };
        let verdict = Verdict::of(&evidence, &ladder);
        Ok(Some(Judged {
            format: dump.format,
            bytes,
            release: dump.release()?.to_owned(),
            capture: plan
                .captures_with_all()
                .then(|| Capture::of(plan, &seen.story, &seen.drain, &ladder)),
            ladder,
            verdict,
        }))
    }
}
