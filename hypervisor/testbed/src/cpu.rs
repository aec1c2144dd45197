//! The pCPU that a vCPU runs on, as [`Hardware`].

use std::cell::RefMut;
use std::ops::RangeInclusive;

use hv_core::flash::Array;
use hv_core::id::{IntId, VcpuId};
use hv_core::operator::Came;
use hv_core::pl011::Image;
use hv_core::psci::Endian;
use hv_core::regs::{El1, El1Values, Exception, GuestRegs};
use hv_core::time::Instant;
use hv_core::trace::Event;
use hv_core::trng;
use hv_core::vgic::interface::InterfaceState;
use hv_core::vgic::lr::hcr;
use hv_core::vgic::{Effects, ListReg};
use hv_core::virtio::queue::Memory;
use hv_core::vm::{
    self, Answer, End, GuestExit, Hardware, Interrupt, Synchronous, Syndrome, TracedCall, VcpuLoop,
    Vm,
};
use hv_core::walk::Regime;

use crate::exits::RAM;
use crate::{Exit, Interface};

/// Where a [`Cpu`] stands: what of it is seen from outside, and what happens to it.
pub trait Site {
    /// Its virtual CPU interface.
    fn interface(&self) -> RefMut<'_, Interface>;
    /// Runs the guest until it exits.
    fn enter(&self, regs: &mut GuestRegs, el1: &mut El1Values) -> Exit;
    /// Acknowledges a physical interrupt.
    fn acknowledge(&self) -> Interrupt;
    /// Deactivates a physical interrupt. The hypervisor's own are up for as long as their reason is.
    fn deactivate(&self, intid: IntId);
    /// Does what the virtual GIC decided about physical interrupts.
    fn perform(&self, effects: &Effects);
    /// GICD_ISPENDR of 32 interrupts, if it tells how lines are; private ones are `owner`'s.
    fn lines(&self, _owner: VcpuId, _block: u32) -> Option<u32> {
        None
    }
    /// Sleeps until it is interrupted.
    fn sleep(&self);
    /// Waits for siblings that are still in the guest. False if that has been for too long.
    fn wait_for_siblings(&self, end: End) -> bool;
    /// The vCPU is on from now on, or off.
    fn show_guest(&self, _is_on: bool) {}
    /// Something is traced.
    fn observe(&self, _event: Event) {}
    /// Whether the guest's calls are traced.
    fn traces_calls(&self) -> bool {
        false
    }
    /// The guest has made a call, whose calls are traced.
    fn tell_of_call(&self, _call: &TracedCall) {}
    /// A byte goes to the machine's console.
    fn transmit(&self, _byte: u8) {}
    /// A byte that the machine's console has received is taken in.
    fn receive(&self) -> Option<Came> {
        None
    }
    /// The instruction at a virtual address.
    fn instruction(&self, _pc: u64) -> Option<u32> {
        None
    }
    /// The alarm is for this time.
    fn set_alarm(&self, _at: Option<Instant>) {}
    /// The operator is told something.
    fn answer(&self, _answer: Answer<'_>) {}
    /// The guest gets the operator's virtual SError.
    fn send_nmi(&self) {}
    /// That waits still.
    fn is_serror_pending(&self) -> bool {
        false
    }
    /// The page of the emulated UART's register values changes.
    fn write_uart_page(&self, _image: &Image) {}
    /// The guest may read that page, or not.
    fn show_uart_page(&self, _on: bool) {}
    /// The guest's virtual counter is so far behind from its next entry on.
    fn set_counter_offset(&self, _offset: u64) {}
    /// Whether the guest's virtual timer is masked.
    fn mask_virtual_timer(&self, _is_masked: bool) {}
    /// The time.
    fn now(&self) -> Instant {
        Instant(0)
    }
}

/// A pCPU in memory.
#[derive(Debug)]
pub struct Cpu<S> {
    site: S,
    el1: El1Values,
    syndrome: Syndrome,
}

impl<S: Site> Cpu<S> {
    /// A pCPU at `site`.
    pub fn new(site: S) -> Self {
        Self {
            site,
            el1: El1Values::default(),
            syndrome: Syndrome::default(),
        }
    }
}

impl<S: Site> El1 for Cpu<S> {
    fn vbar(&self) -> u64 {
        self.el1.vbar
    }
    fn sctlr(&self) -> u64 {
        self.el1.sctlr
    }
    fn stack_pointers(&self) -> [u64; 2] {
        self.el1.sp
    }
    fn exception(&self) -> Exception {
        self.el1.exception()
    }
    fn set_return(&mut self, elr: u64, spsr: u64) {
        self.el1.set_return(elr, spsr);
    }
    fn set_syndrome(&mut self, esr: u64, far: u64) {
        self.el1.set_syndrome(esr, far);
    }
}

impl<S: Site> vm::Pcpu for Cpu<S> {
    fn id_register(&self, _: u32, _: u32) -> u64 {
        u64::MAX
    }
    fn now(&self) -> Instant {
        self.site.now()
    }
    fn interface_state(&self) -> InterfaceState {
        self.site.interface().state()
    }
    fn set_ich_vmcr(&mut self, value: u64) {
        self.site.interface().set_vmcr(value);
    }
    fn observe(&self, event: Event) {
        self.site.observe(event);
    }
}

/// Those that an exit does not save on its short way.
const LATE: RangeInclusive<usize> = 20..=28;
/// What stands there instead.
const HIDDEN: [u64; 9] = [0x0bad_0bad_0bad_0bad; 9];

/// What a guest has in CNTV_CTL_EL0.
const TIMER: u64 = 1;

/// Hides these registers; what they were.
fn hide(regs: &mut GuestRegs) -> Vec<u64> {
    let late = regs.x[LATE].to_vec();
    regs.x[LATE].copy_from_slice(&HIDDEN);
    late
}

/// There is no flash.
impl<S: Site> Array for Cpu<S> {
    fn word(&self, _: usize) -> u32 {
        u32::MAX
    }
    fn set_word(&mut self, _: usize, _: u32) {}
    fn erase(&mut self, _: usize, _: usize) {}
}

/// There is RAM, which nothing is written to.
impl<S: Site> Memory for Cpu<S> {
    fn locate(&self, ipa: u64, size: u64) -> Option<(u64, u64)> {
        let offset = RAM.offset_of(ipa)?;
        Some((ipa, size.min(RAM.size - offset)))
    }
    fn load16(&self, ipa: u64) -> Option<u16> {
        RAM.offset_of(ipa).map(|_| 0)
    }
    fn load_descriptor(&self, ipa: u64) -> Option<[u64; 2]> {
        RAM.offset_of(ipa).map(|_| [0; 2])
    }
    fn store16(&mut self, ipa: u64, _: u16) -> Option<()> {
        RAM.offset_of(ipa).map(|_| ())
    }
    fn store32(&mut self, ipa: u64, _: u32) -> Option<()> {
        RAM.offset_of(ipa).map(|_| ())
    }
}

/// A synchronous exit of a guest.
extern "C" fn untraced<V: Vm, S: Site>(vcpu: &mut VcpuLoop<V, Cpu<S>>, _pc: u64) -> bool {
    vcpu.settle(GuestExit::Synchronous)
}

/// The same of a guest whose calls are traced.
extern "C" fn traced<V: Vm, S: Site>(vcpu: &mut VcpuLoop<V, Cpu<S>>, _pc: u64) -> bool {
    let esr = vcpu.hardware().0.syndrome.esr;
    vcpu.settle_traced(esr)
}

impl<S: Site> Hardware for Cpu<S> {
    fn list_regs(&self) -> usize {
        self.site.interface().list_regs()
    }
    fn list_register(&self, index: usize) -> ListReg {
        self.site.interface().get(index)
    }
    fn list_register_word(&self, value: ListReg) -> u64 {
        self.site.interface().spell(value)
    }
    fn set_list_register(&mut self, index: usize, word: u64) {
        self.site.interface().set(index, word);
    }
    fn empty_list_registers(&self) -> u64 {
        self.site.interface().empty()
    }
    fn ended_list_registers(&self) -> u64 {
        self.site.interface().ended()
    }
    fn deactivations(&self) -> u32 {
        let interface = self.site.interface();
        hcr::deactivations(interface.hcr(), interface.vmcr())
    }
    fn set_ich_hcr(&mut self, value: u64) {
        self.site.interface().set_hcr(value);
    }
    fn reset_virtual_interface(&mut self) {
        self.site.interface().reset();
    }
    fn perform(&mut self, effects: &Effects) {
        self.site.perform(effects);
    }
    fn lines(&self, owner: VcpuId, block: u32) -> Option<u32> {
        self.site.lines(owner, block)
    }

