//! The short way of an exit: what can be done at once, between an exit that has saved the registers a call may change and the
//! guest's next instruction ([`Hardware::enter`]). Nothing here waits for a lock, since a pCPU that is stopped while it waits
//! should have all of its guest's registers in memory. What is not for this way is left to [`super::VcpuLoop`] as a [`Rest`].

use core::ops::ControlFlow;

use crate::id::{IntId, VcpuId};
use crate::mailbox::Requests;
use crate::regs::GuestRegs;
use crate::vgic::Model;
use crate::vgic::affinity::sgi_intid;
use crate::vm::{AtOnce, GuestExit, Hardware, Interrupt, Saved, Vcpu, Vm};

/// What the short way leaves to do.
#[derive(Debug)]
pub(super) enum Rest {
    /// The synchronous exit as it came.
    Exit,
    /// Events may be due.
    Events,
    /// This interrupt, which has been acknowledged.
    Interrupt(Interrupt),
    /// These, which have been taken from the mailbox.
    Requests(Requests),
    /// A physical SError is passed on.
    SError,
}

/// Settles an exit, or begins to.
#[inline(always)]
pub(super) fn settle<V: Vm, C: Hardware>(
    vm: &V,
    vcpu: &mut Vcpu,
    cpu: &mut C,
    regs: &mut GuestRegs,
    exit: GuestExit,
) -> ControlFlow<Rest> {
    match exit {
        GuestExit::Synchronous => match vcpu.at_once(cpu.syndrome(), Saved::Few, regs, vm.map()) {
            Some(AtOnce::Resume) => ControlFlow::Continue(()),
            Some(AtOnce::Signal) => signal(vm, vcpu, cpu, regs),
            Some(done) => {
                send(vm, vcpu.id, done);
                take_sgis(vm, vcpu, cpu)
            }
            None => ControlFlow::Break(Rest::Exit),
        },
        GuestExit::Interrupt => interrupt(vm, vcpu, cpu),
        GuestExit::SError => ControlFlow::Break(Rest::SError),
    }
}

/// Takes a physical interrupt.
#[inline(never)]
fn interrupt(vm: &impl Vm, vcpu: &mut Vcpu, cpu: &mut impl Hardware) -> ControlFlow<Rest> {
    match cpu.acknowledge() {
        Interrupt::None => take_sgis(vm, vcpu, cpu),
        Interrupt::Guest(intid) if comes_again(vm, vcpu, cpu, intid) => ControlFlow::Continue(()),
        Interrupt::Maintenance(intid) if has_ended(vm, vcpu, cpu) => {
            cpu.deactivate(intid);
            ControlFlow::Continue(())
        }
        other => ControlFlow::Break(Rest::Interrupt(other)),
    }
}

/// A private interrupt goes into the list register that it last had. A kick that waits in the mailbox may have changed
/// what it is.
#[inline]
fn comes_again(vm: &impl Vm, vcpu: &mut Vcpu, cpu: &mut impl Hardware, intid: IntId) -> bool {
    intid.is_private() && !vm.is_asked(vcpu.id) && vcpu.reseat(intid, cpu)
}

/// A private interrupt whose end has a maintenance interrupt has ended.
#[inline]
fn has_ended(vm: &impl Vm, vcpu: &mut Vcpu, cpu: &mut impl Hardware) -> bool {
    !vm.is_asked(vcpu.id) && vcpu.end_listed(cpu)
}

/// Takes what was posted, if anything was: SGIs that go into the list register that each last had. All else is left.
#[inline(never)]
fn take_sgis(vm: &impl Vm, vcpu: &mut Vcpu, cpu: &mut impl Hardware) -> ControlFlow<Rest> {
    if !vm.is_asked(vcpu.id) {
        return ControlFlow::Continue(());
    }
    let requests = vm.take(vcpu.id);
    let mut left = requests;
    // A kick that was posted since then may have changed what an SGI is.
    if requests.is_sgis() && !vm.is_asked(vcpu.id) {
        left = Requests(if vm.map().gic == Model::V3 {
            reseat(vcpu, cpu, requests)
        } else {
            reseat_sent(vm, vcpu, cpu, requests)
        });
    }
    if left.is_empty() {
        ControlFlow::Continue(())
    } else {
        ControlFlow::Break(Rest::Requests(left))
    }
}

/// These SGIs go into the list register that each last had. Which are left.
#[inline]
fn reseat(vcpu: &mut Vcpu, cpu: &mut impl Hardware, Requests(sgis): Requests) -> u32 {
    let (mut come, mut left) = (sgis, sgis);
    while come != 0 {
        let intid = come.trailing_zeros();
        come &= come - 1;
        if vcpu.reseat(IntId(intid), cpu) {
            left &= !(1 << intid);
        }
    }
    left
}

/// The same with a GICv2: each from whoever sent it. Those that are left have their senders put back.
#[inline(never)]
fn reseat_sent(
    vm: &impl Vm,
    vcpu: &mut Vcpu,
    cpu: &mut impl Hardware,
    Requests(sgis): Requests,
) -> u32 {
    let (mut come, mut left) = (sgis, 0);
    while come != 0 {
        let group = come.trailing_zeros() / 4;
        come &= !(0xf << (4 * group));
        let sent = vm.take_senders(vcpu.id, group as usize);
        let mut rest = vcpu.reseat_sent(group as usize, sent, cpu);
        while rest != 0 {
            let bit = rest.trailing_zeros();
            rest &= rest - 1;
            let intid = 4 * group + bit / 8;
            vm.post_sender(vcpu.id, intid, VcpuId((bit % 8) as u8));
            left |= 1 << intid;
        }
    }
    left
}

/// Sends the SGI that an exit of `me` which was settled at once asks for, if it does.
#[inline]
pub(super) fn send(vm: &impl Vm, me: VcpuId, done: AtOnce) {
    match done {
        AtOnce::Resume | AtOnce::Signal => {}
        AtOnce::Sgi(value) => send_sgi(vm, me, value),
        AtOnce::Generate(value) => generate(vm, me, value as u32),
    }
}

/// SDEI_EVENT_SIGNAL.
#[inline(never)]
fn signal(
    vm: &impl Vm,
    vcpu: &mut Vcpu,
    cpu: &mut impl Hardware,
    regs: &mut GuestRegs,
) -> ControlFlow<Rest> {
    if let Some(target) = vcpu.signal(regs, cpu, vm.map()) {
        vm.ask(target, Requests::SDEI_SIGNAL);
    }
    // It may have been this vCPU's own.
    if vcpu.sdei.is_alert() {
        ControlFlow::Break(Rest::Events)
    } else {
        ControlFlow::Continue(())
    }
}

/// ICC_SGI1R_EL1.
#[inline(never)]
fn send_sgi(vm: &impl Vm, me: VcpuId, value: u64) {
    let requests = Requests::sgi(sgi_intid(value).0);
    let affinities = &vm.map().affinities;
    affinities.for_each_target(me, value, |target| post(vm, me, target, requests));
}

/// GICD_SGIR: the target learns who sent it.
#[inline(never)]
fn generate(vm: &impl Vm, me: VcpuId, value: u32) {
    let intid = value & 0xf;
    let affinities = &vm.map().affinities;
    affinities.for_each_target_v2(me, value, |target| {
        vm.post_sender(target, intid, me);
        post(vm, me, target, Requests::sgi(intid));
    });
}

/// Posts, and rings where that is another.
#[inline]
pub(super) fn post(vm: &impl Vm, me: VcpuId, to: VcpuId, requests: Requests) {
    if to == me {
        vm.remind(to, requests);
    } else {
        vm.ask(to, requests);
    }
}
