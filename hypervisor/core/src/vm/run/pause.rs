//! A VM that is paused: all its vCPUs stay out of the guest, and what comes meanwhile is kept.

use super::{Leave, VcpuLoop};
use crate::mailbox::Requests;
use crate::vm::{Hardware, Vm};

impl<V: Vm, C: Hardware> VcpuLoop<V, C> {
    /// Everybody stays out of the guest.
    #[inline(never)]
    pub(super) fn pause_all(&mut self) {
        self.vm.lock().is_paused = true;
        for vcpu in self.vcpus() {
            self.post(vcpu, Requests::PAUSE);
        }
    }

    /// This vCPU does not read the guest's clock from now on.
    #[inline(never)]
    pub(super) fn stop_reading_clock(&mut self) {
        let mut shared = self.vm.lock();
        shared.clock.leave(|| self.cpu.now());
    }

    /// Stays out of the guest until the operator lets it go on. What others ask meanwhile is kept. While the guest's clock is held, its
    /// timer says nothing: it is as far from its time afterwards as it was.
    pub(super) fn pause(&mut self) -> Option<Leave> {
        let me = self.vcpu.id;
        let mut kept = Requests::NONE;
        let mut timer = None;
        self.stop_reading_clock();
        let offset = loop {
            let mut shared = self.vm.lock();
            if !shared.is_paused {
                break shared.clock.enter();
            }
            let is_held = shared.clock.is_held();
            drop(shared);
            if is_held && timer.is_none() {
                timer = Some(self.cpu.mask_virtual_timer());
            }
            self.take_interrupt();
            let requests = self.vm.take(me);
            if requests.has(Requests::STOP) {
                return Some(Leave::Stop);
            }
            let (own, others) = requests.split(Requests::OPERATOR.and(Requests::NMI));
            kept = kept.and(others);
            if !own.is_empty()
                && let Some(leave) = self.follow_operator(own)
            {
                return Some(leave);
            }
            if requests.is_empty() {
                self.cpu.wait_for_interrupt();
            }
        };
        self.cpu.set_clock(offset, timer);
        self.take_owed();
        let (_, kept) = kept.split(Requests::PAUSE);
        self.vm.remind(kept);
        self.excuse_watch();
        None
    }
}
