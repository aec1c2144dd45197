//! A virtual machine as a value: its vCPUs ([`Vcpu`], each touched by its own pCPU only), what they share ([`Shared`],
//! behind a lock that the shell keeps), and the loop that each vCPU runs ([`VcpuLoop`]).
//!
//! In this file is one vCPU between two entries: an exit comes in, and either it is settled here or an [`Action`] says
//! what is left. Nothing here takes a lock; what needs one is [`Deferred`].

mod at_once;
mod events;
mod faults;
mod hardware;
mod interrupts;
mod life;
mod map;
mod mediated;
mod record;
mod run;
mod shared;
mod sysregs;
mod undescribed;

use hv_abi::firmware::Fault;
use hv_abi::{sdei, smccc};

use crate::entry::{self, Access, Features};
use crate::exit::{Abort, Exit, MmioAccess, Undescribed};
use crate::id::{IntId, Mpidr, VcpuId};
use crate::idreg;
use crate::os_lock::OsLock;
use crate::psci;
use crate::regs::{El1, GuestRegs};
use crate::sdei::{Board, Config, Interrupted, Pe};
use crate::smc::{self, Service};
use crate::time::Instant;
use crate::trace::{Event, Ring};
use crate::trng;
use crate::vgic::affinity::Sgi;
use crate::vgic::interface::InterfaceState;
use crate::vgic::{Frame, Leftovers, Sticky};
use faults::Faults;

pub use at_once::{AtOnce, Saved};
pub use faults::FaultKind;
pub use hardware::{GuestExit, Hardware, Interrupt, Synchronous, Syndrome, Vm};
pub use life::{End, Ending, Kernel, Life};
pub use map::{
    GuestMap, IpaRange, MediatedAccess, OwnAccess, OwnDevice, OwnDevices, REDISTRIBUTOR_SIZE,
    Transport, last_redistributors,
};
pub use record::Record;
pub use run::{Answer, Lateness, Refusal, Stand, State, TracedCall, VcpuLoop, load};
pub use shared::event as panic_event;
pub use shared::{BOOT_VCPU, Config as SharedConfig, GwdtConfig, Load, Next, Outcome, Shared};
pub use undescribed::{Attempts, Verdict, uses_sp_el1};

/// What a vCPU's own pCPU can be asked.
pub trait Pcpu: El1 {
    /// The identification register with this CRm and op2, as the hardware has it.
    fn id_register(&self, crm: u32, op2: u32) -> u64;
    /// The time.
    fn now(&self) -> Instant;
    /// What the virtual CPU interface of a GICv3 holds.
    fn interface_state(&self) -> InterfaceState;
    /// Sets ICH_VMCR_EL2.
    fn set_ich_vmcr(&mut self, value: u64);
    /// Whether some of the guest's RAM is read-only or execute-never; then no page of a device is read-only.
    fn guards_ram(&self) -> bool {
        false
    }
    /// Is told of everything that is traced, as it happens.
    #[inline]
    fn observe(&self, _event: Event) {}
    /// The guest has said these things by pvpanic ([`panic_event`]) on `vcpu`. Called at most once for each until the guest is
    /// loaded again.
    fn tell_of_panic(&self, _vcpu: VcpuId, _events: u8) {}
    /// `vcpu` faults at `pc` by an access to `address`, both virtual addresses. Called at most once for each vCPU's
    /// [`FaultKind::First`] and once for one of the others.
    fn tell_of_fault(&self, _vcpu: VcpuId, _kind: FaultKind, _pc: u64, _address: u64) {}
}

/// What is left to do before the guest goes on.
#[derive(Debug, PartialEq)]
#[must_use]
pub enum Action {
    /// Nothing.
    Resume,
    /// Post [`crate::mailbox::Requests::SDEI_SIGNAL`] to this vCPU and ring.
    Signal(VcpuId),
    /// Have [`trng::answer`] answer, with this pCPU's source.
    Trng(trng::Call),
    /// Have [`Attempts::judge`] say what the instruction at the pc does to a device of ours.
    Decode(Undescribed),
    /// Have [`crate::walk`] say at which level the guest's walk of its tables met nothing.
    Walk(Abort),
    /// Have [`crate::evidence`] say what stage 2 has refused.
    GuardedAbort,
    /// Have the transport of a mediated device, under its own lock, do what is asked of it; the pc still stands at the
    /// instruction.
    Mediated(MediatedAccess),
    /// It needs a lock: that of the virtual GIC's parts that it concerns, or [`Shared::finish`] does it under the VM's.
    Locked(Deferred),
}

