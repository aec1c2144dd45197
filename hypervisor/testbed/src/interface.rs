//! The virtual CPU interface of one pCPU: list registers as the hypervisor writes them, and the registers that a guest
//! acknowledges and ends interrupts with (IHI0069 4.8, 12.4; IHI0048 5.2, 5.3).

use hv_core::id::IntId;
use hv_core::vgic::interface::InterfaceState;
use hv_core::vgic::lr::hcr;
use hv_core::vgic::{ListReg, LrSource, LrState, Model};

/// What reading ICC_IAR or GICC_IAR gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The interrupt.
    pub intid: IntId,
    /// GICv2, an SGI: the CPU interface that sent it.
    pub sender: u8,
    /// Its priority.
    pub priority: u8,
}

/// What the end of an interrupt did besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing.
    Quietly,
    /// This physical interrupt was deactivated with it (HW = 1).
    Physical(IntId),
}

/// The priority that nothing has while nothing is handled.
const IDLE: u8 = 0xff;

/// One virtual CPU interface. A guest that uses it has both groups enabled, and masks no priority unless a test says so.
#[derive(Clone, Debug)]
pub struct Interface {
    is_v2: bool,
    /// `ICH_LR<n>_EL2` or `GICH_LR<n>`.
    words: Vec<u64>,
    writes: u64,
    /// ICH_HCR_EL2 without EOIcount.
    hcr: u64,
    eoi_count: u32,
    /// VMCR: the guest has set EOImode, so that an end only drops the priority.
    has_eoi_mode: bool,
    /// ICC_DIR_EL1 can be trapped alone (ICH_VTR_EL2.TDS).
    pub has_tdir: bool,
    /// EOIcount counts ends that only drop the priority, too, as QEMU's model does.
    pub counts_drops: bool,
    /// Whether both groups are on, and the priority mask.
    is_on: bool,
    mask: u8,
    /// The active priorities with the interrupt of each, the one that runs last.
    running: Vec<Acknowledged>,
}

impl Interface {
    /// As out of reset.
    pub fn new(model: Model, list_regs: usize) -> Self {
        Self {
            is_v2: model != Model::V3,
            words: vec![0; list_regs],
            writes: 0,
            hcr: 0,
            eoi_count: 0,
            has_eoi_mode: false,
            has_tdir: true,
            counts_drops: false,
            is_on: true,
            mask: IDLE,
            running: Vec::new(),
        }
    }

    /// As out of a warm reset, where the list registers are UNKNOWN (IHI0069 12.4): each holds an SGI that nobody has sent.
    pub fn leave_unknown(&mut self) {
        let stale = ListReg {
            vintid: 9,
            priority: 0,
            group1: true,
            state: LrState::Pending,
            source: LrSource::Software { eoi: false },
            sender: 0,
        };
        let word = self.spell(stale);
        self.words.fill(word);
    }

    // The hypervisor's side.

    /// How many list registers there are.
    pub fn list_regs(&self) -> usize {
        self.words.len()
    }

    /// A list register's value in the spelling of this GIC.
    pub fn spell(&self, value: ListReg) -> u64 {
        if self.is_v2 {
            value.encode_v2().into()
        } else {
            value.encode_v3()
        }
    }

    /// A word's meaning.
    pub fn read(&self, word: u64) -> ListReg {
        if self.is_v2 {
            ListReg::decode_v2(word as u32)
        } else {
            ListReg::decode_v3(word)
        }
    }

    /// List register `index`.
    pub fn get(&self, index: usize) -> ListReg {
        self.read(self.words[index])
    }

    /// Sets list register `index`.
    ///
    /// # Panics
    ///
    /// If the word means what the architecture does not allow: pending and active with HW = 1 (IHI0069 12.4).
    pub fn set(&mut self, index: usize, word: u64) {
        let lr = self.read(word);
        let is_hardware = matches!(lr.source, LrSource::Hardware { .. });
        assert!(
            !(is_hardware && lr.state == LrState::PendingActive),
            "pending and active with HW = 1 is not allowed: {lr:?}"
        );
        self.words[index] = word;
        self.writes += 1;
    }

