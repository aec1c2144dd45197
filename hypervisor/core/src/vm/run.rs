//! The life of a vCPU on its pCPU: it waits to be switched on, runs, and performs what each exit asks for.
//!
//! Read [`VcpuLoop::run_guest`] from top to bottom: that is what happens between two instructions of the guest.

mod evidence;
mod gwdt;
mod interrupts;
mod nmi;
mod operator;
mod pause;
mod power;
mod short;
mod state;
mod traced;
mod undescribed;
mod watched;

pub use operator::{Answer, Lateness, Stand};
pub use power::load;
pub use state::{Refusal, State};
pub use traced::TracedCall;

use core::ops::ControlFlow;

use self::short::Rest;
use self::traced::OpenCall;
use super::{
    Action, Deferred, Ending, Hardware, MediatedAccess, Next, Outcome, Saved, Synchronous,
    Syndrome, Vcpu, Vm, mediated,
};
use crate::exit;
use crate::id::VcpuSet;
use crate::ladder::Ladder;
use crate::mailbox::Requests;
use crate::regs::GuestRegs;
use crate::sdei::Fate;
use crate::time::Instant;
use crate::vgic;
use crate::watch::Watch;

/// Why a vCPU leaves its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// CPU_OFF.
    Off,
    /// Somebody else ends the VM.
    Stop,
    /// This vCPU ends the VM.
    End(Ending),
    /// A sibling has taken this vCPU back from the event it was parked in.
    Reclaimed,
    /// Firmware never comes back from what the vCPU asked of it, or from its event.
    Lost,
}

/// A vCPU on its pCPU. What an exit needs on its short way lies together, and is reached by one pointer.
#[repr(C)]
pub struct VcpuLoop<V, C> {
    regs: GuestRegs,
    vm: V,
    cpu: C,
    /// What the short way has left to do, when the guest has been left.
    rest: Rest,
    /// Begins the short way of a synchronous exit.
    synchronous: Synchronous<V, C>,
    vcpu: Vcpu,
    /// The watchdog over this vCPU, if the guest has one.
    watch: Option<Watch>,
    /// The NMI that this vCPU has had and that has come to nothing yet.
    ladder: Option<Ladder>,
    /// When this vCPU is to look at the guest's own watchdog.
    gwdt_due: Option<Instant>,
    /// A watchdog or an NMI has had an alarm of its own here.
    is_watched: bool,
    /// The call that is being made and has not been told of, of a guest whose calls are traced.
    open_call: Option<OpenCall>,
}

impl<V: Vm, C: Hardware> VcpuLoop<V, C> {
    /// Takes over this pCPU for `vcpu`, which is off.
    pub fn new(vm: V, cpu: C, vcpu: Vcpu) -> Self {
        let config = vm.map().watchdog;
        let synchronous = C::synchronous(cpu.traces_calls());
        let mut this = Self {
            watch: config.map(|config| Watch::new(cpu.now(), config.limit)),
            regs: GuestRegs::default(),
            vm,
            cpu,
            rest: Rest::Events,
            synchronous,
            vcpu,
            ladder: None,
            gwdt_due: None,
            is_watched: config.is_some(),
            open_call: None,
        };
        this.vcpu.move_to(&this.cpu);
        this.cpu.reset_virtual_interface();
        // List registers are UNKNOWN out of a warm reset (IHI0069 12.4); from here on only those that are in use are written.
        for index in 0..this.cpu.list_regs() {
            this.cpu.set_list_register(index, 0);
        }
        this.cpu.reset_el1();
        this.set_alarm(None);
        this
    }

    /// For ever.
    pub fn run(&mut self) -> ! {
        loop {
            match self.wait_for_start() {
                ControlFlow::Continue(start) => self.begin(start),
                ControlFlow::Break(None) => {
                    self.stop();
                    continue;
                }
                ControlFlow::Break(Some(ending)) => {
                    self.end_vm(ending);
                    continue;
                }
            }
            self.cpu.show_guest(Some(&self.regs));
            let leave = self.run_guest();
            self.tell_of_call(false);
            self.cpu.show_guest(None);
            match leave {
                Leave::Off => self.power_off(),
                Leave::Reclaimed => self.give_back(),
                Leave::Stop | Leave::End(_) | Leave::Lost => self.leave_for_good(leave),
            }
        }
    }

    /// The guest is not entered again before it is loaded: what it has in this pCPU may be dumped.
    #[cold]
    #[inline(never)]
    fn leave_for_good(&mut self, leave: Leave) {
        self.vm.keep_registers(self.vcpu.id, &self.regs);
        match leave {
            Leave::End(ending) => self.end_vm(ending),
            Leave::Lost => {
                self.stop_reading_clock();
                self.be_lost();
            }
            Leave::Off | Leave::Reclaimed | Leave::Stop => self.stop(),
        }
    }

