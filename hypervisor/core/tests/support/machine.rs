//! A machine to run the virtual GIC on: a physical GIC, pCPUs with list registers that change under our
//! hands, mailboxes, and a guest that acknowledges and ends interrupts. Nothing happens unless a step says
//! so: a kick that was posted is not yet taken, and other steps may come between.
//!
//! The machine also keeps the books: what each source fired and what each vCPU acknowledged, so that an
//! interrupt that is lost or invented is found at the step where it happens.

mod guest;
mod pcpu;

use std::collections::BTreeMap;

use hv_core::id::{IntId, Mpidr, VcpuId, VcpuSet};
use hv_core::vgic::{
    Config, Effects, Entry, Frame, Leftovers, ListReg, LrSource, LrState, Model, Physical, SpiMask,
    Sticky, Vgic, hcr,
};
use pcpu::{Pcpu, Wire};

pub const VCPUS: u8 = 3;
/// A line of an emulated device, level sensitive.
pub const UART: IntId = IntId(33);
/// A line of an emulated device, edge triggered.
pub const PULSE: IntId = IntId(34);
/// Passed through.
pub const TIMER: IntId = IntId(27);
pub const EDGE: IntId = IntId(48);
pub const LEVEL: IntId = IntId(49);
pub const SGIS: std::ops::Range<u32> = 0..4;
pub const SPIS: [IntId; 4] = [UART, PULSE, EDGE, LEVEL];

/// What the sources did and the guest saw.
#[derive(Clone, Debug, Default)]
struct Account {
    fired: u32,
    acknowledged: u32,
    /// Fired since it was last acknowledged or cleared: at least one acknowledge is due.
    owed: bool,
    /// How often the guest made it pending itself, and no acknowledge was put down to that.
    asked: u32,
}

/// What the guest programmed.
#[derive(Clone, Debug)]
struct Programmed {
    enabled: bool,
    target: u8,
}

#[derive(Clone, Debug)]
pub struct Machine {
    pub vgic: Vgic,
    pcpus: Vec<Pcpu>,
    wires: BTreeMap<u32, Wire>,
    /// Lines of emulated devices.
    lines: BTreeMap<u32, bool>,
    accounts: BTreeMap<(u32, u8), Account>,
    programmed: BTreeMap<(u32, u8), Programmed>,
    group1: bool,
}

/// The key of a per-interrupt table: whose, if private.
fn key(intid: IntId, vcpu: u8) -> (u32, u8) {
    (intid.0, if intid.is_private() { vcpu } else { 0 })
}

impl Machine {
    /// A machine whose guest has set up its GIC: all interrupts enabled, SPIs on vCPU 0.
    pub fn new(list_regs: usize) -> Self {
        let mpidrs: Vec<_> = (0..VCPUS).map(|n| Mpidr::new(n.into())).collect();
        let vgic = Vgic::new(&Config {
            mpidrs: &mpidrs,
            last: VcpuSet::only(VcpuId(VCPUS - 1)),
            spis: 32,
            passed_through: &[TIMER, EDGE, LEVEL],
            priority_bits: 5,
            list_regs,
            model: Model::V3,
        });
        let pcpu = Pcpu {
            lrs: vec![0; list_regs],
            hcr: hcr::EN,
            eoi_count: 0,
            sync: false,
            sgis: 0,
            running: Vec::new(),
            timer: Wire {
                enabled: true,
                ..Wire::default()
            },
            sticky: Some(Sticky::new()),
            reseated: 0,
            used: 0,
        };
        let mut machine = Self {
            vgic,
            pcpus: vec![pcpu; VCPUS.into()],
            wires: BTreeMap::from([(EDGE.0, Wire::default()), (LEVEL.0, Wire::default())]),
            lines: BTreeMap::from([(UART.0, false), (PULSE.0, false)]),
            accounts: BTreeMap::new(),
            programmed: BTreeMap::new(),
            group1: false,
        };
        let spi_edges = 0b10 << (2 * (PULSE.0 - 32));
        machine.store(0, Frame::Distributor, 0xc08, 4, spi_edges);
        machine.store(0, Frame::Distributor, 0xc0c, 4, 0b10);
        machine.store(0, Frame::Distributor, 0x84, 4, 0xffff_ffff);
        machine.set_group1(0, true);
        for vcpu in 0..VCPUS {
            machine.power_on(vcpu);
        }
        for intid in SPIS {
            machine.set_priority(0, intid, 0, (0x40 + 8 * (intid.0 & 7)) as u8);
            machine.route(0, intid, 0);
            machine.enable(0, intid, 0);
        }
        machine
    }

