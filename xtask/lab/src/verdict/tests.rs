use std::collections::BTreeMap;

use super::*;
use crate::evidence::tests::{LOG, drain, story};
use crate::ladder::tests::records;
use crate::outside::tests::outside;
use crate::registers::tests::{frame_line, sample};
use crate::symbols::tests::program;

/// sample(n) stands at pc n * 0x10000 + 32; with this offset, CPU 2 in the wedge function.
const OFFSET: u64 = 0x1_0000;

pub fn notes() -> Vec<Prstatus> {
    let note = |cpu| Prstatus {
        pid: 0,
        registers: sample(cpu),
    };
    (0..4).map(note).collect()
}

pub fn judge_run(log: &str, records: &[String], notes: &[Prstatus]) -> Verdict {
    let (story, drain) = (story(log), drain(records));
    let symbols = program(&[(0x1_0000, WEDGE_FUNCTION), (0x2_0000, "default_idle_call")]);
    let evidence = Evidence {
        cpus: 4,
        wedge: &"2".parse().unwrap(),
        story: &story,
        drain: &drain,
        notes,
        symbols: &symbols,
        kaslr_offset: OFFSET,
        stays_in_handler: true,
        is_masked: false,
        event: None,
    };
    Verdict::of(&evidence, &Ladder::of(4, &story, &drain))
}

fn only_fault(verdict: &Verdict) -> String {
    let faults = verdict.faults();
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults[0].clone()
}

#[test]
fn a_faithful_dump_passes_and_says_where_each_cpu_stood() {
    let verdict = judge_run(LOG, &records(), &notes());
    assert_eq!(verdict.faults(), [""; 0]);
    let text = verdict.to_string();
    let place = "lkdtm_HARDLOCKUP+0x20, 34 of 34 registers as recorded";
    assert!(text.lines().nth(2).unwrap().ends_with(place), "{text}");
    assert!(text.contains("default_idle_call+0x20"), "{text}");
}

#[test]
fn a_cpu_in_a_program_has_no_function_of_the_kernels() {
    let mut notes = notes();
    notes[1].registers.pstate &= !0xf;
    let verdict = judge_run(LOG, &records(), &notes);
    let pc = format!("{:#x}", notes[1].registers.pc);
    assert_eq!(verdict.cpus[1].stood_in.as_deref(), Some(&*pc));
    assert!(verdict.cpus[3].stood_in.as_deref() != Some(&*pc));
}

/// The wedged CPU takes an SError and panics.
fn nmi_log(code: &str, place: &str) -> String {
    let serror = format!(
        "[    6.562700] SError Interrupt on CPU2, code {code} -- SError\n\
         [    6.562701] CPU: 2 UID: 0 PID: 1 Comm: sh Not tainted 7.3.4 #1\n\
         [    6.562702] pc : {place}\n[    6.562785] Kernel panic"
    );
    LOG.replace("LAB: panic cpu=0\n", "")
        .replace("[    6.562785] Kernel panic", &serror)
        .replace("[    6.562790] CPU: 0", "[    6.562790] CPU: 2")
}

#[test]
fn a_wedged_cpu_that_takes_the_operators_serror_is_judged_by_the_log() {
    let judge = |code, place| judge_run(&nmi_log(code, place), &records(), &notes());
    let wedged = "lkdtm_HARDLOCKUP+0x4/0x8";
    for code in ["0x00000000bf484c47", "0x00000000be000000"] {
        let verdict = judge(code, wedged);
        assert_eq!(verdict.faults(), [""; 0], "{code}");
        assert_eq!(verdict.cpus[2].stopped, Stopped::Panicked);
    }
    let fault = only_fault(&judge("0x00000000be000002", wedged));
    assert!(fault.contains("syndrome is 0x2"), "{fault}");
    let fault = only_fault(&judge("0x00000000bf484c47", "schedule+0x40/0x80"));
    assert!(fault.contains("took its SError in schedule"), "{fault}");
    let without = nmi_log("0x00000000bf484c47", wedged).replace("SError Interrupt on", "x");
    let fault = only_fault(&judge_run(&without, &records(), &notes()));
    assert!(fault.contains("the guest's log has none of it"), "{fault}");
}

