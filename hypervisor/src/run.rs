//! A vCPU's life on its pCPU: wait to be switched on, run, and perform what each exit asks for.
//!
//! Read `Runner::run_guest` from top to bottom: that is what happens between two guest instructions.

use hv_core::exit;
use hv_core::id::VcpuId;
use hv_core::mailbox::Requests;
use hv_core::regs::GuestRegs;
use hv_core::stop::watchdog::Watch;
use hv_core::trng;
use hv_core::vm::{Action, Vcpu};

use crate::breakage;
use crate::entropy;
use crate::fault::vector;
use crate::gic;
use crate::guest;
use crate::percpu::{ExitEntry, Percpu};
use crate::sysregs::{self, LiveEl1};
use crate::vm::{End, Vm};
use crate::watchdog;

mod events;
mod interrupts;
mod power;
mod uart;

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
    /// A sibling has taken this vCPU back from the event it was parked in.
    Reclaimed,
    /// Firmware never comes back from what the vCPU asked of it, or from its event.
    Lost,
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
    own: OwnIntids,
    /// Over its neighbour.
    watch: Option<Watch>,
}

/// The interrupts of each pCPU that are the hypervisor's own, besides its doorbells.
#[derive(Clone, Copy, Debug)]
pub struct OwnIntids {
    /// The virtual interface wants to be looked after (IHI0069 12.4).
    pub maintenance: u32,
    /// The EL2 physical timer.
    pub alarm: u32,
}

impl Runner {
    /// Takes over this pCPU for `vcpu`, which is off.
    pub fn new(vm: &'static Vm, percpu: &'static Percpu, vcpu: Vcpu, own: OwnIntids) -> Self {
        let me = vcpu.id;
        vm.enter_pcpu(me);
        gic::reset_virtual_interface();
        Self {
            vm,
            percpu,
            me,
            vcpu,
            regs: GuestRegs::default(),
            is_vgic_stale: false,
            list_regs: gic::virtual_interface().0.min(MAX_LIST_REGS),
            used: 0,
            own,
            watch: watchdog::begin(),
        }
    }

    /// For ever.
    pub fn run(mut self) -> ! {
        self.set_alarm(None);
        loop {
            self.wait_for_start();
            self.percpu.enter_guest(self.vm.id, self.me, &self.regs);
            let leave = self.run_guest();
            self.percpu.leave_guest();
            match leave {
                Leave::Off => self.power_off(),
                Leave::Stop => self.stop(),
                Leave::End(end) => self.end_vm(end),
                Leave::Reclaimed => self.give_back(),
                Leave::Lost => self.be_lost(),
            }
        }
    }

    fn run_guest(&mut self) -> Leave {
        loop {
            if !self.vm.mailbox(self.me).is_empty()
                && let Some(leave) = self.take_requests()
            {
                return leave;
            }
            while self
                .vcpu
                .dispatch_events(&mut self.regs, &LiveEl1, &self.vm.map.board)
            {
                self.dispatch_shared();
            }
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
            Action::Trng(call) => {
                if !breakage::at_exit(self.percpu.id, &mut self.regs) {
                    trng::answer(call, entropy::Source::find(), &mut self.regs);
                }
                None
            }
            Action::Signal(target) => {
                self.vm.ask(target, Requests::SDEI_SIGNAL);
                None
            }
            Action::Sdei(call) => {
                self.call_sdei(call);
                None
            }
            Action::Raise { event, target } => {
                self.raise(event, target);
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

    /// Takes what others asked of this vCPU; says whether to leave.
    fn take_requests(&mut self) -> Option<Leave> {
        let requests = self.vm.mailbox(self.me).take();
        if requests.has(Requests::STOP) {
            return Some(Leave::Stop);
        }
        if requests.has(Requests::START) {
            // Nobody starts a vCPU that is on, unless to take it back.
            return Some(Leave::Reclaimed);
        }
        if requests.has(Requests::SDEI_SIGNAL)
            && let Some(leave) = self.take_signal()
        {
            return Some(leave);
        }
        if requests.has(Requests::SDEI_LOOK)
            && let Some(leave) = self.take_raised()
        {
            return Some(leave);
        }
        let sgis = requests.sgis();
        if sgis != 0 {
            self.vm.lock().vgic.take_sgis(self.me, sgis);
        }
        self.is_vgic_stale |= sgis != 0 || requests.has(Requests::SYNC);
        None
    }
}
