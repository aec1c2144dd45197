//! The short way of an exit: what can be done at once, between an exit that has saved the registers a call may change and the
//! guest's next instruction ([`Hardware::enter`]). Nothing here waits for a lock, since a pCPU that is stopped while it waits
//! should have all of its guest's registers in memory. What is not for this way is left to [`VcpuLoop`] as a [`Rest`].
//!
//! Functions here end in a call of the next one and answer what that answers: then the common ones need no stack frame.

use super::VcpuLoop;
use crate::exit::{self, class};
use crate::id::{IntId, VcpuId};
use crate::mailbox::Requests;
use crate::regs::GuestRegs;
use crate::vgic::affinity::sgi_intid;
use crate::vgic::{self, Model};
use crate::vm::{AtOnce, GuestExit, Hardware, Interrupt, Saved, Vm, read_register};

/// What the short way leaves to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rest {
    /// The synchronous exit as it came.
    Exit,
    /// Events may be due.
    Events,
    /// This interrupt, which has been acknowledged.
    Interrupt(Interrupt),
    /// The same while the mailbox is not empty: a suspicion of the watchdog's may stand there.
    Watched(Interrupt),
    /// These, which have been taken from the mailbox.
    Requests(Requests),
    /// A physical SError is passed on.
    SError,
}

impl<V, C> VcpuLoop<V, C> {
    /// Where the guest's registers are in here, in bytes.
    pub const REGS: usize = core::mem::offset_of!(Self, regs);
}

/// How an exit is settled on the short way: whether the guest goes on. x20 to x28 of the guest are not in memory meanwhile
/// ([`exit::is_late`]), and its PSTATE is not to be changed. If it does not go on, [`Hardware::enter`] returns.
impl<V: Vm, C: Hardware> VcpuLoop<V, C> {
    /// The pCPU, and the guest's registers.
    pub fn hardware(&mut self) -> (&mut C, &mut GuestRegs) {
        (&mut self.cpu, &mut self.regs)
    }

    /// An exit of this kind.
    pub fn settle(&mut self, exit: GuestExit) -> bool {
        match exit {
            GuestExit::Synchronous => self.settle_synchronous(self.cpu.syndrome().esr),
            GuestExit::Interrupt => self.settle_interrupt(),
            GuestExit::SError => self.settle_serror(),
        }
    }

    /// [`GuestExit::Synchronous`], with ESR_EL2.
    #[inline(always)]
    pub fn settle_synchronous(&mut self, esr: u64) -> bool {
        if exit::class(esr) == class::DATA_ABORT {
            return if exit::is_store(esr) {
                self.settle_store()
            } else {
                self.settle_load()
            };
        }
        match self.vcpu.access_register(esr, Saved::Few, &mut self.regs) {
            Some(AtOnce::Resume) => true,
            Some(AtOnce::Sgi(value)) => self.settle_sgi(value),
            Some(AtOnce::Signal) => self.settle_signal(),
            Some(AtOnce::Generate(_)) | None => self.leave(Rest::Exit),
        }
    }

    /// [`GuestExit::Interrupt`].
    #[inline(always)]
    pub fn settle_interrupt(&mut self) -> bool {
        match self.cpu.acknowledge() {
            Interrupt::Guest(intid) if self.comes_again(intid) => true,
            Interrupt::None => self.take_posted(),
            other => self.settle_other(other),
        }
    }

    /// [`GuestExit::SError`].
    pub fn settle_serror(&mut self) -> bool {
        self.leave(Rest::SError)
    }

    #[inline]
    pub(super) fn leave(&mut self, rest: Rest) -> bool {
        self.rest = rest;
        false
    }

    /// A load.
    #[inline(never)]
    fn settle_load(&mut self) -> bool {
        let (vcpu, map) = (&self.vcpu, self.vm.map());
        let done = vcpu.access_device(self.cpu.syndrome(), Saved::Few, &mut self.regs, map);
        done.is_some() || self.leave(Rest::Exit)
    }

    /// A store: to GICD_SGIR, or one that changes nothing but a word of the distributor.
    #[inline(never)]
    fn settle_store(&mut self) -> bool {
        let (vcpu, map) = (&self.vcpu, self.vm.map());
        let found = vcpu.find_access(self.cpu.syndrome(), Saved::Few, map);
        let Some((frame, offset, access)) = found else {
            return self.leave(Rest::Exit);
        };
        let regs = &mut self.regs;
        if let Some(AtOnce::Generate(value)) = AtOnce::generate(frame, offset, access, regs) {
            regs.pc = regs.pc.wrapping_add(4);
            return self.settle_generate(value as u32);
        }
        let value = read_register(regs, access.rt) as u32;
        if vgic::enable_idle(&self.vm, (frame, offset, access.size), value) {
            regs.pc = regs.pc.wrapping_add(4);
            return true;
        }
        self.leave(Rest::Exit)
    }

    // Interrupts.

    /// A private interrupt goes into the list register that it last had. A kick that waits in the mailbox may have changed
    /// what it is.
    #[inline(always)]
    fn comes_again(&mut self, intid: IntId) -> bool {
        intid.is_private() && !self.vm.is_asked() && self.vcpu.reseat(intid, &mut self.cpu)
    }

