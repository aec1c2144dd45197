//! A seeded simulation: 2 to 8 vCPUs that run the hypervisor's own loop, in any order of their single steps, with
//! guests that do anything: SDEI, SGIs, power, and the reset of the VM, and an operator who freezes and thaws it at any of them. A vCPU enters a handler exactly when it must, no
//! signal and no SGI is lost in any race, every vCPU that was started runs, and none runs on while its VM is loaded anew.
//!
//! A run that fails says how to have it again. `SIMULATION_SEED` runs one seed, `SIMULATION_RUNS` so many.

mod guest;
mod locks;
mod machine;
mod spis;
mod witness;

use guest::Dice;
use machine::{Verdict, Vm};
use std::panic::catch_unwind;

/// What is wrong with the machine, if anything: it must be found.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Broken {
    Nothing,
    /// A post forgets what was posted before.
    PostOverwrites,
    /// The mailbox is read, and emptied a while later.
    TakeInTwoSteps,
    /// The doorbell rings before the mail is there.
    RingsFirst,
    SignalNotRung,
    LookNotRung,
    /// A shared event is claimed from what was common a while ago.
    ClaimsWithoutLock,
    /// What was raised on a vCPU that was off is kept for its next life.
    StartKeepsRaised,
    StopNotRung,
    SgiNotRung,
    /// A vCPU that was stopped starts when a sibling that is not yet stopped switches it on.
    StartsWhileStopping,
    /// Who ends the VM does not wait until the others have left.
    DoesNotWait,
    /// That the distributor has something for a vCPU is said when the vCPU has been kicked for it.
    SharedRaisedAfterKick,
    /// A vCPU that the distributor has nothing for says so when it has released the distributor.
    SharedLoweredWithoutLock,
    /// What comes for a vCPU during a pause is not put back.
    PauseForgets,
    /// Those who are paused are not told that they may go on.
    ThawNotRung,
}

/// Steps between two rests, and rests in a run.
const STEPS: usize = 400;
const RESTS: usize = 8;

/// One run, and its story if it fails.
fn run(seed: u64, broken: Broken) -> Verdict {
    let vcpus = 2 + Dice(seed).below(7);
    let mut vm = Vm::new(seed, vcpus, broken);
    // Where there is one his doorbells find whom others have forgotten.
    let has_operator = seed % 2 == 1;
    let mut live = || {
        let mut n = 0;
        for _ in 0..STEPS {
            // Bursts: one that is never held up meets other races than one that always is.
            let mut dice = vm.world.dice.borrow_mut();
            if dice.below(3) == 0 {
                n = dice.below(vcpus);
            }
            drop(dice);
            if has_operator {
                vm.operate();
            }
            vm.step(n)?;
        }
        vm.settle()
    };
    let verdict = (0..RESTS).try_for_each(|_| live());
    verdict.map_err(|wrong| {
        let story = vm.story();
        format!("{story}\n{vcpus} vCPUs, seed {seed}: {wrong}")
    })
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number")),
    )
}

#[test]
fn no_signal_is_lost_and_no_handler_is_entered_twice_in_any_schedule() {
    let seeds = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_RUNS").unwrap_or(3000),
    };
    for seed in seeds {
        if let Err(story) = run(seed, Broken::Nothing) {
            panic!("{story}\nSIMULATION_SEED={seed} cargo test -p hv-core --test sdei simulation");
        }
    }
}

#[test]
fn the_simulation_finds_a_machine_that_is_broken() {
    for broken in [
        Broken::PostOverwrites,
        Broken::TakeInTwoSteps,
        Broken::RingsFirst,
        Broken::SignalNotRung,
        Broken::LookNotRung,
        Broken::ClaimsWithoutLock,
        Broken::StartKeepsRaised,
        Broken::StopNotRung,
        Broken::SgiNotRung,
        Broken::StartsWhileStopping,
        Broken::DoesNotWait,
        Broken::SharedRaisedAfterKick,
        Broken::SharedLoweredWithoutLock,
        Broken::PauseForgets,
        Broken::ThawNotRung,
    ] {
        // One may also come as far as an assertion of the hypervisor's own.
        let is_found = |seed| {
            let verdict = catch_unwind(|| run(seed, broken));
            !matches!(verdict, Ok(Ok(())))
        };
        assert!((0..400).any(is_found), "{broken:?} passes");
    }
}
