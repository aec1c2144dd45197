//! The physical GIC: the interrupts that are passed through, and what is done to them.

use std::collections::BTreeMap;

use hv_core::id::{IntId, VcpuId};
use hv_core::vgic::{Effects, Physical as Change, SpiMask};

/// One physical interrupt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// GICD_ISENABLER.
    pub enabled: bool,
    /// Edge triggered rather than level sensitive.
    pub edge: bool,
    /// An edge that has not been taken.
    pub pending: bool,
    /// The line is up.
    pub level: bool,
    /// Acknowledged by EL2 and not deactivated.
    pub active: bool,
    /// Whose pCPU takes it: the vCPU's number.
    pub route: u8,
    /// How often EL2 has acknowledged it.
    pub taken: u32,
}

impl Wire {
    /// Whether it would interrupt.
    pub fn fires(&self) -> bool {
        self.enabled && !self.active && self.is_pending()
    }

    /// GICD_ISPENDR: a level-sensitive interrupt is pending while its line is up (IHI0069 4.1).
    pub fn is_pending(&self) -> bool {
        if self.edge { self.pending } else { self.level }
    }
}

/// The interrupts that a guest has of its machine. The pCPU of vCPU n has number n.
#[derive(Clone, Debug)]
pub struct Physical {
    wires: BTreeMap<(u32, u8), Wire>,
}

/// Whose it is, if it is private.
fn key(intid: IntId, vcpu: u8) -> (u32, u8) {
    (intid.0, if intid.is_private() { vcpu } else { 0 })
}

impl Physical {
    /// With these interrupts, level sensitive: the private ones, of each pCPU, are enabled for good, the others disabled.
    pub fn new(passed_through: &[IntId], pcpus: u8) -> Self {
        let mut wires = BTreeMap::new();
        for &intid in passed_through {
            for pcpu in 0..if intid.is_private() { pcpus } else { 1 } {
                let wire = Wire {
                    enabled: intid.is_private(),
                    route: pcpu,
                    ..Wire::default()
                };
                wires.insert(key(intid, pcpu), wire);
            }
        }
        Self { wires }
    }

    /// An interrupt, of this vCPU's pCPU if it is private.
    pub fn wire(&self, intid: IntId, vcpu: u8) -> &Wire {
        &self.wires[&key(intid, vcpu)]
    }

    /// The same, to change it.
    pub fn wire_mut(&mut self, intid: IntId, vcpu: u8) -> &mut Wire {
        let wire = self.wires.get_mut(&key(intid, vcpu));
        wire.unwrap_or_else(|| panic!("{intid:?} is not passed through"))
    }

    /// Adds an SPI that is nobody's.
    pub fn add(&mut self, spi: IntId, wire: Wire) {
        self.wires.insert(key(spi, 0), wire);
    }

    /// All of them.
    pub fn wires(&self) -> impl Iterator<Item = (IntId, u8, &Wire)> {
        let wires = self.wires.iter();
        wires.map(|(&(intid, pcpu), wire)| (IntId(intid), pcpu, wire))
    }

    /// GICD_ISPENDR of 32 interrupts, of a pCPU if they are private.
    pub fn pending(&self, block: u32, pcpu: u8) -> u32 {
        let here = self.wires().filter(|&(IntId(intid), owner, wire)| {
            intid / 32 == block && (block != 0 || owner == pcpu) && wire.is_pending()
        });
        here.fold(0, |bits, (IntId(intid), ..)| bits | 1 << (intid % 32))
    }

    /// The interrupt that comes to a pCPU, if one does.
    pub fn fires(&self, pcpu: u8) -> Option<IntId> {
        let mut wires = self.wires();
        wires
            .find(|&(_, _, wire)| wire.route == pcpu && wire.fires())
            .map(|(intid, _, _)| intid)
    }

    /// EL2 acknowledges an interrupt on a pCPU.
    pub fn acknowledge(&mut self, intid: IntId, pcpu: u8) {
        let wire = self.wire_mut(intid, pcpu);
        wire.active = true;
        wire.pending = false;
        wire.taken += 1;
    }

    /// The guest's end of an interrupt deactivates this one.
    pub fn deactivate(&mut self, intid: IntId, pcpu: u8) {
        if let Some(wire) = self.wires.get_mut(&key(intid, pcpu)) {
            wire.active = false;
        }
    }

    /// Does what the virtual GIC wants.
    ///
    /// # Panics
    ///
    /// If it deactivates a passed-through interrupt that is not active.
    pub fn perform(&mut self, effects: &Effects) {
        let VcpuId(owner) = effects.deactivate.owner();
        for intid in effects.deactivate.iter() {
            if let Some(wire) = self.wires.get_mut(&key(intid, owner)) {
                assert!(wire.active, "{intid:?} is deactivated and is not active");
                wire.active = false;
            }
        }
        match effects.phys {
            None => {}
            Some(Change::Enable(mask)) => self.each_in(mask, |wire| wire.enabled = true),
            Some(Change::Disable(mask)) => self.each_in(mask, |wire| wire.enabled = false),
            Some(Change::ClearPending(mask)) => self.each_in(mask, |wire| wire.pending = false),
            Some(Change::Trigger { block, edge, level }) => {
                self.each_in(SpiMask { block, bits: edge }, |wire| wire.edge = true);
                self.each_in(SpiMask { block, bits: level }, |wire| wire.edge = false);
            }
            Some(Change::Route { spi, to }) => self.wire_mut(spi, 0).route = to.0,
            Some(Change::Targets { first, to }) => {
                for (n, to) in (first.0..).zip(to) {
                    if let Some(to) = to {
                        self.wire_mut(IntId(n), 0).route = to.0;
                    }
                }
            }
            Some(Change::Reset(mask)) => self.each_in(mask, |wire| {
                *wire = Wire {
                    level: wire.level,
                    taken: wire.taken,
                    ..Wire::default()
                }
            }),
        }
    }

    /// Each SPI in a mask must be passed through: no other is the guest's.
    fn each_in(&mut self, mask: SpiMask, change: impl Fn(&mut Wire)) {
        for bit in (0..32).filter(|bit| mask.bits >> bit & 1 != 0) {
            change(self.wire_mut(IntId(mask.block * 32 + bit), 0));
        }
    }
}
