//! The calls of DEN0054 5.1 that a PE settles by itself, one function each, in the order of their
//! identifiers.
//!
//! Numbers of events and selectors are 32 bits wide: the upper half of their register is ignored. A call
//! that fails changes nothing, but for PRIVATE_RESET and UNREGISTER, which say so.

use hv_abi::firmware::Fault;
use hv_abi::sdei::{Call, EVENT_SIGNALLED, Priority, Status, feature, info, register_flags};

use super::board::WithBoard;
use super::config::{self, Version};
use super::handler::{Entry, Handler, Registration};
use super::level::{Index, Running, SAVED};
use super::pe::{Event, Pe};
use crate::id::{Mpidr, VcpuId};
use crate::regs::{El1, GuestRegs};

/// What a call wants done outside its vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// Post a signal to this vCPU's mailbox and make it leave its guest. The caller itself only where
    /// firmware is not as specified.
    Signal(VcpuId),
}

impl Pe {
    /// Performs a call that [needs nothing in common](Self::needs_shared) and that arrived by SMC or HVC with immediate 0. `regs.pc` is past the instruction. The
    /// answer is in x0 afterwards; a successful COMPLETE or COMPLETE_AND_RESUME replaces the context instead.
    ///
    /// What the call makes due is dispatched before the next instruction: ask [`Pe::due`].
    pub fn call(
        &mut self,
        call: Call,
        regs: &mut GuestRegs,
        el1: &mut impl El1,
        siblings: &(impl WithBoard + ?Sized),
    ) -> Effect {
        if call == Call::EventSignal {
            return self.signal(regs, siblings);
        }
        let [_, x1, x2, x3, x4, x5, ..] = regs.x;
        let answer = match call {
            _ if Version::of(self.firmware).is_none() => Err(Status::NotSupported),
            Call::Version => self.version(),
            Call::EventRegister => self.event_register(x1, (x2, x3), (x4, x5), siblings),
            Call::EventEnable => self.change(x1, Handler::enable),
            Call::EventDisable => self.change(x1, Handler::disable),
            Call::EventContext => self.event_context(x1),
            Call::EventComplete => match self.complete(regs) {
                Ok(_) => return Effect::None,
                Err(status) => Err(status),
            },
            Call::EventCompleteAndResume => match self.event_complete_and_resume(regs, el1, x1) {
                Ok(_) => return Effect::None,
                Err(status) => Err(status),
            },
            Call::EventUnregister => self.event_unregister(x1),
            Call::EventStatus => self.event_status(x1),
            Call::EventGetInfo => self.event_get_info(x1, x2),
            // A private event has no routing.
            Call::EventRoutingSet => Err(Status::InvalidParameters),
            Call::PeMask => Ok(u64::from(self.mask())),
            Call::PeUnmask => self.pe_unmask(),
            Call::Features => self.features(x1),
            Call::PrivateReset => self.private_reset(),
            // What all have in common is not settled here.
            Call::InterruptBind
            | Call::InterruptRelease
            | Call::SharedReset
            | Call::EventSignal => Err(Status::NotSupported),
        };
        let [x0, ..] = &mut regs.x;
        *x0 = answer.unwrap_or_else(word);
        Effect::None
    }

    /// SDEI_EVENT_SIGNAL, which a stop is waiting for.
    #[inline]
    pub fn signal(&mut self, regs: &mut GuestRegs, siblings: &(impl WithBoard + ?Sized)) -> Effect {
        let [x0, x1, x2, ..] = &mut regs.x;
        let answer = match Version::of(self.firmware) {
            Some(_) => self.event_signal(*x1, *x2, siblings),
            None => Err(Status::NotSupported),
        };
        let (answer, effect) = match answer {
            Ok(effect) => (0, effect),
            Err(status) => (word(status), Effect::None),
        };
        *x0 = answer;
        effect
    }

    fn version(&self) -> Result<u64, Status> {
        let version = Version::of(self.firmware).ok_or(Status::NotSupported)?;
        Ok(version.bits())
    }

