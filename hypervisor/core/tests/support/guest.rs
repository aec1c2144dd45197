//! What the guest does on the model machine, and what its devices do.

use hv_core::id::{IntId, VcpuId};
use hv_core::vgic::{Frame, ListReg, LrSource, LrState, Read};

use super::{EDGE, Machine, PULSE, UART, VCPUS, key};

const IDLE_PRIORITY: u8 = 0xff;

/// Where the registers of an interrupt are.
fn frame(intid: IntId, vcpu: u8) -> (Frame, u64) {
    if intid.is_private() {
        (Frame::Redistributor(VcpuId(vcpu)), 0x1_0000)
    } else {
        (Frame::Distributor, 0)
    }
}

impl Machine {
    pub fn store(&mut self, me: u8, frame: Frame, offset: u64, size: u8, value: u64) {
        self.fold(me);
        let effects = self.vgic.write(frame, offset, size, value);
        self.perform(effects);
        self.populate(me);
    }

    fn store_bit(&mut self, me: u8, bank: u64, intid: IntId, owner: u8) {
        let (frame, base) = frame(intid, owner);
        let offset = base + bank + u64::from(intid.0 / 32) * 4;
        self.store(me, frame, offset, 4, 1 << (intid.0 % 32));
    }

    pub fn set_group1(&mut self, me: u8, on: bool) {
        self.group1 = on;
        self.store(me, Frame::Distributor, 0, 4, u64::from(on) << 1);
    }

    /// Only of what no vCPU is handling: priorities must end in the order in which they began.
    pub fn set_priority(&mut self, me: u8, intid: IntId, owner: u8, priority: u8) {
        if self.is_handled(intid, owner) {
            return;
        }
        let (frame, base) = frame(intid, owner);
        let offset = base + 0x400 + u64::from(intid.0);
        self.store(me, frame, offset, 1, priority.into());
    }

    pub fn enable(&mut self, me: u8, intid: IntId, owner: u8) {
        self.programmed_mut(intid, owner).enabled = true;
        self.store_bit(me, 0x100, intid, owner);
    }

    /// Also checks that when RWP says the disable is complete, it is.
    pub fn disable(&mut self, me: u8, intid: IntId, owner: u8) {
        self.programmed_mut(intid, owner).enabled = false;
        self.store_bit(me, 0x180, intid, owner);
        let complete = match self.vgic.read(VcpuId(me), Frame::Distributor, 0, 4) {
            Read::Value(ctlr) => ctlr >> 31 & 1 == 0,
            Read::Again { .. } => panic!("GICD_CTLR waits for nobody"),
        };
        if complete {
            for (vcpu, pcpu) in (0u8..).zip(&self.pcpus) {
                if intid.is_spi() || vcpu == owner {
                    assert!(
                        !pcpu.holds(intid).is_some_and(|lr| lr.state.is_pending()),
                        "{intid:?} is disabled and RWP is 0, yet vCPU {vcpu} may take it"
                    );
                }
            }
        }
    }

    pub fn set_pending(&mut self, me: u8, intid: IntId, owner: u8) {
        self.fire(intid, owner);
        self.accounts.entry(key(intid, owner)).or_default().asked += 1;
        self.store_bit(me, 0x200, intid, owner);
    }

    pub fn clear_pending(&mut self, me: u8, intid: IntId, owner: u8) {
        self.accounts.entry(key(intid, owner)).or_default().owed = false;
        self.store_bit(me, 0x280, intid, owner);
    }

    /// Only for what no vCPU is handling: a guest that deactivates what it will end again confuses itself.
    pub fn clear_active(&mut self, me: u8, intid: IntId, owner: u8) {
        if !self.is_handled(intid, owner) {
            self.store_bit(me, 0x380, intid, owner);
        }
    }

    fn is_handled(&self, intid: IntId, owner: u8) -> bool {
        (0u8..).zip(&self.pcpus).any(|(vcpu, pcpu)| {
            (intid.is_spi() || vcpu == owner) && pcpu.running.iter().any(|&(it, _)| it == intid)
        })
    }

    pub fn route(&mut self, me: u8, intid: IntId, target: u8) {
        self.programmed_mut(intid, 0).target = target;
        let offset = 0x6000 + 8 * u64::from(intid.0);
        self.store(me, Frame::Distributor, offset, 8, target.into());
    }

    /// One load of ISPENDR or ISACTIVER; `None` if it has to be run again.
    pub fn load_bit(&mut self, me: u8, bank: u64, intid: IntId, owner: u8) -> Option<bool> {
        let (frame, base) = frame(intid, owner);
        let offset = base + bank + u64::from(intid.0 / 32) * 4;
        self.fold(me);
        let read = self.vgic.read(VcpuId(me), frame, offset, 4);
        self.populate(me);
        match read {
            Read::Value(value) => Some(value >> (intid.0 % 32) & 1 != 0),
            Read::Again { kick } => {
                assert!(!kick.contains(VcpuId(me)) && !kick.is_empty());
                self.kick(kick);
                None
            }
        }
    }

