//! What Linux's irq-gic-v3 does while it boots, register by register.

use std::ops::{Deref, DerefMut};

use hv_core::id::{IntId, VcpuSet};
use hv_core::vgic::{ListReg, LrSource, LrState};
use hv_testbed::{Built, DISTRIBUTOR, Machine, REDISTRIBUTORS, UART as UART_BASE};

const VIRTIO: IntId = IntId(48);
const UART: IntId = IntId(33);
const TIMER: IntId = IntId(27);

struct Linux(Machine);

impl Deref for Linux {
    type Target = Machine;
    fn deref(&self) -> &Machine {
        &self.0
    }
}

impl DerefMut for Linux {
    fn deref_mut(&mut self) -> &mut Machine {
        &mut self.0
    }
}

/// RD_base of a vCPU.
const fn redistributor(vcpu: u8) -> u64 {
    REDISTRIBUTORS + 0x2_0000 * vcpu as u64
}

impl Linux {
    fn read(&mut self, me: u8, ipa: u64, size: u8) -> u64 {
        let value = self.load(me, ipa, size);
        value.unwrap_or_else(|| panic!("{ipa:#x} waits for a sibling"))
    }

    fn dist(&mut self, offset: u64, value: u64) {
        self.store(0, DISTRIBUTOR + offset, 4, value);
    }

    /// `gic_validate_dist_version`, `gic_init_bases`, `gic_dist_init`.
    fn gic_dist_init(&mut self) -> u32 {
        assert_eq!(self.read(0, DISTRIBUTOR + 0xffe8, 4) & 0xf0, 0x30, "PIDR2");
        let typer = self.read(0, DISTRIBUTOR + 0x4, 4);
        assert_eq!(typer >> 17 & 1, 0, "no LPIs");
        assert_eq!(typer >> 26 & 1, 1, "range selector");
        assert_eq!(typer >> 8 & 1, 0, "no extended SPIs");
        let lines = 32 * (typer as u32 & 0x1f) + 32;
        assert_eq!(self.read(0, DISTRIBUTOR, 4) >> 31, 0, "RWP");
        self.dist(0x0, 0);
        for n in (32..lines).step_by(32) {
            self.dist(0x80 + u64::from(n) / 8, 0xffff_ffff);
        }
        for n in (32..lines).step_by(16) {
            self.dist(0xc00 + u64::from(n) / 4, 0);
        }
        for n in (32..lines).step_by(4) {
            self.dist(0x400 + u64::from(n), 0xa0a0_a0a0);
        }
        for n in (32..lines).step_by(32) {
            self.dist(0x380 + u64::from(n) / 8, 0xffff_ffff);
            self.dist(0x180 + u64::from(n) / 8, 0xffff_ffff);
        }
        self.dist(0x0, 1 << 4 | 1 << 1 | 1);
        for n in 32..lines {
            self.store(0, DISTRIBUTOR + 0x6000 + 8 * u64::from(n), 8, 0);
        }
        lines
    }

    /// `gic_populate_rdist`, `gic_enable_redist`, `gic_cpu_init`.
    fn gic_cpu_init(&mut self, me: u8) {
        let mut mine = None;
        for vcpu in 0..4 {
            let frame = redistributor(vcpu);
            assert_eq!(self.read(me, frame + 0xffe8, 4) & 0xf0, 0x30, "PIDR2");
            let typer = self.read(me, frame + 0x8, 8);
            if typer >> 32 == u64::from(me) {
                mine = Some(frame);
                break;
            }
            assert_eq!(typer >> 4 & 1, 0, "Last too early");
        }
        let frame = mine.expect("a redistributor of this affinity");
        let waker = self.read(me, frame + 0x14, 4);
        assert_eq!(waker, 0b110);
        self.store(me, frame + 0x14, 4, waker & !0b10);
        assert_eq!(self.read(me, frame + 0x14, 4) & 0b100, 0, "ChildrenAsleep");
        let sgi = frame + 0x1_0000;
        self.store(me, sgi + 0x80, 4, 0xffff_ffff);
        self.store(me, sgi + 0x380, 4, 0xffff_ffff);
        self.store(me, sgi + 0x180, 4, 0xffff_ffff);
        for n in (0..32).step_by(4) {
            self.store(me, sgi + 0x400 + n, 4, 0xa0a0_a0a0);
        }
        assert_eq!(self.read(me, frame, 4) & 1 << 3, 0, "RWP");
        // SGIs 0 to 7 and the timer.
        self.store(me, sgi + 0x100, 4, 0xff);
        self.store(me, sgi + 0x100, 4, 1 << TIMER.0);
    }