    /// Routing mode and affinity concern shared events only and are ignored (A5).
    fn event_register(
        &mut self,
        event: u64,
        (address, argument): (u64, u64),
        (flags, affinity): (u64, u64),
        siblings: &(impl WithBoard + ?Sized),
    ) -> Result<u64, Status> {
        let entry = self.entry(address, flags)?;
        let is_checked = self.firmware.has(Fault::PrivateAffinityChecked);
        if is_checked && flags & register_flags::RM_PE != 0 {
            let target = target_affinity(affinity).and_then(|mpidr| siblings.resolve(mpidr));
            target.ok_or(Status::InvalidParameters)?;
        }
        let is_refused = self.firmware.has(Fault::RegisterRefused);
        if is_refused && selector(event) == EVENT_SIGNALLED {
            return Err(Status::Denied);
        }
        let registration = Registration { entry, argument };
        self.named(event)?.handler.register(registration)?;
        Ok(0)
    }

    /// A pending event that is enabled is dispatched from this very call.
    fn change(
        &mut self,
        event: u64,
        change: fn(&mut Handler) -> Result<(), Status>,
    ) -> Result<u64, Status> {
        change(&mut self.named(event)?.handler)?;
        self.settle();
        Ok(0)
    }

    fn event_context(&self, register: u64) -> Result<u64, Status> {
        // No frame holds more than x0 to x17, so a wrong selector is one whoever runs.
        let register = selector(register) as usize;
        if register >= SAVED {
            return Err(Status::InvalidParameters);
        }
        let level = self.innermost().ok_or(Status::Denied)?;
        level.context(register).ok_or(Status::InvalidParameters)
    }

    /// "No handler runs" is found before a wrong address is (A3).
    pub(super) fn event_complete_and_resume(
        &mut self,
        regs: &mut GuestRegs,
        el1: &mut impl El1,
        address: u64,
    ) -> Result<Running, Status> {
        if self.innermost().is_none() {
            return Err(Status::Denied);
        }
        if !is_code_address(address) {
            return Err(if self.firmware.has(Fault::ResumeAddressDenied) {
                Status::Denied
            } else {
                Status::InvalidParameters
            });
        }
        self.complete_and_resume(regs, el1, address)
    }

    /// PENDING is no failure: the event is unregistered all the same.
    fn event_unregister(&mut self, event: u64) -> Result<u64, Status> {
        let index = self.find(selector(event));
        let index = index.ok_or(Status::InvalidParameters)?;
        let event = self.event_mut(index).ok_or(Status::InvalidParameters)?;
        let result = event.handler.unregister();
        if !event.handler.is_registered() {
            self.set_pending(index, false);
        }
        self.settle();
        result.map(|()| 0)
    }

    fn event_status(&mut self, event: u64) -> Result<u64, Status> {
        Ok(self.named(event)?.handler.status())
    }

    fn event_get_info(&mut self, event: u64, info: u64) -> Result<u64, Status> {
        let event = self.named(event)?;
        match selector(info) {
            info::EV_TYPE => Ok(0),
            // The call asks whether the event can NOT be signalled (A2).
            info::EV_SIGNALED => Ok(u64::from(event.number != EVENT_SIGNALLED)),
            info::EV_PRIORITY => Ok(match event.priority {
                Priority::Normal => 0,
                Priority::Critical => 1,
            }),
            // Routing of a private event included.
            _ => Err(Status::InvalidParameters),
        }
    }

    /// Masks the PE: PE_MASK, and what waking up from a powerdown does (DEN0054 6.3). Whether it was unmasked
    /// before (A12).
    pub fn mask(&mut self) -> bool {
        let was_masked = core::mem::replace(&mut self.is_masked, true);
        self.settle();
        !was_masked
    }

    fn pe_unmask(&mut self) -> Result<u64, Status> {
        self.is_masked = false;
        self.settle();
        Ok(0)
    }

    /// The state of the target's event is the target's own affair: whatever it is, the signal is accepted
    /// (A1). A firmware that refuses looks at the state first, and so decides on what may have changed.
    fn event_signal(
        &mut self,
        event: u64,
        target: u64,
        siblings: &(impl WithBoard + ?Sized),
    ) -> Result<Effect, Status> {
        if selector(event) != EVENT_SIGNALLED {
            return Err(Status::InvalidParameters);
        }
        let mpidr = if self.firmware.has(Fault::ForeignBitsIgnored) {
            Some(Mpidr::new(target))
        } else {
            target_affinity(target)
        };
        let target = mpidr.and_then(|mpidr| siblings.resolve(mpidr));
        let target = target.ok_or(Status::InvalidParameters)?;
        if self.firmware.has(Fault::SignalRefused) && !siblings.board().is_signallable(target) {
            return Err(Status::InvalidParameters);
        }
        if self.firmware.lost_every > 0 {
            self.signals = self.signals.wrapping_add(1);
            if self.signals.is_multiple_of(self.firmware.lost_every) {
                return Ok(Effect::None);
            }
        }
        if target == self.me && self.takes_signals_at_once() {
            self.take_signal();
            return Ok(Effect::None);
        }
        Ok(Effect::Signal(target))
    }