#[test]
fn every_single_flipped_register_fails_and_is_named() {
    for number in 0..Registers::COUNT {
        let mut notes = notes();
        let named: Vec<_> = notes[2].registers.named().collect();
        let mut words = [0; Registers::COUNT];
        for (word, (_, value)) in words.iter_mut().zip(&named) {
            *word = *value;
        }
        words[number] ^= 1;
        notes[2].registers = Registers::from_words(&words);
        let fault = only_fault(&judge_run(LOG, &records(), &notes));
        let name = &named[number].0;
        assert!(
            fault.starts_with(&format!("CPU 2 has {name} = ")),
            "{fault}"
        );
    }
}

#[test]
fn a_missing_note_fails_and_names_the_cpu_the_guest_lost() {
    let log = LOG.replace(
        "[    8.705751] Starting",
        "[    8.705700] SMP: failed to stop secondary CPUs 2\n[    8.705751] Starting",
    );
    let mut notes = notes();
    notes.remove(2);
    let verdict = judge_run(&log, &records(), &notes);
    assert_eq!(verdict.missing.to_string(), "2");
    let faults = verdict.faults();
    assert!(faults.contains(&"CPU 2 is missing from the vmcore".to_owned()));
    // The note after the gap belongs to CPU 3, not to CPU 2.
    assert_eq!(verdict.cpus[3].registers, Some(sample(3)));
    assert_eq!(
        verdict
            .cpus
            .iter()
            .filter(|cpu| cpu.faults.is_empty())
            .count(),
        3
    );
}

#[test]
fn a_missing_note_that_the_guest_does_not_admit_fails_and_names_the_wedged_cpu() {
    let mut notes = notes();
    notes.remove(2);
    let verdict = judge_run(LOG, &records(), &notes);
    let faults = verdict.faults().join("\n");
    assert!(faults.contains("of 3 CPUs, not of 4"), "{faults}");
    assert!(faults.contains("wedged CPU 2 is missing"), "{faults}");
}

#[test]
fn a_cpu_reported_as_not_stopped_fails_even_with_its_note() {
    let log = LOG.replace(
        "[    8.705751] Starting",
        "[    8.705700] SMP: failed to stop secondary CPUs 3\n[    8.705751] Starting",
    );
    let fault = only_fault(&judge_run(&log, &records(), &notes()));
    assert!(fault.starts_with("CPU 3 was not stopped"), "{fault}");
}

#[test]
fn of_a_cpu_that_a_pseudo_nmi_stopped_the_hypervisor_records_nothing() {
    let log = LOG.replace("with SDEI NMI for CPUs 2", "with NMI for CPUs 2");
    let log = format!("[    0.1] GICv3: Pseudo-NMIs enabled using relaxed\n{log}");
    let mut notes = notes();
    // Its interrupts are masked by their priority.
    notes[2].registers.pstate &= !PSTATE_I;
    let verdict = judge_run(&log, &records(), &notes);
    assert_eq!(verdict.faults(), [""; 0]);
    assert_eq!(verdict.cpus[2].equal, None);
    let elsewhere = notes[3].clone();
    notes[2] = elsewhere;
    let fault = only_fault(&judge_run(&log, &records(), &notes));
    assert!(fault.contains("was wedged in lkdtm_HARDLOCKUP"), "{fault}");
}

#[test]
fn a_cpu_that_panics_second_stops_itself_and_has_no_registers() {
    let log = LOG.replace("LAB: panic cpu=0", "LAB: panics cpus=0,3");
    let mut lines = records();
    lines.push("@trace vm=0 vcpu=3 t=7569453 event=pe-mask a=0x0 b=0x0".into());
    let by_ipi = judge_run(&log, &lines, &notes());
    let fault = only_fault(&by_ipi);
    assert!(
        fault.starts_with("CPU 3 was to panic while another did"),
        "{fault}"
    );
    lines.retain(|line| !line.contains("vcpu=3 t=7569454"));
    let mut notes = notes();
    notes.remove(3);
    let verdict = judge_run(&log, &lines, &notes);
    assert_eq!(verdict.faults(), [""; 0]);
    assert!(
        verdict
            .to_string()
            .contains("Linux saves no registers of it")
    );
    // Exactly one of them panicked: another without registers is one too many.
    notes.remove(1);
    assert!(!judge_run(&log, &lines, &notes).faults().is_empty());
}

#[test]
fn without_the_hypervisors_record_nothing_is_proven() {
    let records: Vec<String> = records()
        .into_iter()
        .filter(|line| !line.starts_with("@frame"))
        .collect();
    let fault = only_fault(&judge_run(LOG, &records, &notes()));
    assert!(fault.starts_with("CPU 2 was interrupted by no"), "{fault}");
}

