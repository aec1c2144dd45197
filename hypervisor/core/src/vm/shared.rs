//! What the vCPUs of a VM share, behind the VM's lock, and everything that is done to it. Each public function is one
//! holding of the lock: it settles what it can, performs physical effects through [`Hardware`], and leaves in its
//! [`Outcome`] what is to be done when the lock has been released.

mod ends;
mod gwdt;
mod own;
mod uart;
mod watched;

use alloc::vec::Vec;

use hv_abi::policy::After;
use hv_abi::sdei::{Call, Status};

use super::{Deferred, End, Ending, GuestMap, Hardware, Kernel, Life, Vcpu};
use crate::clock::Clock;
use crate::flash::Flash;
use crate::id::{IntId, VcpuId, VcpuSet};
use crate::operator::TypeAhead;
use crate::pl011::{Pl011, Window};
use crate::psci::{self, Decision, Endian, Power, Reclaim, Start};
use crate::regs::GuestRegs;
use crate::sdei::{self, Board, Departure, SdeiEffects, SharedEvents};
use crate::trace::Event;
use crate::vgic::{self, Held, Parts};
use crate::watch::Company;

use gwdt::GuestGwdt;
pub use gwdt::GwdtConfig;
pub use own::event;

/// The vCPU that starts with the VM.
pub const BOOT_VCPU: VcpuId = VcpuId(0);

/// What is left to do when the lock has been released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    /// They must look at the virtual GIC. May contain the caller.
    pub kick: VcpuSet,
    /// They must look at their events. May contain the caller.
    pub look: VcpuSet,
    /// What the caller does next.
    pub next: Next,
}

/// What a vCPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on.
    Continue,
    /// It has this vCPU start, and goes on.
    Start(VcpuId),
    /// It writes this byte to the console, and goes on.
    Transmit(u8),
    /// Its guest has said these things ([`event`]), which are told, and it goes on.
    TellOfPanic(u8),
    /// It sleeps until something wakes it, and goes on.
    Suspend,
    /// It sleeps until something wakes it, and starts anew.
    SuspendSystem(Start),
    /// It is switched off.
    Off,
    /// It ends the VM.
    End(End),
    /// It looks after the guest's own watchdog, and goes on.
    Gwdt,
}

impl Outcome {
    const NOTHING: Self = Self {
        kick: VcpuSet::EMPTY,
        look: VcpuSet::EMPTY,
        next: Next::Continue,
    };

    pub(super) const fn kick(kick: VcpuSet) -> Self {
        Self {
            kick,
            ..Self::NOTHING
        }
    }

    const fn next(next: Next) -> Self {
        Self {
            next,
            ..Self::NOTHING
        }
    }
}

/// How a VM starts, each time it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Where the boot vCPU begins, an ipa. It finds that in x4, too, through which QEMU's loader branches there (QEMU
    /// hw/arm/boot.c, `bootloader_aarch64`).
    pub entry: u64,
    /// What it finds in x0: the ipa of the devicetree.
    pub context: u64,
}

/// What the vCPUs of a VM share.
#[derive(Debug)]
pub struct Shared {
    /// Where the VM is in its life.
    pub life: Life,
    /// Which vCPUs are on.
    pub power: Power,
    vcpus: VcpuSet,
    /// What its vCPUs have in common of SDEI.
    pub shared_events: SharedEvents,
    /// The emulated UART, and whether the guest reads a page instead of it.
    uart: Pl011,
    uart_window: Window,
    has_uart_page: bool,
    /// The emulated UART's interrupt, and its line as the virtual GIC knows it.
    uart_intid: IntId,
    uart_line: bool,
    /// The emulated UART is full, and typed bytes wait until the guest has read.
    is_input_held: bool,
    /// What was typed to the guest and is not in its UART.
    pub typed: TypeAhead,
    /// The operator has paused the VM: no vCPU enters its guest.
    pub is_paused: bool,
    /// What its guest reads as the virtual counter.
    pub clock: Clock,
    /// The VM is to end so: the first vCPU that looks does it.
    pub end_asked: Option<Ending>,
    /// The VM, which is off, is to be started: the first vCPU that looks does it.
    pub is_start_asked: bool,
    /// Those that do nothing any more but fault.
    faulting: VcpuSet,
    /// Where vCPUs that were switched on begin.
    starts: Vec<Option<Start>>,
    /// The guest's flash, if it has one.
    flash: Option<Flash>,
    /// What the guest has said by pvpanic since it was loaded.
    told: u8,
    /// The guest's own watchdog, if it has one.
    gwdt: Option<GuestGwdt>,
    /// What the watchdog knows of all vCPUs.
    pub company: Company,
}

