//! What is attached to a machine: disks and network cards.

use super::{Arguments, Machine, with_path};
use crate::board::Board;

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
        let bus = |place: usize| match self.slots.get(place) {
            Some(slot) => format!(",bus=virtio-mmio-bus.{slot}"),
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
