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

    /// Stays out of the guest until the operator lets it go on. What others ask meanwhile is kept.
    pub(super) fn pause(&mut self) -> Option<Leave> {
        let mut kept = Requests::NONE;
        while self.vm.lock().is_paused {
            self.take_interrupt();
            let requests = self.vm.take(self.vcpu.id);
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
        }
        self.take_owed();
        let (_, kept) = kept.split(Requests::PAUSE);
        self.vm.remind(kept);
        self.excuse_watch();
        None
    }
}
