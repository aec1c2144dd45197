//! The watchdog over the guest: this vCPU is looked at before it enters its guest, once the alarm has said so, and while a
//! suspicion stands at each exit that may change a list register ([`crate::watch`]). A suspicion stands in the mailbox
//! ([`Requests::WATCH`]), and what is in there closes the short ways: nobody else pays for it.

use hv_abi::watchdog::Act;

use super::{Leave, VcpuLoop};
use crate::id::{IntId, VcpuId};
use crate::ladder::Ladder;
use crate::mailbox::Requests;
use crate::operator::Question;
use crate::psci::Reset;
use crate::regs::pstate;
use crate::time::Instant;
use crate::vgic::{Held, ListReg};
use crate::vm::{Answer, End, Ending, Hardware, Lateness, Vm};
use crate::watch::{Finding, Health, Plight, Waiting, Watch};

impl<V: Vm, C: Hardware> VcpuLoop<V, C> {
    /// The alarm is for `at`, or for the watchdog's next look, an NMI's, or one at the guest's own watchdog.
    #[inline]
    pub(super) fn set_alarm(&mut self, at: Option<Instant>) {
        if self.is_watched {
            self.set_alarm_between(at);
        } else {
            self.cpu.set_alarm(at);
        }
    }

    #[cold]
    #[inline(never)]
    fn set_alarm_between(&mut self, at: Option<Instant>) {
        let look = self.watch.as_ref().map(Watch::due);
        let rung = self.ladder.as_ref().map(Ladder::due);
        let own = self.gwdt_due;
        let all = at.into_iter().chain(look).chain(rung).chain(own);
        self.cpu.set_alarm(all.min());
    }

    /// The alarm has gone off.
    pub(super) fn ring_watch(&mut self, now: Instant) {
        if let Some(watch) = &mut self.watch
            && watch.ring(now)
        {
            self.vm.remind(Requests::WATCH);
        }
    }

    /// This vCPU is off, or starts anew.
    #[inline]
    pub(super) fn forget_watch(&mut self) {
        if self.is_watched {
            self.forget_both();
        }
    }

    #[cold]
    #[inline(never)]
    fn forget_both(&mut self) {
        self.ladder = None;
        if let Some(watch) = &mut self.watch {
            watch.forget();
            self.vm.lock().company.recover(self.vcpu.id);
        }
    }

