//! A seeded simulation: 2 to 8 vCPUs as the hypervisor drives them, in any order of their single steps, with
//! guests that do anything. A vCPU enters a handler exactly when it must, no signal is lost in any race, and
//! every vCPU that was started runs.
//!
//! A run that fails says how to have it again. `SIMULATION_SEED` runs one seed, `SIMULATION_RUNS` so many.

mod guest;
mod shell;
mod witness;

use guest::Dice;
use shell::{Verdict, Vm};

/// What is wrong with the shell, if anything: it must be found.
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
    /// The board still says parked after COMPLETE.
    CompletionNotShown,
}

/// Steps between two rests, and rests in a run.
const STEPS: usize = 400;
const RESTS: usize = 8;

/// One run, and its story if it fails.
fn run(seed: u64, broken: Broken) -> Verdict {
    let vcpus = 2 + Dice(seed).below(7);
    let mut vm = Vm::new(seed, vcpus, broken);
    let mut live = || {
        let mut n = 0;
        for _ in 0..STEPS {
            // Bursts: one that is never held up meets other races than one that always is.
            if vm.dice.below(3) == 0 {
                n = vm.dice.below(vcpus);
            }
            vm.step(n, false)?;
        }
        vm.settle()
    };
    let verdict = (0..RESTS).try_for_each(|_| live());
    verdict.map_err(|wrong| {
        let story = vm.story.make_contiguous().join("\n");
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
fn the_simulation_finds_a_shell_that_is_broken() {
    for broken in [
        Broken::PostOverwrites,
        Broken::TakeInTwoSteps,
        Broken::RingsFirst,
        Broken::SignalNotRung,
        Broken::LookNotRung,
        Broken::ClaimsWithoutLock,
        Broken::StartKeepsRaised,
        Broken::CompletionNotShown,
    ] {
        let found = (0..400).any(|seed| run(seed, broken).is_err());
        assert!(found, "{broken:?} passes");
    }
}