    /// Everything goes the general way from now on.
    pub fn without_short_way(mut self) -> Self {
        for pcpu in &mut self.pcpus {
            pcpu.sticky = None;
        }
        self
    }

    /// How many interrupts went the short way.
    pub fn reseated(&self) -> u32 {
        self.pcpus.iter().map(|pcpu| pcpu.reseated).sum()
    }

    /// How often each interrupt was acknowledged by its vCPU.
    pub fn acknowledged(&self) -> Vec<((u32, u8), u32)> {
        let accounts = self.accounts.iter();
        accounts
            .map(|(&key, account)| (key, account.acknowledged))
            .filter(|&(_, count)| count > 0)
            .collect()
    }

    /// What a guest programs when its CPU comes up: groups, priorities, enables.
    pub fn power_on(&mut self, vcpu: u8) {
        let own = Frame::Redistributor(VcpuId(vcpu));
        self.store(vcpu, own, 0x1_0080, 4, 0xffff_ffff);
        for n in SGIS.chain([TIMER.0]) {
            self.set_priority(vcpu, IntId(n), vcpu, (0x20 + 8 * (n % 8)) as u8);
            self.enable(vcpu, IntId(n), vcpu);
        }
    }

    /// The physical interrupts that wait on this pCPU are taken.
    pub fn interrupt(&mut self, vcpu: u8) {
        for intid in [TIMER, EDGE, LEVEL] {
            let wire = self.wire_mut(vcpu, intid);
            if wire.fires() && (intid.is_private() || wire.route == vcpu) {
                wire.active = true;
                wire.pending = false;
                if intid != EDGE {
                    // Each time a level is forwarded is one more that may be acknowledged.
                    self.accounts.entry(key(intid, vcpu)).or_default().fired += 1;
                }
                if self.pcpus[usize::from(vcpu)].reseat(intid) {
                    self.check();
                    continue;
                }
                let must_populate = self.vgic.needs_populate(VcpuId(vcpu));
                let mut effects = self.vgic.forward(VcpuId(vcpu), intid);
                if !must_populate && intid.is_private() && self.seat(vcpu, 1 << intid.0) {
                    effects.kick.remove(VcpuId(vcpu));
                }
                self.perform(effects);
            }
        }
        if self.pcpus[usize::from(vcpu)].maintenance() {
            self.populate(vcpu);
        }
        self.sync(vcpu);
    }

    /// The vCPU looks at its mailbox, as before every entry.
    pub fn sync(&mut self, vcpu: u8) {
        let pcpu = &mut self.pcpus[usize::from(vcpu)];
        let mut sgis = std::mem::take(&mut pcpu.sgis);
        for intid in SGIS {
            if sgis >> intid & 1 != 0 && pcpu.reseat(IntId(intid)) {
                sgis &= !(1 << intid);
            }
        }
        let sync = std::mem::take(&mut pcpu.sync);
        let must_populate = sync || self.vgic.needs_populate(VcpuId(vcpu));
        self.vgic.take_sgis(VcpuId(vcpu), sgis);
        if must_populate || sgis != 0 && !self.seat(vcpu, sgis.into()) {
            self.populate(vcpu);
        }
        assert!(
            !self.vgic.needs_populate(VcpuId(vcpu)),
            "nobody told vCPU {vcpu}"
        );
    }

    /// As the shell does when private interrupts have come: whether they are in unused list registers now.
    fn seat(&mut self, vcpu: u8, come: u32) -> bool {
        let pcpu = &mut self.pcpus[usize::from(vcpu)];
        let mut lrs = vec![ListReg::EMPTY; pcpu.lrs.len()];
        let seated = match pcpu.sticky {
            Some(_) => self.vgic.seat(VcpuId(vcpu), come, &mut lrs, pcpu.used),
            None => None,
        };
        let Some((used, again)) = seated else {
            return false;
        };
        pcpu.add(&lrs, used, again);
        self.check();
        true
    }

