//! Mediated devices of a guest: which interrupts are theirs, and the guest's RAM as the queues in it are read and written.

use hv_core::virtio::queue::Memory;

use super::Pcpu;
use crate::guest_ram;

impl Pcpu {
    /// Whether it is the interrupt of a mediated device.
    #[inline]
    pub(super) fn is_mediated(&self, intid: u32) -> bool {
        let mut mediated = self.vm.map.mediated.iter();
        mediated.any(|transport| transport.intid.0 == intid)
    }
}

impl Pcpu {
    #[inline]
    fn note_write(&self, ipa: u64) {
        if self.vm.guards_ram() {
            self.vm.mediator_writes(ipa);
        }
    }
}

impl Memory for Pcpu {
    #[inline]
    fn locate(&self, ipa: u64, size: u64) -> Option<(u64, u64)> {
        let part = self.memory.at(ipa, size)?;
        Some((part.start, part.size))
    }

    #[inline]
    fn load16(&self, ipa: u64) -> Option<u16> {
        guest_ram::load16(self.memory, ipa)
    }

    #[inline]
    fn load_descriptor(&self, ipa: u64) -> Option<[u64; 2]> {
        guest_ram::load_pair(self.memory, ipa)
    }

    #[inline]
    fn store16(&mut self, ipa: u64, value: u16) -> Option<()> {
        self.note_write(ipa);
        guest_ram::store16(self.memory, ipa, value)
    }

    #[inline]
    fn store32(&mut self, ipa: u64, value: u32) -> Option<()> {
        self.note_write(ipa);
        guest_ram::store32(self.memory, ipa, value)
    }
}
