//! What the guests of the simulation do: anything, but mostly what makes events go round.

use hv_abi::sdei::Call;

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
    Call(Call, [u64; 5]),
    /// The platform raises an event; a private one on this vCPU.
    Raise(u32, usize),
    /// The interrupt bound to this event fires here.
    Interrupt(u32),
    Off,
    On(usize),
}

/// The next act of a vCPU. The first three of a life make it ready for event 0.
pub fn act(dice: &mut Dice, age: usize, is_inside: bool, mpidrs: &[u64]) -> Act {
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
