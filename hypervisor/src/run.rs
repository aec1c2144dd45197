//! A vCPU's life on its pCPU: wait to be switched on, run, and perform what each exit asks for.
//!
//! Read `Runner::run_guest` from top to bottom: that is what happens between two guest instructions.

use hv_core::exit::{self, MmioAccess};
use hv_core::id::{IntId, VcpuId, VcpuSet};
use hv_core::mailbox::Requests;
use hv_core::psci::{self, Decision};
use hv_core::regs::GuestRegs;
use hv_core::trace::Event;
use hv_core::vgic::affinity::Sgi;
use hv_core::vgic::lr::{ListReg, LrState, hcr};
use hv_core::vgic::{Frame, Read};
use hv_core::vm::{Action, Record, Vcpu, read_register, write_register};

use crate::fault::vector;
use crate::gic::v3;
use crate::percpu::{ExitEntry, Percpu};
use crate::sysregs::{self, LiveEl1};
use crate::vm::{End, Vm};
use crate::{console, fault, firmware, guest, log};

/// Most list registers an implementation has (IHI0069 12.4.5).
const MAX_LIST_REGS: usize = 16;
/// INTIDs from here on are not interrupts (IHI0069 2.2.1).
const FIRST_SPECIAL: u32 = 1020;

/// Why a vCPU leaves its guest.
enum Leave {
    /// CPU_OFF.
    Off,
    /// Somebody else ends the VM.
    Stop,
    /// This vCPU ends the VM.
    End(End),
}

/// A vCPU on its pCPU.
pub struct Runner {
    vm: &'static Vm,
    percpu: &'static Percpu,
    me: VcpuId,
    vcpu: Vcpu,
    regs: GuestRegs,
    /// The list registers do not hold what they should.
    is_vgic_stale: bool,
    /// How many list registers there are, and how many hold something.
    list_regs: usize,
    used: usize,
    /// The interrupts that are the hypervisor's own.
    maintenance: u32,
}

impl Runner {
    /// Takes over this pCPU for `vcpu`, which is off.
    pub fn new(vm: &'static Vm, percpu: &'static Percpu, vcpu: Vcpu, maintenance: u32) -> Self {
        let me = vcpu.id;
        vm.enter_pcpu(me);
        sysregs::reset_virtual_interface();
        Self {
            vm,
            percpu,
            me,
            vcpu,
            regs: GuestRegs::default(),
            is_vgic_stale: false,
            list_regs: sysregs::virtual_interface().0.min(MAX_LIST_REGS),
            used: 0,
            maintenance,
        }
    }

    /// For ever.
    pub fn run(mut self) -> ! {
        loop {
            self.wait_for_start();
            match self.run_guest() {
                Leave::Off => self.power_off(),
                Leave::Stop => self.stop(),
                Leave::End(end) => self.end_vm(end),
            }
        }
    }

    fn run_guest(&mut self) -> Leave {
        loop {
            if !self.vm.mailbox(self.me).is_empty() && self.take_requests() {
                return Leave::Stop;
            }
            self.vcpu.dispatch_events(&mut self.regs, &LiveEl1);
            if self.is_vgic_stale {
                self.refresh_vgic();
            }

            let vector = guest::enter(&mut self.regs);

            let (esr, far) = sysregs::syndrome();
            self.percpu.last_exits.push(ExitEntry {
                at: sysregs::now().0,
                vector,
                esr,
                pc: self.regs.pc,
            });
            match vector {
                vector::SYNC => {
                    let exit = exit::decode(esr, far, sysregs::fault_ipa_register());
                    let action = self.vcpu.handle_exit(
                        exit,
                        (esr, far),
                        &mut self.regs,
                        &mut LiveEl1,
                        &self.vm.map,
                    );
                    if let Some(leave) = self.perform(action) {
                        return leave;
                    }
                }
                vector::SERROR => sysregs::set_virtual_serror(true),
                _ => self.take_interrupt(),
            }
        }
    }

    /// Does what an exit asked for.
    #[inline]
    fn perform(&mut self, action: Action) -> Option<Leave> {
        match action {
            Action::Resume => None,
            Action::Psci(call) => self.call_psci(call),
            Action::Signal(target) => {
                self.vm.ask(target, Requests::SDEI_SIGNAL);
                None
            }
            Action::Sgi(sgi) => {
                self.send_sgi(sgi);
                None
            }
            Action::SgiGroup0(sgi) => {
                let effects = self.vm.lock().vgic.send_sgi_group0(sgi);
                self.kick(effects.kick);
                None
            }
            Action::Deactivate(intid) => {
                self.deactivate(intid);
                None
            }
            Action::Gic {
                frame,
                offset,
                access,
            } => {
                self.access_gic(frame, offset, access);
                None
            }
            Action::Uart { offset, access } => {
                self.access_uart(offset, access);
                None
            }
        }
    }

