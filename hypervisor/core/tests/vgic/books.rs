//! A guest that uses its interrupts on a machine in memory, and the books about it: what each source fired and what
//! each vCPU acknowledged, so that an interrupt that is lost or invented is found at the step where it happens.

use std::collections::BTreeMap;

use hv_core::id::{IntId, VcpuId};
use hv_core::vgic::{LrState, Model, hcr};
use hv_testbed::{Built, DISTRIBUTOR, Machine, UART as UART_BASE};

pub const VCPUS: u8 = 3;
/// The emulated UART's.
pub const UART: IntId = IntId(33);
/// Passed through.
pub const TIMER: IntId = IntId(27);
pub const EDGE: IntId = IntId(48);
pub const LEVEL: IntId = IntId(49);
pub const SGIS: std::ops::Range<u32> = 0..4;
pub const SPIS: [IntId; 3] = [UART, EDGE, LEVEL];

// GICD_IGROUPR, GICD_ISENABLER and what follows them (IHI0069 12.8).
const GROUP: u64 = 0x80;
const ENABLE: u64 = 0x100;
const DISABLE: u64 = 0x180;
const SET_PENDING: u64 = 0x200;
const CLEAR_PENDING: u64 = 0x280;
const ACTIVE: u64 = 0x300;
const CLEAR_ACTIVE: u64 = 0x380;
const PRIORITY: u64 = 0x400;
/// GICD_ITARGETSR of a GICv2.
const TARGETS: u64 = 0x800;
const TRIGGER: u64 = 0xc00;
/// GICD_SGIR of a GICv2.
const SGIR: u64 = 0xf00;
const ROUTE: u64 = 0x6000;
/// UARTIMSC; UARTIMSC.TXIM.
const UART_MASK: u64 = UART_BASE + 0x38;
const UART_TRANSMIT: u64 = 1 << 5;

/// What kind of machine and guest.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub model: Model,
    pub list_regs: usize,
    /// The guest has made the emulated UART's interrupt edge triggered.
    pub is_uart_edge: bool,
    /// The guest ends interrupts in two steps.
    pub has_eoi_mode: bool,
    /// The deactivation can be trapped alone.
    pub has_tdir: bool,
    /// EOIcount counts the first of them, as QEMU's does.
    pub counts_drops: bool,
    pub has_short_ways: bool,
}

impl Setup {
    pub const fn v3(list_regs: usize) -> Self {
        Self {
            model: Model::V3,
            list_regs,
            is_uart_edge: false,
            has_eoi_mode: false,
            has_tdir: true,
            counts_drops: false,
            has_short_ways: true,
        }
    }
}

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

/// What a vCPU has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Taken(IntId),
    IsPending(IntId, bool),
    IsActive(IntId, bool),
}

pub struct Guest {
    pub machine: Machine,
    setup: Setup,
    /// The emulated UART's line.
    line: bool,
    accounts: BTreeMap<(u32, u8), Account>,
    programmed: BTreeMap<(u32, u8), Programmed>,
    group_on: bool,
    /// What each vCPU took and read, in order.
    story: Vec<(u8, Seen)>,
    /// A write of ICACTIVER was under way when the interrupt was taken: it may not be active any more.
    crossed: Vec<(u32, u8)>,
    /// With EOImode: what each vCPU has ended and not deactivated.
    ended: Vec<Vec<hv_testbed::Acknowledged>>,
}

/// The key of a per-interrupt table: whose, if private.
fn key(intid: IntId, vcpu: u8) -> (u32, u8) {
    (intid.0, if intid.is_private() { vcpu } else { 0 })
}

impl Guest {
    /// A guest that has set up its GIC: all vCPUs on, all interrupts enabled, SPIs on vCPU 0.
    pub fn new(setup: Setup) -> Self {
        let machine = Built {
            model: setup.model,
            list_regs: setup.list_regs,
            spis: 32,
            passed_through: vec![TIMER, EDGE, LEVEL],
            uart: UART,
            has_short_ways: setup.has_short_ways,
            has_tdir: setup.has_tdir,
            counts_drops: setup.counts_drops,
            ..Built::new(VCPUS)
        };
        let mut guest = Self {
            machine: machine.start(),
            setup,
            line: false,
            accounts: BTreeMap::new(),
            programmed: BTreeMap::new(),
            group_on: false,
            story: Vec::new(),
            crossed: Vec::new(),
            ended: vec![Vec::new(); VCPUS.into()],
        };
        for vcpu in 1..VCPUS {
            guest.machine.turn_on(0, vcpu);
        }
        let edges = 0b10 << (2 * (UART.0 - 32));
        let edges = if setup.is_uart_edge { edges } else { 0 };
        guest.store(0, DISTRIBUTOR + TRIGGER + 8, 4, edges);
        guest.store(0, DISTRIBUTOR + TRIGGER + 12, 4, 0b10);
        guest.store(0, DISTRIBUTOR + GROUP + 4, 4, 0xffff_ffff);
        guest.set_group(0, true);
        for vcpu in 0..VCPUS {
            guest.power_on(vcpu);
        }
        for intid in SPIS {
            guest.set_priority(0, intid, 0, (0x40 + 8 * (intid.0 & 7)) as u8);
            guest.route(0, intid, 0);
            guest.enable(0, intid, 0);
        }
        // A byte sent leaves the transmit interrupt raised, so that UARTIMSC alone says how the line is.
        guest.store(0, UART_BASE, 1, b'.'.into());
        guest
    }

