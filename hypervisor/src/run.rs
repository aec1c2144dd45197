//! The pCPU that a vCPU runs on: [`hv_core::vm::VcpuLoop`] decides, and this performs it in hardware.

mod el1;
mod exits;
mod flash;
mod mediated;
mod told;

use core::sync::atomic::{AtomicBool, Ordering};

use hv_abi::operator::NMI_SYNDROME;
use hv_bundle::Backing;
use hv_core::evidence::{Access, Decision, Place};
use hv_core::id::{IntId, PcpuId, VcpuId};
use hv_core::operator::Came;
use hv_core::patience::Standstill;
use hv_core::pl011::Image;
use hv_core::psci::Endian;
use hv_core::regs::GuestRegs;
use hv_core::stop::watchdog::Watch;
use hv_core::time::Instant;
use hv_core::trng;
use hv_core::vgic::interface::InterfaceState;
use hv_core::vgic::{Effects, ListReg, MAX_LIST_REGS};
use hv_core::vm::{
    self, Answer, BOOT_VCPU, End, FaultKind, Hardware, Interrupt, Kernel, Synchronous, Syndrome,
    TracedCall, Vcpu, VcpuLoop,
};

use crate::gic;
use crate::guest::{self, Handlers};
use crate::percpu::{self, Percpu};
use crate::stop::{self, Cause, stop_machine};
use crate::sysregs::{self, translation};
use crate::vm::{Seat, Vm};
use crate::{console, entropy, fault_injection, operator, watchdog};

/// INTIDs from here on are not interrupts (IHI0069 2.2.1).
const FIRST_SPECIAL: u32 = 1020;
/// How long those vCPUs of a VM that ends which have not left yet may say nothing, in microseconds. What each says is
/// bounded, and at 115200 baud takes a second; who waits for the console says nothing meanwhile, but another does.
const LEAVE_LIMIT_US: u64 = 30_000_000;

/// Whether guests' calls are told of on the console.
static TRACES_CALLS: AtomicBool = AtomicBool::new(false);

/// Guests' calls are told of from now on, by each vCPU that is yet to be started.
pub fn trace_calls() {
    TRACES_CALLS.store(true, Ordering::Relaxed);
}

/// The interrupts of each pCPU that are the hypervisor's own, besides its doorbells.
#[derive(Clone, Copy, Debug)]
pub struct OwnIntids {
    /// The virtual interface wants to be looked after (IHI0069 12.4).
    pub maintenance: u32,
    /// The EL2 physical timer.
    pub alarm: u32,
    /// The console's UART, which one pCPU takes.
    pub console: u32,
}

/// A pCPU and the vCPU it has.
pub struct Pcpu {
    vm: &'static Vm,
    percpu: &'static Percpu,
    /// The RAM of what it runs.
    memory: &'static Backing,
    own: OwnIntids,
    gic: gic::Interface,
    /// The private interrupts that are the guest's, a bit each.
    guests: u32,
    list_regs: usize,
    /// Over its neighbour.
    watch: Option<Watch>,
    /// How long the siblings have said nothing, which must leave the guest that this vCPU ends.
    standstill: Option<Standstill>,
}

/// Gives this pCPU to `vcpu`, which is off.
pub fn take_over(
    vm: &'static Vm,
    percpu: &'static Percpu,
    vcpu: Vcpu,
    own: OwnIntids,
) -> VcpuLoop<Seat, Pcpu> {
    vm.enter_pcpu(vcpu.id);
    percpu.assign(vm.id, vcpu.id);
    let seat = Seat::of(vm, vcpu.id);
    VcpuLoop::new(seat, Pcpu::new(vm, percpu, own), vcpu)
}

/// Has the guest of a VM that was never loaded start.
pub fn load(vm: &'static Vm, percpu: &'static Percpu, own: OwnIntids) {
    let seat = Seat::of(vm, BOOT_VCPU);
    vm::load(&seat, &mut Pcpu::new(vm, percpu, own), Kernel::Guest);
}

impl vm::Pcpu for Pcpu {
    #[inline]
    fn id_register(&self, crm: u32, op2: u32) -> u64 {
        sysregs::id_register(crm, op2)
    }

    #[inline]
    fn now(&self) -> Instant {
        sysregs::now()
    }

    fn interface_state(&self) -> InterfaceState {
        gic::interface_state()
    }

    fn set_ich_vmcr(&mut self, value: u64) {
        sysregs::gic::set_ich_vmcr(value);
    }

    #[inline]
    fn guards_ram(&self) -> bool {
        self.vm.guards_ram()
    }

    #[cold]
    fn tell_of_panic(&self, vcpu: VcpuId, events: u8) {
        told::of_panic(self.vm, vcpu, events);
    }

