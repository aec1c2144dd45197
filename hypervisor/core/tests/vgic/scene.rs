//! A guest of two vCPUs, everything enabled, in group 1, and SPIs on vCPU 0.

use std::ops::{Deref, DerefMut};

use hv_core::id::{IntId, VcpuId, VcpuSet};
use hv_core::vgic::{LrSource, LrState};
use hv_testbed::{Built, DISTRIBUTOR, Machine, REDISTRIBUTORS, SGI_FRAME, UART as UART_BASE, Wire};

pub const TIMER: IntId = IntId(27);
/// Emulated, level sensitive.
pub const UART: IntId = IntId(33);
/// Passed through, edge triggered.
pub const EDGE: IntId = IntId(48);
/// Passed through, level sensitive.
pub const LEVEL: IntId = IntId(49);
/// Not the guest's.
pub const STRAY: IntId = IntId(40);

// GICD_ISENABLER and its neighbours (IHI0069 12.9).
pub const ENABLE: u64 = 0x100;
pub const DISABLE: u64 = 0x180;
pub const SET_PENDING: u64 = 0x200;
pub const CLEAR_PENDING: u64 = 0x280;
pub const ACTIVE: u64 = 0x300;
pub const CLEAR_ACTIVE: u64 = 0x380;
pub const ROUTE: u64 = 0x6000;

pub const SOFTWARE: LrSource = LrSource::Software { eoi: false };
pub const MAINTAINED: LrSource = LrSource::Software { eoi: true };

pub fn hardware(intid: IntId) -> LrSource {
    LrSource::Hardware { pintid: intid.0 }
}

pub fn only(vcpu: u8) -> VcpuSet {
    VcpuSet::only(VcpuId(vcpu))
}

/// The registers of a vCPU's private interrupts.
pub const fn own(vcpu: u8) -> u64 {
    REDISTRIBUTORS + vcpu as u64 * 0x2_0000 + SGI_FRAME
}

pub struct Scene(Machine);

impl Deref for Scene {
    type Target = Machine;
    fn deref(&self) -> &Machine {
        &self.0
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Machine {
        &mut self.0
    }
}

pub fn scene() -> Scene {
    scene_where(|_| ())
}

/// On a machine that is another in this.
pub fn scene_where(change: impl FnOnce(&mut Built)) -> Scene {
    let mut built = Built {
        passed_through: vec![TIMER, EDGE, LEVEL],
        others: vec![STRAY],
        uart: UART,
        ..Built::new(2)
    };
    change(&mut built);
    let mut scene = Scene(built.start());
    scene.turn_on(0, 1);
    scene.store(0, DISTRIBUTOR + 0x84, 4, 0xffff_ffff);
    scene.store(0, DISTRIBUTOR + 0xc0c, 4, 0b10);
    scene.store(0, DISTRIBUTOR + 0x104, 4, 0xffff_ffff);
    for vcpu in [0, 1] {
        scene.store(vcpu, own(vcpu) + 0x80, 4, 0xffff_ffff);
        scene.store(vcpu, own(vcpu) + ENABLE, 4, 0xffff_ffff);
    }
    scene.store(0, DISTRIBUTOR, 4, 0b10);
    // The UART's transmit interrupt is raised from now on, and UARTIMSC alone says how its line is.
    scene.store(0, UART_BASE, 1, 0);
    scene.settle();
    scene
}

impl Scene {
    /// What lies in the list registers of a vCPU: INTID, state, source.
    pub fn contents(&self, vcpu: u8) -> Vec<(IntId, LrState, LrSource)> {
        let used = self.interface(vcpu).contents().into_iter();
        used.map(|lr| (IntId(lr.vintid), lr.state, lr.source))
            .collect()
    }

    /// What has happened to a physical interrupt of vCPU 0's pCPU.
    pub fn wire(&self, intid: IntId) -> Wire {
        self.physical().wire(intid, 0).clone()
    }

    /// Moves a physical line of vCPU 0's pCPU.
    pub fn level(&mut self, intid: IntId, level: bool) {
        self.physical().wire_mut(intid, 0).level = level;
    }

    /// A physical interrupt of vCPU 0's pCPU comes there, and is taken.
    pub fn fire(&mut self, intid: IntId) {
        if intid == EDGE {
            self.physical().wire_mut(EDGE, 0).pending = true;
        } else {
            self.level(intid, true);
        }
        self.interrupt(0);
    }

    /// vCPU `me` writes 1 to an interrupt's bit; a private one is vCPU 0's.
    pub fn write_bit(&mut self, me: u8, bank: u64, intid: IntId) {
        self.store_bit(me, bank, intid, 0);
    }

    /// vCPU `me` moves the line of the emulated UART.
    pub fn line(&mut self, me: u8, level: bool) {
        self.store(me, UART_BASE + 0x38, 4, u64::from(level) << 5);
    }

    /// vCPU 0 takes this interrupt.
    pub fn take(&mut self, intid: IntId) {
        assert_eq!(self.acknowledge(0).map(|it| it.intid), Some(intid));
    }

    /// vCPU 0 ends what it took last, whose device is quiet.
    pub fn finish(&mut self) {
        let ended = self.0.interface(0).running().last().map(|it| it.intid);
        if let Some(intid @ (TIMER | LEVEL)) = ended {
            self.level(intid, false);
        }
        self.end(0);
    }
}
