//! The guest's loads and stores of GICD and GICR. What a GICv2's distributor has besides is in `v2.rs`.

use super::irq::Irq;
use super::register::{Bank, FRAME, Part, Register};
use super::{Effects, Physical, SpiMask, Vgic, bits_of};
use crate::id::{IntId, Mpidr, VcpuId, VcpuSet};

/// Which register file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// GICD, 64 KiB.
    Distributor,
    /// GICR of this vCPU: RD_base and SGI_base, 128 KiB together.
    Redistributor(VcpuId),
    /// GICD of a GICv2 as this vCPU sees it, 4 KiB.
    Banked(VcpuId),
    /// Where a GICv2's CPU interface has GICC_DIR, as this vCPU sees it: the first word is that register.
    Deactivate(VcpuId),
}

/// The answer to a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Read {
    /// What it reads.
    Value(u64),
    /// That lies in the list registers of siblings: kick them, and let the guest run the same load again.
    Again {
        /// Who has to fold first.
        kick: VcpuSet,
    },
}

/// A load that was answered [`Read::Again`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wait {
    /// Which load.
    pub of: Option<(Frame, u64)>,
    /// Who has folded since it was first tried.
    pub answered: VcpuSet,
    /// It was tried since its vCPU last populated. If not, the guest did something else in between, may
    /// never come back to this load, and a later one must not get an answer that old.
    pub tried: bool,
}

/// GICD_CTLR with GICD_CTLR.DS = 1: one security state (IHI0069 12.9).
const CTLR_GROUP0: u64 = 1 << 0;
const CTLR_GROUP1: u64 = 1 << 1;
const CTLR_ARE: u64 = 1 << 4;
const CTLR_DS: u64 = 1 << 6;
const CTLR_RWP: u64 = 1 << 31;
/// GICR_CTLR.RWP (IHI0069 12.11).
const REDIST_RWP: u64 = 1 << 3;
/// GICR_WAKER (IHI0069 12.11).
const WAKER_PROCESSOR_SLEEP: u64 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u64 = 1 << 2;

/// GICC_DIR.Interrupt ID (IHI0048 4.4.15).
const DIR_INTID: u32 = 0x3ff;

impl Frame {
    /// Whose it is; the distributor's registers are `anyone`'s.
    pub(super) const fn owner(self, anyone: VcpuId) -> VcpuId {
        match self {
            Self::Distributor => anyone,
            Self::Redistributor(owner) | Self::Banked(owner) | Self::Deactivate(owner) => owner,
        }
    }

    /// Whether an access needs the caller's list registers folded, if there is something in them: all stores,
    /// and the loads of what may have changed there.
    pub fn is_in_list_regs(self, offset: u64, is_write: bool) -> bool {
        let offset = match self {
            Self::Distributor => offset,
            Self::Redistributor(_) => offset.wrapping_sub(FRAME),
            // What GICD_SGIR sends joins at the next fold.
            Self::Banked(_) if offset == 0xf00 => return false,
            Self::Banked(_) if offset >= 0xf10 => return true,
            Self::Banked(_) => offset,
            Self::Deactivate(_) => return is_write,
        };
        // ISPENDR to ICACTIVER (IHI0069 12.8, IHI0048 4.1).
        is_write || (0x200..0x400).contains(&offset)
    }
}

