//! A vCPU switched on, off and put to sleep, and the end of its VM.

use hv_core::id::{PcpuId, VcpuSet};
use hv_core::mailbox::Requests;
use hv_core::psci::{self, Decision};
use hv_core::sdei::Departure;
use hv_core::trace::Event;
use hv_core::vgic::lr::LrState;
use hv_core::vm::Record;

use super::{Leave, Runner};
use crate::gic;
use crate::stop::{self, Cause, stop_machine};
use crate::vm::{End, Shared};
use crate::{log, percpu, sysregs, watchdog};

/// How long the vCPUs of a VM that ends may take to leave the guest and say what is remembered of them, in
/// microseconds: a console of 115200 baud takes a second for the words of one.
const LEAVE_LIMIT_US: u64 = 30_000_000;

impl Runner {
    /// Off: only START and STOP matter, all else is dropped.
    pub(super) fn wait_for_start(&mut self) {
        loop {
            self.take_interrupt();
            let requests = self.vm.mailbox(self.me).take();
            if requests.has(Requests::STOP) {
                self.stop();
            } else if requests.has(Requests::START) {
                let start = {
                    let mut shared = self.vm.lock();
                    let start = shared
                        .starts
                        .get_mut(self.me.index())
                        .and_then(Option::take);
                    if start.is_some() {
                        shared.power.started(self.me);
                        // What the platform raised while this vCPU was off is gone.
                        let _ = shared.commons.take_raised(self.me);
                    }
                    start
                };
                if let Some(start) = start {
                    sysregs::reset_el1();
                    sysregs::set_endian(start.endian);
                    self.leave_vgic();
                    self.vcpu.start(&mut self.regs, start, sysregs::now());
                    return;
                }
            } else {
                sysregs::wait_for_interrupt();
            }
        }
    }

    pub(super) fn call_psci(&mut self, call: psci::Call) -> Option<Leave> {
        let decision = {
            let mut shared = self.vm.lock();
            let map = &self.vm.map;
            let is_ram = |ipa| map.is_ram(ipa);
            let decision = shared
                .power
                .call(self.me, call, sysregs::endian, map, is_ram);
            if let Decision::Start(start) = &decision
                && let Some(slot) = shared.starts.get_mut(start.vcpu.index())
            {
                *slot = Some(*start);
            }
            decision
        };
        match decision {
            Decision::Answer(value) => self.regs.x[0] = value,
            Decision::Start(start) => {
                self.regs.x[0] = 0;
                let (target, entry) = (start.vcpu.0, start.entry);
                self.vcpu
                    .note(sysregs::now(), Event::CpuOn { target, entry });
                self.vm.ask(start.vcpu, Requests::START);
            }
            Decision::Suspend => {
                self.regs.x[0] = 0;
                self.stand_by();
            }
            Decision::SystemSuspend { entry, context } => {
                return self.suspend_system(psci::Start {
                    vcpu: self.me,
                    entry,
                    context,
                    endian: sysregs::endian(),
                });
            }
            Decision::Off => return Some(Leave::Off),
            Decision::SystemOff => return Some(Leave::End(End::Off)),
            Decision::SystemReset(reset) => return Some(Leave::End(End::Reset(reset))),
        }
        None
    }

    /// Sleeps until an interrupt arrives, unless one is waiting already.
    pub(super) fn stand_by(&mut self) {
        if self.vm.mailbox(self.me).is_empty() && !self.is_woken() {
            sysregs::wait_for_interrupt();
        }
    }

    /// Whether something waits that wakes a vCPU: an interrupt, masked or not, or an event that is not.
    fn is_woken(&mut self) -> bool {
        let is_listed = (0..self.used).any(|index| {
            matches!(
                gic::list_register(index).state,
                LrState::Pending | LrState::PendingActive
            )
        });
        is_listed
            || self.vcpu.sdei.due(&self.vm.map.board).is_some()
            || self.vm.lock().vgic.has_pending(self.me)
    }

    /// SYSTEM_SUSPEND: sleeps until something wakes this vCPU, which then begins as if it had been off. The
    /// timers, interrupts and events are as they were but for the mask, and while it sleeps it can be stopped.
    fn suspend_system(&mut self, start: psci::Start) -> Option<Leave> {
        self.vcpu.note(sysregs::now(), Event::SystemSuspend);
        loop {
            self.take_interrupt();
            if !self.vm.mailbox(self.me).is_empty()
                && let Some(leave) = self.take_requests()
            {
                return Some(leave);
            }
            if self.is_woken() {
                break;
            }
            sysregs::wait_for_interrupt();
        }
        self.power_up_interrupts();
        sysregs::reset_core();
        sysregs::set_endian(start.endian);
        let board = &self.vm.map.board;
        self.vcpu.wake(&mut self.regs, start, sysregs::now(), board);
        None
    }

    /// CPU_OFF, in a handler or not: nothing of this vCPU's life so far is left behind.
    pub(super) fn power_off(&mut self) {
        self.vcpu.note(sysregs::now(), Event::CpuOff);
        let (departure, look) = {
            let mut shared = self.vm.lock();
            let Shared { commons, vgic, .. } = &mut *shared;
            let (departure, ripple) = self.vcpu.sdei.turn_off(commons, vgic, &self.vm.map);
            let kick = self.vm.perform(&ripple.gic);
            self.vm.kick(self.me, kick);
            (departure, ripple.look)
        };
        self.call_attention(look);
        if departure == Departure::Lost {
            return self.be_lost();
        }
        self.clear();
        self.vm.lock().power.stopped(self.me);
    }