#[test]
fn a_wedge_elsewhere_or_with_interrupts_open_is_no_wedge() {
    let mut registers = sample(3);
    registers.pstate &= !PSTATE_I;
    let mut notes = notes();
    notes[2].registers = registers.clone();
    let mut records = records();
    records.retain(|line| !line.starts_with("@frame"));
    records.push(frame_line(2, "running", &registers));
    let faults = judge_run(LOG, &records, &notes).faults();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(
        faults[0].contains("in default_idle_call+0x20"),
        "{faults:?}"
    );
    assert!(faults[1].contains("pstate 0x60400045"), "{faults:?}");
}

#[test]
fn a_wedge_that_the_guest_did_not_prove_fails() {
    let log = LOG.replace("LAB: wedged cpu=2\n", "");
    let fault = only_fault(&judge_run(&log, &records(), &notes()));
    assert!(fault.contains("did not find it wedged"), "{fault}");
}

/// A kernel without SDEI all of whose CPUs the hypervisor masked: CPU 2 took the NMI, in the kernel.
fn judge_masked(log: &str, outside: BTreeMap<u32, Outside>) -> Verdict {
    let mut story = story(log);
    story.wedged.0.extend([0, 1, 2, 3]);
    story.outside = outside;
    let drain = drain(&["@end vm=0".to_owned()]);
    let symbols = program(&[(0x1_0000, "__crash_kexec")]);
    let notes = [Prstatus {
        pid: 0,
        registers: sample(2),
    }];
    let evidence = Evidence {
        cpus: 4,
        wedge: &"0-3".parse().unwrap(),
        story: &story,
        drain: &drain,
        notes: &notes,
        symbols: &symbols,
        kaslr_offset: OFFSET,
        stays_in_handler: true,
        is_masked: true,
        event: None,
    };
    Verdict::of(&evidence, &Ladder::of(4, &story, &drain))
}

fn masked_log(pstate: &str) -> String {
    let place = format!(
        "x\n[    6.562702] pstate: {pstate} (nzcv)\n[    6.562703] pc : chacha_permute+0x10/0x1c0"
    );
    nmi_log("0x00000000bf484c47", &place)
        .replace("pc : x\n", "")
        .replace(
            "retry stop with SDEI NMI for CPUs 2",
            "failed to stop secondary CPUs 0-1,3",
        )
}

#[test]
fn of_a_kernel_without_sdei_the_hypervisor_alone_has_what_was_wedged() {
    let seen = || -> BTreeMap<u32, Outside> {
        let kernel = ["chacha_permute+0x10", "el0t_64_sync+0x1a0"];
        [
            (0, outside(0, &[])),
            (1, outside(1, &[])),
            (2, outside(2, &kernel)),
            (3, outside(3, &[])),
        ]
        .into()
    };
    let verdict = judge_masked(&masked_log("204000c5"), seen());
    assert_eq!(verdict.faults(), [""; 0]);
    assert_eq!(verdict.missing.to_string(), "0-1,3");
    let text = verdict.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].ends_with("not stopped          nothing in the vmcore"),
        "{text}"
    );
    assert!(lines[1].ends_with("EL0 at 0x20, 34 registers"), "{text}");
    assert!(
        lines[4].ends_with("panicked             __crash_kexec+0x20"),
        "{text}"
    );
    assert!(
        lines[5].ends_with("EL1 in chacha_permute+0x10 < el0t_64_sync+0x1a0, 34 registers"),
        "{text}"
    );

    let open = judge_masked(&masked_log("20400005"), seen());
    assert!(
        only_fault(&open).contains("with pstate 0x20400005"),
        "{open}"
    );
    let mut elsewhere = seen();
    elsewhere.insert(2, outside(2, &["vfs_read+0x1", "el0t_64_sync+0x1a0"]));
    let elsewhere = judge_masked(&masked_log("204000c5"), elsewhere);
    assert!(
        only_fault(&elsewhere).contains("CPU 2 was seen in vfs_read+0x1 by the hypervisor"),
        "{elsewhere}"
    );
    let mut unseen = seen();
    unseen.remove(&3);
    let unseen = judge_masked(&masked_log("204000c5"), unseen);
    assert!(
        only_fault(&unseen).contains("CPU 3 was not looked at"),
        "{unseen}"
    );
}