/// What [`Shared`] is made from.
#[derive(Debug)]
pub struct Config<'a> {
    /// How many vCPUs.
    pub vcpus: usize,
    /// The SDEI that is offered.
    pub sdei: sdei::Config<'a>,
    /// What CPU_ON of a parked vCPU does.
    pub reclaim: Reclaim,
    /// The emulated UART's interrupt.
    pub uart_intid: IntId,
    /// There is a page that can stand in for its registers.
    pub has_uart_page: bool,
    /// Bytes of its flash; 0 for none.
    pub flash: u64,
    /// Its own watchdog, if it has one.
    pub gwdt: Option<GwdtConfig>,
}

impl Shared {
    /// Of a VM that was never loaded.
    pub fn new(config: Config<'_>) -> Self {
        Self {
            life: Life::Off,
            power: Power::new(BOOT_VCPU).with_reclaim(config.reclaim),
            vcpus: (0..config.vcpus as u8).fold(VcpuSet::EMPTY, |set, vcpu| {
                set.union(VcpuSet::only(VcpuId(vcpu)))
            }),
            shared_events: SharedEvents::new(config.vcpus, &config.sdei),
            uart: Pl011::new(),
            uart_window: Window::new(config.has_uart_page),
            has_uart_page: config.has_uart_page,
            uart_intid: config.uart_intid,
            uart_line: false,
            is_input_held: false,
            typed: TypeAhead::new(),
            is_paused: false,
            clock: Clock::default(),
            end_asked: None,
            is_start_asked: false,
            faulting: VcpuSet::EMPTY,
            starts: (0..config.vcpus).map(|_| None).collect(),
            flash: (config.flash != 0).then(|| Flash::new(config.flash)),
            told: 0,
            gwdt: config.gwdt.map(GuestGwdt::new),
            company: Company::default(),
        }
    }

    /// Does what `vcpu` left for this lock in [`Vcpu::handle_exit`].
    #[inline(always)]
    pub fn finish(
        &mut self,
        deferred: Deferred,
        vcpu: &mut Vcpu,
        regs: &mut GuestRegs,
        cpu: &mut impl Hardware,
        (map, gic): (&GuestMap, &impl Parts),
    ) -> Outcome {
        match deferred {
            Deferred::Uart { offset, access } => {
                self.access_uart((offset, access), vcpu, regs, cpu, (map, gic))
            }
            Deferred::Sdei(call) => self.call_sdei(call, vcpu, regs, cpu, (map, gic)),
            Deferred::Psci(call) => self.call_psci(call, vcpu, regs, cpu, map),
            Deferred::Raise { event, target } => {
                let look = self.shared_events.raise(event, target, &map.board);
                let [x0, ..] = &mut regs.x;
                *x0 = match look {
                    Some(_) => 0,
                    None => Status::InvalidParameters as i64 as u64,
                };
                Outcome {
                    look: look.unwrap_or_default(),
                    ..Outcome::NOTHING
                }
            }
            Deferred::Own(access) => self.access_own(access, vcpu, regs, cpu, (&map.board, gic)),
            // They are done without this lock.
            Deferred::SgiGroup0(_) | Deferred::Deactivate(_) | Deferred::Gic { .. } => {
                Outcome::NOTHING
            }
        }
    }

