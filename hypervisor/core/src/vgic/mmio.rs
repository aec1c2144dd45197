//! The guest's loads and stores of GICD and GICR. What a GICv2's distributor has besides is in `v2.rs`.

use super::frame::{Frame, Wait};
use super::irq::Irq;
use super::operations;
use super::parts::{Distributor, Held, Parts, View};
use super::published::flag;
use super::register::{Bank, Part, Register};
use super::{Effects, Physical, SpiMask, bits_of};
use crate::id::{IntId, Mpidr, VcpuId, VcpuSet};

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

/// GICD_CTLR with GICD_CTLR.DS = 1: one security state (IHI0069 12.9).
const CTLR_GROUP0: u64 = 1 << 0;
const CTLR_GROUP1: u64 = 1 << 1;
const CTLR_ARE: u64 = 1 << 4;
const CTLR_DS: u64 = 1 << 6;
const CTLR_RWP: u64 = 1 << 31;
/// GICR_WAKER (IHI0069 12.11).
const WAKER_PROCESSOR_SLEEP: u64 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u64 = 1 << 2;

/// GICC_DIR.Interrupt ID (IHI0048 4.4.15).
const DIR_INTID: u32 = 0x3ff;

/// A load of `size` bytes by `me`, which has folded if the register [needs it](Frame::is_in_list_regs).
pub fn read<P: Parts>(parts: &P, me: VcpuId, frame: Frame, offset: u64, size: u8) -> Read {
    let owner = frame.owner(me);
    let Some(register) = Register::find(frame, offset, size) else {
        return Read::Value(0);
    };
    if let Some(value) = parts.published().value(frame, register) {
        return Read::Value(value);
    }
    let state = matches!(register, Register::Bits { .. });
    let mut held = if !register.is_private() {
        Held::distributor(parts)
    } else if state && (owner != me || parts.published().has(me, flag::WAITS)) {
        // Who waits for whom is the distributor's.
        Held::both(parts, owner)
    } else {
        Held::private(parts, owner)
    };
    held.view().read(me, register, (frame, offset))
}

/// A store of `size` bytes, by a vCPU that has folded. `perform` is called while the parts are locked that `effects` concern.
pub fn write<P: Parts>(
    parts: &P,
    (frame, offset, size): (Frame, u64, u8),
    value: u64,
    effects: &mut Effects,
    perform: impl FnOnce(&Effects),
) {
    let owner = frame.owner(VcpuId(0));
    let Some(register) = Register::find(frame, offset, size) else {
        return;
    };
    match register {
        Register::Control if !matches!(frame, Frame::Redistributor(_)) => {
            let groups = [value & CTLR_GROUP0 != 0, value & CTLR_GROUP1 != 0];
            effects.kick = operations::set_groups(parts, groups);
            return;
        }
        Register::Generate => {
            effects.kick = operations::generate(parts, owner, value as u32);
            return;
        }
        Register::Control
        | Register::Type(_)
        | Register::Implementer
        | Register::Identification(_) => return,
        _ => {}
    }
    let mut held = match register {
        Register::Deactivate => {
            let intid = IntId(value as u32 & DIR_INTID);
            Held::of_interrupt(parts, owner, intid)
        }
        _ if register.is_private() => Held::private(parts, owner),
        _ => Held::distributor(parts),
    };
    held.view().write(register, value, effects);
    perform(effects);
}

/// A store of `size` bytes to GICD_ISENABLER or GICD_ICENABLER, without a fold and without waiting, if it changes idle SPIs
/// of emulated devices only: then no list register holds them, and nothing follows. False, and nothing done, if it
/// does not, if it is another store, or if somebody has the distributor.
#[inline]
pub fn enable_idle<P: Parts>(
    parts: &P,
    (frame, offset, size): (Frame, u64, u8),
    value: u32,
) -> bool {
    let on = match offset & !0x7f {
        0x100 => true,
        0x180 => false,
        _ => return false,
    };
    let has_spis = matches!(frame, Frame::Distributor | Frame::Banked(_));
    let index = (offset as usize & 0x7f) / 4;
    if !has_spis || size != 4 || offset % 4 != 0 || index == 0 {
        return false;
    }
    let Some(mut distributor) = parts.try_distributor() else {
        return false;
    };
    let shown = distributor.enable_idle(index - 1, value, on);
    if let Some(shown) = shown {
        parts.published().show(VcpuId(0), index as u32, shown);
    }
    shown.is_some()
}

