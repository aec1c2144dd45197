//! A VM with all its vCPUs, which hear each other's bells at once.

use hv_abi::sdei::Call;
use hv_core::id::{IntId, VcpuId, VcpuSet};
use hv_core::sdei::Config;

use crate::vcpu::*;

/// A VM with all its vCPUs.
pub struct Room {
    pub pes: Vec<Vcpu>,
    pub world: World,
}

impl Room {
    pub fn new() -> Self {
        Self::with(&Config {
            events: &EVENTS,
            ..Config::default()
        })
    }

    pub fn with(config: &Config<'_>) -> Self {
        let pes = (0..SIBLINGS.len() as u8).map(|n| Vcpu::numbered(VcpuId(n), config));
        Self {
            pes: pes.collect(),
            world: World::new(config),
        }
    }

    /// Lets vCPU `n` act in the world that all share.
    pub fn on<T>(&mut self, n: usize, act: impl FnOnce(&mut Vcpu) -> T) -> T {
        std::mem::swap(&mut self.pes[n].world, &mut self.world);
        let result = act(&mut self.pes[n]);
        std::mem::swap(&mut self.pes[n].world, &mut self.world);
        let rung = std::mem::take(&mut self.pes[n].rung);
        self.ring(rung);
        result
    }

    pub fn ring(&mut self, set: VcpuSet) {
        for vcpu in set.iter() {
            self.pes[vcpu.index()].pe.look();
        }
    }

    pub fn smc(&mut self, n: usize, call: Call, args: &[u64]) -> i64 {
        self.on(n, |vcpu| vcpu.smc(call, args))
    }

    /// The vCPU goes into its guest: the event it takes on the way.
    pub fn enter(&mut self, n: usize) -> Option<u32> {
        let taken = self.on(n, Vcpu::enter);
        taken.map(|interrupted| interrupted.event)
    }

    pub fn complete(&mut self, n: usize) {
        self.on(n, Vcpu::complete);
    }

    pub fn arm(&mut self, n: usize, event: u64, flags: u64, affinity: u64) {
        let args = [event, ENTRY, ARGUMENT, flags, affinity];
        assert_eq!(self.smc(n, Call::EventRegister, &args), OK);
        assert_eq!(self.smc(n, Call::EventEnable, &[event]), OK);
    }

    pub fn unmask_all(&mut self) {
        for n in 0..self.pes.len() {
            assert_eq!(self.smc(n, Call::PeUnmask, &[]), OK);
        }
    }

    pub fn raise(&mut self, event: u64) -> Option<VcpuSet> {
        let World {
            shared_events,
            family,
            ..
        } = &mut self.world;
        let look = shared_events.raise(event as u32, VcpuId(0), &family.board);
        self.ring(look.unwrap_or_default());
        look
    }

    pub fn bind(&mut self, intid: u32) -> u64 {
        let event = self.smc(0, Call::InterruptBind, &[intid.into()]);
        assert_eq!(event >> 30, 1, "{event:#x}");
        event as u64
    }

    /// A physical interrupt arrives at vCPU `n`.
    pub fn interrupt(&mut self, n: usize, intid: u32) {
        let intid = IntId(intid);
        self.on(n, |vcpu| {
            let effects = vcpu.world.vgic.forward(vcpu.me, intid);
            assert_eq!(effects.bound, Some(intid));
            vcpu.take_bound(intid);
        });
    }

    /// The line of an emulated device's interrupt goes up or down.
    pub fn set_line(&mut self, intid: u32, level: bool) {
        let effects = self.world.vgic.set_line(IntId(intid), None, level);
        if let Some(intid) = effects.bound {
            self.on(0, |vcpu| vcpu.take_bound(intid));
        }
    }

    pub fn status(&mut self, event: u64) -> i64 {
        self.smc(0, Call::EventStatus, &[event])
    }
}