    // SDEI.

    fn call_sdei(
        &mut self,
        call: Call,
        vcpu: &mut Vcpu,
        regs: &mut GuestRegs,
        cpu: &mut impl Hardware,
        (map, gic): (&GuestMap, &impl Parts),
    ) -> Outcome {
        let kick = vcpu.fold(gic, cpu);
        let shared_events = (&mut self.shared_events, gic);
        let sdei_effects = vcpu.call_shared(call, regs, cpu, map, shared_events);
        cpu.perform(&sdei_effects.gic);
        Outcome {
            kick: kick.union(sdei_effects.gic.kick),
            look: sdei_effects.look,
            next: Next::Continue,
        }
    }

    /// `vcpu` takes a shared event that is due, unless a sibling is faster.
    pub fn dispatch(
        &mut self,
        vcpu: &mut Vcpu,
        regs: &mut GuestRegs,
        cpu: &impl Hardware,
        board: &Board,
    ) {
        vcpu.dispatch_shared(&mut self.shared_events, regs, cpu, board);
    }

    /// Whether the VM's configuration has such an event.
    pub fn has_event(&self, event: u32) -> bool {
        self.shared_events.has(event)
    }

    /// The operator raises an event, a private one on `target`. Who must look.
    pub fn raise(&mut self, event: u32, target: VcpuId, board: &Board) -> VcpuSet {
        let look = self.shared_events.raise(event, target, board);
        look.unwrap_or_default()
    }

    /// Takes the private events that the platform has raised on `vcpu`.
    pub fn take_raised(&mut self, vcpu: &mut Vcpu) {
        for place in self.shared_events.take_raised(vcpu.id) {
            vcpu.sdei.post(place);
        }
    }

    // Power.

    fn call_psci(
        &mut self,
        call: psci::Call,
        vcpu: &mut Vcpu,
        regs: &mut GuestRegs,
        cpu: &mut impl Hardware,
        map: &GuestMap,
    ) -> Outcome {
        let is_capture = self.life == Life::Capturing;
        let is_ram = |ipa| match is_capture {
            true => map.held.offset_of(ipa).is_some(),
            false => map.is_ram(ipa),
        };
        let endian = || cpu.endian();
        let is_parked = |vcpu| map.board.is_parked(vcpu);
        let decision = self
            .power
            .call(vcpu.id, call, endian, map, is_ram, is_parked);
        let (x0, next) = match decision {
            Decision::Answer(value) => (value, Next::Continue),
            Decision::Start(start) => {
                let (target, entry) = (start.vcpu, start.entry);
                if let Some(slot) = self.starts.get_mut(target.index()) {
                    *slot = Some(start);
                }
                let event = Event::CpuOn {
                    target: target.0,
                    entry,
                };
                vcpu.note(cpu, event);
                (0, Next::Start(target))
            }
            Decision::Suspend => (0, Next::Suspend),
            Decision::SystemSuspend { entry, context } => {
                let start = Start {
                    vcpu: vcpu.id,
                    entry,
                    context,
                    x4: 0,
                    endian: cpu.endian(),
                };
                return Outcome::next(Next::SuspendSystem(start));
            }
            Decision::Off => return Outcome::next(Next::Off),
            Decision::SystemOff => return Outcome::next(Next::End(End::Off)),
            Decision::SystemReset(reset) => return Outcome::next(Next::End(End::Reset(reset))),
        };
        let [to, ..] = &mut regs.x;
        *to = x0;
        Outcome::next(next)
    }

    /// Where `me`, which is off and was asked to start, begins; nowhere if nobody has switched it on, or while the VM
    /// does not run, or is paused.
    pub fn start(&mut self, me: VcpuId) -> Option<Start> {
        if !self.life.may_start() || self.is_paused {
            return None;
        }
        let start = self.starts.get_mut(me.index()).and_then(Option::take)?;
        self.power.started(me);
        // What the platform raised while this vCPU was off is gone.
        let _ = self.shared_events.take_raised(me);
        Some(start)
    }

