//! A vCPU with nothing but SDEI.

use hv_abi::firmware::{Fault, Firmware};
use hv_abi::sdei::Call;
use hv_core::entry::Features;
use hv_core::id::{IntId, Mpidr, VcpuId, VcpuSet};
use hv_core::regs::{El1Values, GuestRegs};
use hv_core::sdei::{
    Board, Config, Definition, Departure, Due, Effect, Interrupted, Pe, Priority, Scope,
    SdeiEffects, SharedEvents, WithBoard,
};
use hv_core::siblings::Siblings;
use hv_core::time::Instant;
use hv_core::vgic::{self, Vgic};

/// Affinities of the VM; the vCPU under test is the first.
pub const SIBLINGS: [u64; 4] = [0x000, 0x001, 0x100, 0x1_0000_0000];

/// A normal and a critical private event that a test VM defines.
pub const NORMAL: u32 = 0x100;
pub const CRITICAL: u32 = 0x101;

/// A normal and a critical shared event.
pub const SHARED: u32 = 0x200;
pub const SHARED_CRITICAL: u32 = 0x201;

/// All of them.
pub const EVENTS: [Definition; 4] = [
    event(NORMAL, Scope::Private, Priority::Normal),
    event(CRITICAL, Scope::Private, Priority::Critical),
    event(SHARED, Scope::Shared, Priority::Normal),
    event(SHARED_CRITICAL, Scope::Shared, Priority::Critical),
];

const fn event(number: u32, scope: Scope, priority: Priority) -> Definition {
    Definition {
        number,
        scope,
        priority,
    }
}

pub const ENTRY: u64 = 0xffff_8000_0801_0000;
pub const ARGUMENT: u64 = 0xa5a5_0000_1234_5678;
pub const VBAR: u64 = 0xffff_8000_0001_0800;

/// Where it is interrupted: EL1h, interrupts masked, some flags.
pub const PC: u64 = 0xffff_8000_0800_1000;
pub const PSTATE: u64 = 0x6000_03c5;

pub const OK: i64 = 0;
pub const NOT_SUPPORTED: i64 = -1;
pub const INVALID: i64 = -2;
pub const DENIED: i64 = -3;
pub const PENDING: i64 = -5;
pub const OUT_OF_RESOURCE: i64 = -10;

/// What the vCPUs of a VM have in common.
pub struct World {
    pub shared_events: SharedEvents,
    pub vgic: Vgic,
    pub family: Family,
}

/// The vCPUs of a VM by affinity, and what they show.
pub struct Family {
    pub mpidrs: Vec<Mpidr>,
    pub board: Board,
}

impl Siblings for Family {
    fn resolve(&self, mpidr: Mpidr) -> Option<VcpuId> {
        self.mpidrs.as_slice().resolve(mpidr)
    }
    fn affinity(&self, vcpu: VcpuId) -> Option<Mpidr> {
        self.mpidrs.get(vcpu.index()).copied()
    }
}

impl WithBoard for Family {
    fn board(&self) -> &Board {
        &self.board
    }
}

/// Interrupts of the test VM that come from the machine: the virtual timer, and an SPI.
pub const TIMER: u32 = 27;
pub const SPI: u32 = 40;
/// An SPI that comes from an emulated device.
pub const LINE: u32 = 33;

impl World {
    pub fn new(config: &Config<'_>) -> Self {
        Self::of(&SIBLINGS, config)
    }

    /// With vCPUs of these affinities.
    pub fn of(mpidrs: &[u64], config: &Config<'_>) -> Self {
        let mpidrs: Vec<Mpidr> = mpidrs.iter().copied().map(Mpidr::new).collect();
        let vgic = Vgic::new(&vgic::Config {
            mpidrs: &mpidrs,
            last: VcpuSet::EMPTY,
            spis: 64,
            passed_through: &[IntId(TIMER), IntId(SPI)],
            priority_bits: 5,
            list_regs: 4,
            model: vgic::Model::V3,
        });
        Self {
            shared_events: SharedEvents::new(mpidrs.len(), config),
            vgic,
            family: Family {
                board: Board::new(mpidrs.len()),
                mpidrs,
            },
        }
    }
}

pub struct Vcpu {
    pub me: VcpuId,
    pub pe: Pe,
    pub world: World,
    pub regs: GuestRegs,
    pub el1: El1Values,
    /// Whom the last call signalled.
    pub signalled: Option<VcpuId>,
    /// The bound interrupt that was last let go.
    pub ended: Option<IntId>,
    /// Whom something rang, this vCPU included; nobody has answered yet.
    pub rung: VcpuSet,
}

impl Vcpu {
    pub fn new() -> Self {
        Self::with(&Config::default())
    }

    /// One with a normal and a critical event besides event 0.
    pub fn with_events() -> Self {
        Self::with(&Config {
            events: &EVENTS,
            ..Config::default()
        })
    }

    /// One with a normal and a critical private event besides event 0, and nothing in common with others.
    pub fn alone() -> Self {
        Self::with(&Config {
            firmware: Firmware::only(Fault::NoBindSlots),
            events: &EVENTS[..2],
            ..Config::default()
        })
    }

    pub fn with(config: &Config<'_>) -> Self {
        Self::numbered(VcpuId(0), config)
    }

    pub fn numbered(me: VcpuId, config: &Config<'_>) -> Self {
        let el1 = El1Values {
            vbar: VBAR,
            sctlr: 1 << 23,
            sp: [0x5000_0000, 0xffff_8000_0900_0000],
            elr: 0xe1,
            spsr: 0xe2,
            esr: 0xe3,
            far: 0xe4,
        };
        Self {
            me,
            pe: Pe::new(me, Features::default(), config),
            world: World::new(config),
            regs: GuestRegs {
                x: core::array::from_fn(|n| 0x0101_0101_0101_0101 * n as u64),
                pc: PC,
                pstate: PSTATE,
                is_partial: 0,
            },
            el1,
            signalled: None,
            ended: None,
            rung: VcpuSet::EMPTY,
        }
    }

