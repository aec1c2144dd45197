//! The guest's own watchdog: the vCPU that touched it last has its pCPU's alarm go off when a signal is due, on or off.

use hv_abi::watchdog::Act;

use super::VcpuLoop;
use crate::mailbox::Requests;
use crate::operator::Question;
use crate::psci::Reset;
use crate::time::Instant;
use crate::vm::{Answer, End, Ending, Hardware, Vm};

impl<V: Vm, C: Hardware> VcpuLoop<V, C> {
    /// Has the alarm go off when this vCPU is to look.
    #[cold]
    #[inline(never)]
    pub(super) fn update_gwdt_deadline(&mut self) {
        self.is_watched = true;
        self.gwdt_due = self.vm.lock().gwdt_due(self.vcpu.id);
        self.set_alarm(self.vcpu.sdei.delayed());
    }

    /// The alarm has gone off.
    #[inline]
    pub(super) fn check_gwdt_deadline(&mut self, now: Instant) {
        if self.gwdt_due.is_some_and(|due| now >= due) {
            self.look_at_gwdt();
        }
    }

    #[cold]
    #[inline(never)]
    fn look_at_gwdt(&mut self) {
        let mut shared = self.vm.lock();
        let around = (&self.vm.map().board, &self.vm);
        let (outcome, act) = shared.look_at_gwdt(&mut self.vcpu, &mut self.cpu, around);
        // While the VM is paused nobody looks; the deadline is set when the operator thaws it.
        self.gwdt_due = match shared.is_paused {
            true => self.gwdt_due.map(|_| Instant(u64::MAX)),
            false => shared.gwdt_due(self.vcpu.id),
        };
        drop(shared);
        self.arrived(outcome);
        if let Some(act) = act {
            self.answer_gwdt(act);
        }
    }

    /// The guest has not refreshed it: does what its configuration says.
    fn answer_gwdt(&mut self, act: Act) {
        let me = self.vcpu.id;
        self.cpu.answer(Answer::Gwdt { vcpu: me, act });
        let mut shared = self.vm.lock();
        match act {
            Act::Reset => {
                shared.end_asked = Some(Ending::usual(End::Reset(Reset::Cold)));
            }
            Act::Off => shared.end_asked = Some(Ending::usual(End::Off)),
            Act::Dump => shared.end_asked = Some(Ending::DUMP),
            Act::Report | Act::Nmi | Act::Freeze => {}
        }
        let on = shared.power.on();
        drop(shared);
        let target = if on.contains(me) {
            Some(me)
        } else {
            on.iter().next()
        };
        // All that each is in goes on record before anything is done.
        for vcpu in self.vcpus() {
            self.vm.post_question(vcpu, Question::UNASKED.word());
            let nmi = match act {
                Act::Nmi if target == Some(vcpu) => Requests::NMI,
                _ => Requests::NONE,
            };
            self.post(vcpu, Requests::OPERATOR.and(nmi));
        }
        if act == Act::Freeze {
            self.pause_all();
        }
    }
}
