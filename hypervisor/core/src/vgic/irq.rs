//! One virtual interrupt: what the guest programmed, what its source says, and where it sits.
//!
//! # The two halves of a passed-through interrupt
//!
//! A physical interrupt that EL2 acknowledged stays *active* in the physical GIC, so it cannot fire again,
//! until somebody deactivates it. [`Irq::held`] says that it is active on our account. Whoever ends the
//! virtual interrupt must end that too:
//!
//! * the usual end is the guest's own EOI of a list register with HW = 1, seen at the next fold;
//! * every other end (the guest clears it, a reset) goes through [`Irq::settle`]: an interrupt that is held but
//!   neither pending nor active is deactivated, at once.
//!
//! A level sensitive one that fires while the guest has it disabled stays held and keeps its `line`: it can
//! not fire again, and costs nothing. [`Irq::enable`] then forgets the line and deactivates instead of
//! injecting, so that the physical GIC samples the line as it is now: high fires at once, low is no stale
//! interrupt. This is how PPIs 27 and 30 can stay enabled on the machine for good, whatever the guest does.
//! An edge is another matter: it happened, so it stays pending until it is enabled, as in the real GIC.

use crate::id::VcpuId;

/// The state of one interrupt.
// Aligned so that it is copied by words, not by bytes.
#[derive(Clone, Debug)]
#[repr(align(8))]
pub(super) struct Irq {
    pub enabled: bool,
    /// Group 1 rather than 0.
    pub group1: bool,
    /// Edge triggered rather than level sensitive.
    pub edge: bool,
    /// Comes from the physical interrupt of the same INTID.
    pub passed_through: bool,
    /// An SDEI event has it, and the guest's GIC has not.
    pub bound: bool,
    /// An edge, or GICD_ISPENDR, not yet acknowledged; while in a list register, one more of them.
    pub latch: bool,
    /// Level sensitive: the emulated line is high; or the physical one was when it fired, and the guest
    /// has not acknowledged that.
    pub line: bool,
    /// Acknowledged and not deactivated, outside any list register.
    pub active: bool,
    /// The physical interrupt is active on our account.
    pub held: bool,
    /// Whose list registers may deactivate it.
    pub holder: Holder,
    pub priority: u8,
    /// What that was when it was acknowledged, while it is `active`: running priorities end in the order of these, whatever
    /// the guest has programmed since.
    pub active_priority: u8,
    /// GICv2, an SGI: whose it is in the list register, or active.
    pub sender: u8,
    /// GICv2, an SGI: bit n says that vCPU n has sent it and it is not yet in a list register. While there is
    /// one, `latch` is set.
    pub senders: u8,
    /// GICv2, an SPI: GICD_ITARGETSR.
    pub targets: u8,
    /// Who may take it: the vCPU that GICD_IROUTER names or that was chosen among GICD_ITARGETSR's, or the one
    /// it is private to.
    pub target: Option<VcpuId>,
    /// Who acknowledged it, while it is `active`; nobody if that vCPU has been reset since.
    pub active_on: Option<VcpuId>,
    /// The list register it is in.
    pub seat: Option<Seat>,
}

/// What is known of an interrupt in a list register. The truth is in that pCPU's hardware.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    /// Whose list register.
    pub vcpu: VcpuId,
    /// A latch travels in it as pending.
    pub latch: bool,
    /// The bit of the sender who travels in it as pending, of an SGI of a GICv2.
    pub senders: u8,
    /// The line travels in it as pending.
    pub line: bool,
    /// HW = 1: its end deactivates the physical interrupt.
    pub hardware: bool,
    /// HW = 0 and the EOI bit, of a held interrupt: an emptied list register says that its end has deactivated the physical
    /// interrupt (`sticky.rs`).
    pub maintained: bool,
    /// Active when it was put there.
    pub active: bool,
    /// GICD_ICACTIVER since: what comes back is not active.
    pub drop_active: bool,
}

/// Whose list registers may deactivate the physical interrupt (HW = 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// Anybody's.
    Anyone,
    /// Those of the vCPU on whose pCPU it fired: not every GICv2 has one active state for all, QEMU's has one
    /// per CPU interface.
    Only(VcpuId),
    /// Nobody's: its end is to be seen.
    Nobody,
}

impl Irq {
    /// After reset (IHI0069 12.9: everything off, group 0, priority 0, level sensitive but for SGIs).
    pub fn new(edge: bool, passed_through: bool, target: Option<VcpuId>) -> Self {
        Self {
            enabled: false,
            group1: false,
            edge,
            passed_through,
            bound: false,
            latch: false,
            line: false,
            active: false,
            held: false,
            holder: Holder::Anyone,
            priority: 0,
            active_priority: 0,
            sender: 0,
            senders: 0,
            targets: 0,
            target,
            active_on: None,
            seat: None,
        }
    }

    /// What the guest has programmed is as after reset; all that there is to do for an interrupt that is idle.
    pub fn reset_registers(&mut self, edge: bool) {
        self.enabled = false;
        self.group1 = false;
        self.edge = edge;
        self.priority = 0;
    }

    /// What has come of it is gone, but for what is latched if that is kept. An emulated line stays as it is; a physical
    /// interrupt that is active on our account is still to be deactivated.
    pub fn forget(&mut self, keeps_latched: bool) {
        if !keeps_latched {
            self.latch = false;
            self.senders = 0;
        }
        self.line &= !self.passed_through;
        self.active = false;
        self.active_on = None;
        self.seat = None;
    }

