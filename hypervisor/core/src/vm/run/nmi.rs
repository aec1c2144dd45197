//! An NMI on the vCPU that has it: rung by rung ([`crate::ladder`]), until the guest shows that it has taken it.

use hv_abi::watchdog::Last;

use super::VcpuLoop;
use crate::ladder::Answer as Result;
use crate::ladder::{Ladder, Rung, Signs, Step};
use crate::mailbox::Requests;
use crate::time::Instant;
use crate::vm::{Answer, Ending, Hardware, Vm};

impl<V: Vm, C: Hardware> VcpuLoop<V, C> {
    /// The operator's NMI, or the watchdog's.
    #[cold]
    pub(super) fn begin_nmi(&mut self) {
        let config = self.vm.map().nmi;
        let takes_event = config.event != 0 && self.vcpu.sdei.takes(config.event);
        if config.event != 0 && !takes_event {
            self.tell_rung(Rung::Event, Result::Unregistered);
        }
        let rung = if takes_event {
            Rung::Event
        } else {
            Rung::SError
        };
        let (now, signs) = (self.cpu.now(), self.signs().0);
        self.is_watched = true;
        self.ladder = Some(Ladder::begin(rung, now, config.limit, signs));
        self.try_rung(rung);
        self.set_alarm(self.vcpu.sdei.delayed());
    }

    #[inline(never)]
    fn try_rung(&mut self, rung: Rung) {
        let config = self.vm.map().nmi;
        match rung {
            Rung::Event => {
                let board = &self.vm.map().board;
                let look = self.vm.lock().raise(config.event, self.vcpu.id, board);
                self.call_attention(look);
            }
            Rung::SError => self.cpu.send_nmi(),
            Rung::Last => self.try_last(config.last),
        }
    }

    fn try_last(&mut self, last: Last) {
        let result = match last {
            Last::Report => Result::Reported,
            Last::Freeze => {
                self.pause_all();
                Result::Frozen
            }
            Last::Dump => {
                self.vm.lock().end_asked = Some(Ending::DUMP);
                self.vm.remind(Requests::OPERATOR);
                Result::Dumped
            }
        };
        self.tell_rung(Rung::Last, result);
    }

    /// The alarm has gone off.
    pub(super) fn climb(&mut self, now: Instant) {
        if self.ladder.is_some_and(|ladder| now >= ladder.due()) {
            self.look_at_rung(now);
        }
    }

    #[cold]
    #[inline(never)]
    fn look_at_rung(&mut self, now: Instant) {
        let ((signs, is_paused), is_pending) = (self.signs(), self.cpu.is_serror_pending());
        let Some(ladder) = &mut self.ladder else {
            return;
        };
        match ladder.look(now, signs, is_pending, is_paused) {
            Step::Wait => {}
            Step::Works(rung) => {
                self.ladder = None;
                self.tell_rung(rung, Result::Works);
            }
            Step::Next(rung, answer, next) => {
                if next == Rung::Last {
                    self.ladder = None;
                } else {
                    ladder.try_rung(next, now);
                }
                self.tell_rung(rung, answer);
                self.try_rung(next);
            }
        }
    }

    /// What is seen of the guest, and whether it is paused.
    fn signs(&self) -> (Signs, bool) {
        let map = self.vm.map();
        let shared = self.vm.lock();
        let signs = Signs {
            vbar: self.cpu.vbar(),
            on: shared.power.count(),
            parked: map.board.parked(),
            has_panicked: shared.has_panicked(),
        };
        (signs, shared.is_paused)
    }

    #[inline(never)]
    fn tell_rung(&mut self, rung: Rung, answer: Result) {
        self.cpu.answer(Answer::Nmi {
            vcpu: self.vcpu.id,
            rung,
            answer,
        });
    }
}
