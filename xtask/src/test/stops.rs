//! Stops of the hypervisor itself: who is stuck, where, why it stops, and on which firmware.

use std::time::Duration;

use anyhow::ensure;

use super::ledger::Ledger;
use crate::el3::El3;
use crate::stop::{Cause, Place, Plan};
use crate::workshop::Workshop;

/// How long a stop may take from power-on, with other work on the host.
const LIMIT: Duration = Duration::from_secs(120);

const FIRMWARE: [El3; 3] = [El3::Tfa, El3::TfaNosdei, El3::None];
const PLACES: [Place; 5] = [
    Place::Spin,
    Place::Lock,
    Place::Vector,
    Place::Exit,
    Place::Guest,
];
/// Causes that the hypervisor brings about itself.
const CAUSES: [Cause; 5] = [
    Cause::Panic,
    Cause::Fault,
    Cause::Stack,
    Cause::Off,
    Cause::Reset,
];

/// Held to a time.
const SEVEN_OF_EIGHT: &str = "stop/tfa/seven-of-eight-within-50-ms";

/// All rows: nobody, one and all but one stuck at each place, the cause going round so that every
/// place meets every cause over the firmwares; then each cause with all places at once.
fn rows() -> Vec<(String, Plan)> {
    let mut rows = Vec::new();
    for (first, el3) in FIRMWARE.into_iter().enumerate() {
        let mut add = |who: &str, wedges: Vec<(u32, Place)>, cause: Cause| {
            let name = format!("stop/{}/{who}/{cause:?}", el3.name()).to_lowercase();
            let plan = Plan {
                el3,
                cpus: 5,
                // So that the ladder's limits do not depend on the host.
                icount: true,
                wedges,
                cause,
                ..Plan::default()
            };
            rows.push((name, plan));
        };
        for (at, place) in PLACES.into_iter().enumerate() {
            for (turn, (who, stuck)) in [("one", 2..3), ("all", 1..5)].into_iter().enumerate() {
                let wedges: Vec<_> = stuck.map(|pcpu| (pcpu, place)).collect();
                // One console has one lock.
                let wedges = match place {
                    Place::Lock => mixed_behind_lock(&wedges),
                    _ => wedges,
                };
                let who = format!("{who}-{}", place.name());
                add(&who, wedges, CAUSES[(at + 2 * first + turn) % CAUSES.len()]);
            }
        }
        for cause in CAUSES {
            add("none", Vec::new(), cause);
            let everywhere = (1..5).zip([Place::Lock, Place::Vector, Place::Exit, Place::Guest]);
            add("everywhere", everywhere.collect(), cause);
        }
        add("none", Vec::new(), Cause::GuestOff);
    }
    let seven = (1..8).map(|pcpu| (pcpu, Place::Exit)).collect();
    let plan = Plan {
        cpus: 8,
        wedges: seven,
        icount: true,
        ..Plan::default()
    };
    rows.push((SEVEN_OF_EIGHT.to_owned(), plan));
    // Waits half a minute for the one that does not leave its guest: too long to be counted.
    let plan = Plan {
        wedges: vec![(2, Place::Exit)],
        cause: Cause::GuestOff,
        ..Plan::default()
    };
    rows.push(("stop/tfa/one-exit/guestoff".to_owned(), plan));
    rows
}

/// The first holds the lock, the others wait elsewhere.
fn mixed_behind_lock(wedges: &[(u32, Place)]) -> Vec<(u32, Place)> {
    let mut mixed = wedges.to_vec();
    for (_, place) in mixed.iter_mut().skip(1) {
        *place = Place::Spin;
    }
    mixed
}

/// The names of these tests.
pub fn names() -> impl Iterator<Item = String> {
    rows().into_iter().map(|(name, ..)| name)
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let perform = |name: &str, plan: &Plan| {
        let seen = plan.perform(workshop, LIMIT)?;
        let remark = seen.judge(plan)?;
        let us = seen.stop.map_or(u64::MAX, |(_, us)| us);
        ensure!(name != SEVEN_OF_EIGHT || us < 50_000, "it took {remark}");
        Ok(remark)
    };
    let (counted, timed): (Vec<_>, Vec<_>) = rows().into_iter().partition(|(_, plan)| plan.icount);
    ledger.check_each(&counted, perform);
    for (name, plan) in &timed {
        ledger.check(name, || perform(name, plan));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_names_of_their_own_and_can_be_carried_out() {
        let rows = rows();
        let names: std::collections::BTreeSet<&str> =
            rows.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names.len(), rows.len());
        for (name, plan) in &rows {
            plan.check()
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn every_place_meets_every_cause_somewhere() {
        for place in PLACES {
            for cause in CAUSES {
                let meets = |plan: &Plan| {
                    plan.cause == cause && plan.wedges.iter().any(|(_, at)| *at == place)
                };
                let met = rows().iter().any(|(_, plan)| meets(plan));
                assert!(met, "{place:?} {cause:?}");
            }
        }
    }
}