    fn is_v2(&self) -> bool {
        self.setup.model != Model::V3
    }

    /// Whose private registers a vCPU can write: on a GICv2 its own, which are banked.
    fn owner(&self, me: u8, owner: u8) -> u8 {
        if self.is_v2() { me } else { owner }
    }

    /// What a guest programs when its CPU comes up: groups, priorities, enables.
    pub fn power_on(&mut self, vcpu: u8) {
        let (group, _) = self.machine.bit_of(GROUP, IntId(0), vcpu);
        self.store(vcpu, group, 4, 0xffff_ffff);
        if self.setup.has_eoi_mode {
            self.machine.interface(vcpu).set_eoi_mode(true);
        }
        for n in SGIS.chain([TIMER.0]) {
            self.set_priority(vcpu, IntId(n), vcpu, (0x20 + 8 * (n % 8)) as u8);
            self.enable(vcpu, IntId(n), vcpu);
        }
    }

    /// What each vCPU took and read, in order.
    pub fn story(&self) -> &[(u8, Seen)] {
        &self.story
    }

    pub fn is_on(&self, vcpu: u8) -> bool {
        self.machine.is_on(vcpu)
    }

    /// A store by `me`, if it is on.
    fn store(&mut self, me: u8, ipa: u64, size: u8, value: u64) {
        if self.is_on(me) {
            self.machine.store(me, ipa, size, value);
        }
    }

    fn store_bit(&mut self, me: u8, bank: u64, intid: IntId, owner: u8) {
        if self.is_on(me) {
            self.machine.store_bit(me, bank, intid, owner);
        }
    }

    /// The group that all interrupts are in.
    pub fn set_group(&mut self, me: u8, on: bool) {
        if self.is_on(me) {
            self.group_on = on;
            self.store(me, DISTRIBUTOR, 4, u64::from(on) << 1);
        }
    }

    /// Only of what no vCPU is handling: priorities must end in the order in which they began.
    pub fn set_priority(&mut self, me: u8, intid: IntId, owner: u8, priority: u8) {
        let owner = self.owner(me, owner);
        if !self.is_handled(intid, owner) {
            let ipa = self.machine.place_of(intid, owner) + PRIORITY + u64::from(intid.0);
            self.store(me, ipa, 1, priority.into());
        }
    }

    pub fn enable(&mut self, me: u8, intid: IntId, owner: u8) {
        let owner = self.owner(me, owner);
        if self.is_on(me) && self.may_write(intid, owner) {
            self.programmed_mut(intid, owner).enabled = true;
            self.store_bit(me, ENABLE, intid, owner);
        }
    }

    /// A vCPU that is off has its redistributor reset when it starts: a sibling's write there is lost.
    fn may_write(&self, intid: IntId, owner: u8) -> bool {
        intid.is_spi() || self.is_on(owner)
    }

    /// Also checks that when RWP says the disable is complete, it is.
    pub fn disable(&mut self, me: u8, intid: IntId, owner: u8) {
        let owner = self.owner(me, owner);
        if !self.is_on(me) || !self.may_write(intid, owner) {
            return;
        }
        self.programmed_mut(intid, owner).enabled = false;
        self.store_bit(me, DISABLE, intid, owner);
        if self.is_v2() {
            return;
        }
        let ctlr = self
            .machine
            .load(me, DISTRIBUTOR, 4)
            .expect("GICD_CTLR waits for nobody");
        if ctlr >> 31 & 1 == 0 {
            for vcpu in (0..VCPUS).filter(|&vcpu| intid.is_spi() || vcpu == owner) {
                let lr = self.machine.interface(vcpu).find(intid);
                assert!(
                    !lr.is_some_and(|lr| lr.state.is_pending()),
                    "{intid:?} is disabled and RWP is 0, yet vCPU {vcpu} may take it"
                );
            }
        }
    }