    /// A sibling's CPU_ON takes this vCPU back: as CPU_OFF, but nobody sees it off.
    pub(super) fn give_back(&mut self) {
        self.leave_events();
        self.clear();
        self.vm.mailbox(self.me).post(Requests::START);
    }

    /// Firmware does not come back. Only the end of the VM is left to wait for.
    pub(super) fn be_lost(&mut self) {
        loop {
            self.take_interrupt();
            let requests = self.vm.mailbox(self.me).take();
            if requests.has(Requests::STOP) {
                return self.stop();
            }
            sysregs::wait_for_interrupt();
        }
    }

    /// Ends what this vCPU runs of SDEI, and lets go of what it holds.
    fn leave_events(&mut self) {
        let look = {
            let mut shared = self.vm.lock();
            let Shared { commons, vgic, .. } = &mut *shared;
            let ripple = self.vcpu.sdei.retire(commons, vgic, &self.vm.map);
            let kick = self.vm.perform(&ripple.gic);
            self.vm.kick(self.me, kick);
            ripple.look
        };
        self.call_attention(look);
    }

    /// Registers and interrupts as at power-on.
    fn clear(&mut self) {
        self.set_alarm(None);
        sysregs::reset_el1();
        self.leave_vgic();
    }

    /// The VM ends and somebody else ends it.
    pub(super) fn stop(&mut self) {
        self.retire();
        self.vm.lock().stopped.insert(self.me);
    }

    /// The VM ends and this vCPU ends it, unless another was faster.
    pub(super) fn end_vm(&mut self, end: End) {
        let event = match end {
            End::Off => Event::SystemOff,
            End::Reset(_) => Event::SystemReset,
        };
        self.vcpu.note(sysregs::now(), event);
        let is_mine = {
            let mut shared = self.vm.lock();
            let is_mine = shared.ending.is_none();
            if is_mine {
                shared.ending = Some((self.me, end));
            }
            is_mine
        };
        if !is_mine {
            // The other's STOP is on its way; `wait_for_start` takes it.
            return;
        }
        let id = self.vm.id.0;
        match end {
            End::Off => log!("@vm-off vm={id}"),
            End::Reset(_) => log!("@vm-reset vm={id}"),
        }
        let mut others = VcpuSet::EMPTY;
        for vcpu in self.vm.vcpus().filter(|&vcpu| vcpu != self.me) {
            others.insert(vcpu);
            self.vm.ask(vcpu, Requests::STOP);
        }
        // Nothing keeps a pCPU in EL2 for that long, so one that does not come is stuck. Mostly the watchdog has
        // found that before.
        let is_mine = |id: &PcpuId| {
            percpu::of(*id).is_some_and(|percpu| self.vm.pcpus.contains(&percpu.mpidr))
        };
        let limit = sysregs::counter_frequency().ticks_in_us(LEAVE_LIMIT_US);
        let deadline = sysregs::now().after(limit);
        while self.vm.lock().stopped != others {
            self.percpu.beat();
            if let Some(watch) = &mut self.watch {
                watchdog::look(watch, self.percpu);
            }
            let is_one_stuck = stop::pcpus().filter(is_mine).any(watchdog::is_stuck);
            if is_one_stuck || sysregs::now() > deadline {
                stop_machine(
                    match end {
                        End::Off => Cause::Shutdown,
                        End::Reset(_) => Cause::Reboot,
                    },
                    &|| (),
                );
            }
            sysregs::yield_pcpu();
        }
        self.retire();
        log!("@end vm={id}");
        match end {
            End::Off => {
                stop_machine(Cause::Shutdown, &|| ());
            }
            End::Reset(_) => {
                self.vm.reset();
                self.vm.load();
            }
        }
    }

    /// Says what is remembered of this vCPU and forgets it.
    pub(super) fn retire(&mut self) {
        self.clear();
        let rate = sysregs::counter_frequency();
        let (vm, vcpu) = (self.vm.id.0, self.me.0);
        for (at, event) in self.vcpu.trace() {
            let (name, a, b) = event.words();
            let t = at.as_us(rate);
            log!("@trace vm={vm} vcpu={vcpu} t={t} event={name} a={a:#x} b={b:#x}");
        }
        for record in self.vcpu.records() {
            let t = record.at.as_us(rate);
            log!("@frame vm={vm} vcpu={vcpu} t={t} {}", RecordWords(&record));
        }
        self.leave_events();
        self.vcpu.forget();
    }
}

/// The words of a `@frame` record.
struct RecordWords<'a>(&'a Record<'a>);

impl core::fmt::Display for RecordWords<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let interrupted = &self.0.interrupted;
        let state = if self.0.is_complete {
            "complete"
        } else {
            "running"
        };
        write!(f, "event={} state={state}", interrupted.event)?;
        for (index, value) in interrupted.x.iter().enumerate() {
            write!(f, " x{index}={value:#x}")?;
        }
        let [sp_el0, sp_el1] = interrupted.sp;
        let (pc, pstate) = (interrupted.pc, interrupted.pstate);
        write!(
            f,
            " sp_el0={sp_el0:#x} sp_el1={sp_el1:#x} pc={pc:#x} pstate={pstate:#x}"
        )
    }
}
