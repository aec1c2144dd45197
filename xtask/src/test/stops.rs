//! Stops of the hypervisor itself: who is stuck, where, why it stops, and on which firmware.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;

use crate::ledger::Ledger;
use crate::stop::{Cause, Place, Plan};
use machine::board::Board;
use machine::build::Program;
use machine::el3::El3;
use machine::workshop::Workshop;

/// How long a stop may take from power-on, with other work on the host.
const LIMIT: Duration = Duration::from_secs(120);

const FIRMWARE: [El3; 3] = [El3::Tfa, El3::TfaNosdei, El3::None];
/// One console has one lock, so one pCPU at most is stuck with it.
const PLACES: [Place; 6] = [
    Place::Lock,
    Place::Spin,
    Place::Vector,
    Place::Eret,
    Place::Exit,
    Place::Guest,
];
const CAUSES: [Cause; 7] = [
    Cause::Panic,
    Cause::Fault,
    Cause::Stack,
    Cause::Off,
    Cause::Reset,
    Cause::GuestOff,
    Cause::GuestReset,
];

/// Held to a time.
const SEVEN_OF_EIGHT: &str = "stop/tfa/seven-of-eight-within-50-ms";

/// All rows. With all but one stuck, one at each place, every cause meets every firmware, so every place, cause
/// and firmware meet. Nobody stuck meets every cause, and every firmware; one that is stuck every place and every
/// firmware, at a cause that is another each time.
fn rows() -> Vec<(String, Plan)> {
    let mut rows = Vec::new();
    let mut add = |el3: El3, who: &str, wedges: Vec<(u32, Place)>, cause: Cause, off: bool| {
        let power = if off { "-off" } else { "" };
        let name = format!("stop/{}/{who}{power}/{cause:?}", el3.name()).to_lowercase();
        let plan = Plan {
            cpus: if who == "everywhere" { 7 } else { 4 },
            off,
            // Whose neighbour is stuck.
            stopper: u32::from(cause == Cause::Watchdog),
            ..counted(el3, wedges, cause)
        };
        rows.push((name, plan));
    };
    let everywhere = |cause: Cause| {
        let places = PLACES.into_iter().filter(|&place| can_meet(place, cause));
        (1..).zip(places).collect()
    };
    // Not `one-guest`: the filter `guest/` is for the test guests.
    let one = |place: Place| (format!("{}-one", place.name()), vec![(2, place)]);
    for (turn, cause) in CAUSES.into_iter().enumerate() {
        for el3 in FIRMWARE {
            add(el3, "everywhere", everywhere(cause), cause, false);
        }
        let el3 = FIRMWARE[turn % FIRMWARE.len()];
        if stops_machine(&[], cause) {
            add(el3, "none", Vec::new(), cause, false);
        }
    }
    // The conformance list names these.
    add(El3::TfaNosdei, "none", Vec::new(), Cause::Panic, false);
    for (turn, place) in PLACES.into_iter().enumerate() {
        let (who, wedges) = one(place);
        for (shift, el3) in FIRMWARE.into_iter().enumerate() {
            if el3 == El3::Tfa || turn % 2 == shift % 2 {
                let cause = CAUSES[(3 * turn + shift) % CAUSES.len()];
                add(el3, &who, wedges.clone(), cause, false);
            }
        }
    }
    // The watchdog stops the machine.
    for (el3, place) in [
        (El3::Tfa, Place::Exit),
        (El3::Tfa, Place::Eret),
        (El3::None, Place::Lock),
    ] {
        let (who, wedges) = one(place);
        add(el3, &who, wedges, Cause::Watchdog, false);
    }
    // pCPUs that have stopped are off.
    for cause in [Cause::Panic, Cause::GuestReset] {
        add(El3::Tfa, "everywhere", everywhere(cause), cause, true);
    }
    add(El3::Tfa, "none", Vec::new(), Cause::Off, true);
    add(El3::None, "none", Vec::new(), Cause::Panic, true);
    let seven = (1..8).map(|pcpu| (pcpu, Place::Exit)).collect();
    let plan = Plan {
        cpus: 8,
        wedges: seven,
        icount: true,
        ..Plan::default()
    };
    rows.push((SEVEN_OF_EIGHT.to_owned(), plan));
    rows.extend(deployed(&rows));
    rows
}