    /// Whether a signal does nothing but make its event pending.
    fn takes_signals_at_once(&self) -> bool {
        let faults = [Fault::MaskedSignalDeafens, Fault::DisabledSignalLivelocks];
        self.delay == 0 && !faults.iter().any(|&fault| self.firmware.has(fault))
    }

    fn features(&self, feature: u64) -> Result<u64, Status> {
        match selector(feature) {
            feature::BIND_SLOTS => {
                let slots = config::slots(self.firmware) as u64;
                Ok(slots << 16 | slots)
            }
            feature::RELATIVE_MODE if self.has_relative_mode() => Ok(1),
            _ => Err(Status::InvalidParameters),
        }
    }

    /// Unregisters all private events. Those that run stay until they complete, and the call says DENIED (A9).
    pub(super) fn private_reset(&mut self) -> Result<u64, Status> {
        let mut result = Ok(0);
        for event in &mut self.events {
            // Denied is one that was not registered, and that is what is wanted.
            let _ = event.handler.unregister();
            if event.handler.is_running() {
                result = Err(Status::Denied);
            }
        }
        self.pending = 0;
        self.settle();
        result
    }

    pub(super) fn entry(&self, address: u64, flags: u64) -> Result<Entry, Status> {
        let is_relative = flags & register_flags::RELATIVE != 0;
        let is_known = flags & !(register_flags::RM_PE | register_flags::RELATIVE) == 0;
        if !is_known || is_relative && !self.has_relative_mode() {
            return Err(Status::InvalidParameters);
        }
        let is_any = self.firmware.has(Fault::UnalignedEntryAccepted) && address != 0;
        if is_relative && address.is_multiple_of(INSTRUCTION) {
            Ok(Entry::FromVbar(address))
        } else if !is_relative && (is_any || is_code_address(address)) {
            Ok(Entry::Absolute(address))
        } else {
            Err(Status::InvalidParameters)
        }
    }

    /// Relative mode came with v1.1.
    fn has_relative_mode(&self) -> bool {
        Version::of(self.firmware).is_some_and(|version| version.minor >= 1)
    }

    fn named(&mut self, event: u64) -> Result<&mut Event, Status> {
        let index = self.find(selector(event));
        index
            .and_then(|index: Index| self.event_mut(index))
            .ok_or(Status::InvalidParameters)
    }
}

/// Bytes of an A64 instruction.
const INSTRUCTION: u64 = 4;

/// The 32 bits that name an event, an interrupt or a selector (A15). Negative numbers name nothing.
pub(super) fn selector(argument: u64) -> u32 {
    argument as u32
}

/// Whether an address can be executed from at EL1 under some translation regime: not null, aligned, and in
/// the lower or the upper range of a 52-bit virtual address space. Whether it is mapped shows when it is
/// fetched from.
fn is_code_address(address: u64) -> bool {
    address != 0 && address.is_multiple_of(INSTRUCTION) && matches!(address >> 52, 0 | 0xfff)
}

/// The PE that an affinity argument names. Clients pass MPIDR_EL1 as they read it, so RES1 `[31]`, U `[30]`
/// and MT `[24]` are ignored; the other bits outside the affinity fields must be 0 (A16).
pub(super) fn target_affinity(argument: u64) -> Option<Mpidr> {
    const IGNORED: u64 = 1 << 31 | 1 << 30 | 1 << 24;
    let is_clean = argument & !(Mpidr::AFFINITY | IGNORED) == 0;
    is_clean.then(|| Mpidr::new(argument))
}

/// A status as x0 holds it.
pub(super) fn word(status: Status) -> u64 {
    status as i64 as u64
}