#[test]
fn a_cpu_that_the_event_reached_too_late_is_said_to_have_been_so_late() {
    let mut late = records();
    late.push("@trace vm=0 vcpu=0 t=9700000 event=pe-mask a=0x0 b=0x0".into());
    let said = "CPU 2 was dispatched 0.545 ms after the guest gave up";
    // It has written its note all the same.
    assert_eq!(only_fault(&judge_run(LOG, &late, &notes())), said);
    let gave_up = LOG.replace(
        "[    8.705751] Starting",
        "[    8.705750] SMP: failed to stop secondary CPUs 2\n[    8.705751] Starting",
    );
    let mut notes = notes();
    notes.remove(2);
    let faults = judge_run(&gave_up, &late, &notes).faults();
    assert_eq!(faults, [said, "CPU 2 is missing from the vmcore"]);
}

#[test]
fn a_cpu_that_was_to_panic_by_an_event_is_where_the_hypervisor_recorded_it() {
    // CPU 2 panics, and CPU 2 is the one that was wedged.
    let log = |cause: &str| nmi_log("0", "nowhere").replace("sysrq triggered crash", cause);
    let judged = |cause: &str, records: &[String]| {
        let (story, drain) = (story(&log(cause)), drain(records));
        let symbols = program(&[(0x1_0000, WEDGE_FUNCTION), (0x2_0000, "default_idle_call")]);
        let evidence = Evidence {
            cpus: 4,
            wedge: &"2".parse().unwrap(),
            story: &story,
            drain: &drain,
            notes: &notes(),
            symbols: &symbols,
            kaslr_offset: OFFSET,
            stays_in_handler: true,
            is_masked: false,
            event: Some(0x100),
        };
        judge_event(&evidence, 2, 0x100)
    };
    let record = |seed| frame_line(2, "running", &sample(seed)).replace("event=0", "event=0x100");
    assert_eq!(judged("dumptest", &[record(2)]), [""; 0]);
    assert!(
        judged("dumptest", &[record(3)])[0].contains("event 0x100 met it in default_idle_call")
    );
    assert!(judged("dumptest", &[])[0].contains("has no event 0x100"));
    assert!(judged("other", &[record(2)])[0].contains("but did for: other"));
}

/// All of 4 CPUs are wedged and the hypervisor has them dumped, after it has looked at those.
fn judge_below(seen: &[u32], notes: &[Prstatus]) -> Verdict {
    let mut story = story("LAB: up");
    story.wedged = (0..4).collect();
    let look = |&cpu: &u32| {
        let mut outside = outside(0, &[]);
        outside.registers = sample(cpu.into());
        (cpu, outside)
    };
    story.outside = seen.iter().map(look).collect();
    let places = [0, 0x1_0000, 0x2_0000, 0x3_0000];
    let symbols = program(&places.map(|place| (place, WEDGE_FUNCTION)));
    let evidence = Evidence {
        cpus: 4,
        wedge: &(0..4).collect(),
        story: &story,
        drain: &drain(&[]),
        notes,
        symbols: &symbols,
        kaslr_offset: 0,
        stays_in_handler: true,
        is_masked: false,
        event: None,
    };
    Verdict::of(&evidence, &Ladder::below(4))
}

#[test]
fn of_a_guest_that_the_hypervisor_dumps_each_register_is_what_it_saw() {
    let all = [0, 1, 2, 3];
    let verdict = judge_below(&all, &notes());
    assert_eq!(verdict.faults(), [""; 0]);
    assert!(
        verdict
            .cpus
            .iter()
            .all(|cpu| cpu.equal == Some(Registers::COUNT))
    );
    let text = verdict.to_string();
    assert!(text.contains("wedged by the hypervisor"), "{text}");

    let mut wrong = notes();
    wrong[3].registers.x[7] ^= 1 << 40;
    let fault = only_fault(&judge_below(&all, &wrong));
    assert!(fault.starts_with("CPU 3 has x7 = "), "{fault}");
    let fault = only_fault(&judge_below(&all[..3], &notes()));
    assert_eq!(
        fault,
        "CPU 3 was not looked at before the hypervisor had the guest dumped"
    );
    wrong.truncate(3);
    let faults = judge_below(&all, &wrong).faults();
    assert!(
        faults.iter().any(|fault| fault.contains("of 3 CPUs")),
        "{faults:?}"
    );
}
