//! A vCPU switched on, off and put to sleep, and the end of its VM.

use core::ops::ControlFlow;

use hv_abi::policy::After;

use super::{Leave, Stand, VcpuLoop};
use crate::mailbox::Requests;
use crate::psci::Start;
use crate::sdei::Departure;
use crate::trace::Event;
use crate::vgic::lr::LrState;
use crate::vgic::{self, Held, Model};
use crate::vm::panic_event as event;
use crate::vm::{BOOT_VCPU, End, Ending, Hardware, Kernel, Vm, mediated};

impl<V: Vm, C: Hardware> VcpuLoop<V, C> {
    /// Off: only START, STOP and the operator matter, all else is dropped. Where the vCPU begins; if it does not, whether the
    /// operator has it end the VM, or it is stopped.
    pub(super) fn wait_for_start(&mut self) -> ControlFlow<Option<Ending>, Start> {
        let me = self.vcpu.id;
        loop {
            self.take_interrupt();
            let requests = self.vm.take(me);
            if requests.has(Requests::STOP) {
                return ControlFlow::Break(None);
            }
            if requests.has(Requests::OPERATOR)
                && let Some(ending) = self.attend_while_off()
            {
                return ControlFlow::Break(Some(ending));
            }
            if requests.has(Requests::START) {
                let mut shared = self.vm.lock();
                if let Some(start) = shared.start(me) {
                    let offset = shared.clock.enter();
                    drop(shared);
                    self.cpu.set_clock(offset, None);
                    return ControlFlow::Continue(start);
                }
            } else {
                self.cpu.wait_for_interrupt();
            }
        }
    }

    /// What the operator asks of a vCPU that is off, or of its VM: also to start that.
    #[cold]
    #[inline(never)]
    fn attend_while_off(&mut self) -> Option<Ending> {
        let ending = self.attend(Stand::Off);
        if ending.is_none() && self.vm.lock().is_start_asked {
            load(&self.vm, &mut self.cpu, Kernel::Guest);
        }
        ending
    }

    /// Registers and interrupts are as they were left when this vCPU was [cleared](Self::clear), but for those interrupts
    /// that somebody has touched since.
    pub(super) fn begin(&mut self, start: Start) {
        self.cpu.set_endian(start.endian);
        self.drop_senders();
        if self.vcpu.faults.is_endless() {
            self.vm.lock().faults_no_more(self.vcpu.id);
        }
        if !self.vcpu.begin_fresh(&self.vm, &mut self.cpu) {
            self.reset_interrupts();
        }
        self.vcpu.start(&mut self.regs, start, &self.cpu);
    }

    /// Registers and interrupts as at power-on.
    #[inline(never)]
    fn clear(&mut self) {
        self.forget_watch();
        self.set_alarm(None);
        self.cpu.reset_el1();
        self.drop_senders();
        self.reset_interrupts();
    }

    /// GICv2: those of SGIs whose requests were dropped.
    fn drop_senders(&mut self) {
        if self.vm.map().gic != Model::V3 {
            for group in 0..4 {
                let _ = self.vm.take_senders(self.vcpu.id, group);
            }
        }
    }

    fn reset_interrupts(&mut self) {
        let kick = self.vcpu.reset_interrupts(&self.vm, &mut self.cpu);
        self.kick(kick);
    }

    /// Sleeps until an interrupt arrives, unless one is waiting already.
    pub(super) fn stand_by(&mut self) {
        self.tell_of_call(true);
        if !self.vm.is_asked() && !self.is_woken() {
            self.cpu.wait_for_interrupt();
        }
    }

    /// Whether something waits that wakes a vCPU: an interrupt, masked or not, or an event that is not.
    fn is_woken(&mut self) -> bool {
        let is_listed = (0..self.vcpu.used).any(|index| {
            matches!(
                self.cpu.list_register(index).state,
                LrState::Pending | LrState::PendingActive
            )
        });
        is_listed
            || self.vcpu.sdei.due(&self.vm.map().board).is_some()
            || Held::of_vcpu(&self.vm, self.vcpu.id).has_pending()
    }

    /// SYSTEM_SUSPEND: sleeps until something wakes this vCPU, which then begins as if it had been off. The
    /// timers, interrupts and events are as they were but for the mask, and while it sleeps it can be stopped.
    pub(super) fn suspend_system(&mut self, start: Start) -> Option<Leave> {
        self.vcpu.note(&self.cpu, Event::SystemSuspend);
        self.tell_of_call(false);
        loop {
            self.take_interrupt();
            if self.vm.is_asked()
                && let Some(leave) = self.take_requests()
            {
                return Some(leave);
            }
            if self.is_woken() {
                break;
            }
            self.cpu.wait_for_interrupt();
        }
        // The virtual CPU interface was without power; what was in its list registers is not lost.
        let kick = self.vcpu.fold(&self.vm, &mut self.cpu);
        self.cpu.reset_virtual_interface();
        self.kick(kick);
        self.cpu.reset_core();
        self.cpu.set_endian(start.endian);
        self.forget_watch();
        let board = &self.vm.map().board;
        self.vcpu.wake(&mut self.regs, start, &self.cpu, board);
        None
    }

    /// CPU_OFF, in a handler or not: nothing of this vCPU's life so far is left behind.
    pub(super) fn power_off(&mut self) {
        self.vcpu.note(&self.cpu, Event::CpuOff);
        let (departure, outcome) =
            self.vm
                .lock()
                .turn_off(&mut self.vcpu, &mut self.cpu, (self.vm.map(), &self.vm));
        self.arrived(outcome);
        if departure == Departure::Lost {
            return self.be_lost();
        }
        self.clear();
        self.vm.lock().stopped(self.vcpu.id);
    }