/// What an exit asks of what the vCPUs share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Deferred {
    /// This SGI goes to those who have it in group 0 (ICC_SGI0R_EL1, ICC_ASGI1R_EL1).
    SgiGroup0(Sgi),
    /// This interrupt is deactivated (a trapped ICC_DIR_EL1).
    Deactivate(IntId),
    /// An SDEI call about what all vCPUs have in common.
    Sdei(sdei::Call),
    /// The platform raises an SDEI event.
    Raise {
        /// Its number.
        event: u32,
        /// On whom, if it is private.
        target: VcpuId,
    },
    /// A PSCI call.
    Psci(psci::Call),
    /// An access to the virtual GIC; the pc still stands at the instruction.
    Gic {
        /// Whose registers.
        frame: Frame,
        /// Where in the frame, in bytes.
        offset: u64,
        /// How.
        access: MmioAccess,
    },
    /// An access to a device of the guest's own; the pc still stands at the instruction.
    Own(OwnAccess),
    /// An access to the emulated UART; the pc still stands at the instruction.
    Uart {
        /// Register offset in bytes.
        offset: u64,
        /// How.
        access: MmioAccess,
    },
}

/// The part of a vCPU that only its own pCPU touches.
#[derive(Debug)]
pub struct Vcpu {
    /// Its number in the VM.
    pub id: VcpuId,
    /// Its SDEI state.
    pub sdei: Pe,
    features: Features,
    ids: idreg::Table,
    trace: Ring,
    /// When the last event of each priority was dispatched.
    dispatched: [Instant; 2],
    /// The last event before it was started anew: a capture kernel that restarts a CPU and sends it
    /// events must not wipe out the evidence of how it was stopped.
    before: Option<(Instant, Interrupted)>,
    /// The list registers do not hold what they should.
    is_vgic_stale: bool,
    /// How many list registers hold something, from the first on.
    used: usize,
    /// What may go into them again.
    sticky: Sticky,
    /// The physical interrupt that has come last, if list registers were not chosen anew since.
    fresh: Option<IntId>,
    /// What it leaves of its pending interrupts when it is switched off.
    leftovers: Leftovers,
    /// At instructions that no syndrome describes.
    attempts: Attempts,
    /// Its external aborts.
    faults: Faults,
    os_lock: OsLock,
}

impl Vcpu {
    /// A vCPU that is off.
    pub fn new(id: VcpuId, features: Features, sdei: &Config<'_>) -> Self {
        Self {
            id,
            sdei: Pe::new(id, features, sdei),
            features,
            ids: idreg::Table::default(),
            trace: Ring::new(),
            dispatched: [Instant(0); 2],
            before: None,
            is_vgic_stale: true,
            used: 0,
            sticky: Sticky::new(),
            fresh: None,
            leftovers: if sdei.firmware.has(Fault::OffKeepsPending) {
                Leftovers::Kept
            } else {
                Leftovers::Dropped
            },
            attempts: Attempts::default(),
            faults: Faults::default(),
            os_lock: OsLock::HELD,
        }
    }

    /// It runs on this pCPU, whose identification registers its guest sees as far as they are allowed.
    pub fn move_to(&mut self, pcpu: &impl Pcpu) {
        self.ids = idreg::Table::new(|crm, op2| pcpu.id_register(crm, op2));
    }

