//! What the guests of the simulation do: anything, but mostly what makes events go round.

use hv_abi::sdei::Call;
use hv_abi::{psci, vendor};
use hv_core::id::IntId;
use hv_core::mailbox::Requests;
use hv_core::regs::GuestRegs;
use hv_core::vm::REDISTRIBUTOR_SIZE;
use hv_testbed::Exit;

use hv_testbed::{DISTRIBUTOR, RAM, REDISTRIBUTORS, Transfer, exit_of};

use super::machine::WAKE;
use super::spis;
use crate::company::{BOUND_PPI, BOUND_SPI, COMMON, PRIVATE};
use crate::vcpu::*;

/// splitmix64: every number of a run comes from its seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// One thing that a guest does, or that is done to it.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// A store of a word to the GIC.
    Store(u64, u32),
    /// An access to the SPIs that are no event's.
    Spi(spis::Access),
    /// One of them fires here.
    Fire(IntId),
    /// SGI, to these vCPUs.
    Sgi(u32, u16),
    Call(Call, [u64; 5]),
    /// The platform raises an event; a private one on this vCPU.
    Raise(u32, usize),
    /// The interrupt bound to this event fires here.
    Interrupt(u32),
    Off,
    On(usize),
    Reset,
    Suspend,
}

/// What the simulation remembers of the guest on one vCPU.
#[derive(Debug, Default)]
pub struct Guest {
    n: usize,
    /// Acts since it began.
    age: usize,
    /// Its vCPU is between its start and its end.
    pub is_inside: bool,
    pub is_suspended: bool,
    /// It was asked to start when it last took its mail.
    pub has_start: bool,
    /// It has taken a request to start while it is on: the next holding of the lock says what that means.
    pub decides: Option<Requests>,
    /// The next holding of the lock ends its SDEI.
    pub is_leaving: bool,
    /// The next holding of the lock takes what the platform has raised.
    pub looks: bool,
    /// The next holding of the lock raises this event on this vCPU.
    pub raises: Option<(u32, usize)>,
    /// The next holding of the lock switches this vCPU on.
    pub turns_on: Option<usize>,
    /// A call that has not taken effect yet.
    pub made: Option<(Call, [u64; 5])>,
    /// What the last call must answer.
    pub expected: Option<(Call, i64)>,
    /// SGIs that were sent and not taken.
    owed: u16,
    /// A load of the GIC, and the pc where it stood: if it stands there still, the load is to be tried again.
    load: Option<(spis::Access, u64)>,
}

/// The event that an interrupt is bound to, if it is one that can be.
pub fn bound_event(intid: IntId) -> Option<u32> {
    match intid.0 {
        TIMER => Some(BOUND_PPI),
        SPI => Some(BOUND_SPI),
        _ => None,
    }
}

/// How many acts make a vCPU ready for interrupts.
const INTERRUPTS_READY: usize = 3 + spis::PREPARATIONS;

impl Guest {
    pub fn new(n: usize) -> Self {
        Self {
            n,
            ..Self::default()
        }
    }

    /// The VM is loaded anew.
    pub fn reset(&mut self) {
        *self = Self::new(self.n);
    }

    /// A life begins, or goes on after a suspend that took the power.
    pub fn start(&mut self, was_suspended: bool) {
        self.age = 0;
        self.expected = None;
        if !was_suspended {
            self.owed = 0;
        }
    }

    pub fn owes(&mut self, sgis: u16) {
        self.owed |= sgis;
    }

    pub fn takes(&mut self, intid: IntId) {
        if intid.is_sgi() {
            self.owed &= !(1 << intid.0);
        }
    }

    /// Whether it has programmed what it needs to take interrupts.
    pub fn takes_interrupts(&self) -> bool {
        self.age >= INTERRUPTS_READY
    }

    pub fn owed_sgis(&self) -> Option<u16> {
        let is_lost = self.owed != 0 && self.takes_interrupts();
        is_lost.then_some(self.owed)
    }

    /// The load that it tries again, as it has had no answer.
    pub fn repeats(&mut self, regs: &GuestRegs) -> Option<Act> {
        let (load, pc) = self.load.take()?;
        (regs.pc == pc).then_some(Act::Spi(load))
    }

    /// What it does next.
    pub fn act(
        &mut self,
        dice: &mut Dice,
        is_in_handler: bool,
        others_are_on: bool,
        mpidrs: &[u64],
    ) -> Act {
        let age = self.age;
        self.age += 1;
        let frame = REDISTRIBUTORS + self.n as u64 * REDISTRIBUTOR_SIZE + 0x1_0000;
        match age {
            // GICD_CTLR.EnableGrp1, GICR_IGROUPR0, GICR_ISENABLER0.
            0 => Act::Store(DISTRIBUTOR, 0b10),
            1 => Act::Store(frame + 0x80, u32::MAX),
            2 => Act::Store(frame + 0x100, 0xffff | 1 << WAKE.0),
            3..INTERRUPTS_READY => Act::Spi(spis::preparation(self.n, age - 3)),
            _ => match act(
                dice,
                (self.n, age - INTERRUPTS_READY),
                is_in_handler,
                mpidrs,
            ) {
                Act::Off if !others_are_on => Act::Suspend,
                act => act,
            },
        }
    }