    /// A physical interrupt comes to a vCPU's pCPU.
    fn fire(&mut self, vcpu: u8, intid: IntId) {
        self.physical().wire_mut(intid, vcpu).level = true;
        self.interrupt(vcpu);
    }

    fn entry(&self, vcpu: u8) -> Vec<ListReg> {
        self.interface(vcpu).contents()
    }
}

fn boot() -> Linux {
    let machine = Built {
        spis: 256,
        passed_through: vec![TIMER, IntId(30), VIRTIO],
        uart: UART,
        ..Built::new(4)
    };
    let mut linux = Linux(machine.start());
    assert_eq!(linux.gic_dist_init(), 288);
    linux.gic_cpu_init(0);
    for cpu in 1..4 {
        linux.turn_on(0, cpu);
        linux.gic_cpu_init(cpu);
    }
    linux
}

#[test]
fn the_priorities_read_back() {
    let mut linux = boot();
    assert_eq!(linux.read(0, DISTRIBUTOR + 0x420, 4), 0xa0a0_a0a0);
    linux.store(0, DISTRIBUTOR + 0x421, 1, 0xff);
    assert_eq!(linux.read(0, DISTRIBUTOR + 0x420, 4), 0xa0a0_f8a0);
    assert_eq!(linux.read(0, DISTRIBUTOR + 0x421, 1), 0xf8);
}

#[test]
fn the_distributor_says_one_security_state() {
    let mut linux = boot();
    assert_eq!(linux.read(0, DISTRIBUTOR, 4), 1 << 6 | 1 << 4 | 3);
}

#[test]
fn request_irq_of_virtio_reaches_the_physical_distributor() {
    let mut linux = boot();
    let wire = |linux: &Linux| linux.physical().wire(VIRTIO, 0).clone();
    let before = wire(&linux);
    assert!(!before.edge && !before.enabled && before.route == 0);
    linux.dist(0xc00 + 48 / 4, 2);
    assert!(wire(&linux).edge);
    linux.store(0, DISTRIBUTOR + 0x6000 + 8 * 48, 8, 2);
    assert_eq!(wire(&linux).route, 2);
    linux.dist(0x104, 1 << 16);
    assert!(wire(&linux).enabled);
    linux.dist(0x184, 1 << 16);
    assert!(!wire(&linux).enabled);
    // The UART is emulated: a change of its physical counterpart would panic here, as it is not passed through.
    linux.dist(0x104, 1 << 1);
    assert_eq!(linux.read(0, DISTRIBUTOR + 0x104, 4), 1 << 1);
}

#[test]
fn the_timer_is_a_hardware_list_register() {
    let mut linux = boot();
    linux.fire(1, TIMER);
    assert_eq!(linux.rung(), VcpuSet::EMPTY);
    let expected = ListReg {
        vintid: 27,
        priority: 0xa0,
        group1: true,
        state: LrState::Pending,
        source: LrSource::Hardware { pintid: 27 },
        sender: 0,
    };
    assert_eq!(linux.entry(1), [expected]);
    assert_eq!(linux.entry(0), []);
}

#[test]
fn the_uart_asks_for_maintenance_at_its_end() {
    let mut linux = boot();
    linux.dist(0x104, 1 << 1);
    // UARTIMSC.RXIM; then a character.
    linux.store(0, UART_BASE + 0x38, 4, 1 << 4);
    linux.receive(b'x');
    linux.interrupt(0);
    let expected = ListReg {
        vintid: 33,
        priority: 0xa0,
        group1: true,
        state: LrState::Pending,
        source: LrSource::Software { eoi: true },
        sender: 0,
    };
    assert_eq!(linux.entry(0), [expected]);
}

/// The capture kernel starts with the same sequence, on a vCPU that panicked in its timer interrupt.
#[test]
fn booting_again_clears_an_active_timer_interrupt() {
    let mut linux = boot();
    linux.fire(0, TIMER);
    assert_eq!(linux.acknowledge(0).map(|it| it.intid), Some(TIMER));
    let sgi = redistributor(0) + 0x1_0000;
    assert_eq!(linux.read(0, sgi + 0x300, 4), 1 << 27);
    assert!(linux.physical().wire(TIMER, 0).active);
    linux.physical().wire_mut(TIMER, 0).level = false;
    linux.store(0, sgi + 0x380, 4, 0xffff_ffff);
    assert!(!linux.physical().wire(TIMER, 0).active);
    assert_eq!(linux.read(0, sgi + 0x300, 4), 0);
    assert_eq!(linux.entry(0), []);
}