    /// What is remembered of it, oldest first.
    pub fn trace(&self) -> impl Iterator<Item = (Instant, Event)> + '_ {
        self.trace.iter()
    }

    /// Remembers an event.
    pub fn note(&mut self, pcpu: &impl Pcpu, event: Event) {
        pcpu.observe(event);
        self.trace.push(pcpu.now(), event);
    }

    /// Starts from power-off: what CPU_ON promises of the registers hv-core holds (DEN0022 6.4).
    pub fn start(&mut self, regs: &mut GuestRegs, start: psci::Start, pcpu: &impl Pcpu) {
        self.close_records();
        self.begin(regs, start, pcpu);
    }

    /// Goes on after SYSTEM_SUSPEND: as a vCPU that starts, but that SDEI keeps what it knows and is masked
    /// (DEN0054 6.3).
    pub fn wake(
        &mut self,
        regs: &mut GuestRegs,
        start: psci::Start,
        pcpu: &impl Pcpu,
        board: &Board,
    ) {
        self.sdei.wake(board);
        self.begin(regs, start, pcpu);
    }

    fn begin(&mut self, regs: &mut GuestRegs, start: psci::Start, pcpu: &impl Pcpu) {
        use crate::regs::pstate;
        self.faults.begin();
        self.os_lock = OsLock::HELD;
        *regs = GuestRegs {
            pc: start.entry,
            pstate: pstate::EL1H | pstate::DAIF | pstate::Z,
            ..GuestRegs::default()
        };
        regs.x[0] = start.context;
        regs.x[4] = start.x4;
        self.note(pcpu, Event::Started { entry: start.entry });
    }

    /// Settles an exit that is not [settled at once](Vcpu::at_once). `esr` and `far` are what it came with.
    #[inline]
    pub fn handle_exit(
        &mut self,
        exit: Exit,
        (esr, far): (u64, u64),
        regs: &mut GuestRegs,
        pcpu: &mut impl Pcpu,
        map: &GuestMap,
    ) -> Action {
        match exit {
            Exit::Smc(immediate) => {
                regs.pc = regs.pc.wrapping_add(4);
                self.handle_call(immediate, regs, pcpu, map)
            }
            Exit::Hvc(immediate) => self.handle_call(immediate, regs, pcpu, map),
            Exit::Sysreg(access) => self.handle_sysreg(access, esr, regs, pcpu, map),
            Exit::Mmio(access) => self.handle_mmio(access, (esr, far), regs, pcpu, map),
            Exit::ReadOnly(_) | Exit::ReadOnlyUndescribed(_) | Exit::Abort(_)
                if pcpu.guards_ram() =>
            {
                Action::GuardedAbort
            }
            Exit::ReadOnly(access) => Action::Locked(Deferred::Uart {
                offset: access.ipa,
                access,
            }),
            Exit::ReadOnlyUndescribed(access) => Action::Decode(Undescribed {
                ipa: map.uart.start.wrapping_add(access.ipa),
                ..access
            }),
            Exit::Undescribed(access) if map.is_device(self.id, access.ipa) => {
                Action::Decode(access)
            }
            Exit::Undescribed(_) => {
                self.refuse_access((Access::Data, None), (esr, far), regs, pcpu)
            }
            Exit::Abort(abort) if abort.is_walk => Action::Walk(abort),
            Exit::Abort(abort) => {
                self.refuse_access((Access::of(abort), None), (esr, far), regs, pcpu)
            }
            Exit::Wfx => {
                regs.pc = regs.pc.wrapping_add(4);
                Action::Resume
            }
            Exit::Unknown(_) => {
                entry::inject_undefined(regs, pcpu, self.features, esr);
                Action::Resume
            }
        }
    }

    #[inline]
    fn handle_call(
        &mut self,
        immediate: u16,
        regs: &mut GuestRegs,
        pcpu: &mut impl Pcpu,
        map: &GuestMap,
    ) -> Action {
        let [function, x1, x2, x3, ..] = regs.x;
        match smc::route(immediate, function as u32, [x1, x2, x3]) {
            Service::Words(words) => {
                for (x, word) in regs.x.iter_mut().zip(words) {
                    *x = word.into();
                }
                Action::Resume
            }
            Service::Psci(call) => Action::Locked(Deferred::Psci(call)),
            Service::Trng(call) => Action::Trng(call),
            Service::Answer(value) => answer(regs, value),
            Service::Raise => match map.affinities.find(Mpidr::new(x2)) {
                _ if !map.has_debug_calls => answer(regs, smccc::NOT_SUPPORTED),
                None => answer(regs, sdei::Status::InvalidParameters as i64),
                Some(target) => Action::Locked(Deferred::Raise {
                    event: x1 as u32,
                    target,
                }),
            },
            Service::Sdei(call) => self.handle_sdei(call, regs, pcpu, map),
        }
    }

    fn handle_mmio(
        &mut self,
        access: MmioAccess,
        syndrome: (u64, u64),
        regs: &mut GuestRegs,
        pcpu: &mut impl Pcpu,
        map: &GuestMap,
    ) -> Action {
        if let Some((frame, offset)) = map.frame(self.id, access.ipa) {
            return Action::Locked(Deferred::Gic {
                frame,
                offset,
                access,
            });
        }
        match map.uart.offset_of(access.ipa) {
            Some(offset) => Action::Locked(Deferred::Uart { offset, access }),
            None => match map.rare_device(access) {
                Some(action) => action,
                None => self.refuse_access((Access::Data, None), syndrome, regs, pcpu),
            },
        }
    }

    /// What the access to a device of ours that this is asks for, if it is one.
    #[inline]
    fn find_device(&self, access: MmioAccess, map: &GuestMap) -> Option<Action> {
        if let Some((frame, offset)) = map.frame(self.id, access.ipa) {
            return Some(Action::Locked(Deferred::Gic {
                frame,
                offset,
                access,
            }));
        }
        match map.uart.offset_of(access.ipa) {
            Some(offset) => Some(Action::Locked(Deferred::Uart { offset, access })),
            None => map.rare_device(access),
        }
    }

    /// Nobody answers at that address: the guest takes the external abort a bus would give it, of the access itself or of its
    /// walk at this level.
    fn refuse_access(
        &mut self,
        access: (Access, Option<i8>),
        (esr, far): (u64, u64),
        regs: &mut GuestRegs,
        pcpu: &mut impl Pcpu,
    ) -> Action {
        if let Some(kind) = self.faults.note(regs, far) {
            pcpu.tell_of_fault(self.id, kind, regs.pc, far);
        }
        entry::inject_external_abort(regs, pcpu, self.features, access, esr, far);
        Action::Resume
    }
}

/// The guest goes on with this in x0.
fn answer(regs: &mut GuestRegs, value: i64) -> Action {
    let [x0, ..] = &mut regs.x;
    *x0 = value as u64;
    Action::Resume
}

/// Register `rt`; 31 reads as zero.
pub fn read_register(regs: &GuestRegs, rt: u8) -> u64 {
    regs.x.get(rt as usize).copied().unwrap_or(0)
}

/// Sets register `rt`; 31 is ignored.
pub fn write_register(regs: &mut GuestRegs, rt: u8, value: u64) {
    if let Some(register) = regs.x.get_mut(rt as usize) {
        *register = value;
    }
}
