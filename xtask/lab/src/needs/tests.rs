use clap::ValueEnum;

use super::*;
use crate::scenario::Wedges;

/// Our own kernel's configuration.
const OURS: &str = include_str!("../../../../guest-tests/linux/kernel.config");

fn ours() -> String {
    // What Kconfig sets by itself.
    format!("{OURS}CONFIG_SMP=y\nCONFIG_DEBUG_BUGVERBOSE=y\n")
}

fn plan(scenario: Scenario) -> Plan {
    let wedge = match scenario.wedges() {
        Wedges::None => CpuList::default(),
        Wedges::All => (0..4).collect(),
        Wedges::Some => [2].into_iter().collect(),
    };
    Plan {
        wedge,
        ..Plan::new(scenario, 4)
    }
}

fn without(option: &str) -> Config {
    let line = format!("CONFIG_{option}=y");
    let text = ours();
    assert!(text.lines().any(|has| has == line), "{line}");
    let rest: Vec<&str> = text.lines().filter(|has| *has != line).collect();
    Config::parse(&rest.join("\n"))
}

fn found(config: Config) -> Found {
    Found {
        config,
        place: ".config".to_owned(),
    }
}

#[test]
fn our_kernel_can_do_every_job_on_every_machine() {
    let config = Config::parse(&ours());
    for &scenario in Scenario::value_variants() {
        for &board in Board::value_variants() {
            for &place in Place::value_variants() {
                let plan = Plan {
                    place,
                    ..plan(scenario)
                };
                let lacks = lacking(&plan, board, &config);
                assert!(
                    lacks.is_empty(),
                    "{scenario:?} {board:?} {place:?}: {lacks:?}"
                );
            }
        }
    }
}

#[test]
fn an_option_that_is_missing_is_named_with_what_it_is_for() {
    let cases = [
        ("CRASH_DUMP", "memory is reserved for a crash kernel"),
        ("PROC_VMCORE", "reads the dump there"),
        ("ARM_SDE_INTERFACE", "client of SDEI"),
        ("ARM_SDEI_NMI", "stops a wedged CPU by SDEI"),
        ("LKDTM", "wedges a CPU"),
        ("DEBUG_FS", "LKDTM is reached there"),
        ("VIRTIO_MMIO", "has its disk"),
        ("VIRTIO_BLK", "takes the dump"),
        ("MAGIC_SYSRQ", "made to panic"),
        ("DEVTMPFS", "in /dev"),
    ];
    for (option, purpose) in cases {
        let lacks = lacking(&plan(Scenario::Kdump), Board::Virt, &without(option));
        assert_eq!(lacks.len(), 1, "{option}: {lacks:?}");
        assert!(
            lacks[0].starts_with(&format!("CONFIG_{option} is not set: ")),
            "{lacks:?}"
        );
        assert!(lacks[0].contains(purpose), "{lacks:?}");
    }
}

#[test]
fn what_a_job_does_not_use_is_not_missing() {
    let lacks = |plan: &Plan, board, option: &str| lacking(plan, board, &without(option));
    let kdump = plan(Scenario::Kdump);
    let deaf = Plan {
        sdei: false,
        ..kdump.clone()
    };
    let absent = Plan {
        firmware: "absent".to_owned(),
        ..kdump.clone()
    };
    for plan in [&deaf, &absent] {
        assert!(lacks(plan, Board::Virt, "ARM_SDEI_NMI").is_empty());
    }
    assert!(lacks(&plan(Scenario::Panic), Board::Virt, "LKDTM").is_empty());
    assert!(lacks(&kdump, Board::Raspi4b, "VIRTIO_BLK").is_empty());
    assert!(!lacks(&kdump, Board::Raspi4b, "MMC_BLOCK").is_empty());
    assert!(lacks(&kdump, Board::Virt, "MMC_BLOCK").is_empty());
    assert!(lacks(&plan(Scenario::SysrqL), Board::Virt, "VIRTIO_BLK").is_empty());
    assert!(lacks(&plan(Scenario::Nmi), Board::Virt, "MAGIC_SYSRQ").is_empty());
    assert!(lacks(&kdump, Board::Virt, "HARDLOCKUP_DETECTOR_BUDDY").is_empty());
    assert!(lacks(&kdump, Board::Virt, "KALLSYMS").is_empty());
    let nmi = plan(Scenario::Nmi);
    let in_programs = Plan {
        place: Place::El0,
        ..nmi.clone()
    };
    assert!(!lacks(&nmi, Board::Virt, "KALLSYMS").is_empty());
    for option in ["KALLSYMS", "LKDTM", "DEBUG_FS", "ARM_SDEI_NMI"] {
        assert!(
            lacks(&in_programs, Board::Virt, option).is_empty(),
            "{option}"
        );
    }
    assert!(
        !lacks(
            &plan(Scenario::Hardlockup),
            Board::Virt,
            "HARDLOCKUP_DETECTOR_BUDDY"
        )
        .is_empty()
    );
}

