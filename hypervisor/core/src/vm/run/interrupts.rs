//! Physical interrupts that have come while the guest does not run.

use super::VcpuLoop;
use crate::id::IntId;
use crate::vgic::Model;
use crate::vm::{Hardware, Interrupt, Vm, mediated};

impl<V: Vm, C: Hardware> VcpuLoop<V, C> {
    /// Takes one physical interrupt while the guest does not run here.
    pub(super) fn take_interrupt(&mut self) {
        let interrupt = self.cpu.acknowledge();
        self.handle_interrupt(interrupt);
        self.vcpu.faults.forget_looks();
    }

    pub(super) fn handle_interrupt(&mut self, interrupt: Interrupt) {
        match interrupt {
            Interrupt::None => {}
            Interrupt::Stop => self.cpu.answer_stop(),
            Interrupt::Guest(intid) => {
                let (kick, bound) = self.vcpu.forward(intid, &self.vm, &mut self.cpu);
                self.kick(kick);
                if let Some(intid) = bound {
                    self.take_bound(intid);
                }
            }
            Interrupt::Maintenance(intid) => {
                // The line stays up until the list registers are refreshed, so that comes first.
                self.refresh_vgic();
                self.cpu.deactivate(intid);
            }
            Interrupt::Device(intid) => {
                let outcome = mediated::take(intid, &mut self.vcpu, &mut self.cpu, &self.vm);
                self.arrived(outcome);
            }
            Interrupt::Console(intid) => {
                self.receive();
                self.cpu.deactivate(intid);
            }
            Interrupt::Alarm(intid) => {
                self.take_alarm();
                self.cpu.deactivate(intid);
            }
        }
    }

    /// SGIs (bit n is SGI n) that siblings, or this vCPU itself, posted have come.
    pub(super) fn take_sgis(&mut self, sgis: u16) {
        if self.vm.map().gic == Model::V3 {
            self.vcpu.take_sgis(sgis.into(), &self.vm, &mut self.cpu);
        } else {
            let me = self.vcpu.id;
            let sent = [0, 1, 2, 3].map(|group| self.vm.take_senders(me, group));
            self.vcpu.take_sent(sent, &self.vm, &mut self.cpu);
        }
    }

    /// An interrupt that is bound to an SDEI event has come.
    fn take_bound(&mut self, intid: IntId) {
        let around = (&self.vm.map().board, &self.vm);
        let mut shared = self.vm.lock();
        let outcome = shared.take_bound(intid, &mut self.vcpu, &mut self.cpu, around);
        drop(shared);
        self.arrived(outcome);
    }

    /// The guest is frozen no more: what its mediated devices have interrupted for meanwhile is taken.
    pub(super) fn take_owed(&mut self) {
        for number in 0..self.vm.map().mediated.len() {
            let outcome = mediated::take_owed(number, &mut self.vcpu, &mut self.cpu, &self.vm);
            self.arrived(outcome);
        }
    }
}