    pub fn reset_vcpu(&mut self, vcpu: u8) {
        let pcpu = &mut self.pcpus[usize::from(vcpu)];
        let mut lrs = pcpu.decode();
        pcpu.running.clear();
        pcpu.sgis = 0;
        pcpu.eoi_count = 0;
        let effects = self
            .vgic
            .reset_vcpu(VcpuId(vcpu), &mut lrs, Leftovers::Dropped);
        let (used, hcr, again) = (0, hcr::EN, 0);
        self.pcpus[usize::from(vcpu)].load(&lrs, Entry { used, hcr, again });
        self.perform(effects);
        for n in SGIS.chain([TIMER.0]) {
            self.accounts.entry((n, vcpu)).or_default().owed = false;
            self.programmed_mut(IntId(n), vcpu).enabled = false;
        }
        self.populate(vcpu);
    }

    fn fold(&mut self, vcpu: u8) {
        let pcpu = &mut self.pcpus[usize::from(vcpu)];
        let lrs = pcpu.decode();
        let eoi_count = std::mem::take(&mut pcpu.eoi_count);
        // From here to the next populate the guest does not run, and what its list registers hold is void.
        pcpu.lrs.fill(0);
        pcpu.used = 0;
        if let Some(sticky) = &mut pcpu.sticky {
            sticky.clear();
        }
        let effects = self.vgic.fold(VcpuId(vcpu), &lrs, eoi_count);
        self.perform(effects);
    }

    fn populate(&mut self, vcpu: u8) {
        let pcpu = &mut self.pcpus[usize::from(vcpu)];
        let mut lrs = pcpu.decode();
        let eoi_count = std::mem::take(&mut pcpu.eoi_count);
        let (entry, effects) = self.vgic.populate(VcpuId(vcpu), &mut lrs, eoi_count);
        for (index, lr) in lrs.iter().enumerate() {
            assert_eq!(index < entry.used, lr.state != LrState::Invalid, "{lrs:?}");
        }
        let pcpu = &mut self.pcpus[usize::from(vcpu)];
        pcpu.load(&lrs, entry);
        pcpu.sync = false;
        self.perform(effects);
        assert!(
            !self.pcpus[usize::from(vcpu)].maintenance(),
            "a maintenance interrupt that populating does not end: {lrs:?} {:#x}",
            entry.hcr
        );
        self.check();
    }

    fn perform(&mut self, effects: Effects) {
        let owner = effects.deactivate.owner();
        for intid in effects.deactivate.iter() {
            for pcpu in &self.pcpus {
                let lr = pcpu.holds(intid);
                assert!(
                    intid.is_private()
                        || !lr.is_some_and(|lr| lr.state != LrState::Invalid
                            && matches!(lr.source, LrSource::Hardware { .. })),
                    "{intid:?} is deactivated under a list register"
                );
            }
            assert!(
                self.wire_mut(owner.0, intid).active,
                "{intid:?} is not active"
            );
            self.deactivate(owner.0, intid);
        }
        match effects.phys {
            Some(Physical::Enable(mask)) => self.wires_in(mask, |wire| wire.enabled = true),
            Some(Physical::Disable(mask)) => self.wires_in(mask, |wire| wire.enabled = false),
            Some(Physical::ClearPending(mask)) => self.wires_in(mask, |wire| wire.pending = false),
            Some(Physical::Trigger { block, edge, level }) => {
                self.wires_in(SpiMask { block, bits: edge }, |wire| wire.edge = true);
                self.wires_in(SpiMask { block, bits: level }, |wire| wire.edge = false);
            }
            Some(Physical::Route { spi, to }) => self.wire_mut(0, spi).route = to.0,
            Some(Physical::Targets { .. }) => panic!("a GICv3 routes by affinity"),
            Some(Physical::Reset(mask)) => self.wires_in(mask, |wire| {
                *wire = Wire {
                    level: wire.level,
                    ..Wire::default()
                }
            }),
            None => {}
        }
        self.kick(effects.kick);
    }

    fn kick(&mut self, kick: VcpuSet) {
        for vcpu in kick.iter() {
            self.pcpus[vcpu.index()].sync = true;
        }
    }