    /// Takes what others asked of this vCPU; says whether to stop.
    fn take_requests(&mut self) -> bool {
        let requests = self.vm.mailbox(self.me).take();
        if requests.has(Requests::STOP) {
            return true;
        }
        if requests.has(Requests::SDEI_SIGNAL) {
            self.vcpu.sdei.post_signal();
        }
        let sgis = requests.sgis();
        if sgis != 0 {
            self.vm.lock().vgic.take_sgis(self.me, sgis);
        }
        self.is_vgic_stale |= sgis != 0 || requests.has(Requests::SYNC);
        false
    }

    // Power.

    /// Off: only START and STOP matter, all else is dropped.
    fn wait_for_start(&mut self) {
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
                    }
                    start
                };
                if let Some(start) = start {
                    sysregs::reset_el1();
                    self.leave_vgic();
                    self.vcpu.start(&mut self.regs, start, sysregs::now());
                    return;
                }
            } else {
                sysregs::wait_for_interrupt();
            }
        }
    }

    fn call_psci(&mut self, call: psci::Call) -> Option<Leave> {
        let decision = {
            let mut shared = self.vm.lock();
            let map = &self.vm.map;
            let decision = shared.power.call(call, map, |ipa| map.is_ram(ipa));
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
            Decision::Off => return Some(Leave::Off),
            Decision::SystemOff => return Some(Leave::End(End::Off)),
            Decision::SystemReset(reset) => return Some(Leave::End(End::Reset(reset))),
        }
        None
    }

    /// Sleeps until an interrupt arrives, unless one is waiting already.
    fn stand_by(&self) {
        let is_waiting = (0..self.used).any(|index| {
            matches!(
                sysregs::list_register(index).state,
                LrState::Pending | LrState::PendingActive
            )
        });
        if !is_waiting
            && !self.vcpu.sdei.is_dispatchable()
            && self.vm.mailbox(self.me).is_empty()
            && !self.vm.lock().vgic.has_pending(self.me)
        {
            sysregs::wait_for_interrupt();
        }
    }

    /// CPU_OFF, in a handler or not: nothing of this vCPU's life so far is left behind.
    fn power_off(&mut self) {
        self.vcpu.note(sysregs::now(), Event::CpuOff);
        self.vcpu.sdei.reset();
        sysregs::reset_el1();
        self.leave_vgic();
        self.vm.lock().power.stopped(self.me);
    }

    /// The VM ends and somebody else ends it.
    fn stop(&mut self) {
        self.retire();
        self.vm.lock().stopped.insert(self.me);
    }

    /// The VM ends and this vCPU ends it, unless another was faster.
    fn end_vm(&mut self, end: End) {
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
        while self.vm.lock().stopped != others {
            core::hint::spin_loop();
        }
        self.retire();
        log!("@end vm={id}");
        match end {
            End::Off => {
                firmware::system_off();
                log!("this machine cannot be switched off by software; it is halted");
                fault::park();
            }
            End::Reset(_) => {
                self.vm.reset();
                self.vm.load();
            }
        }
    }

    /// Says what is remembered of this vCPU and forgets it.
    fn retire(&mut self) {
        sysregs::reset_el1();
        self.leave_vgic();
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
        self.vcpu.sdei.reset();
        self.vcpu.forget();
    }

    // Interrupts.

    /// Takes one physical interrupt.
    fn take_interrupt(&mut self) {
        let intid = sysregs::acknowledge();
        if intid >= FIRST_SPECIAL {
            return;
        }
        sysregs::drop_priority(intid);
        match intid {
            v3::DOORBELL => sysregs::deactivate(intid),
            v3::STOP => fault::park(),
            _ if intid == self.maintenance => {
                self.is_vgic_stale = true;
                // The line stays up until the list registers are refreshed, so that comes first.
                self.refresh_vgic();
                sysregs::deactivate(intid);
            }
            _ if intid == self.vm.uart_intid => {
                self.receive();
                sysregs::deactivate(intid);
            }
            // The guest's own: it stays active until the guest deactivates it.
            _ => {
                let kick = {
                    let mut shared = self.vm.lock();
                    let effects = shared.vgic.forward(self.me, IntId(intid));
                    self.vm.perform(&effects)
                };
                self.kick(kick);
            }
        }
    }

    /// Has everybody in `set` look at the virtual GIC, this vCPU included.
    #[inline]
    fn kick(&mut self, set: VcpuSet) {
        self.is_vgic_stale |= self.vm.kick(self.me, set);
    }

    fn send_sgi(&mut self, sgi: Sgi) {
        let requests = Requests::sgi(sgi.intid.0);
        for target in sgi.targets.iter() {
            if target == self.me {
                self.vm.mailbox(target).post(requests);
            } else {
                self.vm.ask(target, requests);
            }
        }
    }

    /// The list registers in use, as the hardware has them.
    #[inline]
    fn read_list_regs(&self) -> [ListReg; MAX_LIST_REGS] {
        let mut lrs = [ListReg::EMPTY; MAX_LIST_REGS];
        for (index, lr) in lrs.iter_mut().enumerate().take(self.used) {
            *lr = sysregs::list_register(index);
        }
        lrs
    }

    #[inline]
    fn write_list_regs(&mut self, lrs: &[ListReg; MAX_LIST_REGS], used: usize) {
        let written = used.max(self.used).min(self.list_regs);
        for (index, &lr) in lrs.iter().enumerate().take(written) {
            let lr = if index < used { lr } else { ListReg::EMPTY };
            sysregs::set_list_register(index, lr);
        }
        self.used = used;
    }

    /// Folds the list registers into the virtual GIC and chooses again what they hold.
    fn refresh_vgic(&mut self) {
        let mut lrs = self.read_list_regs();
        let eoi_count = hcr::eoi_count(sysregs::ich_hcr());
        let (entry, kick) = {
            let mut shared = self.vm.lock();
            let (entry, effects) =
                shared
                    .vgic
                    .populate(self.me, &mut lrs[..self.list_regs], eoi_count);
            (entry, self.vm.perform(&effects))
        };
        self.write_list_regs(&lrs, entry.used);
        sysregs::set_ich_hcr(entry.hcr);
        self.is_vgic_stale = false;
        self.kick(kick);
    }

    /// Takes this vCPU out of the virtual GIC: nothing pending, nothing active, list registers empty.
    fn leave_vgic(&mut self) {
        let mut lrs = self.read_list_regs();
        let kick = {
            let mut shared = self.vm.lock();
            let effects = shared.vgic.reset_vcpu(self.me, &mut lrs[..self.list_regs]);
            self.vm.perform(&effects)
        };
        self.write_list_regs(&lrs, 0);
        sysregs::reset_virtual_interface();
        self.vm.kick(self.me, kick);
        self.is_vgic_stale = true;
    }

    fn deactivate(&mut self, intid: IntId) {
        let lrs = self.read_list_regs();
        let eoi_count = hcr::eoi_count(sysregs::ich_hcr());
        let kick = {
            let mut shared = self.vm.lock();
            let folded = shared.vgic.fold(self.me, &lrs[..self.list_regs], eoi_count);
            let kick = self.vm.perform(&folded);
            let effects = shared.vgic.deactivate(self.me, intid);
            kick.union(self.vm.perform(&effects))
        };
        self.write_folded();
        self.kick(kick);
    }

    fn access_gic(&mut self, frame: Frame, offset: u64, access: MmioAccess) {
        let lrs = self.read_list_regs();
        let eoi_count = hcr::eoi_count(sysregs::ich_hcr());
        let (read, kick) = {
            let mut shared = self.vm.lock();
            let folded = shared.vgic.fold(self.me, &lrs[..self.list_regs], eoi_count);
            let mut kick = self.vm.perform(&folded);
            let read = if access.is_write {
                let value = read_register(&self.regs, access.rt);
                let effects = shared.vgic.write(frame, offset, access.size, value);
                kick = kick.union(self.vm.perform(&effects));
                None
            } else {
                Some(shared.vgic.read(self.me, frame, offset, access.size))
            };
            (read, kick)
        };
        self.write_folded();
        self.kick(kick);
        match read {
            Some(Read::Value(value)) => {
                write_register(&mut self.regs, access.rt, access.extend(value));
            }
            // The answer is in others' list registers; the guest asks again when they have looked.
            Some(Read::Again { kick }) => {
                self.kick(kick);
                return;
            }
            None => {}
        }
        self.regs.pc = self.regs.pc.wrapping_add(4);
    }

    /// After a fold the list registers' contents are in the virtual GIC; they are chosen anew before
    /// the next entry.
    fn write_folded(&mut self) {
        self.write_list_regs(&[ListReg::EMPTY; MAX_LIST_REGS], 0);
        self.is_vgic_stale = true;
    }

    // The UART.

    fn access_uart(&mut self, offset: u64, access: MmioAccess) {
        let (outcome, kick) = {
            let mut shared = self.vm.lock();
            let outcome = if access.is_write {
                let value = read_register(&self.regs, access.rt) as u32;
                shared.uart.write(offset, access.size, value)
            } else {
                let (value, outcome) = shared.uart.read(offset, access.size);
                write_register(&mut self.regs, access.rt, access.extend(u64::from(value)));
                outcome
            };
            (outcome, self.set_uart_line(&mut shared, outcome.line))
        };
        self.kick(kick);
        if let Some(byte) = outcome.transmit {
            console::write_guest(byte);
        }
        if outcome.room {
            console::set_receive(true);
        }
        self.regs.pc = self.regs.pc.wrapping_add(4);
    }

    /// Bytes have arrived: as many as the guest's UART has room for.
    fn receive(&mut self) {
        let mut set = VcpuSet::EMPTY;
        loop {
            let mut shared = self.vm.lock();
            if !shared.uart.can_receive() {
                drop(shared);
                console::set_receive(false);
                break;
            }
            let Some(byte) = console::read() else {
                break;
            };
            let line = shared.uart.receive(byte);
            set = set.union(self.set_uart_line(&mut shared, line));
        }
        self.kick(set);
    }

    fn set_uart_line(&self, shared: &mut crate::vm::Shared, line: bool) -> VcpuSet {
        if core::mem::replace(&mut shared.uart_line, line) == line {
            return VcpuSet::EMPTY;
        }
        let effects = shared.vgic.set_line(IntId(self.vm.uart_intid), None, line);
        self.vm.perform(&effects)
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