    /// Whether it is pending outside its list register, deliverable or not.
    pub fn is_pending(&self) -> bool {
        self.latch || (self.line && !self.edge)
    }

    /// Whether it is pending besides what `seat`, its own, carries.
    pub fn is_pending_beside(&self, seat: Seat) -> bool {
        self.latch || self.senders != 0 || (self.line && !self.edge && !seat.line)
    }

    /// What GICD_ISPENDR reads: the last known state.
    pub fn shows_pending(&self) -> bool {
        self.is_pending() || self.seat.is_some_and(|seat| seat.latch)
    }

    /// What GICD_ISACTIVER reads: the last known state.
    pub fn shows_active(&self) -> bool {
        self.active
            || self
                .seat
                .is_some_and(|seat| seat.active && !seat.drop_active)
    }

    /// Whether nothing about it waits for anybody.
    pub fn is_idle(&self) -> bool {
        !(self.latch || self.line || self.active || self.held || self.seat.is_some())
    }

    /// Whether it is pending, enabled and not active, outside a list register, and the guest's.
    pub fn is_ready(&self) -> bool {
        let is_free = !self.active && self.seat.is_none() && !self.bound;
        self.enabled && self.is_pending() && is_free
    }

    /// The physical interrupt fired.
    pub fn fire(&mut self) {
        if let Some(seat) = &mut self.seat
            && (seat.hardware || self.held)
        {
            // It could only fire again because the guest's EOI deactivated it, or the short way did thereafter: what
            // the list register held is over, though its owner has not folded yet.
            seat.hardware = false;
            seat.maintained = false;
            seat.latch = false;
            seat.line = false;
            seat.active = false;
        }
        self.held = true;
        if self.edge {
            self.latch = true;
        } else {
            self.line = true;
        }
    }

    /// GICD_ISENABLER. A line that fired before is sampled anew.
    pub fn enable(&mut self) {
        if !self.enabled {
            self.enabled = true;
            if self.passed_through && self.seat.is_none() && !self.active {
                self.line = false;
            }
        }
    }

    /// Whether it is pending because of a physical line, in a list register or not.
    pub fn has_physical_line(&self) -> bool {
        let is_up = self.line || self.seat.is_some_and(|seat| seat.line);
        self.passed_through && !self.bound && !self.edge && is_up
    }

    /// Its physical line has dropped. What its list register holds of it counts no more.
    pub fn drop_line(&mut self) {
        self.line = false;
        if let Some(seat) = &mut self.seat {
            seat.line = false;
        }
    }

    /// GICD_ICPENDR.
    pub fn clear_pending(&mut self) {
        self.latch = false;
        if self.passed_through {
            self.line = false;
        }
        if let Some(seat) = &mut self.seat {
            seat.latch = false;
            seat.line &= !self.passed_through;
        }
    }

    /// GICD_SGIR, GICD_SPENDSGIR: these vCPUs send it.
    pub fn send(&mut self, senders: u8) {
        self.senders |= senders;
        self.latch |= senders != 0;
    }

    /// GICD_CPENDSGIR: what these vCPUs sent and nobody has acknowledged is gone.
    pub fn take_back(&mut self, senders: u8) {
        self.senders &= !senders;
        self.latch = self.senders != 0;
        if let Some(seat) = &mut self.seat
            && seat.senders & senders != 0
        {
            seat.latch = false;
        }
    }

    /// What GICD_SPENDSGIR reads: the last known state.
    pub fn shows_senders(&self) -> u8 {
        let seated = self.seat.filter(|seat| seat.latch);
        self.senders | seated.map_or(0, |seat| seat.senders)
    }

    /// Takes out the sender that goes into a list register next, and answers its bit, beside an `active`
    /// interrupt only its own. `None` if a sender matters and has to wait; no bit if none matters.
    pub fn next_sender(&mut self, active: bool) -> Option<u8> {
        if self.senders == 0 {
            return Some(0);
        }
        let sender = if active {
            self.sender
        } else {
            self.senders.trailing_zeros() as u8
        };
        let bit = 1u8.checked_shl(sender.into())? & self.senders;
        self.sender = sender;
        self.senders &= !bit;
        (bit != 0).then_some(bit)
    }

    /// GICD_ISACTIVER.
    pub fn set_active(&mut self) {
        if !self.shows_active() {
            self.active = true;
            self.active_priority = self.priority;
            self.active_on = self.target;
        }
    }

    /// GICD_ICACTIVER, ICC_DIR_EL1.
    pub fn clear_active(&mut self) {
        self.active = false;
        self.active_on = None;
        if let Some(seat) = &mut self.seat {
            seat.drop_active = true;
        }
    }

    /// GICD_ICFGR. An edge or level already seen is not lost.
    pub fn set_edge(&mut self, edge: bool) {
        if edge && !self.edge && self.passed_through && self.line {
            self.latch = true;
            self.line = false;
        }
        self.edge = edge;
    }

    /// If nothing virtual is left of a held interrupt, lets go of it: true if the physical interrupt must
    /// now be deactivated.
    pub fn settle(&mut self) -> bool {
        let done =
            self.held && !self.bound && !self.is_pending() && !self.active && self.seat.is_none();
        if done {
            self.held = false;
        }
        done
    }
}