    /// The exit that an act is, if it is one.
    pub fn perform(&mut self, act: Act, regs: &mut GuestRegs, mpidrs: &[u64]) -> Option<Exit> {
        let mut call = |function: u32, args: &[u64]| {
            regs.x[0] = function.into();
            regs.x[1..=args.len()].copy_from_slice(args);
            Some(exit_of(Transfer::Smc))
        };
        match act {
            Act::Store(ipa, value) => {
                regs.x[1] = value.into();
                let (size, rt) = (4, 1);
                Some(exit_of(Transfer::Store { ipa, size, rt }))
            }
            Act::Spi(access) => {
                let spis::Access { ipa, size, value } = access;
                let rt = 1;
                let Some(value) = value else {
                    self.load = Some((access, regs.pc));
                    return Some(exit_of(Transfer::Load { ipa, size, rt }));
                };
                regs.x[1] = value;
                Some(exit_of(Transfer::Store { ipa, size, rt }))
            }
            Act::Sgi(intid, targets) => {
                // Its own may be in its list register when it goes on. Others are owed theirs once it is posted.
                if targets >> self.n & 1 != 0 {
                    self.owes(1 << intid);
                }
                regs.x[1] = u64::from(intid) << 24 | u64::from(targets);
                // ICC_SGI1R_EL1.
                let (crm, op2, rt) = (11, 5, 1);
                Some(exit_of(Transfer::Write { crm, op2, rt }))
            }
            Act::Call(sdei, args) => {
                self.made = Some((sdei, args));
                call(sdei as u32, &args)
            }
            Act::Raise(event, target) => {
                self.raises = Some((event, target));
                call(vendor::EVENT_RAISE, &[event.into(), mpidrs[target]])
            }
            Act::Off => call(psci::CPU_OFF, &[]),
            Act::On(target) => {
                self.turns_on = Some(target);
                call(CPU_ON, &[mpidrs[target], RAM.start, 0])
            }
            Act::Reset => call(psci::SYSTEM_RESET, &[]),
            Act::Suspend => call(SYSTEM_SUSPEND, &[RAM.start, 0]),
            Act::Interrupt(_) | Act::Fire(_) => None,
        }
    }
}

/// The SMC64 calls.
const CPU_ON: u32 = psci::CPU_ON[1];
const SYSTEM_SUSPEND: u32 = psci::SYSTEM_SUSPEND[1];

/// The next act of a vCPU. The first three make it ready for event 0.
fn act(dice: &mut Dice, (n, age): (usize, usize), is_inside: bool, mpidrs: &[u64]) -> Act {
    let call = |call, args: &[u64]| {
        let mut all = [0; 5];
        all[..args.len()].copy_from_slice(args);
        Act::Call(call, all)
    };
    match age {
        0 => return call(Call::EventRegister, &[0, ENTRY, ARGUMENT]),
        1 => return call(Call::EventEnable, &[0]),
        2 => return call(Call::PeUnmask, &[]),
        _ => {}
    }
    // Most handlers complete; some park, or end otherwise.
    match dice.below(24) {
        0..8 if is_inside => return call(Call::EventComplete, &[]),
        8..12 if is_inside => return call(Call::PeMask, &[]),
        12 if is_inside => return Act::Off,
        _ => {}
    }
    let vcpu = dice.below(mpidrs.len());
    let mpidr = mpidrs[vcpu];
    let own = dice.pick(&PRIVATE).into();
    let common = dice.pick(&COMMON).into();
    let event = dice.pick(&[own, common, 0]);
    match dice.below(136) {
        112..132 => return Act::Spi(spis::act(dice, n, mpidrs.len())),
        132..136 => return Act::Fire(dice.pick(&spis::PASSED_THROUGH)),
        100..110 => return Act::Sgi(dice.below(16) as u32, dice.roll() as u16),
        110 if dice.below(3) == 0 => return Act::Reset,
        111 => return Act::Suspend,
        _ => {}
    }
    match dice.below(100) {
        0..18 => call(Call::EventSignal, &[0, mpidr]),
        18..28 => Act::Raise(
            dice.pick(&[NORMAL, CRITICAL, SHARED, SHARED_CRITICAL]),
            vcpu,
        ),
        28..34 => Act::Interrupt(dice.pick(&[BOUND_PPI, BOUND_SPI])),
        34..42 => call(
            Call::EventRegister,
            &[event, ENTRY, event, dice.pick(&[0, 0, 1]), mpidr],
        ),
        42..56 => call(Call::EventEnable, &[event]),
        56..60 => call(Call::EventDisable, &[event]),
        60..63 => call(Call::EventUnregister, &[event]),
        63..72 => call(Call::PeUnmask, &[]),
        72..76 => call(Call::PeMask, &[]),
        76..80 => call(Call::InterruptBind, &[dice.pick(&[TIMER, SPI]).into()]),
        80 => call(
            Call::InterruptRelease,
            &[dice.pick(&[BOUND_PPI, BOUND_SPI]).into()],
        ),
        81..84 => call(Call::EventRoutingSet, &[common, dice.pick(&[0, 1]), mpidr]),
        84 => call(Call::PrivateReset, &[]),
        85 => call(Call::SharedReset, &[]),
        86..88 => Act::Off,
        _ => Act::On(vcpu),
    }
}