    fn run_guest(&mut self) -> Leave {
        loop {
            if self.vm.is_asked()
                && let Some(leave) = self.take_requests()
            {
                return leave;
            }
            while self
                .vcpu
                .dispatch_events(&mut self.regs, &self.cpu, &self.vm.map().board)
            {
                self.dispatch_shared();
            }
            if self.vcpu.is_vgic_stale {
                self.refresh_vgic();
            }

            C::enter(self, self.synchronous);
            let leave = match self.rest {
                Rest::Exit => self.handle_exit(),
                Rest::Events => None,
                Rest::Interrupt(interrupt) => {
                    self.handle_interrupt(interrupt);
                    None
                }
                Rest::Watched(interrupt) => {
                    self.look_in_time();
                    self.handle_interrupt(interrupt);
                    None
                }
                Rest::Requests(requests) => self.follow_requests(requests),
                Rest::SError => {
                    self.cpu.pass_serror_on();
                    None
                }
            };
            if let Some(leave) = leave {
                return leave;
            }
        }
    }

    /// Settles a synchronous exit.
    #[inline]
    fn handle_exit(&mut self) -> Option<Leave> {
        let syndrome = self.cpu.syndrome();
        let Syndrome { esr, far, hpfar } = syndrome;
        let (regs, cpu, map) = (&mut self.regs, &mut self.cpu, self.vm.map());
        if exit::uses_late_register(esr)
            && let Some(done) = self.vcpu.at_once(syndrome, Saved::All, regs, map)
        {
            self.send(done);
            return None;
        }
        let exit = exit::decode(esr, far, hpfar);
        let action = self.vcpu.handle_exit(exit, (esr, far), regs, cpu, map);
        self.perform(action, (esr, far))
    }

    /// Does what an exit asked for, of which `syndrome` is ESR_EL2 and FAR_EL2.
    #[inline]
    fn perform(&mut self, action: Action, syndrome: (u64, u64)) -> Option<Leave> {
        match action {
            Action::Resume => None,
            Action::Trng(call) => {
                self.cpu.answer_trng(call, &mut self.regs);
                None
            }
            Action::Signal(target) => {
                self.vm.ask(target, Requests::SDEI_SIGNAL);
                None
            }
            Action::Decode(access) => self.decode(access, syndrome),
            Action::Walk(abort) => {
                self.refuse_walk(abort, syndrome);
                None
            }
            Action::GuardedAbort => {
                self.handle_guarded_abort();
                None
            }
            Action::Mediated(access) => {
                self.access_mediated(access);
                None
            }
            Action::Locked(deferred) => {
                let outcome = self.finish(deferred);
                self.follow(outcome)
            }
        }
    }

    /// Does what needs the lock of a mediated device.
    #[cold]
    #[inline(never)]
    fn access_mediated(&mut self, access: MediatedAccess) {
        let (vcpu, regs, cpu) = (&mut self.vcpu, &mut self.regs, &mut self.cpu);
        let outcome = mediated::access(access, vcpu, regs, cpu, &self.vm);
        self.arrived(outcome);
    }

    /// Does what needs a lock. On the way of every access to a device: not to be shared with the rare one of
    /// `undescribed.rs`.
    #[inline(always)]
    fn finish(&mut self, deferred: Deferred) -> Outcome {
        let (vcpu, regs, cpu) = (&mut self.vcpu, &mut self.regs, &mut self.cpu);
        let (vm, map) = (&self.vm, self.vm.map());
        Outcome::kick(match deferred {
            Deferred::Gic {
                frame,
                offset,
                access,
            } => vcpu.access_gic((frame, offset), access, regs, vm, cpu),
            Deferred::SgiGroup0(sgi) => vgic::send_sgi_group0(vm, sgi),
            Deferred::Deactivate(intid) => vcpu.deactivate(intid, vm, cpu),
            other => return vm.lock().finish(other, vcpu, regs, cpu, (map, vm)),
        })
    }

    /// Does what is left when the lock has been released.
    #[inline]
    fn follow(&mut self, outcome: Outcome) -> Option<Leave> {
        self.arrived(outcome);
        match outcome.next {
            Next::Continue => {}
            Next::Start(vcpu) => self.vm.ask(vcpu, Requests::START),
            Next::Transmit(byte) => self.cpu.transmit(byte),
            Next::TellOfPanic(events) => return self.told_of_panic(events),
            Next::Gwdt => self.update_gwdt_deadline(),
            Next::Suspend => self.stand_by(),
            Next::SuspendSystem(start) => return self.suspend_system(start),
            Next::Off => return Some(Leave::Off),
            Next::End(end) => {
                let policy = &self.vm.map().policy;
                let ending = self.vm.lock().life.end_by_guest(end, policy);
                return Some(Leave::End(ending));
            }
        }
        None
    }

