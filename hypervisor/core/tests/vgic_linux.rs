//! What Linux's irq-gic-v3 does while it boots, register by register.

use hv_core::id::{IntId, Mpidr, VcpuId, VcpuSet};
use hv_core::vgic::{
    Config, Effects, Frame, ListReg, LrSource, LrState, Physical, Read, SpiMask, Vgic,
};

const VIRTIO: IntId = IntId(48);
const UART: IntId = IntId(33);
const TIMER: IntId = IntId(27);

struct Linux {
    vgic: Vgic,
}

impl Linux {
    fn read(&mut self, me: u8, frame: Frame, offset: u64, size: u8) -> u64 {
        match self.vgic.read(VcpuId(me), frame, offset, size) {
            Read::Value(value) => value,
            Read::Again { kick } => panic!("{offset:#x} waits for {kick:?}"),
        }
    }

    fn dist(&mut self, offset: u64, value: u64) -> Effects {
        self.vgic.write(Frame::Distributor, offset, 4, value)
    }

    /// `gic_validate_dist_version`, `gic_init_bases`, `gic_dist_init`.
    fn gic_dist_init(&mut self) -> u32 {
        assert_eq!(
            self.read(0, Frame::Distributor, 0xffe8, 4) & 0xf0,
            0x30,
            "PIDR2"
        );
        let typer = self.read(0, Frame::Distributor, 0x4, 4);
        assert_eq!(typer >> 17 & 1, 0, "no LPIs");
        assert_eq!(typer >> 26 & 1, 1, "range selector");
        assert_eq!(typer >> 8 & 1, 0, "no extended SPIs");
        let lines = 32 * (typer as u32 & 0x1f) + 32;
        assert_eq!(self.read(0, Frame::Distributor, 0x0, 4) >> 31, 0, "RWP");
        let _ = self.dist(0x0, 0);
        for n in (32..lines).step_by(32) {
            let _ = self.dist(0x80 + u64::from(n) / 8, 0xffff_ffff);
        }
        for n in (32..lines).step_by(16) {
            let _ = self.dist(0xc00 + u64::from(n) / 4, 0);
        }
        for n in (32..lines).step_by(4) {
            let _ = self.dist(0x400 + u64::from(n), 0xa0a0_a0a0);
        }
        for n in (32..lines).step_by(32) {
            let _ = self.dist(0x380 + u64::from(n) / 8, 0xffff_ffff);
            let _ = self.dist(0x180 + u64::from(n) / 8, 0xffff_ffff);
        }
        let _ = self.dist(0x0, 1 << 4 | 1 << 1 | 1);
        for n in 32..lines {
            let _ = self
                .vgic
                .write(Frame::Distributor, 0x6000 + 8 * u64::from(n), 8, 0);
        }
        lines
    }

    /// `gic_populate_rdist`, `gic_enable_redist`, `gic_cpu_init`.
    fn gic_cpu_init(&mut self, me: u8) {
        let mut mine = None;
        for vcpu in 0..4 {
            let frame = Frame::Redistributor(VcpuId(vcpu));
            assert_eq!(self.read(me, frame, 0xffe8, 4) & 0xf0, 0x30, "PIDR2");
            let typer = self.read(me, frame, 0x8, 8);
            if typer >> 32 == u64::from(me) {
                mine = Some(frame);
                break;
            }
            assert_eq!(typer >> 4 & 1, 0, "Last too early");
        }
        let frame = mine.expect("a redistributor of this affinity");
        let waker = self.read(me, frame, 0x14, 4);
        assert_eq!(waker, 0b110);
        let _ = self.vgic.write(frame, 0x14, 4, waker & !0b10);
        assert_eq!(self.read(me, frame, 0x14, 4) & 0b100, 0, "ChildrenAsleep");
        let sgi = 0x1_0000;
        let _ = self.vgic.write(frame, sgi + 0x80, 4, 0xffff_ffff);
        let _ = self.vgic.write(frame, sgi + 0x380, 4, 0xffff_ffff);
        let _ = self.vgic.write(frame, sgi + 0x180, 4, 0xffff_ffff);
        for n in (0..32).step_by(4) {
            let _ = self.vgic.write(frame, sgi + 0x400 + n, 4, 0xa0a0_a0a0);
        }
        assert_eq!(self.read(me, frame, 0x0, 4) & 1 << 3, 0, "RWP");
        // SGIs 0 to 7 and the timer.
        let _ = self.vgic.write(frame, sgi + 0x100, 4, 0xff);
        let _ = self.vgic.write(frame, sgi + 0x100, 4, 1 << TIMER.0);
    }
}

