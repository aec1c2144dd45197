//! The watchdog's knowledge of all vCPUs.

use super::{Shared, event};
use crate::id::VcpuId;
use crate::watch::Plight;

impl Shared {
    /// `vcpu` is wedged. What is done now, if anything is.
    pub fn note_wedge(
        &mut self,
        vcpu: VcpuId,
        is_news: bool,
        is_reachable: bool,
    ) -> Option<Plight> {
        self.company
            .wedge(vcpu, is_news, is_reachable, self.power.on())
    }

    /// Whether the guest has said that it has panicked.
    pub fn has_panicked(&self) -> bool {
        self.told & (event::PANICKED | event::CRASH_LOADED) != 0
    }
}