    /// A sibling's CPU_ON takes this vCPU back: as CPU_OFF, but nobody sees it off.
    pub(super) fn give_back(&mut self) {
        self.leave_events();
        self.clear();
        self.vm.remind(Requests::START);
    }

    /// Firmware does not come back. Only the end of the VM is left to wait for.
    pub(super) fn be_lost(&mut self) {
        loop {
            self.take_interrupt();
            let requests = self.vm.take(self.vcpu.id);
            if requests.has(Requests::STOP) {
                return self.stop();
            }
            if requests.has(Requests::OPERATOR)
                && let Some(ending) = self.attend(Stand::Lost)
            {
                return self.end_vm(ending);
            }
            self.cpu.wait_for_interrupt();
        }
    }

    /// Ends what this vCPU runs of SDEI, and lets go of what it holds.
    fn leave_events(&mut self) {
        let outcome =
            self.vm
                .lock()
                .retire(&mut self.vcpu, &mut self.cpu, (self.vm.map(), &self.vm));
        self.arrived(outcome);
    }

    // The end of the VM.

    /// Says what is remembered of this vCPU and forgets it.
    fn retire(&mut self) {
        self.vm.report(&self.vcpu);
        self.leave_events();
        self.clear();
        self.vcpu.forget();
    }

    /// The VM ends and somebody else ends it.
    pub(super) fn stop(&mut self) {
        self.retire();
        self.vm.lock().life.leave(self.vcpu.id);
    }

    /// The VM ends and this vCPU ends it, unless another was faster.
    pub(super) fn end_vm(&mut self, ending: Ending) {
        let event = match ending.end {
            End::Off => Event::SystemOff,
            End::Reset(_) => Event::SystemReset,
        };
        self.vcpu.note(&self.cpu, event);
        let me = self.vcpu.id;
        let (ending, others) = {
            let mut shared = self.vm.lock();
            let Some(ending) = shared.stop(me, ending) else {
                // The other's STOP is on its way, and nobody starts any more: `wait_for_start` takes it.
                return;
            };
            (ending, shared.others(me))
        };
        let Ending { end, after } = ending;
        self.vm.announce(ending);
        for vcpu in others.iter() {
            self.vm.ask(vcpu, Requests::STOP);
        }
        while !self.vm.lock().life.is_frozen() {
            // Who waited for too long may have been kept from looking whether the last has come out.
            if !self.cpu.wait_for_siblings(end) && self.vm.lock().life.abandon() {
                return self.give_up();
            }
        }
        self.retire();
        self.vm.conclude();
        let kernel = match after {
            After::Restart => Some(Kernel::Guest),
            After::Dump => Some(Kernel::Capture),
            After::Stop | After::MachineOff => None,
        };
        if let Some(kernel) = kernel {
            return load(&self.vm, &mut self.cpu, kernel);
        }
        mediated::reset_all(&mut self.cpu, &self.vm);
        self.vm.lock().bury();
        self.vm.finish(after);
    }

    /// The guest has said these things by pvpanic. How this vCPU leaves it, if that is a crash that the VM ends with.
    #[cold]
    #[inline(never)]
    pub(super) fn told_of_panic(&mut self, events: u8) -> Option<Leave> {
        self.cpu.tell_of_panic(self.vcpu.id, events);
        let ending = self.vm.lock().life.end_by_crash(&self.vm.map().policy)?;
        (events & event::PANICKED != 0).then_some(Leave::End(ending))
    }

    /// This vCPU does nothing any more but fault. If that is so of all that are on, the guest has crashed.
    #[cold]
    #[inline(never)]
    pub(super) fn note_crash(&mut self) {
        let mut shared = self.vm.lock();
        let Some(ending) = shared.life.end_by_crash(&self.vm.map().policy) else {
            return;
        };
        if shared.note_fault(self.vcpu.id, ending) {
            drop(shared);
            self.vm.remind(Requests::OPERATOR);
        }
    }

    /// A sibling never leaves the guest. Its memory is not touched any more, and nobody starts in it: it costs this VM alone.
    #[cold]
    fn give_up(&mut self) {
        self.retire();
        self.vm.give_up();
        self.vm.lock().life.give_up();
        self.vm.finish(After::Stop);
    }
}

/// Loads the guest or its capture kernel, of a VM that is off or was frozen: everything is as at power-on, and the boot vCPU
/// starts. Does nothing if a vCPU may be in the guest.
pub fn load(vm: &impl Vm, cpu: &mut impl Hardware, kernel: Kernel) {
    if !vm.lock().begin_load(kernel, cpu, (&vm.map().board, vm)) {
        return;
    }
    mediated::reset_all(cpu, vm);
    // A block at a time, as each waits for the physical distributor.
    for block in vm.published().spi_blocks() {
        let _ = vgic::reset_spis(vm, block, |effects| cpu.perform(effects));
    }
    for vcpu in vm.map().affinities.all().iter() {
        // What was asked before concerns the guest that is no more.
        let _ = vm.take(vcpu);
    }
    let load = vm.write_memory(kernel);
    let is_to_end = {
        let mut shared = vm.lock();
        shared.end_load(load, kernel);
        shared.end_asked.is_some()
    };
    let mut requests = Requests::START;
    if is_to_end {
        requests = requests.and(Requests::OPERATOR);
    }
    vm.ask(BOOT_VCPU, requests);
}