    pub fn set_pending(&mut self, me: u8, intid: IntId, owner: u8) {
        let owner = self.owner(me, owner);
        // A GICv2 has no such register for SGIs (IHI0048 4.3.7).
        if self.is_on(me) && self.may_write(intid, owner) && !(self.is_v2() && intid.is_sgi()) {
            self.fire(intid, owner);
            self.account(intid, owner).asked += 1;
            self.store_bit(me, SET_PENDING, intid, owner);
        }
    }

    pub fn clear_pending(&mut self, me: u8, intid: IntId, owner: u8) {
        let owner = self.owner(me, owner);
        if self.is_on(me) && self.may_write(intid, owner) && !(self.is_v2() && intid.is_sgi()) {
            self.account(intid, owner).owed = false;
            self.store_bit(me, CLEAR_PENDING, intid, owner);
        }
    }

    /// Only for what no vCPU is handling: a guest that deactivates what it will end again confuses itself.
    pub fn clear_active(&mut self, me: u8, intid: IntId, owner: u8) {
        let owner = self.owner(me, owner);
        if !self.is_handled(intid, owner) {
            self.store_bit(me, CLEAR_ACTIVE, intid, owner);
            self.crossed.push(key(intid, owner));
        }
    }

    fn is_handled(&self, intid: IntId, owner: u8) -> bool {
        (0..VCPUS).any(|vcpu| {
            let interface = self.machine.interface(vcpu);
            let handled = interface.running().iter();
            let mut handled = handled.chain(&self.ended[usize::from(vcpu)]);
            (intid.is_spi() || vcpu == owner) && handled.any(|it| it.intid == intid)
        })
    }

    pub fn route(&mut self, me: u8, intid: IntId, target: u8) {
        if !self.is_on(me) {
            return;
        }
        self.programmed_mut(intid, 0).target = target;
        if self.is_v2() {
            let ipa = DISTRIBUTOR + TARGETS + u64::from(intid.0);
            self.store(me, ipa, 1, 1 << target);
        } else {
            let ipa = DISTRIBUTOR + ROUTE + 8 * u64::from(intid.0);
            self.store(me, ipa, 8, target.into());
        }
    }

    /// One load of ISPENDR; `None` if it has to be run again.
    pub fn load_pending(&mut self, me: u8, intid: IntId, owner: u8) -> Option<bool> {
        if !self.is_on(me) {
            return None;
        }
        let (ipa, bit) = self.machine.bit_of(SET_PENDING, intid, owner);
        let value = self.machine.load(me, ipa, 4)?;
        Some(value >> bit & 1 != 0)
    }

    /// The same until there is an answer, with the kicked vCPUs running.
    pub fn poll_pending(&mut self, me: u8, intid: IntId, owner: u8) {
        if self.is_on(me) {
            let shown = self.machine.poll_bit(me, SET_PENDING, intid, owner);
            self.story.push((me, Seen::IsPending(intid, shown)));
        }
    }

    /// Loads until there is an answer, with the kicked vCPUs running: it must be the truth.
    pub fn poll_active(&mut self, me: u8, intid: IntId, owner: u8) {
        if !self.is_on(me) {
            return;
        }
        let owner = self.owner(me, owner);
        let shown = self.machine.poll_bit(me, ACTIVE, intid, owner);
        self.story.push((me, Seen::IsActive(intid, shown)));
        let truth = (0..VCPUS).any(|vcpu| {
            let lr = self.machine.interface(vcpu).find(intid);
            (intid.is_spi() || vcpu == owner) && lr.is_some_and(|lr| lr.state.is_active())
        });
        // What is active and found no list register is not visible here.
        assert!(shown || !truth, "{intid:?} is active and reads as not");
    }

    /// The physical interrupts that wait on this pCPU are taken, and kicks.
    pub fn interrupt(&mut self, vcpu: u8) {
        self.machine.interrupt(vcpu);
    }

