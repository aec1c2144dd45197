//! Calls that are shown to a person while the guest makes them. Such a guest has another handler for synchronous exits
//! ([`Hardware::synchronous`]), so no exit of an untraced guest that goes on is longer. A vCPU that leaves its guest or sleeps, or
//! that the operator asks something of, looks whether a call is open.

use super::VcpuLoop;
use super::short::Rest;
use crate::exit::{self, class};
use crate::id::VcpuId;
use crate::mailbox::Requests;
use crate::time::Instant;
use crate::vm::{Hardware, Vm};

/// A call that a guest has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedCall {
    /// Who called.
    pub vcpu: VcpuId,
    /// By SMC, and not by HVC.
    pub is_smc: bool,
    /// The function identifier.
    pub function: u32,
    /// x1 to x5.
    pub arguments: [u64; 5],
    /// x0 as the caller finds it; none if the call does not return to where it was made.
    pub answer: Option<u64>,
    /// What the call took at EL2, in ticks of the system counter.
    pub ticks: u64,
}

/// A call that has been made and is not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenCall {
    is_smc: bool,
    function: u32,
    arguments: [u64; 5],
    /// Where the guest goes on if the call returns.
    next: u64,
    since: Instant,
}

impl<V: Vm, C: Hardware> VcpuLoop<V, C> {
    /// [`settle_synchronous`](Self::settle_synchronous) of a guest whose calls are traced: none is settled on the short way.
    pub fn settle_traced(&mut self, esr: u64) -> bool {
        let is_smc = exit::class(esr) == class::SMC;
        if !is_smc && exit::class(esr) != class::HVC {
            return self.settle_synchronous(esr);
        }
        let [function, x1, x2, x3, x4, x5, ..] = self.regs.x;
        self.open_call = Some(OpenCall {
            is_smc,
            function: function as u32,
            arguments: [x1, x2, x3, x4, x5],
            // An SMC is trapped where it stands, an HVC is taken behind it (DDI0487 D1.3.2, "preferred exception return").
            next: self.regs.pc.wrapping_add(if is_smc { 4 } else { 0 }),
            since: self.cpu.now(),
        });
        self.vm.remind(Requests::TRACE);
        self.leave(Rest::Exit)
    }

    /// Tells of the open call, if there is one, before anything else changes the guest's registers. Unless it `may_have_returned`, it has not.
    #[inline]
    pub(super) fn tell_of_call(&mut self, may_have_returned: bool) {
        if self.open_call.is_some() {
            self.close_call(may_have_returned);
        }
    }

    #[cold]
    #[inline(never)]
    fn close_call(&mut self, may_have_returned: bool) {
        // What is asked besides is for the vCPU to find, and this would keep it from sleeping.
        let (_, others) = self.vm.take(self.vcpu.id).split(Requests::TRACE);
        self.vm.remind(others);
        let Some(call) = self.open_call.take() else {
            return;
        };
        let has_returned = may_have_returned && self.regs.pc == call.next;
        self.cpu.tell_of_call(&TracedCall {
            vcpu: self.vcpu.id,
            is_smc: call.is_smc,
            function: call.function,
            arguments: call.arguments,
            answer: has_returned.then_some(self.regs.x[0]),
            ticks: self.cpu.now().ticks_since(call.since),
        });
    }
}
