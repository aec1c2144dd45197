//! The home region: the RAM that the hypervisor keeps for itself.

use alloc::format;
use platform::{Machine, Range};

use crate::places::{given, identity, tables};
use crate::ram::{BLOCK_SIZE, PAGE_SIZE, highest_free};
use crate::{Error, MAX_VMS};

/// Bytes for each pCPU: its stacks, the guards between them left out, and its part of everything else.
const PCPU: u64 = STACKS + 24 * 1024;
/// Bytes of all stacks of a pCPU.
pub const STACKS: u64 = 44 * 1024;

/// What the hypervisor brings along.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Its bytes in memory.
    pub size: u64,
    /// Bytes that are kept at the end of the region for the record of a crash.
    pub record: u64,
}

/// Finds the home region: whole blocks, as high in RAM as there is room, below `limit`, and apart from what is `taken`.
///
/// # Errors
///
/// If there is no room.
#[inline(never)]
pub fn find_home(
    machine: &Machine,
    image: Image,
    taken: &[Range],
    limit: u64,
) -> Result<Range, Error> {
    // One after the other: the heap is small this early.
    let tables = [
        tables(&identity(machine, Range::default(), limit)),
        tables(&given(machine, limit)),
    ];
    let size = size(machine.cpus.len(), image, tables);
    match highest_free(machine, taken, limit, size, BLOCK_SIZE) {
        Some(start) => Ok(Range::new(start, size)),
        None => Err(Error::Invalid {
            place: format!("{} MiB of RAM", size >> 20),
            what: "are not free for the hypervisor",
            mend: "give the machine more memory",
        }),
    }
}

/// What a region for `pcpus` takes: image, stacks, tables, the VMs' state. `tables` are those for what is mapped at its own
/// address, for EL2 and for a guest.
fn size(pcpus: usize, image: Image, tables: [u64; 2]) -> u64 {
    /// There is room for so many of each in any case.
    const USUAL: u64 = 32;
    /// More than is known before a guest is planned: at either end of the home region, which is whole blocks, and of the
    /// bundle's copy, which is not.
    const EDGES: u64 = 6;
    /// What a VM's state takes, with its tables and its devicetree.
    const VM: u64 = 96 * 1024;
    /// What start-up and the first VM take, and those tables: with 4 pCPUs and one VM a third of all that is counted here is used.
    const FIRST: u64 = 432 * 1024;
    let pcpus = pcpus as u64;
    // The first has its part in any case. Each has a pCPU at least.
    let other_vms = pcpus.clamp(1, MAX_VMS.into()) - 1;
    let more = tables.map(|tables| (tables + EDGES).saturating_sub(USUAL) * PAGE_SIZE);
    let [own, guests] = more;
    (image.size + FIRST + VM * other_vms + image.record + PCPU * pcpus + own + guests)
        .next_multiple_of(BLOCK_SIZE)
}