impl Vgic {
    /// A load of `size` bytes by `me`, which has folded if the register [needs it](Frame::is_in_list_regs).
    pub fn read(&mut self, me: VcpuId, frame: Frame, offset: u64, size: u8) -> Read {
        let owner = frame.owner(me);
        let Some(register) = Register::find(frame, offset, size) else {
            return Read::Value(0);
        };
        let shared = frame == Frame::Distributor;
        Read::Value(match register {
            Register::Control if self.is_v2 => self.group_bits(),
            Register::Control if shared => self.read_ctlr(),
            Register::Control if self.unsynced.contains(owner) => REDIST_RWP,
            Register::Control => 0,
            Register::Waker => match self.vcpus.get(owner.index()) {
                Some(local) if local.asleep => WAKER_PROCESSOR_SLEEP | WAKER_CHILDREN_ASLEEP,
                _ => 0,
            },
            Register::Bits { bank, block } => {
                if matches!(
                    bank,
                    Bank::SetPending | Bank::ClearPending | Bank::SetActive | Bank::ClearActive
                ) && let Some(kick) = self.unanswered(me, owner, block, (frame, offset))
                {
                    return Read::Again { kick };
                }
                self.read_bits(owner, bank, block)
            }
            Register::Priority { intid, count } => (0..count).fold(0, |value, n| {
                let irq = self.visible(owner, IntId(intid + n));
                value | irq.map_or(0, |irq| u64::from(irq.priority)) << (8 * n)
            }),
            Register::Trigger { intid } => (0..16).fold(0, |value, n| {
                let edge = self
                    .visible(owner, IntId(intid + n))
                    .is_some_and(|irq| irq.edge);
                value | u64::from(edge) << (2 * n + 1)
            }),
            Register::Route { intid, part } => {
                let route = self.routes.get((intid as usize).wrapping_sub(32));
                let route = route.filter(|_| self.visible(owner, IntId(intid)).is_some());
                part.of(route.map_or(0, |route| route.bits()))
            }
            Register::Targets { intid, count } => self.read_bytes(owner, intid, count, false),
            Register::Generate | Register::Deactivate => 0,
            Register::Type(_) | Register::Implementer | Register::Identification(_) => {
                self.published.value(frame, register).unwrap_or(0)
            }
            Register::Senders { intid, count, .. } => self.read_bytes(owner, intid, count, true),
        })
    }

    /// A store of `size` bytes, by a vCPU that has folded.
    pub fn write(&mut self, frame: Frame, offset: u64, size: u8, value: u64) -> Effects {
        let mut effects = Effects::NONE;
        let owner = frame.owner(VcpuId(0));
        let Some(register) = Register::find(frame, offset, size) else {
            return effects;
        };
        let shared = !matches!(frame, Frame::Redistributor(_));
        match register {
            Register::Control if shared => self.write_ctlr(value, &mut effects),
            Register::Waker => {
                if let Some(local) = self.vcpus.get_mut(owner.index()) {
                    local.asleep = value & WAKER_PROCESSOR_SLEEP != 0;
                }
            }
            Register::Bits { bank, block } => {
                self.write_bits(owner, bank, block, value as u32, &mut effects);
            }
            Register::Priority { intid, count } => {
                for n in 0..count {
                    let priority = (value >> (8 * n)) as u8 & self.priority_mask;
                    let intid = IntId(intid + n);
                    if self
                        .visible(owner, intid)
                        .is_some_and(|irq| irq.priority != priority)
                    {
                        self.update(owner, intid, &mut effects, |irq| irq.priority = priority);
                    }
                }
            }
            Register::Trigger { intid } => {
                self.write_trigger(owner, intid, value as u32, &mut effects);
            }
            Register::Route { intid, part } => {
                self.write_route(IntId(intid), part, value, &mut effects);
            }
            Register::Targets { intid, count } => {
                self.write_targets(intid, count, value, &mut effects);
            }
            Register::Generate => self.generate(owner, value as u32, &mut effects),
            Register::Deactivate => {
                // Which CPU interface sent an SGI does not matter: one sender's is active at a time.
                effects = self.deactivate(owner, IntId(value as u32 & DIR_INTID));
            }
            Register::Senders { intid, count, sets } => {
                self.write_senders(owner, (intid, count), (sets, value), &mut effects);
            }
            Register::Control
            | Register::Type(_)
            | Register::Implementer
            | Register::Identification(_) => {}
        }
        effects
    }