    /// Has everybody in `set` look at the virtual GIC, this vCPU included.
    #[inline]
    fn kick(&mut self, set: VcpuSet) {
        if !set.is_empty() {
            self.kick_all(set);
        }
    }

    #[inline(never)]
    fn kick_all(&mut self, mut set: VcpuSet) {
        let me = self.vcpu.id;
        if set.contains(me) {
            self.vcpu.must_refresh();
        }
        set.remove(me);
        for vcpu in set.iter() {
            self.vm.ask(vcpu, Requests::SYNC);
        }
    }

    /// Has everybody in `set` look at its events; raised ones are taken from the mailbox by this vCPU, too.
    #[inline(never)]
    fn call_attention(&self, set: VcpuSet) {
        for vcpu in set.iter() {
            self.post(vcpu, Requests::SDEI_LOOK);
        }
    }

    /// Has everybody look whom it concerns.
    #[inline]
    fn arrived(&mut self, outcome: Outcome) {
        if !outcome.kick.is_empty() {
            self.kick(outcome.kick);
        }
        if !outcome.look.is_empty() {
            self.call_attention(outcome.look);
        }
    }

    fn refresh_vgic(&mut self) {
        let kick = self.vcpu.refresh(&self.vm, &mut self.cpu);
        self.kick(kick);
    }

    /// The alarm has gone off: a delayed signal may have arrived, and may have done harm.
    fn take_alarm(&mut self) {
        self.cpu.look_after();
        let was_endless = self.vcpu.faults.is_endless();
        let (regs, cpu) = (&self.regs, &self.cpu);
        if let Some(kind) = self.vcpu.faults.look(regs, cpu) {
            cpu.tell_of_fault(self.vcpu.id, kind, regs.pc, cpu.exception().far);
        }
        if self.vcpu.faults.is_endless() {
            self.note_crash();
        } else if was_endless {
            self.vm.lock().faults_no_more(self.vcpu.id);
        }
        let now = self.cpu.now();
        let next = self.vcpu.sdei.tick(now);
        self.ring_watch(now);
        self.climb(now);
        self.check_gwdt_deadline(now);
        self.set_alarm(next);
        self.vm.remind(Requests::SDEI_LOOK);
    }

    // Requests and events.

    /// Takes what others asked of this vCPU; says whether to leave.
    fn take_requests(&mut self) -> Option<Leave> {
        let requests = self.vm.take(self.vcpu.id);
        self.follow_requests(requests)
    }

    fn follow_requests(&mut self, requests: Requests) -> Option<Leave> {
        if requests.has(Requests::STOP) {
            return Some(Leave::Stop);
        }
        // Nobody starts a vCPU that is on, unless to take it back. If nobody waits for its start, what was posted
        // came late: the vCPU has begun already.
        if requests.has(Requests::START) && self.vm.lock().is_to_start(self.vcpu.id) {
            return Some(Leave::Reclaimed);
        }
        if requests.has(Requests::SDEI_SIGNAL) {
            if let Some(at) = self.vcpu.sdei.post_signal(self.cpu.now()) {
                self.set_alarm(Some(at));
            }
            if let Some(leave) = self.note_fate() {
                return Some(leave);
            }
        }
        if requests.has(Requests::SDEI_LOOK) {
            self.vcpu.sdei.look();
            self.vm.lock().take_raised(&mut self.vcpu);
            if let Some(leave) = self.note_fate() {
                return Some(leave);
            }
        }
        if requests.is_operator()
            && let Some(leave) = self.follow_operator(requests)
        {
            return Some(leave);
        }
        // What SYNC is about comes first: an SGI may have been sent after it.
        if requests.has(Requests::SYNC) {
            self.vcpu.must_refresh();
        }
        if requests.sgis() != 0 {
            self.take_sgis(requests.sgis());
        }
        None
    }

    /// What firmware's faults have made of this vCPU.
    fn note_fate(&mut self) -> Option<Leave> {
        match self.vcpu.sdei.fate() {
            Fate::Sound => None,
            Fate::Deaf => {
                self.vcpu.must_refresh();
                None
            }
            Fate::Stuck => Some(Leave::Lost),
        }
    }

    /// Takes a shared event that is due here, unless a sibling is faster.
    fn dispatch_shared(&mut self) {
        self.vm.lock().dispatch(
            &mut self.vcpu,
            &mut self.regs,
            &self.cpu,
            &self.vm.map().board,
        );
    }
}