    /// One that takes event 0.
    pub fn ready() -> Self {
        let mut vcpu = Self::new();
        vcpu.make_ready(0);
        vcpu
    }

    /// Registers and enables `event` and unmasks.
    pub fn make_ready(&mut self, event: u32) {
        let event = u64::from(event);
        assert_eq!(
            self.smc(
                Call::EventRegister,
                &[event, ENTRY + 4 * event, ARGUMENT, 0, 0]
            ),
            OK
        );
        assert_eq!(self.smc(Call::EventEnable, &[event]), OK);
        assert_eq!(self.smc(Call::PeUnmask, &[]), OK);
    }

    /// Makes a call that returns, and gives its answer. Nothing but x0 and the pc may have changed.
    pub fn smc(&mut self, call: Call, args: &[u64]) -> i64 {
        let (before, el1) = self.issue(call, args);
        let mut expected = before;
        expected.x[0] = self.regs.x[0];
        assert_eq!(self.regs, expected, "{call:?} changed more than x0");
        assert_eq!(self.el1, el1, "{call:?} changed EL1");
        self.regs.x[0] as i64
    }

    /// Makes a call that may not return.
    pub fn leave(&mut self, call: Call, args: &[u64]) {
        self.issue(call, args);
    }

    fn issue(&mut self, call: Call, args: &[u64]) -> (GuestRegs, El1Values) {
        self.regs.x[0] = u64::from(call as u32);
        self.regs.x[1..=args.len()].copy_from_slice(args);
        self.regs.pc += 4;
        let before = (self.regs.clone(), self.el1.clone());
        let World {
            shared_events,
            vgic,
            family,
        } = &mut self.world;
        self.signalled = None;
        if self.pe.needs_shared(call, &self.regs) {
            let (regs, el1) = (&mut self.regs, &mut self.el1);
            let SdeiEffects { look, gic } =
                self.pe
                    .call_shared(call, regs, el1, family, (shared_events, vgic));
            self.ended = gic.deactivate.iter().next();
            self.rung = self.rung.union(look);
        } else if let Effect::Signal(vcpu) =
            self.pe.call(call, &mut self.regs, &mut self.el1, family)
        {
            self.signalled = Some(vcpu);
        }
        self.pe.show(&family.board);
        before
    }

    /// Goes back to the guest: takes the event that is due, if there is one.
    pub fn enter(&mut self) -> Option<Interrupted> {
        if self.rung.contains(self.me) {
            self.rung.remove(self.me);
            self.pe.look();
        }
        if !self.pe.is_alert() {
            return None;
        }
        let World {
            shared_events,
            family,
            ..
        } = &mut self.world;
        let (regs, board) = (&mut self.regs, &family.board);
        let priority = match self.pe.due(board)? {
            Due::Private => self.pe.dispatch(regs, &self.el1),
            Due::Shared => self
                .pe
                .dispatch_shared(shared_events, board, regs, &self.el1),
        };
        assert!(priority.is_some(), "it was due");
        let (interrupted, is_running) = self.pe.last_interrupted(priority?)?;
        assert!(is_running);
        Some(interrupted.clone())
    }

    /// A sibling has signalled this vCPU.
    pub fn signal(&mut self) -> Option<Interrupted> {
        self.post(0);
        self.enter()
    }

    /// The platform raises one of its events.
    pub fn raise(&mut self, event: u32) -> Option<Interrupted> {
        self.post(event);
        self.enter()
    }

    /// The platform raises one of its private events, and the vCPU looks.
    pub fn post(&mut self, event: u32) {
        if event == 0 {
            assert_eq!(self.pe.post_signal(Instant(0)), None);
            return;
        }
        let World {
            shared_events,
            family,
            ..
        } = &mut self.world;
        let look = shared_events.raise(event, self.me, &family.board);
        assert_eq!(look, Some(VcpuSet::only(self.me)));
        for place in shared_events.take_raised(self.me) {
            self.pe.post(place);
        }
    }

    /// A bound interrupt has arrived here.
    pub fn take_bound(&mut self, intid: IntId) {
        let World {
            shared_events,
            vgic,
            family,
        } = &mut self.world;
        let sdei_effects = self
            .pe
            .take_bound(intid, shared_events, vgic, &family.board);
        self.ended = sdei_effects.gic.deactivate.iter().next();
        self.rung = self.rung.union(sdei_effects.look);
    }

    /// CPU_OFF.
    pub fn turn_off(&mut self) -> Departure {
        let World {
            shared_events,
            vgic,
            family,
        } = &mut self.world;
        let (departure, sdei_effects) = self.pe.turn_off(shared_events, vgic, family);
        self.ended = sdei_effects.gic.deactivate.iter().next();
        self.rung = self.rung.union(sdei_effects.look);
        departure
    }

    /// The vCPU is turned off, and on again.
    pub fn restart(&mut self) {
        let World {
            shared_events,
            vgic,
            family,
        } = &mut self.world;
        let _: SdeiEffects = self.pe.retire(shared_events, vgic, family);
    }

    pub fn status(&mut self, event: u32) -> i64 {
        self.smc(Call::EventStatus, &[u64::from(event)])
    }

    pub fn complete(&mut self) {
        assert!(self.pe.running().is_some(), "nothing to complete");
        self.leave(Call::EventComplete, &[0]);
    }
}