    fn read_ctlr(&self) -> u64 {
        let rwp = if self.unsynced.is_empty() {
            0
        } else {
            CTLR_RWP
        };
        CTLR_ARE | CTLR_DS | self.group_bits() | rwp
    }

    /// GICD_CTLR.EnableGrp0 and EnableGrp1, which is all that a GICv2 has there.
    fn group_bits(&self) -> u64 {
        let [group0, group1] = self.groups;
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        bit(group0, CTLR_GROUP0) | bit(group1, CTLR_GROUP1)
    }

    fn write_ctlr(&mut self, value: u64, effects: &mut Effects) {
        let groups = [value & CTLR_GROUP0 != 0, value & CTLR_GROUP1 != 0];
        if groups == self.groups {
            return;
        }
        self.groups = groups;
        let seated = self.seated();
        self.unsynced = self.unsynced.union(seated);
        effects.kick = self.disturb(seated.union(self.busy()));
    }

    fn read_bits(&self, owner: VcpuId, bank: Bank, block: u32) -> u64 {
        let words = self.words(owner, block);
        // Only what is not idle is pending or active.
        let walk = |shows: fn(&Irq) -> bool| {
            bits_of(words.not_idle & !words.bound).fold(0, |value, n| {
                let irq = self.irq(owner, IntId(block * 32 + n));
                value | u32::from(irq.is_some_and(shows)) << n
            })
        };
        u64::from(match bank {
            Bank::Group => words.group1 & !words.bound,
            Bank::SetEnable | Bank::ClearEnable => words.enabled & !words.bound,
            Bank::SetPending | Bank::ClearPending => {
                walk(Irq::shows_pending) | self.lines(owner, block) & !words.bound
            }
            Bank::SetActive | Bank::ClearActive => walk(Irq::shows_active),
        })
    }

    /// Whom a load of the pending or active state of a block has to wait for, if anybody: those in whose list
    /// registers one of its interrupts is, and who have not folded since the load was first tried.
    fn unanswered(
        &mut self,
        me: VcpuId,
        owner: VcpuId,
        block: u32,
        of: (Frame, u64),
    ) -> Option<VcpuSet> {
        let mut holders = VcpuSet::EMPTY;
        for n in bits_of(self.words(owner, block).not_idle) {
            if let Some(seat) = self
                .irq(owner, IntId(block * 32 + n))
                .and_then(|irq| irq.seat)
            {
                holders.insert(seat.vcpu);
            }
        }
        holders.remove(me);
        let local = self.vcpus.get_mut(me.index())?;
        if local.wait.of != Some(of) {
            local.wait = Wait {
                of: Some(of),
                ..Wait::default()
            };
        }
        local.wait.tried = true;
        let missing = VcpuSet(holders.0 & !local.wait.answered.0);
        if missing.is_empty() {
            local.wait = Wait::default();
            return None;
        }
        for holder in missing.iter() {
            if let Some(holder) = self.vcpus.get_mut(holder.index()) {
                holder.asked.insert(me);
            }
        }
        Some(self.disturb(missing))
    }

