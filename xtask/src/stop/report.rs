//! What came of a stop of the hypervisor, for programs: docs/report.md.

use lab::results::{About, SCHEMA};
use serde::Serialize;

use super::{Cause, Place, Plan, StopRun};

/// One stop. What is not known is null.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    schema: u32,
    about: &'a About,
    passed: bool,
    fault: Option<String>,
    plan: Asked<'a>,
    /// What the hypervisor said the cause was.
    cause: Option<&'a str>,
    /// How long the stop took, by the stopper's clock.
    us: Option<u64>,
    pcpus: Vec<Pcpu<'a>>,
    command: &'a str,
}

/// What was to be done.
#[derive(Debug, Serialize)]
struct Asked<'a> {
    cpus: u32,
    model: &'a str,
    wedge: Vec<Wedged>,
    cause: Cause,
    stopper: u32,
    off: bool,
    icount: bool,
}

#[derive(Debug, Serialize)]
struct Wedged {
    pcpu: u32,
    place: Place,
}

/// What became of a pCPU.
#[derive(Debug, Serialize)]
struct Pcpu<'a> {
    pcpu: u32,
    fate: &'a str,
    us: Option<u64>,
    level: Option<&'a str>,
    pc: Option<String>,
    place: Option<String>,
}

impl<'a> Report<'a> {
    /// Of `seen`, which was to be `plan`, and has this fault; `describe` names an address of the hypervisor.
    pub fn of(
        about: &'a About,
        plan: &'a Plan,
        seen: &'a StopRun,
        fault: Option<String>,
        describe: impl Fn(u64) -> String,
    ) -> Self {
        let wedges = plan.wedges.iter();
        let pcpus = seen.pcpus.iter().map(|(&pcpu, stopped)| {
            let level = stopped.level.as_deref();
            let own = stopped.pc.filter(|_| level == Some("el2"));
            Pcpu {
                pcpu,
                fate: &stopped.fate,
                us: stopped.us,
                level,
                pc: stopped.pc.map(|pc| format!("{pc:#x}")),
                place: own.map(&describe),
            }
        });
        Self {
            schema: SCHEMA,
            about,
            passed: fault.is_none(),
            fault,
            plan: Asked {
                cpus: plan.cpus,
                model: &plan.model,
                wedge: wedges
                    .map(|&(pcpu, place)| Wedged { pcpu, place })
                    .collect(),
                cause: plan.cause,
                stopper: plan.stopper,
                off: plan.off,
                icount: plan.icount,
            },
            cause: seen.stop.as_ref().map(|(cause, _)| cause.as_str()),
            us: seen.stop.as_ref().map(|(_, us)| *us),
            pcpus: pcpus.collect(),
            command: &seen.command,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use machine::board::Board;
    use machine::build::Built;
    use machine::el3::El3;

    use super::*;
    use crate::stop::seen::Stopped;

    fn seen() -> StopRun {
        let built = Built {
            image: "hypervisor.img".into(),
            elf: "hypervisor.elf".into(),
        };
        let mut seen = StopRun::of("qemu-system-aarch64".into(), built);
        let stopped = |fate: &str, level: Option<&str>, pc| Stopped {
            fate: fate.into(),
            us: level.map(|_| 20_345),
            level: level.map(str::to_owned),
            pc,
            is_off: None,
        };
        seen.pcpus = [
            (0, stopped("stopper", None, None)),
            (1, stopped("sdei", Some("el2"), Some(0x8000_0000_1234))),
            (2, stopped("deaf", None, None)),
            (3, stopped("ipi", Some("guest"), Some(0x4020_0000))),
        ]
        .into();
        seen
    }

    fn json(plan: &Plan, seen: &StopRun, fault: Option<&str>) -> serde_json::Value {
        let about = About::now(Board::default(), El3::Tfa);
        let describe = |pc| format!("wedged_here at {pc:#x}");
        let report = Report::of(&about, plan, seen, fault.map(str::to_owned), describe);
        serde_json::to_value(report).unwrap()
    }

    #[test]
    fn it_is_as_the_schema_says_for_every_place_and_cause() {
        let check = |json| report_schema::check("stop", &json);
        let mut seen = seen();
        for cause in Cause::value_variants() {
            let places = Place::value_variants().iter();
            let plan = Plan {
                wedges: (1..).zip(places.copied()).collect(),
                cause: *cause,
                ..Plan::default()
            };
            check(json(&plan, &seen, Some("it did not stop"))).unwrap();
            seen.stop = Some((cause.reported().into(), 20_400));
            check(json(&plan, &seen, None)).unwrap();
        }
        let mut wrong = json(&Plan::default(), &seen, None);
        wrong["pcpus"][0]["fate"] = "gone".into();
        assert!(check(wrong).is_err());
    }

    #[test]
    fn what_was_not_measured_is_null_and_only_our_own_addresses_have_names() {
        let json = json(&Plan::default(), &seen(), Some("it did not stop"));
        assert_eq!(json["passed"], false);
        assert!(json["us"].is_null() && json["cause"].is_null());
        assert!(json["pcpus"][2]["us"].is_null());
        assert_eq!(json["pcpus"][1]["place"], "wedged_here at 0x800000001234");
        assert_eq!(json["pcpus"][3]["pc"], "0x40200000");
        assert!(json["pcpus"][3]["place"].is_null());
    }
}