#[test]
fn each_scenario_has_needs_of_its_own() {
    for (scenario, options) in [
        (
            Scenario::Reboot,
            &["MAGIC_SYSRQ", "VIRTIO_BLK", "KALLSYMS"][..],
        ),
        (
            Scenario::Kexec,
            &["KEXEC_FILE", "HOTPLUG_CPU", "ARM_SDEI_NMI"],
        ),
        (
            Scenario::Hotplug,
            &["HOTPLUG_CPU", "PERF_EVENTS", "MAGIC_SYSRQ"],
        ),
        (
            Scenario::Suspend,
            &["SUSPEND", "RTC_DRV_PL031", "ARM_SDEI_NMI"],
        ),
        (
            Scenario::TwoPanics,
            &["DEBUG_BUGVERBOSE", "CRASH_DUMP", "HOTPLUG_CPU"],
        ),
        (
            Scenario::PanicInHandler,
            &["DEBUG_BUGVERBOSE", "PROC_VMCORE"],
        ),
        (Scenario::PostNotifiers, &["MAGIC_SYSRQ", "KEXEC_FILE"]),
    ] {
        for option in options {
            let lacks = lacking(&plan(scenario), Board::Virt, &without(option));
            assert_eq!(lacks.len(), 1, "{scenario:?} {option}: {lacks:?}");
        }
    }
    // Nothing is dumped.
    for option in ["CRASH_DUMP", "PROC_VMCORE"] {
        for scenario in [Scenario::Reboot, Scenario::Kexec, Scenario::Hotplug] {
            assert!(lacking(&plan(scenario), Board::Virt, &without(option)).is_empty());
        }
    }
}

#[test]
fn a_module_is_not_enough_and_one_of_several_is() {
    let text = ours().replace("CONFIG_VIRTIO_BLK=y", "CONFIG_VIRTIO_BLK=m");
    let lacks = lacking(&plan(Scenario::Kdump), Board::Virt, &Config::parse(&text));
    assert_eq!(
        lacks,
        [
            "CONFIG_VIRTIO_BLK=m is a module, and has to be built in (=y): the disk that takes the dump"
        ]
    );
    let text = ours().replace("CONFIG_KEXEC_FILE=y", "CONFIG_KEXEC=y");
    assert!(lacking(&plan(Scenario::Kdump), Board::Virt, &Config::parse(&text)).is_empty());
    let lacks = lacking(&plan(Scenario::Kdump), Board::Virt, &without("KEXEC_FILE"));
    assert_eq!(
        lacks,
        ["none of CONFIG_KEXEC_FILE, CONFIG_KEXEC is set: the crash kernel is loaded by kexec"]
    );
}

#[test]
fn numbers_and_what_must_not_be_are_heard() {
    let text =
        ours().replace("CONFIG_NR_CPUS=128", "CONFIG_NR_CPUS=2") + "CONFIG_CMDLINE_FORCE=y\n";
    let lacks = lacking(&plan(Scenario::Kdump), Board::Virt, &Config::parse(&text));
    assert_eq!(
        lacks,
        [
            "CONFIG_CMDLINE_FORCE=y must not be set: the job stands on the command line that the kernel is given",
            "CONFIG_NR_CPUS=2 is less than 4: so many CPUs are asked for",
        ]
    );
}

#[test]
fn what_can_be_done_without_is_offered_and_nothing_that_cannot() {
    let offers = |option: &str| {
        let unfit = check(&plan(Scenario::Kdump), Board::Virt, &found(without(option)));
        unfit.unwrap_err().to_string()
    };
    for option in ["LKDTM", "ARM_SDEI_NMI"] {
        let said = offers(option);
        assert!(said.contains("\n  --scenario nmi --place el0: "), "{said}");
        assert!(said.contains("\n  --scenario panic: "), "{said}");
    }
    let said = offers("MAGIC_SYSRQ");
    assert!(
        said.contains("--place el0") && !said.contains("--scenario panic"),
        "{said}"
    );
    let said = offers("PROC_VMCORE");
    assert!(!said.contains("--scenario"), "{said}");
    assert!(
        said.starts_with("this kernel cannot do this job; .config says:\n  CONFIG_PROC_VMCORE"),
        "{said}"
    );
    let fit = found(Config::parse(&ours()));
    assert!(check(&plan(Scenario::Kdump), Board::Virt, &fit).is_ok());
}

#[test]
fn an_ending_needs_the_patch() {
    let plain = plan(Scenario::Kdump);
    let ending = |fate| Plan {
        fate: Some(fate),
        ..plain.clone()
    };
    let patched = b"...\0sdei_ending\0...";
    assert!(knows_ending(&plain, b"") && knows_ending(&ending(Fate::Park), b""));
    assert!(!knows_ending(&ending(Fate::Off), b"sdei"));
    assert!(knows_ending(&ending(Fate::Off), patched));
}

#[test]
fn a_guest_that_the_hypervisor_dumps_loads_no_crash_kernel_and_stops_nobody() {
    for option in ["KEXEC_FILE", "ARM_SDEI_NMI"] {
        let config = without(option);
        let lacks = |scenario| lacking(&plan(scenario), Board::Virt, &config);
        assert!(!lacks(Scenario::Nmi).is_empty(), "{option}");
        assert!(lacks(Scenario::Assisted).is_empty(), "{option}");
    }
    let config = without("PROC_VMCORE");
    assert_eq!(
        lacking(&plan(Scenario::Assisted), Board::Virt, &config).len(),
        1
    );
}
