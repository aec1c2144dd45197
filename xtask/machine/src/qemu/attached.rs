//! What is attached to a machine: disks and network cards.

use super::{Arguments, Machine, with_path};
use crate::board::Board;

/// How many virtio-mmio transports QEMU's `virt` has (hw/arm/virt.c, NUM_VIRTIO_TRANSPORTS).
const TRANSPORTS: u32 = 32;

impl Machine {
    pub(super) fn attach(&self, line: &mut Arguments) {
        if self.board == Board::Raspi4b {
            for disk in &self.disks {
                line.option("-drive", with_path("if=sd,format=raw,file=", disk));
            }
            return;
        }
        if !self.disks.is_empty() || !self.nets.is_empty() {
            line.option("-global", "virtio-mmio.force-legacy=false");
        }
        // Linux meets them by their addresses, and QEMU would put the first at the highest: the last disk would be /dev/vda.
        let free = (0..TRANSPORTS).filter(|number| !self.slots.contains(number));
        let slots: Vec<u32> = self.slots.iter().copied().chain(free).collect();
        let bus = |place: usize| match slots.get(place) {
            Some(slot) => format!(",bus=virtio-mmio-bus.{slot}"),
            // QEMU says that there are too many.
            None => String::new(),
        };
        for (number, disk) in self.disks.iter().enumerate() {
            let drive = format!("if=none,format=raw,werror=report,id=disk{number},file=");
            line.option("-drive", with_path(&drive, disk));
            let bus = bus(number);
            line.option(
                "-device",
                format!("virtio-blk-device,drive=disk{number}{bus}"),
            );
        }
        for (number, net) in self.nets.iter().enumerate() {
            line.option("-netdev", net.netdev(&format!("net{number}")));
            let bus = bus(self.disks.len() + number);
            line.option(
                "-device",
                format!("virtio-net-device,netdev=net{number}{bus}"),
            );
        }
    }
}