    #[inline(never)]
    fn settle_other(&mut self, interrupt: Interrupt) -> bool {
        match interrupt {
            Interrupt::Maintenance(_) if self.vm.is_asked() => self.leave(Rest::Watched(interrupt)),
            // A private interrupt whose end has a maintenance interrupt has ended.
            Interrupt::Maintenance(intid) if self.vcpu.end_listed(&mut self.cpu) => {
                self.cpu.deactivate(intid);
                true
            }
            other => self.leave(Rest::Interrupt(other)),
        }
    }

    /// Takes what was posted, if anything was: SGIs that go into the list register that each last had. All else is left.
    #[inline(never)]
    fn take_posted(&mut self) -> bool {
        let requests = self.vm.take(self.vcpu.id);
        let mut left = requests;
        // A kick that was posted since then may have changed what an SGI is.
        if requests.is_sgis() && !self.vm.is_asked() {
            left = Requests(if self.vm.map().gic == Model::V3 {
                self.reseat(requests)
            } else {
                self.reseat_sent(requests)
            });
        }
        left.is_empty() || self.leave(Rest::Requests(left))
    }

    /// These SGIs go into the list register that each last had. Which are left.
    #[inline(always)]
    fn reseat(&mut self, Requests(sgis): Requests) -> u32 {
        let (mut come, mut left) = (sgis, sgis);
        while come != 0 {
            let intid = come.trailing_zeros();
            come &= come - 1;
            if self.vcpu.reseat(IntId(intid), &mut self.cpu) {
                left &= !(1 << intid);
            }
        }
        left
    }

    /// The same with a GICv2: each from whoever sent it. Those that are left have their senders put back.
    #[inline(never)]
    fn reseat_sent(&mut self, Requests(sgis): Requests) -> u32 {
        let me = self.vcpu.id;
        let (mut come, mut left) = (sgis, 0);
        while come != 0 {
            let group = come.trailing_zeros() / 4;
            come &= !(0xf << (4 * group));
            let sent = self.vm.take_senders(me, group as usize);
            let mut rest = self.vcpu.reseat_sent(group as usize, sent, &mut self.cpu);
            while rest != 0 {
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                let intid = 4 * group + bit / 8;
                self.vm.post_sender(me, intid, VcpuId((bit % 8) as u8));
                left |= 1 << intid;
            }
        }
        left
    }

    // SGIs and signals.

    /// Sends the SGI that an exit which was settled at once asks for, if it does.
    #[inline]
    pub(super) fn send(&mut self, done: AtOnce) {
        let me = self.vcpu.id;
        let affinities = &self.vm.map().affinities;
        match done {
            AtOnce::Resume | AtOnce::Signal => {}
            AtOnce::Sgi(value) => {
                let requests = Requests::sgi(sgi_intid(value).0);
                affinities.for_each_target(me, value, |target| self.post(target, requests));
            }
            AtOnce::Generate(value) => {
                let intid = value as u32 & 0xf;
                affinities.for_each_target_v2(me, value as u32, |target| {
                    self.vm.post_sender(target, intid, me);
                    self.post(target, Requests::sgi(intid));
                });
            }
        }
    }

    /// ICC_SGI1R_EL1. This vCPU's own goes into its list register, unless something waits that may have changed what
    /// it is.
    #[inline(never)]
    fn settle_sgi(&mut self, value: u64) -> bool {
        let (me, intid) = (self.vcpu.id, sgi_intid(value));
        let mut has_own = false;
        let vm = &self.vm;
        vm.map().affinities.for_each_target(me, value, |target| {
            if target == me {
                has_own = true;
            } else {
                vm.ask(target, Requests::sgi(intid.0));
            }
        });
        if !has_own || !vm.is_asked() && self.vcpu.reseat(intid, &mut self.cpu) {
            return true;
        }
        self.vm.remind(Requests::sgi(intid.0));
        self.take_posted()
    }

    /// GICD_SGIR: the target learns who sent it.
    #[inline(never)]
    fn settle_generate(&mut self, value: u32) -> bool {
        let (me, intid) = (self.vcpu.id, value & 0xf);
        let mut has_own = false;
        let vm = &self.vm;
        vm.map().affinities.for_each_target_v2(me, value, |target| {
            if target == me {
                has_own = true;
            } else {
                vm.post_sender(target, intid, me);
                vm.ask(target, Requests::sgi(intid));
            }
        });
        let sender = u32::from(me.0) % 8;
        if !has_own || !vm.is_asked() && self.vcpu.reseat_from(IntId(intid), sender, &mut self.cpu)
        {
            return true;
        }
        self.vm.post_sender(me, intid, me);
        self.vm.remind(Requests::sgi(intid));
        self.take_posted()
    }

    /// SDEI_EVENT_SIGNAL.
    #[inline(never)]
    fn settle_signal(&mut self) -> bool {
        let map = self.vm.map();
        if let Some(target) = self.vcpu.signal(&mut self.regs, &self.cpu, map) {
            self.vm.ask(target, Requests::SDEI_SIGNAL);
        }
        // It may have been this vCPU's own.
        !self.vcpu.sdei.is_alert() || self.leave(Rest::Events)
    }

    /// Posts, and rings where that is another.
    #[inline]
    pub(super) fn post(&self, to: VcpuId, requests: Requests) {
        if to == self.vcpu.id {
            self.vm.remind(requests);
        } else {
            self.vm.ask(to, requests);
        }
    }
}