    /// Whether somebody has switched `me` on and it has not begun since.
    pub fn is_to_start(&self, me: VcpuId) -> bool {
        self.starts.get(me.index()).is_some_and(Option::is_some)
    }

    /// CPU_OFF: ends what `vcpu` runs of SDEI and lets go of what it holds. It is off when [`Self::stopped`] says so.
    pub fn turn_off(
        &mut self,
        vcpu: &mut Vcpu,
        cpu: &mut impl Hardware,
        (map, gic): (&GuestMap, &impl Parts),
    ) -> (Departure, Outcome) {
        self.clock.leave(|| cpu.now());
        let (departure, sdei_effects) = vcpu.sdei.turn_off(&mut self.shared_events, gic, map);
        (departure, follow(&sdei_effects, cpu))
    }

    /// The same for a vCPU that is stopped or taken back by a sibling.
    pub fn retire(
        &mut self,
        vcpu: &mut Vcpu,
        cpu: &mut impl Hardware,
        (map, gic): (&GuestMap, &impl Parts),
    ) -> Outcome {
        self.clock.leave(|| cpu.now());
        let sdei_effects = vcpu.sdei.retire(&mut self.shared_events, gic, map);
        follow(&sdei_effects, cpu)
    }

    /// A vCPU that turned itself off touches no memory any more.
    pub fn stopped(&mut self, me: VcpuId) {
        self.power.stopped(me);
    }

    /// The VM is frozen, and goes on as it was at power-on. Memory is to be written now. False if it is not frozen.
    #[must_use]
    pub fn begin_load(
        &mut self,
        kernel: Kernel,
        cpu: &mut impl Hardware,
        (board, gic): (&Board, &impl Parts),
    ) -> bool {
        if !self.life.load() {
            return false;
        }
        self.uart.reset();
        self.flash.iter_mut().for_each(Flash::reset);
        self.told = 0;
        self.company = Company::default();
        self.uart_line = false;
        // Nobody runs whom it could concern. Left up, the line would interrupt the next guest until it rises and falls.
        let mut held = Held::of_interrupt(gic, BOOT_VCPU, self.uart_intid);
        let _ = held.set_line(self.uart_intid, false);
        drop(held);
        self.reset_gwdt(gic);
        // To a capture kernel the dead guest's memory is read-only, and so no page else may be: what a store was refused by is
        // not told (DDI0487 D24.2, HPFAR_EL2).
        let is_shown = self.has_uart_page && kernel == Kernel::Guest;
        let change = self.uart_window.reset(is_shown);
        self.change_uart_page(change, cpu);
        self.is_paused = false;
        self.clock = Clock::default();
        // Whoever wants it off wants so still.
        self.end_asked = self
            .end_asked
            .filter(|it| !matches!(it.after, After::Restart | After::Dump));
        self.is_start_asked = false;
        self.faulting = VcpuSet::EMPTY;
        for intid in self.shared_events.reset(board) {
            vgic::unbind(gic, intid);
        }
        self.starts.fill(None);
        true
    }

    /// Memory is written: the boot vCPU is to start there.
    pub fn end_load(&mut self, load: Load, kernel: Kernel) {
        self.power.reset(BOOT_VCPU);
        if let Some(start) = self.starts.first_mut() {
            *start = Some(Start {
                vcpu: BOOT_VCPU,
                entry: load.entry,
                context: load.context,
                x4: load.entry,
                endian: Endian::Little,
            });
        }
        self.life.run(kernel);
    }
}

/// Performs what a change of SDEI wants of the interrupt controller.
fn follow(sdei_effects: &SdeiEffects, cpu: &mut impl Hardware) -> Outcome {
    let gic = &sdei_effects.gic;
    if gic.is_physical() {
        cpu.perform(gic);
    }
    Outcome {
        kick: gic.kick,
        look: sdei_effects.look,
        next: Next::Continue,
    }
}