    /// How often one of them was set.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// What is in all of them.
    pub fn all(&self) -> impl Iterator<Item = ListReg> + '_ {
        self.words.iter().map(|&word| self.read(word))
    }

    /// Those that hold something.
    pub fn contents(&self) -> Vec<ListReg> {
        let used = self.all().filter(|lr| lr.state != LrState::Invalid);
        used.collect()
    }

    /// The list register that holds an interrupt.
    pub fn find(&self, intid: IntId) -> Option<ListReg> {
        let mut used = self.all().filter(|lr| lr.state != LrState::Invalid);
        used.find(|lr| lr.vintid == intid.0)
    }

    /// ICH_ELRSR_EL2, GICH_ELSR: those without a valid interrupt whose end has been seen to.
    pub fn empty(&self) -> u64 {
        self.bits(|lr| {
            lr.state == LrState::Invalid && lr.source != LrSource::Software { eoi: true }
        })
    }

    /// ICH_EISR_EL2, GICH_EISR: those whose interrupt the guest has ended, and whose end is to be seen to.
    pub fn ended(&self) -> u64 {
        self.bits(|lr| {
            lr.state == LrState::Invalid && lr.source == LrSource::Software { eoi: true }
        })
    }

    /// A bit for each list register that is so.
    fn bits(&self, is_so: impl Fn(&ListReg) -> bool) -> u64 {
        let all = self.all().zip(0u64..);
        all.filter(|(lr, _)| is_so(lr))
            .fold(0, |bits, (_, n)| bits | 1 << n)
    }

    /// ICH_HCR_EL2.
    pub fn hcr(&self) -> u64 {
        self.hcr | u64::from(self.eoi_count & 0x1f) << 27
    }

    /// Sets ICH_HCR_EL2 and with it EOIcount.
    pub fn set_hcr(&mut self, value: u64) {
        let value = hcr::as_available(value, self.has_tdir);
        self.hcr = hcr::without_eoi_count(value);
        self.eoi_count = hcr::eoi_count(value);
    }

    /// ICH_VMCR_EL2 or GICH_VMCR, of which the guest has written EOImode.
    pub fn vmcr(&self) -> u64 {
        let eoi_mode = if self.has_eoi_mode { hcr::EOIMODE } else { 0 };
        u64::from(self.mask) << 24 | if self.is_on { 0b11 } else { 0 } | eoi_mode
    }

    /// Sets ICH_VMCR_EL2.
    pub fn set_vmcr(&mut self, value: u64) {
        self.has_eoi_mode = value & hcr::EOIMODE != 0;
    }

    /// The guest sets ICC_PMR_EL1.
    pub fn set_mask(&mut self, mask: u8) {
        self.mask = mask;
    }

    /// The guest switches both groups on or off.
    pub fn set_on(&mut self, is_on: bool) {
        self.is_on = is_on;
    }

    /// What the registers of a GICv3 hold, with 5 bits of priority.
    pub fn state(&self) -> InterfaceState {
        let mut active = [0; 4];
        for it in &self.running {
            active[0] |= 1 << (it.priority >> 3);
        }
        InterfaceState {
            vmcr: self.vmcr(),
            vtr: 4 << 29 | 4 << 26,
            active,
        }
    }

    /// Whether a write of ICC_DIR_EL1 traps.
    pub fn traps_deactivation(&self) -> bool {
        self.is_v2 || self.hcr & (hcr::TDIR | hcr::TC) != 0
    }

    /// Whether the registers that both groups have in common trap.
    pub fn traps_all(&self) -> bool {
        self.hcr & hcr::TC != 0
    }

    /// As out of reset, but for the list registers.
    pub fn reset(&mut self) {
        self.set_hcr(0);
        self.has_eoi_mode = false;
        (self.is_on, self.mask) = (true, IDLE);
        self.running.clear();
    }

    /// Whether the maintenance interrupt is up (ICH_MISR_EL2, GICH_MISR).
    pub fn wants_maintenance(&self) -> bool {
        let has_ended = |lr: ListReg| {
            lr.state == LrState::Invalid && lr.source == LrSource::Software { eoi: true }
        };
        let nothing_pends = self.all().all(|lr| lr.state != LrState::Pending);
        let wants = |bit| self.hcr & bit != 0;
        wants(hcr::EN)
            && (self.all().any(has_ended)
                || wants(hcr::NPIE) && nothing_pends
                || wants(hcr::LRENPIE) && self.eoi_count != 0)
    }

    // The guest's side.

    /// ICC_CTLR_EL1.EOImode, GICC_CTLR.EOImode.
    pub fn set_eoi_mode(&mut self, on: bool) {
        self.has_eoi_mode = on;
    }

    /// Whether an end only drops the priority.
    pub fn has_eoi_mode(&self) -> bool {
        self.has_eoi_mode
    }

    /// What the guest is handling, innermost last.
    pub fn running(&self) -> &[Acknowledged] {
        &self.running
    }

    /// The guest forgets what it was handling, as a kernel does that another has started.
    pub fn take_running(&mut self) -> Vec<Acknowledged> {
        std::mem::take(&mut self.running)
    }

    /// The list register that the guest would take an interrupt from.
    fn next(&self) -> Option<(usize, ListReg)> {
        let running = self.running.last().map_or(IDLE, |it| it.priority);
        let is_on = self.is_on && self.hcr & hcr::EN != 0;
        let pending = (0..).zip(self.all()).filter(|(_, lr)| {
            // One that is pending and active is signalled when it is active no more.
            is_on && lr.state == LrState::Pending && lr.priority < running.min(self.mask)
        });
        pending.min_by_key(|(_, lr)| (lr.priority, lr.vintid))
    }

    /// Whether the guest has an interrupt signalled.
    pub fn signals(&self) -> bool {
        self.next().is_some()
    }

    /// Reads ICC_IAR or GICC_IAR: takes the interrupt that is signalled, if any.
    pub fn acknowledge(&mut self) -> Option<Acknowledged> {
        let (index, lr) = self.next()?;
        let active = ListReg {
            state: LrState::Active,
            ..lr
        };
        self.words[index] = self.spell(active);
        let taken = Acknowledged {
            intid: IntId(lr.vintid),
            sender: lr.sender,
            priority: lr.priority,
        };
        self.running.push(taken);
        Some(taken)
    }

    /// Writes ICC_EOIR or GICC_EOIR for the interrupt that was acknowledged last: drops its priority, and
    /// deactivates it unless EOImode is set. `None` if nothing is being handled.
    pub fn end(&mut self) -> Option<(Acknowledged, Ended)> {
        let last = self.running.pop()?;
        let mut ended = Ended::Quietly;
        if !self.has_eoi_mode {
            ended = self.deactivate(last);
        } else if self.counts_drops && self.position(last).is_none() {
            self.count();
        }
        Some((last, ended))
    }

    /// The list register in which an interrupt is active.
    fn position(&self, of: Acknowledged) -> Option<usize> {
        let mut all = self.all();
        all.position(|lr| {
            lr.vintid == of.intid.0
                && lr.state.is_active()
                && (!self.is_v2 || !of.intid.is_sgi() || lr.sender == of.sender)
        })
    }

    fn count(&mut self) {
        // The count stays at its highest.
        self.eoi_count = (self.eoi_count + 1).min(0x1f);
    }

    /// Deactivates an interrupt, which is counted if it is active in no list register.
    pub fn deactivate(&mut self, which: Acknowledged) -> Ended {
        let Some(index) = self.position(which) else {
            self.count();
            return Ended::Quietly;
        };
        let lr = self.get(index);
        let state = LrState::new(lr.state.is_pending(), false);
        self.words[index] = self.spell(ListReg { state, ..lr });
        match lr.source {
            LrSource::Hardware { pintid } => Ended::Physical(IntId(pintid)),
            LrSource::Software { .. } => Ended::Quietly,
        }
    }
}
