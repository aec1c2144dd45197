//! Accesses to the transports of mediated devices, and what their devices interrupt for. Each transport has a lock of its own
//! ([`Vm::mediator`]), which comes behind the VM's and before those of the virtual GIC.

use super::{Hardware, MediatedAccess, Outcome, Vcpu, Vm, read_register, write_register};
use crate::id::{IntId, VcpuId, VcpuSet};
use crate::regs::GuestRegs;
use crate::vgic::{Effects, Held};
use crate::virtio::{Line, Mediator, Written};

const NOTHING: Outcome = Outcome::kick(VcpuSet::EMPTY);

/// An access of the guest's.
#[inline(never)]
pub(super) fn access(
    it: MediatedAccess,
    vcpu: &mut Vcpu,
    regs: &mut GuestRegs,
    cpu: &mut impl Hardware,
    vm: &impl Vm,
) -> Outcome {
    let (number, access) = (usize::from(it.number), it.access);
    // A guest whose map has it has it.
    let Some(mut mediator) = vm.mediator(number) else {
        return NOTHING;
    };
    let mut written = Written::Done;
    if access.is_write {
        let value = read_register(regs, access.rt);
        written = mediator.write(it.offset, access.size, value, cpu);
    } else {
        let value = mediator.read(it.offset, access.size);
        write_register(regs, access.rt, access.extend(value));
    }
    // The same store again if there is more to do, so that interrupts have their turn.
    if written != Written::Again {
        regs.pc = regs.pc.wrapping_add(4);
    }
    if written == Written::Reset {
        end_interrupt(&mut mediator, number, cpu, vm);
    }
    let effects = settle_line(&mut mediator, number, vcpu.id, cpu, vm);
    drop(mediator);
    conclude(&effects, vcpu, cpu, vm)
}

/// The interrupt of a mediated device has come, and is active. While the guest is frozen, or ends, it stays so, and nothing is
/// given back.
#[inline(never)]
pub(super) fn take(
    intid: IntId,
    vcpu: &mut Vcpu,
    cpu: &mut impl Hardware,
    vm: &impl Vm,
) -> Outcome {
    let mut transports = vm.map().mediated.iter();
    let Some(number) = transports.position(|transport| transport.intid == intid) else {
        cpu.deactivate(intid.0);
        return NOTHING;
    };
    // Who thaws the guest does so under this lock, and sees afterwards what is owed.
    let shared = vm.lock();
    if shared.is_paused || !shared.life.may_start() {
        if let Some(mut mediator) = vm.mediator(number) {
            mediator.is_owed = true;
        }
        return NOTHING;
    }
    drop(shared);
    serve(number, intid, vcpu, cpu, vm)
}

/// The guest is frozen no more: takes what has come meanwhile from a device.
pub(super) fn take_owed(
    number: usize,
    vcpu: &mut Vcpu,
    cpu: &mut impl Hardware,
    vm: &impl Vm,
) -> Outcome {
    let is_owed = vm.mediator(number).is_some_and(|mut mediator| {
        let is_owed = &mut mediator.is_owed;
        core::mem::take(is_owed)
    });
    match vm.map().mediated.get(number) {
        Some(transport) if is_owed => serve(number, transport.intid, vcpu, cpu, vm),
        _ => NOTHING,
    }
}

/// Gives back what a device is done with, and lets it interrupt again; unless its line stays up, and it would do nothing else.
fn serve(
    number: usize,
    intid: IntId,
    vcpu: &mut Vcpu,
    cpu: &mut impl Hardware,
    vm: &impl Vm,
) -> Outcome {
    let Some(mut mediator) = vm.mediator(number) else {
        return NOTHING;
    };
    let line = mediator.interrupted(cpu);
    let effects = settle_line(&mut mediator, number, vcpu.id, cpu, vm);
    mediator.is_owed = line == Line::Stays;
    drop(mediator);
    if line == Line::Falls {
        cpu.deactivate(intid.0);
    }
    conclude(&effects, vcpu, cpu, vm)
}

/// Resets all devices of a VM none of whose vCPUs runs.
pub(super) fn reset_all(cpu: &mut impl Hardware, vm: &impl Vm) {
    for number in 0..vm.map().mediated.len() {
        let Some(mut mediator) = vm.mediator(number) else {
            continue;
        };
        mediator.reset();
        // Nobody runs whom it could concern.
        let _ = settle_line(&mut mediator, number, VcpuId(0), cpu, vm);
        end_interrupt(&mut mediator, number, cpu, vm);
    }
}

/// The device is reset: lets it interrupt again if its last interrupt is still active.
fn end_interrupt(mediator: &mut Mediator, number: usize, cpu: &mut impl Hardware, vm: &impl Vm) {
    let is_owed = core::mem::take(&mut mediator.is_owed);
    if let Some(transport) = vm.map().mediated.get(number).filter(|_| is_owed) {
        cpu.deactivate(transport.intid.0);
    }
}

/// Has the virtual GIC know the level of the interrupt line.
#[inline]
fn settle_line<V: Vm>(
    mediator: &mut Mediator,
    number: usize,
    vcpu: VcpuId,
    cpu: &mut impl Hardware,
    vm: &V,
) -> Effects {
    let level = mediator.level();
    let transport = vm.map().mediated.get(number);
    match transport.filter(|_| mediator.line != level) {
        Some(transport) => {
            mediator.line = level;
            let mut held = Held::of_interrupt(vm, vcpu, transport.intid);
            let effects = held.set_line(transport.intid, level);
            if effects.is_physical() {
                cpu.perform(&effects);
            }
            effects
        }
        None => Effects::none(),
    }
}

/// Whom it concerns, and what follows where the interrupt is bound to an SDEI event.
#[inline]
fn conclude(effects: &Effects, vcpu: &mut Vcpu, cpu: &mut impl Hardware, vm: &impl Vm) -> Outcome {
    let mut outcome = match effects.bound {
        Some(intid) => {
            let around = (&vm.map().board, vm);
            vm.lock().take_bound(intid, vcpu, cpu, around)
        }
        None => NOTHING,
    };
    outcome.kick = outcome.kick.union(effects.kick);
    outcome
}