    fn deactivate(&mut self, vcpu: u8, intid: IntId) {
        self.wire_mut(vcpu, intid).active = false;
    }

    fn wires_in(&mut self, mask: SpiMask, change: impl Fn(&mut Wire)) {
        for (intid, wire) in &mut self.wires {
            if intid / 32 == mask.block && mask.bits >> (intid % 32) & 1 != 0 {
                change(wire);
            }
        }
    }

    fn wire_mut(&mut self, vcpu: u8, intid: IntId) -> &mut Wire {
        if intid.is_private() {
            assert_eq!(intid, TIMER);
            &mut self.pcpus[usize::from(vcpu)].timer
        } else {
            self.wires.get_mut(&intid.0).expect("a passed-through SPI")
        }
    }

    fn programmed_mut(&mut self, intid: IntId, vcpu: u8) -> &mut Programmed {
        let fresh = Programmed {
            enabled: false,
            target: 0,
        };
        self.programmed.entry(key(intid, vcpu)).or_insert(fresh)
    }

    /// After every change of list registers.
    fn check(&self) {
        let mut seen = BTreeMap::new();
        for (vcpu, pcpu) in (0u8..).zip(&self.pcpus) {
            for lr in pcpu.decode() {
                if lr.state == LrState::Invalid {
                    continue;
                }
                let intid = IntId(lr.vintid);
                let other = seen.insert(key(intid, vcpu), vcpu);
                assert_eq!(other, None, "{intid:?} is in two list registers");
                if let LrSource::Hardware { pintid } = lr.source {
                    assert_ne!(
                        lr.state,
                        LrState::PendingActive,
                        "not allowed (IHI0069 12.4, ICH_LR<n>_EL2)"
                    );
                    assert_eq!(pintid, lr.vintid);
                    let wire = match intid {
                        TIMER => &pcpu.timer,
                        _ => &self.wires[&intid.0],
                    };
                    assert!(wire.active, "{intid:?} has HW = 1 and is not active");
                }
            }
        }
    }

    /// The guest takes what there is, the device is content, and the guest ends it. Whether there was any.
    fn serve(&mut self, vcpu: u8) -> bool {
        self.interrupt(vcpu);
        let mut busy = false;
        while let Some(intid) = self.acknowledge(vcpu) {
            busy = true;
            match intid {
                UART | PULSE => self.set_line(intid, false),
                TIMER | LEVEL => self.set_level(intid, vcpu, false),
                _ => {}
            }
            self.interrupt(vcpu);
        }
        busy |= !self.pcpus[usize::from(vcpu)].running.is_empty();
        self.end(vcpu);
        self.interrupt(vcpu);
        busy
    }

    /// Lets the guest serve everything there is, with all enabled; then nothing may be owed or left over.
    pub fn drain(&mut self) {
        self.set_group1(0, true);
        for vcpu in 0..VCPUS {
            self.power_on(vcpu);
        }
        for intid in SPIS {
            self.clear_active(0, intid, 0);
            self.route(0, intid, 0);
            self.enable(0, intid, 0);
        }
        let served = (0..100).find(|_| {
            let mut busy = false;
            for vcpu in 0..VCPUS {
                busy |= self.serve(vcpu);
            }
            !busy && self.pcpus.iter().all(|pcpu| !pcpu.sync)
        });
        assert!(served.is_some(), "interrupts without end");
        for (key, account) in &self.accounts {
            assert!(!account.owed, "{key:?} was lost: {account:?}");
        }
        for pcpu in &self.pcpus {
            assert_eq!(pcpu.running, []);
            assert!(!pcpu.timer.level, "the timer's interrupt was lost");
            assert!(!pcpu.timer.active, "the timer is active for ever");
            let left = pcpu
                .decode()
                .into_iter()
                .find(|lr| lr.state != LrState::Invalid);
            assert_eq!(left, None);
        }
        for (intid, wire) in &self.wires {
            assert!(!wire.active, "{intid} is active for ever");
            assert!(!wire.level && !wire.pending, "{intid} was lost");
        }
        assert!(!self.lines[&UART.0], "the UART's interrupt was lost");
    }
}