    /// Loads until there is an answer, with the kicked vCPUs running: it must be the truth.
    pub fn poll_active(&mut self, me: u8, intid: IntId, owner: u8) {
        // It may move to one after the other while it is looked for, and what else `me` does starts it anew.
        for _ in 0..2 * VCPUS {
            if let Some(shown) = self.load_bit(me, 0x300, intid, owner) {
                let truth = (0u8..).zip(&self.pcpus).any(|(vcpu, pcpu)| {
                    (intid.is_spi() || vcpu == owner)
                        && pcpu.holds(intid).is_some_and(|lr| lr.state.is_active())
                });
                // What is active and found no list register is not visible here.
                assert!(shown || !truth, "{intid:?} is active and reads as not");
                return;
            }
            for vcpu in 0..VCPUS {
                self.sync(vcpu);
            }
        }
        panic!("the load of {intid:?} finds no end");
    }

    /// The guest takes the interrupt that its list registers offer, if any.
    pub fn acknowledge(&mut self, vcpu: u8) -> Option<IntId> {
        let pcpu = &mut self.pcpus[usize::from(vcpu)];
        let running = pcpu.running.last().map_or(IDLE_PRIORITY, |&(_, it)| it);
        let (index, lr) = pcpu
            .lrs
            .iter()
            .map(|&raw| ListReg::decode_v3(raw))
            .enumerate()
            .filter(|(_, lr)| lr.state == LrState::Pending && lr.priority < running)
            .min_by_key(|(_, lr)| (lr.priority, lr.vintid))?;
        let active = ListReg {
            state: LrState::Active,
            ..lr
        };
        pcpu.lrs[index] = active.encode_v3();
        let intid = IntId(lr.vintid);
        pcpu.running.push((intid, lr.priority));
        let told = pcpu.sync;
        self.check_acknowledge(vcpu, intid, told);
        Some(intid)
    }

    /// `late`: the vCPU has been kicked and has not come to it yet, so it may act on old news.
    fn check_acknowledge(&mut self, vcpu: u8, intid: IntId, late: bool) {
        let programmed = self.programmed_mut(intid, vcpu).clone();
        if !late {
            assert!(programmed.enabled, "{intid:?} is disabled");
            assert!(self.group1, "{intid:?} is in a group that is off");
            assert!(
                intid.is_private() || programmed.target == vcpu,
                "{intid:?} is routed elsewhere"
            );
        }
        let line = self.lines.get(&intid.0).copied();
        let account = self.accounts.entry(key(intid, vcpu)).or_default();
        account.acknowledged += 1;
        if intid == UART {
            if line == Some(false) && !late {
                assert_ne!(account.asked, 0, "{intid:?} came though its line is low");
                account.asked -= 1;
            }
        } else {
            assert!(
                account.acknowledged <= account.fired,
                "{intid:?} was invented: {account:?}"
            );
        }
        account.owed = false;
    }

    /// The guest ends what it is handling.
    pub fn end(&mut self, vcpu: u8) {
        let pcpu = &mut self.pcpus[usize::from(vcpu)];
        let Some((intid, _)) = pcpu.running.pop() else {
            return;
        };
        for raw in &mut pcpu.lrs {
            let lr = ListReg::decode_v3(*raw);
            if lr.vintid == intid.0 && lr.state.is_active() {
                let state = LrState::new(lr.state.is_pending(), false);
                *raw = ListReg { state, ..lr }.encode_v3();
                if let LrSource::Hardware { pintid } = lr.source {
                    self.deactivate(vcpu, IntId(pintid));
                }
                return;
            }
        }
        pcpu.eoi_count += 1;
    }

    /// A new kernel starts on this vCPU without ending what the old one was handling.
    pub fn kexec(&mut self, vcpu: u8) {
        let running = std::mem::take(&mut self.pcpus[usize::from(vcpu)].running);
        for (intid, _) in running {
            self.store_bit(vcpu, 0x380, intid, vcpu);
        }
    }

    pub fn fire(&mut self, intid: IntId, vcpu: u8) {
        let account = self.accounts.entry(key(intid, vcpu)).or_default();
        account.fired += 1;
        account.owed = true;
    }

    pub fn send_sgi(&mut self, from: u8, intid: u32, targets: u16) {
        let value = u64::from(intid) << 24 | u64::from(targets & 0b111);
        let sgi = self.vgic.affinities().sgi(VcpuId(from), value);
        for vcpu in sgi.targets.iter() {
            self.fire(sgi.intid, vcpu.0);
            self.pcpus[vcpu.index()].sgis |= 1 << intid;
        }
    }

    /// The emulated device's line, moved by an exit of some vCPU.
    pub fn set_line(&mut self, intid: IntId, level: bool) {
        if self.lines.insert(intid.0, level) != Some(level) {
            if level && intid == PULSE {
                self.fire(intid, 0);
            }
            let effects = self.vgic.set_line(intid, None, level);
            self.perform(effects);
        }
    }

    /// An edge on a passed-through wire.
    pub fn pulse(&mut self) {
        self.fire(EDGE, 0);
        self.wire_mut(0, EDGE).pending = true;
    }

    pub fn set_level(&mut self, intid: IntId, vcpu: u8, level: bool) {
        self.wire_mut(vcpu, intid).level = level;
    }
}