/// Those of `rows` that inject no fault, and on each firmware nobody stuck and one in its guest when the guest ends, on
/// the image that people deploy.
fn deployed(rows: &[(String, Plan)]) -> Vec<(String, Plan)> {
    let of_all = FIRMWARE.into_iter().flat_map(|el3| {
        [("none", vec![]), ("guest-one", vec![(2, Place::Guest)])].map(|(who, wedges)| {
            let name = format!("stop/{}/{who}/guestoff", el3.name());
            (name, counted(el3, wedges, Cause::GuestOff))
        })
    });
    let rows = rows.iter().filter(|(_, plan)| !plan.injects()).cloned();
    let all: BTreeMap<String, Plan> = rows.chain(of_all).collect();
    let deployed = |(name, plan)| {
        let image = Program::Hypervisor;
        (format!("{name}/deployed"), Plan { image, ..plan })
    };
    all.into_iter().map(deployed).collect()
}

/// The whole product of who, where, cause and firmware, as far as these can meet.
const MATRIX: &str = "stop-matrix";

/// All its rows; they take five minutes on two cores, and are only run when they are named.
fn matrix() -> Vec<(String, Plan)> {
    let mut rows = Vec::new();
    for (el3, cause) in FIRMWARE
        .into_iter()
        .flat_map(|el3| CAUSES.map(|cause| (el3, cause)))
    {
        let mut add = |who: &str, wedges: Vec<(u32, Place)>| {
            if stops_machine(&wedges, cause) {
                let name = format!("{MATRIX}/{}/{who}/{cause:?}", el3.name()).to_lowercase();
                rows.push((name, counted(el3, wedges, cause)));
            }
        };
        add("none", Vec::new());
        for place in PLACES.into_iter().filter(|&place| can_meet(place, cause)) {
            // The lock is one pCPU's.
            let rest = match place {
                Place::Lock => Place::Exit,
                place => place,
            };
            let name = place.name();
            add(&format!("{name}-one"), vec![(2, place)]);
            let all = vec![(1, place), (2, rest), (3, rest)];
            add(&format!("{name}-all-but-one"), all);
        }
    }
    rows
}

/// A plan whose time is counted in instructions, so that the limits do not depend on the host, and rows can go side by
/// side.
fn counted(el3: El3, wedges: Vec<(u32, Place)>, cause: Cause) -> Plan {
    Plan {
        el3,
        icount: true,
        wedges,
        cause,
        ..Plan::default()
    }
}

/// A guest that resets itself while nobody is stuck in EL2 stops no machine.
fn stops_machine(wedges: &[(u32, Place)], cause: Cause) -> bool {
    let is_stuck = |(_, place): &(u32, Place)| *place != Place::Guest;
    cause != Cause::GuestReset || wedges.iter().any(is_stuck)
}

/// A guest that ends has things said of it, which nobody can do while the console is locked: that is a panic.
const fn can_meet(place: Place, cause: Cause) -> bool {
    !(matches!(place, Place::Lock) && matches!(cause, Cause::GuestOff | Cause::GuestReset))
}

/// The names of these tests, less those that are only run when they are named.
pub fn names() -> impl Iterator<Item = String> {
    rows().into_iter().map(|(name, ..)| name)
}

/// Whether any of them is to be run.
pub fn are_wanted(ledger: &Ledger) -> bool {
    ledger.names(MATRIX) || names().any(|name| ledger.wants(&name))
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
    let rows = if ledger.names(MATRIX) {
        matrix()
    } else {
        rows()
    };
    let (rows, others): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .partition(|(_, plan)| why_not(workshop.board, plan).is_none());
    for (name, plan) in others.iter().filter(|(name, _)| ledger.wants(name)) {
        let why = why_not(workshop.board, plan).unwrap_or_default();
        ledger.skipped(name, &why);
    }
    ledger.check_each(&rows, perform);
}