    /// The guest takes the interrupt that its list registers offer, if any.
    pub fn acknowledge(&mut self, vcpu: u8) -> Option<IntId> {
        let late = self.machine.rung().contains(VcpuId(vcpu));
        let handled = self.machine.interface(vcpu).running().to_vec();
        let taken = self.machine.acknowledge(vcpu)?;
        let intid = taken.intid;
        let ended = &mut self.ended[usize::from(vcpu)];
        assert!(
            !handled.contains(&taken) && !ended.contains(&taken)
                || self.crossed.contains(&key(intid, vcpu)),
            "{taken:?} is taken again and was not deactivated"
        );
        // One that a write of ICACTIVER has crossed is not active any more.
        ended.retain(|it| *it != taken);
        // Another vCPU that handles it has not ended what crossed.
        let is_elsewhere = (0..VCPUS).any(|other| {
            let interface = self.machine.interface(other);
            let mut running = interface.running().iter();
            intid.is_spi() && other != vcpu && running.any(|it| it.intid == intid)
        });
        if !late && !is_elsewhere {
            self.crossed.retain(|&crossed| crossed != key(intid, vcpu));
        }
        self.check_acknowledge(vcpu, intid, late);
        self.story.push((vcpu, Seen::Taken(intid)));
        Some(intid)
    }

    /// `late`: the vCPU has been kicked and has not come to it yet, so it may act on old news.
    fn check_acknowledge(&mut self, vcpu: u8, intid: IntId, late: bool) {
        let programmed = self.programmed_mut(intid, vcpu).clone();
        if !late {
            assert!(programmed.enabled, "{intid:?} is disabled");
            assert!(self.group_on, "{intid:?} is in a group that is off");
            assert!(
                intid.is_private() || programmed.target == vcpu,
                "{intid:?} is routed elsewhere"
            );
        }
        // Each time a level is forwarded is one more that may be acknowledged.
        let forwarded = match intid {
            TIMER | LEVEL => self.machine.physical().wire(intid, vcpu).taken,
            _ => 0,
        };
        let (line, is_edge) = (self.line, self.setup.is_uart_edge);
        let account = self.account(intid, vcpu);
        account.acknowledged += 1;
        if intid == UART && !is_edge {
            if !line && !late {
                assert_ne!(account.asked, 0, "{intid:?} came though its line is low");
                account.asked -= 1;
            }
        } else {
            assert!(
                account.acknowledged <= account.fired + forwarded,
                "{intid:?} was invented: {account:?}"
            );
        }
        account.owed = false;
    }

    /// The guest ends what it is handling; with EOImode it deactivates it later.
    pub fn end(&mut self, vcpu: u8) {
        let before = self.machine.interface(vcpu).hcr();
        let last = self.machine.end(vcpu);
        let after = self.machine.interface(vcpu).hcr();
        assert!(
            hcr::eoi_count(before) == hcr::eoi_count(after)
                || before & hcr::LRENPIE != 0
                || last.is_some_and(|last| self.crossed.contains(&key(last.intid, vcpu))),
            "{last:?} was active and in no list register, and nobody knows: {before:#x}"
        );
        if let Some(last) = last
            && self.setup.has_eoi_mode
        {
            self.ended[usize::from(vcpu)].push(last);
        }
    }

    /// With EOImode the guest deactivates one of those that it has ended.
    pub fn deactivate(&mut self, vcpu: u8, which: usize) {
        let ended = &mut self.ended[usize::from(vcpu)];
        if self.machine.is_on(vcpu) && !ended.is_empty() {
            let it = ended.remove(which % ended.len());
            self.machine.deactivate(vcpu, it);
        }
    }

    /// All vCPUs have an exit that looks at their list registers, and at the lines behind them.
    pub fn look(&mut self) {
        for vcpu in 0..VCPUS {
            self.store_bit(vcpu, ENABLE, IntId(SGIS.end), vcpu);
        }
        self.machine.settle();
    }

    /// A new kernel starts on this vCPU without ending what the old one was handling.
    pub fn kexec(&mut self, vcpu: u8) {
        if self.is_on(vcpu) {
            let mut running = self.machine.interface(vcpu).take_running();
            running.append(&mut self.ended[usize::from(vcpu)]);
            for it in running {
                self.store_bit(vcpu, CLEAR_ACTIVE, it.intid, vcpu);
            }
        }
    }

    /// CPU_OFF, unless it is the last.
    pub fn turn_off(&mut self, vcpu: u8) {
        let others = (0..VCPUS).any(|other| other != vcpu && self.is_on(other));
        if self.is_on(vcpu) && others {
            self.machine.turn_off(vcpu);
            self.ended[usize::from(vcpu)].clear();
            for n in SGIS.chain([TIMER.0]) {
                self.account(IntId(n), vcpu).owed = false;
                self.programmed_mut(IntId(n), vcpu).enabled = false;
            }
        }
    }