    /// This vCPU was kept out of its guest until now.
    pub(super) fn excuse_watch(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.excuse(self.cpu.now());
        }
    }

    /// A look before list registers change. What follows from it is left to the one that comes before the guest is entered.
    #[cold]
    #[inline(never)]
    pub(super) fn look_in_time(&mut self) {
        if !self.is_still()
            && let Some(watch) = &mut self.watch
        {
            watch.clear();
        }
    }

    /// A look. How this vCPU leaves its guest, if it does.
    #[cold]
    pub(super) fn follow_watch(&mut self) -> Option<Leave> {
        let is_still = self.is_still();
        let now = self.cpu.now();
        let first = if self.watch.as_ref()?.looks_for_one() {
            self.first_waiting()
        } else {
            None
        };
        let watch = self.watch.as_mut()?;
        let finding = watch.look(now, is_still, first);
        if watch.suspect().is_some() {
            self.vm.remind(Requests::WATCH);
        }
        let is_meant = finding == Finding::Overdue && self.is_meant();
        let watch = self.watch.as_mut()?;
        let is_news = finding == Finding::Overdue && watch.judge(now, is_meant);
        let health = watch.health();
        self.set_alarm(self.vcpu.sdei.delayed());

        let me = self.vcpu.id;
        match health {
            _ if finding == Finding::Nothing => None,
            Health::Alive | Health::Slow => {
                self.vm.lock().company.recover(me);
                self.tell(None);
                None
            }
            Health::Stopped => {
                self.vm.lock().company.stop(me);
                if is_news {
                    self.tell(None);
                }
                None
            }
            Health::Wedged => {
                let is_reachable = self.regs.pstate & pstate::A == 0;
                let plight = self.vm.lock().note_wedge(me, is_news, is_reachable)?;
                self.answer_wedge(plight)
            }
        }
    }

    /// Does what the configuration says.
    fn answer_wedge(&mut self, plight: Plight) -> Option<Leave> {
        let config = self.vm.map().watchdog?;
        let (act, is_all) = match plight {
            Plight::Disarmed => (Act::Report, false),
            Plight::One => (config.one, false),
            Plight::All => (config.all, true),
        };
        self.tell(Some((act, is_all)));
        let me = self.vcpu.id;
        let target = self.vm.lock().company.target(me);
        let mut own = Requests::NONE;
        for vcpu in self.vcpus() {
            let mut requests = Requests::NONE;
            if is_all || act != Act::Report || vcpu == me {
                self.vm.post_question(vcpu, Question::UNASKED.word());
                requests = Requests::OPERATOR;
            }
            if act == Act::Nmi && vcpu == target {
                requests = requests.and(Requests::NMI);
            }
            if vcpu == me {
                own = requests;
            } else if !requests.is_empty() {
                self.vm.ask(vcpu, requests);
            }
        }
        if act == Act::Freeze {
            self.pause_all();
            own = own.and(Requests::PAUSE);
        }
        let leave = self.follow_operator(own);
        match act {
            Act::Reset => Some(Leave::End(Ending::usual(End::Reset(Reset::Cold)))),
            Act::Off => Some(Leave::End(Ending::usual(End::Off))),
            Act::Dump => Some(Leave::End(Ending::DUMP)),
            Act::Report | Act::Nmi | Act::Freeze => leave,
        }
    }

    pub(super) fn vcpus(&self) -> impl Iterator<Item = VcpuId> + use<V, C> {
        (0..self.vm.map().affinities.len() as u8).map(VcpuId)
    }

    #[inline(never)]
    fn tell(&mut self, done: Option<(Act, bool)>) {
        let watch = self.lateness();
        self.cpu.answer(Answer::Health {
            vcpu: self.vcpu.id,
            watch,
            regs: &self.regs,
            done,
        });
    }

    /// What this vCPU is late with.
    #[inline(never)]
    pub(super) fn lateness(&self) -> Option<Lateness> {
        let watch = self.watch.as_ref()?;
        let (waiting, since) = watch.waits()?;
        Some(Lateness {
            health: watch.health(),
            waiting,
            since,
        })
    }

    /// Whether the guest means that this vCPU takes no interrupt: it has panicked, or the vCPU is in a handler of SDEI, or parked
    /// where neither interrupts nor SErrors reach it, as Linux parks those that it has stopped.
    fn is_meant(&self) -> bool {
        self.vcpu.sdei.running().is_some()
            || self.regs.pstate & pstate::A != 0 && self.is_idle()
            || self.vm.lock().has_panicked()
    }

    /// Whether what is suspected waits for this vCPU and has not been taken.
    fn is_still(&self) -> bool {
        let Some(intid) = self.watch.as_ref().and_then(Watch::suspect) else {
            return false;
        };
        for index in 0..self.vcpu.used {
            let lr = self.listed(index);
            if lr.vintid == intid.0 && lr.state.is_pending() {
                return true;
            }
        }
        let me = self.vcpu.id;
        Held::of_interrupt(&self.vm, me, intid).awaits(me, intid)
    }

    /// The most urgent interrupt that is pending in a list register and masked.
    fn first_waiting(&self) -> Option<Waiting> {
        let interface = self.cpu.interface_state();
        let mut first: Option<(u8, Waiting)> = None;
        for index in 0..self.vcpu.used {
            let lr = self.listed(index);
            if lr.state.is_pending()
                && first.is_none_or(|(priority, _)| lr.priority < priority)
                && let Some(mask) = interface.masks(lr, self.regs.pstate)
            {
                let intid = IntId(lr.vintid);
                first = Some((lr.priority, Waiting { intid, mask }));
            }
        }
        first.map(|(_, waiting)| waiting)
    }

    #[inline(never)]
    fn listed(&self, index: usize) -> ListReg {
        self.cpu.list_register(index)
    }
}
