//! A vCPU with nothing but SDEI.

use hv_abi::sdei::Call;
use hv_core::entry::Features;
use hv_core::id::{Mpidr, VcpuId};
use hv_core::regs::{El1Values, GuestRegs};
use hv_core::sdei::{Config, Definition, Effect, Interrupted, Pe, Priority};

/// Affinities of the VM; the vCPU under test is the first.
pub const SIBLINGS: [u64; 4] = [0x000, 0x001, 0x100, 0x1_0000_0000];

/// A normal and a critical private event that a test VM defines.
pub const NORMAL: u32 = 0x100;
pub const CRITICAL: u32 = 0x101;

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

pub struct Vcpu {
    pub pe: Pe,
    pub regs: GuestRegs,
    pub el1: El1Values,
    /// Whom the last call signalled.
    pub signalled: Option<VcpuId>,
}

impl Vcpu {
    pub fn new() -> Self {
        Self::with(&Config::default())
    }

    /// One with a normal and a critical event besides event 0.
    pub fn with_events() -> Self {
        let events = [(NORMAL, Priority::Normal), (CRITICAL, Priority::Critical)]
            .map(|(number, priority)| Definition { number, priority });
        Self::with(&Config {
            events: &events,
            ..Config::default()
        })
    }

    pub fn with(config: &Config<'_>) -> Self {
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
            pe: Pe::new(VcpuId(0), Features::default(), config),
            regs: GuestRegs {
                x: core::array::from_fn(|n| 0x0101_0101_0101_0101 * n as u64),
                pc: PC,
                pstate: PSTATE,
            },
            el1,
            signalled: None,
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
        let siblings = SIBLINGS.map(Mpidr::new);
        let effect = self
            .pe
            .call(call, &mut self.regs, &mut self.el1, &siblings[..]);
        self.signalled = match effect {
            Effect::None => None,
            Effect::Signal(vcpu) => Some(vcpu),
        };
        before
    }

    /// Goes back to the guest: takes the event that is due, if there is one.
    pub fn enter(&mut self) -> Option<Interrupted> {
        let is_due = self.pe.is_dispatchable();
        let priority = self.pe.dispatch(&mut self.regs, &self.el1);
        assert_eq!(is_due, priority.is_some());
        let (interrupted, is_running) = self.pe.last_interrupted(priority?)?;
        assert!(is_running);
        Some(interrupted.clone())
    }

    /// A sibling has signalled this vCPU.
    pub fn signal(&mut self) -> Option<Interrupted> {
        self.pe.post_signal();
        self.enter()
    }

    /// The platform raises one of its events.
    pub fn raise(&mut self, event: u32) -> Option<Interrupted> {
        self.pe.post(event);
        self.enter()
    }

    pub fn status(&mut self, event: u32) -> i64 {
        self.smc(Call::EventStatus, &[u64::from(event)])
    }

    pub fn complete(&mut self) {
        assert!(self.pe.running().is_some(), "nothing to complete");
        self.leave(Call::EventComplete, &[0]);
    }
}
