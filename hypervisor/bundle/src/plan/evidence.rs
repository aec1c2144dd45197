//! A guest whose crash kernel is watched: whether it can be, and RAM for the tables that say so of each page.

use alloc::vec::Vec;

use platform::Range;

use super::VmPlan;
use super::own::take_highest;
use crate::ram::{BLOCK_SIZE, PAGE_SIZE};
use crate::{Error, GuestConfig};

/// Tables beside those of blocks: of the levels above, and at the ends of pieces.
const EDGES: u64 = 32;

/// Takes RAM for tables that show each page of the guest's RAM by itself: a page for each block of what it can get at most.
pub fn take_tables(config: &GuestConfig, free: &mut Vec<Range>) -> Result<Range, Error> {
    if config.crashkernel.is_none() {
        return Ok(Range::default());
    }
    let all: u64 = free.iter().map(|part| part.size).sum();
    let most = match config.memory {
        0 => all,
        bytes => bytes.min(all),
    };
    // A piece may begin and end within a block, where the guest finds it and where it is.
    let pieces = 4 * free.len() as u64;
    let tables = most.div_ceil(BLOCK_SIZE) + pieces + EDGES;
    take_highest(
        free,
        tables * PAGE_SIZE,
        "crashkernel: the tables that it needs",
    )
}

/// That the crash kernel's memory is RAM of the guest's, and nothing that the guest boots is there.
pub fn check_place(plan: &VmPlan<'_>) -> Result<(), Error> {
    let Some(range) = plan.guest.config.crashkernel else {
        return Ok(());
    };
    let layout = &plan.layout;
    let parts = [
        layout.kernel,
        layout.dtb,
        layout.ramdisk.unwrap_or_default(),
    ];
    let is_ram = plan.ram.iter().any(|part| part.covers(range));
    if !is_ram || parts.iter().any(|part| part.overlaps(range)) {
        return Err(Error::invalid(
            "crashkernel",
            "is not in the guest's RAM, in one piece and apart from its kernel, ramdisk and devicetree",
            "choose another address; the log says which RAM the guest has",
        ));
    }
    Ok(())
}