    fn write_bits(
        &mut self,
        owner: VcpuId,
        bank: Bank,
        block: u32,
        value: u32,
        effects: &mut Effects,
    ) {
        let words = self.words(owner, block);
        let sgis = if block == 0 { 0xffff } else { 0 };
        let changes = !words.bound
            & match bank {
                Bank::Group => value ^ words.group1,
                Bank::SetEnable => value & !words.enabled,
                Bank::ClearEnable => value & words.enabled,
                // A GICv2 has GICD_SPENDSGIR and GICD_CPENDSGIR for them (IHI0048 4.3.7).
                Bank::SetPending | Bank::ClearPending if self.is_v2 => value & !sgis,
                _ => value,
            };
        // Passed-through SPIs whose physical counterpart changes as well.
        let bits = changes & words.passed_through;
        let change: fn(&mut Irq) = match bank {
            Bank::Group => |irq| irq.group1 = !irq.group1,
            Bank::SetEnable => Irq::enable,
            Bank::ClearEnable => |irq| irq.enabled = false,
            Bank::SetPending => |irq| irq.latch = true,
            Bank::ClearPending => Irq::clear_pending,
            Bank::SetActive => Irq::set_active,
            Bank::ClearActive => Irq::clear_active,
        };
        let follow = match bank {
            Bank::SetPending | Bank::SetActive => changes,
            // Nothing follows from what an idle interrupt is set to, and it has nothing to clear.
            _ => changes & words.not_idle,
        };
        if matches!(bank, Bank::Group | Bank::SetEnable | Bank::ClearEnable) {
            let idle = changes & !words.not_idle;
            let mut done = 0;
            for n in bits_of(idle) {
                if let Some(irq) = self.irq_mut(owner, IntId(block * 32 + n)) {
                    change(irq);
                    done |= 1 << n;
                }
            }
            if let Some(words) = self.words_mut(owner, block) {
                match bank {
                    Bank::Group => words.group1 ^= done,
                    _ => words.enabled ^= done,
                }
                let words = *words;
                self.published.show(owner, block, &words);
            }
        }
        for n in bits_of(follow) {
            let intid = IntId(block * 32 + n);
            if bank == Bank::ClearEnable
                && let Some(seat) = self.irq(owner, intid).and_then(|irq| irq.seat)
            {
                self.unsynced.insert(seat.vcpu);
            }
            self.update(owner, intid, effects, change);
        }
        let mask = SpiMask { block, bits };
        if block != 0 && bits != 0 {
            effects.phys = match bank {
                Bank::SetEnable => Some(Physical::Enable(mask)),
                Bank::ClearEnable => Some(Physical::Disable(mask)),
                Bank::ClearPending => Some(Physical::ClearPending(mask)),
                Bank::Group | Bank::SetPending | Bank::SetActive | Bank::ClearActive => None,
            };
        }
    }

    /// An interrupt that the guest's registers show.
    pub(super) fn visible(&self, owner: VcpuId, intid: IntId) -> Option<&Irq> {
        self.irq(owner, intid).filter(|irq| !irq.bound)
    }

    fn write_trigger(&mut self, owner: VcpuId, first: u32, value: u32, effects: &mut Effects) {
        // [0] to level, [1] to edge.
        let mut changed = [0u32; 2];
        for n in 0..16 {
            let intid = IntId(first + n);
            let edge = value >> (2 * n + 1) & 1 != 0;
            let Some(irq) = self.visible(owner, intid) else {
                continue;
            };
            if intid.is_sgi() || irq.edge == edge {
                continue;
            }
            if irq.passed_through
                && let Some(mask) = changed.get_mut(usize::from(edge))
            {
                *mask |= 1 << (intid.0 % 32);
            }
            self.update(owner, intid, effects, |irq| irq.set_edge(edge));
        }
        let [level, edge] = changed;
        if first >= 32 && level | edge != 0 {
            let block = first / 32;
            effects.phys = Some(Physical::Trigger { block, edge, level });
        }
    }

    fn write_route(&mut self, intid: IntId, part: Part, value: u64, effects: &mut Effects) {
        if self.visible(VcpuId(0), intid).is_none() {
            return;
        }
        let Some(route) = self.routes.get_mut((intid.0 as usize).wrapping_sub(32)) else {
            return;
        };
        // The routing mode bit 31 is RES0 (GICD_TYPER.No1N).
        let new = Mpidr::new(part.replace(route.bits(), value));
        if new == *route {
            return;
        }
        *route = new;
        let target = self.affinities.find(new);
        self.update(VcpuId(0), intid, effects, |irq| irq.target = target);
        let passed_through = self
            .irq(VcpuId(0), intid)
            .is_some_and(|irq| irq.passed_through);
        if let (true, Some(to)) = (passed_through, target) {
            effects.phys = Some(Physical::Route { spi: intid, to });
        }
    }
}