fn boot() -> Linux {
    let mpidrs: Vec<_> = (0..4).map(Mpidr::new).collect();
    let vgic = Vgic::new(&Config {
        mpidrs: &mpidrs,
        last: VcpuSet::only(VcpuId(3)),
        spis: 256,
        passed_through: &[TIMER, IntId(30), VIRTIO],
        priority_bits: 5,
        list_regs: 4,
        model: hv_core::vgic::Model::V3,
    });
    let mut linux = Linux { vgic };
    assert_eq!(linux.gic_dist_init(), 288);
    for cpu in 0..4 {
        linux.gic_cpu_init(cpu);
    }
    linux
}

fn entry(linux: &mut Linux, vcpu: u8) -> Vec<ListReg> {
    let mut lrs = [ListReg::EMPTY; 4];
    let (entry, effects) = linux.vgic.populate(VcpuId(vcpu), &mut lrs, 0);
    assert!(effects.is_empty(), "{effects:?}");
    lrs[..entry.used].to_vec()
}

#[test]
fn the_priorities_read_back() {
    let mut linux = boot();
    assert_eq!(linux.read(0, Frame::Distributor, 0x420, 4), 0xa0a0_a0a0);
    let _ = linux.vgic.write(Frame::Distributor, 0x421, 1, 0xff);
    assert_eq!(linux.read(0, Frame::Distributor, 0x420, 4), 0xa0a0_f8a0);
    assert_eq!(linux.read(0, Frame::Distributor, 0x421, 1), 0xf8);
}

#[test]
fn the_distributor_says_one_security_state() {
    let mut linux = boot();
    assert_eq!(
        linux.read(0, Frame::Distributor, 0x0, 4),
        1 << 6 | 1 << 4 | 3
    );
}

#[test]
fn request_irq_of_virtio_reaches_the_physical_distributor() {
    let mut linux = boot();
    let effects = linux.dist(0xc00 + 48 / 4, 2);
    let trigger = Physical::Trigger {
        block: 1,
        edge: 1 << 16,
        level: 0,
    };
    assert_eq!(effects.phys, Some(trigger));
    let effects = linux.vgic.write(Frame::Distributor, 0x6000 + 8 * 48, 8, 2);
    let route = Physical::Route {
        spi: VIRTIO,
        to: VcpuId(2),
    };
    assert_eq!(effects.phys, Some(route));
    let bits = SpiMask {
        block: 1,
        bits: 1 << 16,
    };
    assert_eq!(
        linux.dist(0x104, 1 << 16).phys,
        Some(Physical::Enable(bits))
    );
    assert_eq!(
        linux.dist(0x184, 1 << 16).phys,
        Some(Physical::Disable(bits))
    );
    assert_eq!(linux.dist(0x104, 1 << 1).phys, None, "the UART is emulated");
}

#[test]
fn the_timer_is_a_hardware_list_register() {
    let mut linux = boot();
    let effects = linux.vgic.forward(VcpuId(1), TIMER);
    assert_eq!(effects.kick, VcpuSet::only(VcpuId(1)));
    let expected = ListReg {
        vintid: 27,
        priority: 0xa0,
        group1: true,
        state: LrState::Pending,
        source: LrSource::Hardware { pintid: 27 },
        sender: 0,
    };
    assert_eq!(entry(&mut linux, 1), [expected]);
    assert_eq!(entry(&mut linux, 0), []);
}

#[test]
fn the_uart_asks_for_maintenance_at_its_end() {
    let mut linux = boot();
    let _ = linux.dist(0x104, 1 << 1);
    let effects = linux.vgic.set_line(UART, None, true);
    assert_eq!(effects.kick, VcpuSet::only(VcpuId(0)));
    let expected = ListReg {
        vintid: 33,
        priority: 0xa0,
        group1: true,
        state: LrState::Pending,
        source: LrSource::Software { eoi: true },
        sender: 0,
    };
    assert_eq!(entry(&mut linux, 0), [expected]);
}

/// The capture kernel starts with the same sequence, on a vCPU that panicked in its timer interrupt.
#[test]
fn booting_again_clears_an_active_timer_interrupt() {
    let mut linux = boot();
    let _ = linux.vgic.forward(VcpuId(0), TIMER);
    let mut lrs = [ListReg::EMPTY; 4];
    let _ = linux.vgic.populate(VcpuId(0), &mut lrs, 0);
    lrs[0].state = LrState::Active;
    let effects = linux.vgic.fold(VcpuId(0), &lrs, 0);
    assert!(effects.is_empty());
    let frame = Frame::Redistributor(VcpuId(0));
    assert_eq!(linux.read(0, frame, 0x1_0300, 4), 1 << 27);
    let effects = linux.vgic.write(frame, 0x1_0380, 4, 0xffff_ffff);
    assert_eq!(effects.deactivate.iter().collect::<Vec<_>>(), [TIMER]);
    assert_eq!(effects.deactivate.owner(), VcpuId(0));
    assert_eq!(linux.read(0, frame, 0x1_0300, 4), 0);
    assert_eq!(entry(&mut linux, 0), []);
}
