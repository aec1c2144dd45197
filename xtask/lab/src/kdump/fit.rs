//! Whether a kernel that the user brings can do the job, said before anything is built or booted.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::build_id;
use crate::needs;
use crate::plan::Plan;
use debian::kernel::config;
use debian::progress::Progress;
use machine::board::Board;
use machine::payload;

/// That `kernel`, also packed, has what `plan` needs on `board`, and that `vmlinux` was built with it.
pub fn check(
    plan: &Plan,
    board: Board,
    kernel: &Path,
    vmlinux: &Path,
    progress: &Progress,
) -> Result<()> {
    let step = progress.lazily("look at the kernel's configuration");
    let image = payload::read_kernel(kernel, payload::USUAL_MIB)?;
    build_id::check(&image, kernel, vmlinux)?;
    let found = config::find(&image, kernel, Some(vmlinux))?;
    step.done();
    match found {
        Some(found) => needs::check(plan, board, &found)?,
        None => progress.say(&format!(
            "how {} was configured is not known: it has no CONFIG_IKCONFIG, and there is no .config beside it; what it lacks will show when it runs",
            kernel.display()
        )),
    }
    ensure!(
        needs::knows_ending(plan, &image),
        "{} does not know sdei_ending=, which --ending sets: build it with guest-tests/linux/sdei-ending.patch, or leave --ending out",
        kernel.display()
    );
    Ok(())
}