    #[cold]
    fn tell_of_fault(&self, vcpu: VcpuId, kind: FaultKind, pc: u64, address: u64) {
        told::of_fault(self.vm, vcpu, kind, (pc, address));
    }
}

impl Hardware for Pcpu {
    #[inline]
    fn list_regs(&self) -> usize {
        self.list_regs
    }

    #[inline]
    fn list_register(&self, index: usize) -> ListReg {
        gic::list_register(index)
    }

    #[inline]
    fn list_register_word(&self, value: ListReg) -> u64 {
        gic::list_register_word(value)
    }

    #[inline]
    fn set_list_register(&mut self, index: usize, word: u64) {
        self.gic.set_list_register(index, word);
    }

    #[inline]
    fn empty_list_registers(&self) -> u64 {
        self.gic.empty_list_registers()
    }

    #[inline]
    fn ended_list_registers(&self) -> u64 {
        self.gic.ended_list_registers()
    }

    #[inline]
    fn deactivations(&self) -> u32 {
        gic::deactivations()
    }

    #[inline]
    fn set_ich_hcr(&mut self, value: u64) {
        gic::set_ich_hcr(value);
    }

    fn reset_virtual_interface(&mut self) {
        gic::reset_virtual_interface();
    }

    #[inline]
    fn perform(&mut self, effects: &Effects) {
        if let Some(change) = effects.phys {
            gic::change_distributor(change, &self.vm.pcpus);
        }
        let owner = self.vm.pcpus.get(effects.deactivate.owner().index());
        for intid in effects.deactivate.iter() {
            match owner {
                // Of an SPI, or of a PPI that is active on this pCPU.
                Some(&pcpu) if intid.is_private() && pcpu != sysregs::mpidr() => {
                    gic::get().clear_active_ppi(pcpu, intid);
                }
                _ => self.gic.deactivate(intid.0),
            }
        }
    }

    fn lines(&self, owner: VcpuId, block: u32) -> Option<u32> {
        gic::get().lines(*self.vm.pcpus.get(owner.index())?, block)
    }

    #[inline(always)]
    fn acknowledge(&mut self) -> Interrupt {
        let (intid, word) = self.gic.acknowledge();
        if intid < 32 && self.guests >> intid & 1 != 0 {
            self.gic.drop_priority(word);
            return Interrupt::Guest(IntId(intid));
        }
        if intid >= FIRST_SPECIAL {
            return Interrupt::None;
        }
        self.gic.drop_priority(word);
        match intid {
            gic::DOORBELL => {
                self.gic.deactivate(word);
                Interrupt::None
            }
            gic::STOP => {
                self.gic.deactivate(word);
                Interrupt::Stop
            }
            _ if intid == self.own.maintenance => Interrupt::Maintenance(intid),
            _ if intid == self.own.console => Interrupt::Console(intid),
            _ if intid == self.own.alarm => Interrupt::Alarm(intid),
            _ if self.is_mediated(intid) => Interrupt::Device(IntId(intid)),
            _ => Interrupt::Guest(IntId(intid)),
        }
    }

    #[inline]
    fn deactivate(&mut self, intid: u32) {
        self.gic.deactivate(intid);
    }

    fn set_alarm(&mut self, at: Option<Instant>) {
        let look = self.watch.as_ref().map(Watch::due);
        sysregs::set_alarm(at.into_iter().chain(look).min());
    }

    fn look_after(&mut self) {
        if let Some(watch) = &mut self.watch {
            watchdog::look(watch, self.percpu);
        }
    }

    fn wait_for_siblings(&mut self, end: End) -> bool {
        let rate = sysregs::counter_frequency();
        self.percpu.beat();
        self.look_after();
        // Mostly the watchdog has found one that is stuck before.
        let mine =
            |id: PcpuId| percpu::of(id).filter(|percpu| self.vm.pcpus.contains(&percpu.mpidr));
        let (mut lines, mut is_one_stuck) = (0u32, false);
        for percpu in stop::pcpus().filter_map(mine) {
            is_one_stuck |= watchdog::is_stuck(percpu.id);
            if percpu.id != self.percpu.id {
                lines = lines.wrapping_add(percpu.beats());
            }
        }
        let standstill = self
            .standstill
            .get_or_insert_with(|| Standstill::new(rate, lines));
        let still = standstill.look(sysregs::now(), lines);
        if is_one_stuck || still > rate.ticks_in_us(LEAVE_LIMIT_US) {
            if !self.vm.is_last() {
                return false;
            }
            let cause = match end {
                End::Off => Cause::Shutdown,
                End::Reset(_) => Cause::Reboot,
            };
            stop_machine(cause, &|| ());
        }
        sysregs::yield_pcpu();
        true
    }