    /// CPU_ON by whoever is on, and the vCPU programs its interrupts.
    pub fn turn_on(&mut self, vcpu: u8) {
        let by = (0..VCPUS).find(|&other| self.is_on(other));
        if let Some(by) = by
            && !self.is_on(vcpu)
        {
            self.machine.turn_on(by, vcpu);
            for n in SGIS.chain([TIMER.0]) {
                self.account(IntId(n), vcpu).owed = false;
            }
            self.power_on(vcpu);
        }
    }

    pub fn reset_vcpu(&mut self, vcpu: u8) {
        self.turn_off(vcpu);
        self.turn_on(vcpu);
    }

    fn fire(&mut self, intid: IntId, vcpu: u8) {
        let account = self.account(intid, vcpu);
        account.fired += 1;
        account.owed = true;
    }

    fn account(&mut self, intid: IntId, vcpu: u8) -> &mut Account {
        self.accounts.entry(key(intid, vcpu)).or_default()
    }

    pub fn send_sgi(&mut self, from: u8, intid: u32, targets: u16) {
        if !self.is_on(from) {
            return;
        }
        let targets = targets & 0b111;
        for vcpu in (0..VCPUS).filter(|&vcpu| targets >> vcpu & 1 != 0) {
            if self.is_on(vcpu) {
                self.fire(IntId(intid), vcpu);
            }
        }
        if self.is_v2() {
            let value = u64::from(targets) << 16 | u64::from(intid);
            self.store(from, DISTRIBUTOR + SGIR, 4, value);
        } else {
            self.machine.send_sgi(from, intid, targets);
        }
    }

    /// The emulated device's line, moved by some vCPU.
    pub fn set_line(&mut self, me: u8, level: bool) {
        if self.is_on(me) && self.line != level {
            self.line = level;
            if level && self.setup.is_uart_edge {
                self.fire(UART, 0);
            }
            let mask = if level { UART_TRANSMIT } else { 0 };
            self.store(me, UART_MASK, 4, mask);
        }
    }

    /// An edge on a passed-through wire.
    pub fn pulse(&mut self) {
        self.fire(EDGE, 0);
        self.machine.physical().wire_mut(EDGE, 0).pending = true;
    }

    pub fn set_level(&mut self, intid: IntId, vcpu: u8, level: bool) {
        self.machine.physical().wire_mut(intid, vcpu).level = level;
    }

    fn programmed_mut(&mut self, intid: IntId, vcpu: u8) -> &mut Programmed {
        let fresh = Programmed {
            enabled: false,
            target: 0,
        };
        self.programmed.entry(key(intid, vcpu)).or_insert(fresh)
    }

    /// The guest takes what there is, the device is content, and the guest ends it. Whether there was any.
    fn serve(&mut self, vcpu: u8) -> bool {
        self.interrupt(vcpu);
        let mut busy = false;
        while let Some(intid) = self.acknowledge(vcpu) {
            busy = true;
            match intid {
                UART => self.set_line(vcpu, false),
                TIMER | LEVEL => self.set_level(intid, vcpu, false),
                _ => {}
            }
            self.interrupt(vcpu);
        }
        busy |= !self.machine.interface(vcpu).running().is_empty();
        self.end(vcpu);
        busy |= !self.ended[usize::from(vcpu)].is_empty();
        self.deactivate(vcpu, 0);
        self.interrupt(vcpu);
        busy
    }

    /// Lets the guest serve everything there is, with all enabled; then nothing may be owed or left over.
    pub fn drain(&mut self) {
        for vcpu in 0..VCPUS {
            self.turn_on(vcpu);
        }
        self.set_group(0, true);
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
            !busy && (0..VCPUS).all(|vcpu| !self.machine.is_interrupted(vcpu))
        });
        assert!(served.is_some(), "interrupts without end");
        for (key, account) in &self.accounts {
            assert!(!account.owed, "{key:?} was lost: {account:?}");
        }
        for vcpu in 0..VCPUS {
            let interface = self.machine.interface(vcpu);
            assert_eq!(interface.running(), []);
            let left = interface.all().find(|lr| lr.state != LrState::Invalid);
            assert_eq!(left, None);
        }
        for (intid, pcpu, wire) in self.machine.physical().wires() {
            assert!(!wire.active, "{intid:?} of {pcpu} is active for ever");
            assert!(!wire.level && !wire.pending, "{intid:?} was lost");
        }
        // An edge that was taken back leaves the line where it is.
        let is_line_lost = self.line && !self.setup.is_uart_edge;
        assert!(!is_line_lost, "the UART's interrupt was lost");
    }
}