    fn acknowledge(&mut self) -> Interrupt {
        self.site.acknowledge()
    }
    fn deactivate(&mut self, intid: u32) {
        self.site.deactivate(IntId(intid));
    }
    fn set_alarm(&mut self, at: Option<Instant>) {
        self.site.set_alarm(at);
    }
    fn look_after(&mut self) {}
    fn wait_for_siblings(&mut self, end: End) -> bool {
        self.site.wait_for_siblings(end)
    }

    fn answer_stop(&mut self) {}

    fn traces_calls(&self) -> bool {
        self.site.traces_calls()
    }

    fn synchronous<V: Vm>(are_traced: bool) -> Synchronous<V, Self> {
        match are_traced {
            true => traced,
            false => untraced,
        }
    }

    fn tell_of_call(&self, call: &TracedCall) {
        self.site.tell_of_call(call);
    }

    fn enter<V: Vm>(vcpu: &mut VcpuLoop<V, Self>, synchronous: Synchronous<V, Self>) {
        loop {
            let (cpu, regs) = vcpu.hardware();
            let (exit, syndrome) = cpu.site.enter(regs, &mut cpu.el1).split();
            cpu.syndrome = syndrome;
            // What the short way does not save is not there.
            let (late, pstate, pc) = (hide(regs), regs.pstate, regs.pc);
            let goes_on = match exit {
                GuestExit::Synchronous => synchronous(vcpu, pc),
                other => vcpu.settle(other),
            };
            let (_, regs) = vcpu.hardware();
            assert_eq!(regs.x[LATE], HIDDEN, "{syndrome:?} has used late registers");
            assert_eq!(regs.pstate, pstate, "{syndrome:?} has changed PSTATE");
            regs.x[LATE].copy_from_slice(&late);
            if !goes_on {
                return;
            }
        }
    }
    fn syndrome(&self) -> Syndrome {
        self.syndrome
    }
    fn show_guest(&mut self, regs: Option<&GuestRegs>) {
        self.site.show_guest(regs.is_some());
    }
    fn wait_for_interrupt(&mut self) {
        self.site.sleep();
    }
    fn pass_serror_on(&mut self) {}
    fn reset_el1(&mut self) {
        self.el1 = El1Values::default();
        self.site.mask_virtual_timer(false);
    }
    fn reset_core(&mut self) {
        self.reset_el1();
    }
    fn mask_virtual_timer(&mut self) -> u64 {
        self.site.mask_virtual_timer(true);
        TIMER
    }
    fn set_clock(&mut self, offset: u64, timer: Option<u64>) {
        if let Some(control) = timer {
            assert_eq!(control, TIMER);
            self.site.mask_virtual_timer(false);
        }
        self.site.set_counter_offset(offset);
    }
    fn endian(&self) -> Endian {
        Endian::Little
    }
    fn set_endian(&mut self, _: Endian) {}
    fn regime(&self) -> Regime {
        Regime::default()
    }
    fn instruction(&self, pc: u64) -> Option<u32> {
        self.site.instruction(pc)
    }
    fn set_stack_pointer(&mut self, is_el1: bool, value: u64) {
        self.el1.sp[usize::from(is_el1)] = value;
    }
    fn answer_trng(&mut self, _: trng::Call, _: &mut GuestRegs) {}
    fn transmit(&mut self, byte: u8) {
        self.site.transmit(byte);
    }
    fn receive(&mut self) -> Option<Came> {
        self.site.receive()
    }
    fn answer(&mut self, answer: Answer<'_>) {
        self.site.answer(answer);
    }
    fn send_nmi(&mut self) {
        self.site.send_nmi();
    }
    fn is_serror_pending(&self) -> bool {
        self.site.is_serror_pending()
    }
    fn write_uart_page(&mut self, image: &Image) {
        self.site.write_uart_page(image);
    }
    fn show_uart_page(&mut self, on: bool) {
        self.site.show_uart_page(on);
    }
}