impl Distributor {
    /// What the words of a block of SPIs then [show](super::Words::shown).
    #[inline]
    fn enable_idle(&mut self, block: usize, value: u32, on: bool) -> Option<[u32; 2]> {
        let words = self.words.get_mut(block)?;
        let others = if on { !words.enabled } else { words.enabled };
        let changes = value & others & !words.bound;
        if changes & (words.not_idle | words.passed_through) != 0 {
            return None;
        }
        let irqs = self.spis.get_mut(32 * block..)?;
        for n in bits_of(changes) {
            if let Some(irq) = irqs.get_mut(n as usize) {
                irq.enabled = on;
                words.enabled ^= 1 << n;
            }
        }
        Some(words.shown())
    }
}

impl View<'_> {
    fn read(&mut self, me: VcpuId, register: Register, of: (Frame, u64)) -> Read {
        let is_v2 = self.published.rules().is_v2;
        Read::Value(match register {
            Register::Control if is_v2 => self.group_bits(),
            Register::Control => self.read_ctlr(),
            Register::Waker => match &self.private {
                Some(private) if private.asleep => WAKER_PROCESSOR_SLEEP | WAKER_CHILDREN_ASLEEP,
                _ => 0,
            },
            Register::Bits { bank, block } => {
                if let Some(kick) = self.unanswered(me, block, of) {
                    return Read::Again { kick };
                }
                self.read_bits(bank, block)
            }
            Register::Priority { intid, count } => (0..count).fold(0, |value, n| {
                let irq = self.visible(IntId(intid + n));
                value | irq.map_or(0, |irq| u64::from(irq.priority)) << (8 * n)
            }),
            Register::Trigger { intid } => (0..16).fold(0, |value, n| {
                let edge = self.visible(IntId(intid + n)).is_some_and(|irq| irq.edge);
                value | u64::from(edge) << (2 * n + 1)
            }),
            Register::Route { intid, part } => {
                let index = (intid as usize).wrapping_sub(32);
                let routes = self.distributor.as_ref().map(|it| it.routes.as_slice());
                let route = routes.and_then(|routes| routes.get(index));
                let route = route.filter(|_| self.visible(IntId(intid)).is_some());
                part.of(route.map_or(0, |route| route.bits()))
            }
            Register::Targets { intid, count } => self.read_bytes(intid, count, false),
            Register::Senders { intid, count, .. } => self.read_bytes(intid, count, true),
            // Of the rest none has anything to show that is not published.
            _ => 0,
        })
    }

    fn write(&mut self, register: Register, value: u64, effects: &mut Effects) {
        match register {
            Register::Waker => {
                if let Some(private) = &mut self.private {
                    private.asleep = value & WAKER_PROCESSOR_SLEEP != 0;
                    private.is_pristine = false;
                }
            }
            Register::Bits { bank, block } => {
                self.write_bits(bank, block, value as u32, effects);
            }
            Register::Priority { intid, count } => {
                let mask = self.published.rules().priority_mask;
                for n in 0..count {
                    let priority = (value >> (8 * n)) as u8 & mask;
                    let intid = IntId(intid + n);
                    if self
                        .visible(intid)
                        .is_some_and(|irq| irq.priority != priority)
                    {
                        self.update(intid, effects, |irq| irq.priority = priority);
                    }
                }
            }
            Register::Trigger { intid } => self.write_trigger(intid, value as u32, effects),
            Register::Route { intid, part } => {
                self.write_route(IntId(intid), part, value, effects);
            }
            Register::Targets { intid, count } => {
                self.write_targets(intid, count, value, effects);
            }
            // Which CPU interface sent an SGI does not matter: one sender's is active at a time.
            Register::Deactivate => self.deactivate(IntId(value as u32 & DIR_INTID), effects),
            Register::Senders { intid, count, sets } => {
                self.write_senders((intid, count), (sets, value), effects);
            }
            Register::Control
            | Register::Type(_)
            | Register::Implementer
            | Register::Generate
            | Register::Identification(_) => {}
        }
    }

    fn read_ctlr(&self) -> u64 {
        let rwp = if self.published.is_unsynced() {
            CTLR_RWP
        } else {
            0
        };
        CTLR_ARE | CTLR_DS | self.group_bits() | rwp
    }

    /// GICD_CTLR.EnableGrp0 and EnableGrp1, which is all that a GICv2 has there.
    fn group_bits(&self) -> u64 {
        let [group0, group1] = self.groups();
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        bit(group0, CTLR_GROUP0) | bit(group1, CTLR_GROUP1)
    }

    /// ICC_DIR_EL1 or GICC_DIR, of an interrupt that is in no list register.
    pub fn deactivate(&mut self, intid: IntId, effects: &mut Effects) {
        if self.irq(intid).is_some_and(Irq::shows_active) {
            self.update(intid, effects, Irq::clear_active);
        }
    }

    fn read_bits(&self, bank: Bank, block: u32) -> u64 {
        let words = self.words(block);
        // Only what is not idle is pending or active.
        let walk = |shows: fn(&Irq) -> bool| {
            bits_of(words.not_idle & !words.bound).fold(0, |value, n| {
                let irq = self.irq(IntId(block * 32 + n));
                value | u32::from(irq.is_some_and(shows)) << n
            })
        };
        u64::from(match bank {
            Bank::Group => words.group1 & !words.bound,
            Bank::SetEnable | Bank::ClearEnable => words.enabled & !words.bound,
            Bank::SetPending | Bank::ClearPending => {
                walk(Irq::shows_pending) | self.lines(block) & !words.bound
            }
            Bank::SetActive | Bank::ClearActive => walk(Irq::shows_active),
        })
    }

    /// Whom a load of the pending or active state of a block has to wait for, if anybody: those in whose list
    /// registers one of its interrupts is, and who have not folded since the load was first tried.
    fn unanswered(&mut self, me: VcpuId, block: u32, of: (Frame, u64)) -> Option<VcpuSet> {
        let mut holders = VcpuSet::EMPTY;
        for n in bits_of(self.words(block).not_idle) {
            if let Some(seat) = self.irq(IntId(block * 32 + n)).and_then(|irq| irq.seat) {
                holders.insert(seat.vcpu);
            }
        }
        holders.remove(me);
        let (published, distributor) = (self.published, self.distributor.as_deref_mut()?);
        let wait = distributor.waits.get_mut(me.index())?;
        if wait.of != Some(of) {
            *wait = Wait {
                of: Some(of),
                ..Wait::default()
            };
        }
        wait.tried = true;
        let missing = holders.without(wait.answered);
        if missing.is_empty() {
            *wait = Wait::default();
            published.lower(me, flag::WAITS);
            return None;
        }
        published.raise(me, flag::WAITS | flag::SHARED);
        for holder in missing.iter() {
            if let Some(asked) = distributor.asked.get_mut(holder.index()) {
                asked.insert(me);
            }
            published.raise(holder, flag::SHARED | flag::DIRTY);
        }
        Some(missing)
    }

    fn write_bits(&mut self, bank: Bank, block: u32, value: u32, effects: &mut Effects) {
        let words = self.words(block);
        let sgis = if block == 0 { 0xffff } else { 0 };
        let changes = !words.bound
            & match bank {
                Bank::Group => value ^ words.group1,
                Bank::SetEnable => value & !words.enabled,
                Bank::ClearEnable => value & words.enabled,
                // A GICv2 has GICD_SPENDSGIR and GICD_CPENDSGIR for them (IHI0048 4.3.7).
                Bank::SetPending | Bank::ClearPending if self.published.rules().is_v2 => {
                    value & !sgis
                }
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
                if let Some(irq) = self.irq_mut(IntId(block * 32 + n)) {
                    change(irq);
                    done |= 1 << n;
                }
            }
            self.change_words(block, |words| match bank {
                Bank::Group => words.group1 ^= done,
                _ => words.enabled ^= done,
            });
        }
        for n in bits_of(follow) {
            let intid = IntId(block * 32 + n);
            if bank == Bank::ClearEnable
                && let Some(seat) = self.irq(intid).and_then(|irq| irq.seat)
            {
                self.published.raise(seat.vcpu, flag::UNSYNCED);
            }
            self.update(intid, effects, change);
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

    fn write_trigger(&mut self, first: u32, value: u32, effects: &mut Effects) {
        // [0] to level, [1] to edge.
        let mut changed = [0u32; 2];
        for n in 0..16 {
            let intid = IntId(first + n);
            let edge = value >> (2 * n + 1) & 1 != 0;
            let Some(irq) = self.visible(intid) else {
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
            self.update(intid, effects, |irq| irq.set_edge(edge));
        }
        let [level, edge] = changed;
        if first >= 32 && level | edge != 0 {
            let block = first / 32;
            effects.phys = Some(Physical::Trigger { block, edge, level });
        }
    }

    fn write_route(&mut self, intid: IntId, part: Part, value: u64, effects: &mut Effects) {
        if self.visible(intid).is_none() {
            return;
        }
        let index = (intid.0 as usize).wrapping_sub(32);
        let distributor = self.distributor.as_mut();
        let Some(route) = distributor.and_then(|it| it.routes.get_mut(index)) else {
            return;
        };
        // The routing mode bit 31 is RES0 (GICD_TYPER.No1N).
        let new = Mpidr::new(part.replace(route.bits(), value));
        if new == *route {
            return;
        }
        *route = new;
        let target = self.published.affinities().find(new);
        self.update(intid, effects, |irq| irq.target = target);
        let passed_through = self.irq(intid).is_some_and(|irq| irq.passed_through);
        if let (true, Some(to)) = (passed_through, target) {
            effects.phys = Some(Physical::Route { spi: intid, to });
        }
    }
}
