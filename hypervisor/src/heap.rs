//! The heap, for start-up and guest loading: the rest of the home region. Nothing allocates while
//! guests run.

use buddy_system_allocator::LockedHeap;

#[global_allocator]
static HEAP: LockedHeap<32> = LockedHeap::empty();

/// What `relocate` lives on, before there is a home region: a list of the devicetree's nodes, and a copy of it if parts are
/// blanked out. That of a Raspberry Pi 4 has 450 nodes in 50 KiB.
const EARLY_SIZE: usize = 512 * 1024;

#[repr(C, align(4096))]
struct Early(core::cell::UnsafeCell<[u8; EARLY_SIZE]>);

// SAFETY: only the allocator ever touches it, under its lock.
unsafe impl Sync for Early {}

static EARLY: Early = Early(core::cell::UnsafeCell::new([0; EARLY_SIZE]));

/// Gives the allocator the early area.
pub fn start_early() {
    let start = EARLY.0.get().expose_provenance();
    // SAFETY: the area is static, unused so far, and given once per boot of the image.
    unsafe { HEAP.lock().add_to_heap(start, start + EARLY_SIZE) };
}

/// Gives the allocator `range` of the window as well.
///
/// # Safety
///
/// The range is mapped, writable and nobody else's.
pub unsafe fn extend(range: core::ops::Range<u64>) {
    // SAFETY: the caller answers for the range.
    unsafe {
        HEAP.lock()
            .add_to_heap(range.start as usize, range.end as usize)
    };
}

/// Bytes handed out and bytes there are.
pub fn usage() -> (usize, usize) {
    let heap = HEAP.lock();
    (heap.stats_alloc_actual(), heap.stats_total_bytes())
}
