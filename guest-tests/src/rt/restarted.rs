//! A CPU that siblings switch on again and again, and how a later boot sees whether it still runs.

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{cpu, psci, survivor, sysreg};

/// What the CPU works on. It lies outside the image, so that a CPU that outlives a reset is seen by the next boot.
#[repr(C)]
pub struct Shared {
    is_end_near: AtomicU64,
    starts: AtomicU64,
    turns: AtomicU64,
}

global_asm!(
    include_str!("restarted.S"),
    is_end_near = const offset_of!(Shared, is_end_near),
    starts = const offset_of!(Shared, starts),
    turns = const offset_of!(Shared, turns),
    CPU_OFF = const hv_abi::psci::CPU_OFF,
);

unsafe extern "C" {
    fn restarted_entry();
}

impl Shared {
    /// Where it is, in this boot and the next.
    pub fn find() -> &'static Self {
        let address = survivor::spare() as *const Self;
        // SAFETY: aligned RAM outside the image that Rust uses for nothing else; all bit patterns are numbers, and
        // whoever writes does so atomically or is a CPU without caches.
        unsafe { &*address }
    }

    /// Nobody has started yet, and no end is near.
    pub fn clear(&self) {
        for word in [&self.is_end_near, &self.starts, &self.turns] {
            word.store(0, Ordering::Relaxed);
        }
        self.clean();
    }

    /// From now on the CPU counts turns instead of switching itself off.
    pub fn announce_the_end(&self) {
        self.is_end_near.store(1, Ordering::Relaxed);
        self.clean();
    }

    /// How often the CPU has started and switched itself off.
    pub fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed)
    }

    /// How often it has gone round since the end was announced.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    fn clean(&self) {
        sysreg::clean_to_memory(core::ptr::from_ref(self) as u64);
    }

    /// Asks once for CPU `index` to be switched on.
    pub fn switch_on(&self, index: usize) -> i32 {
        let entry = restarted_entry as *const () as u64;
        // SAFETY: the entry takes this context, and needs no stack.
        unsafe {
            psci::cpu_on(
                cpu::affinity(index),
                entry,
                core::ptr::from_ref(self) as u64,
            )
        }
    }
}