/// Why `plan` is not for `board`; a plan that brings firmware runs on virt.
fn why_not(board: Board, plan: &Plan) -> Option<String> {
    let name = board.name();
    if plan.el3 != El3::None {
        None
    } else if board.cpus(plan.cpus) != plan.cpus {
        Some(format!("{name} has no {} CPUs", plan.cpus))
    } else if plan.off && board == Board::Raspi4b {
        Some(format!("the firmware of {name} switches no CPU off"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_names_of_their_own_and_can_be_carried_out() {
        let rows = [rows(), matrix()].concat();
        let names: std::collections::BTreeSet<&str> =
            rows.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names.len(), rows.len());
        for (name, plan) in &rows {
            plan.check()
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn every_two_of_who_place_cause_and_firmware_meet_somewhere() {
        let rows = rows();
        let some = |meets: &dyn Fn(&Plan) -> bool| rows.iter().any(|(_, plan)| meets(plan));
        let at = |plan: &Plan, place: Place| plan.wedges.iter().any(|(_, at)| *at == place);
        for cause in CAUSES {
            for el3 in FIRMWARE {
                for place in PLACES.into_iter().filter(|&place| can_meet(place, cause)) {
                    assert!(
                        some(&|plan| plan.cause == cause && plan.el3 == el3 && at(plan, place)),
                        "{place:?} {cause:?} {el3:?}"
                    );
                }
            }
        }
        for count in [0, 1, 2] {
            let stuck = |plan: &Plan| plan.wedges.len().min(2) == count;
            let is_stop = |cause: &Cause| count > 0 || stops_machine(&[], *cause);
            for cause in CAUSES.into_iter().filter(is_stop) {
                let met = some(&|plan| stuck(plan) && plan.cause == cause);
                assert!(met, "{count} {cause:?}");
            }
            for el3 in FIRMWARE {
                assert!(
                    some(&|plan| stuck(plan) && plan.el3 == el3),
                    "{count} {el3:?}"
                );
            }
            for place in PLACES.into_iter().filter(|_| count > 0) {
                assert!(
                    some(&|plan| stuck(plan) && at(plan, place)),
                    "{count} {place:?}"
                );
            }
        }
        assert!(rows.len() < 72, "there are {} rows", rows.len());
    }

    #[test]
    fn every_row_without_an_injected_fault_is_there_on_the_deployed_image() {
        let rows = rows();
        let plain = rows.iter().filter(|(_, plan)| !plan.injects());
        let (deployed, others): (Vec<_>, Vec<_>) =
            plain.partition(|(_, plan)| plan.image == Program::Hypervisor);
        assert!(!others.is_empty());
        for (name, _) in others {
            let twin = format!("{name}/deployed");
            assert!(deployed.iter().any(|(name, _)| *name == twin), "{twin}");
        }
        for el3 in FIRMWARE {
            assert!(deployed.iter().any(|(_, plan)| plan.el3 == el3), "{el3:?}");
        }
    }

    #[test]
    fn the_matrix_is_wanted_only_when_it_is_named() {
        let wanted = |filter: &str| are_wanted(&Ledger::new(Some(filter.into())));
        assert!(wanted("stop-matrix/tfa/") && wanted("stop/tfa/"));
        assert!(!wanted("all-but-one") && !wanted("matrix"));
        assert!(names().all(|name| !name.starts_with(MATRIX)));
        assert!(names().all(|name| !name.contains("guest/")));
    }

    #[test]
    fn the_matrix_is_the_product_less_what_cannot_meet() {
        let who = 1 + 2 * PLACES.len();
        let product = who * CAUSES.len() * FIRMWARE.len();
        // With each firmware: the lock and the two ends of a guest, one and all but one stuck; and a reset with nobody
        // stuck in EL2.
        assert_eq!(matrix().len(), product - FIRMWARE.len() * (2 * 2 + 3));
    }
}