    fn answer_stop(&mut self) {
        stop::take_ipi(self.percpu);
    }

    fn traces_calls(&self) -> bool {
        TRACES_CALLS.load(Ordering::Relaxed)
    }

    fn synchronous<V: vm::Vm>(are_traced: bool) -> Synchronous<V, Self> {
        if are_traced {
            exits::traced
        } else {
            exits::synchronous
        }
    }

    fn tell_of_call(&self, call: &TracedCall) {
        let us = Instant(call.ticks).as_us(sysregs::counter_frequency());
        told::of_call(self.vm, call, us);
    }

    #[inline]
    fn enter<V: vm::Vm>(vcpu: &mut VcpuLoop<V, Self>, synchronous: Synchronous<V, Self>) {
        let (cpu, regs) = vcpu.hardware();
        fault_injection::at_entry(cpu.percpu.id, regs);
        let handlers = Handlers {
            synchronous,
            irq: exits::irq::<V>,
            other: exits::other::<V>,
        };
        guest::enter(vcpu, &handlers);
    }

    #[inline]
    fn syndrome(&self) -> Syndrome {
        sysregs::syndrome()
    }

    fn show_guest(&mut self, regs: Option<&GuestRegs>) {
        match regs {
            Some(regs) => {
                self.standstill = None;
                self.memory = self.vm.memory();
                self.percpu.enter_guest(regs);
            }
            None => self.percpu.leave_guest(),
        }
    }

    fn wait_for_interrupt(&mut self) {
        sysregs::wait_for_interrupt();
    }

    fn pass_serror_on(&mut self) {
        sysregs::set_virtual_serror(Some(0));
    }

    fn send_nmi(&mut self) {
        if !fault_injection::at_nmi(self.percpu.id) {
            sysregs::set_virtual_serror(Some(NMI_SYNDROME));
        }
    }

    #[inline(always)]
    fn reset_el1(&mut self) {
        sysregs::reset_el1();
    }

    fn reset_core(&mut self) {
        sysregs::reset_core();
    }

    fn mask_virtual_timer(&mut self) -> u64 {
        sysregs::clock::mask_timer()
    }

    fn set_clock(&mut self, offset: u64, timer: Option<u64>) {
        sysregs::clock::set(offset, timer);
    }

    fn endian(&self) -> Endian {
        sysregs::endian()
    }

    fn set_endian(&mut self, endian: Endian) {
        sysregs::set_endian(endian);
    }

    fn regime(&self) -> hv_core::walk::Regime {
        translation::regime()
    }

    fn instruction(&self, pc: u64) -> Option<u32> {
        translation::guest_instruction(pc)
    }

    fn set_stack_pointer(&mut self, is_el1: bool, value: u64) {
        sysregs::set_guest_sp(is_el1, value);
    }

    fn resolve_guarded_access(
        &mut self,
        me: VcpuId,
        pc: u64,
        access: Access,
        place: Place,
    ) -> Decision {
        self.vm.resolve_guarded_access(me, pc, access, place)
    }

    fn answer_trng(&mut self, call: trng::Call, regs: &mut GuestRegs) {
        if !fault_injection::at_trng_call(self.percpu.id, regs) {
            trng::answer(call, entropy::Source::find(), regs);
        }
    }

    fn transmit(&mut self, byte: u8) {
        console::write_guest(self.vm.id, byte);
    }

    fn receive(&mut self) -> Option<Came> {
        operator::receive()
    }

    fn answer(&mut self, answer: Answer<'_>) {
        operator::tell(self.vm.id, &answer);
    }

    fn is_serror_pending(&self) -> bool {
        sysregs::is_serror_pending()
    }

    fn write_uart_page(&mut self, image: &Image) {
        self.vm.write_uart_page(image);
    }

    fn show_uart_page(&mut self, on: bool) {
        self.vm.show_uart_page(on);
    }
}

impl Pcpu {
    fn new(vm: &'static Vm, percpu: &'static Percpu, own: OwnIntids) -> Self {
        // Of SGIs none is.
        let taken = [own.maintenance, own.alarm, own.console];
        let guests = taken.into_iter().fold(!0xffff, |guests, intid| {
            guests & !1u32.checked_shl(intid).unwrap_or(0)
        });
        Self {
            vm,
            percpu,
            memory: vm.memory(),
            own,
            gic: gic::Interface::of_machine(),
            guests,
            list_regs: gic::virtual_interface().0.min(MAX_LIST_REGS),
            watch: watchdog::begin(),
            standstill: None,
        }
    }
}
