use super::*;

fn plan(cpus: u32, wedge: &str, panic: u32) -> Plan {
    Plan {
        model: "max".into(),
        wedge: wedge.parse().unwrap(),
        panic,
        ..Plan::new(Scenario::Kdump, cpus)
    }
}

#[test]
fn a_plan_needs_a_cpu_that_is_left() {
    assert!(plan(4, "1-3", 0).check().is_ok());
    assert!(plan(4, "0", 3).check().is_ok());
    for (cpus, wedge, panic) in [(4, "4", 0), (4, "2", 4), (4, "0-3", 0), (1, "0", 0)] {
        assert!(plan(cpus, wedge, panic).check().is_err(), "{wedge} {panic}");
    }
}

#[test]
fn somebody_is_left_to_panic() {
    let said = |plan: Plan| plan.check().unwrap_err().to_string();
    assert_eq!(
        said(plan(4, "0-3", 0)),
        "--wedge leaves no CPU to panic: 4 CPUs are 0 to 3; leave out one of them, or have the hypervisor reach one: \
         --scenario nmi"
    );
    assert!(said(plan(4, "0,2", 0)).contains("choose another with --panic"));
}

#[test]
fn an_nmi_is_for_a_guest_with_no_cpu_left() {
    let nmi = |wedge| Plan {
        scenario: Scenario::Nmi,
        ..plan(4, wedge, 0)
    };
    assert!(nmi("0-3").check().is_ok());
    let error = nmi("1-3").check().unwrap_err().to_string();
    assert!(error.contains("leave --wedge out"), "{error}");
    assert!(
        nmi("0-3")
            .bootargs()
            .contains("lab.do=nmi lab.wedge=0,1,2,3 lab.panic=0")
    );
}

#[test]
fn an_nmi_reaches_an_only_cpu_too_and_one_in_any_place() {
    let nmi = |place| Plan {
        scenario: Scenario::Nmi,
        place,
        ..plan(1, "0", 0)
    };
    for &place in Place::value_variants() {
        let plan = nmi(place);
        assert!(plan.check().is_ok());
        let said = plan.bootargs();
        let is_said = said.ends_with(&format!(
            "lab.place={} lab.crash={}",
            place.name(),
            place.crash()
        ));
        assert_eq!(is_said, place != Place::El1, "{said}");
        // Programs mask nothing.
        assert_eq!(plan.is_masked(), place == Place::El0);
    }
    let stock = Plan {
        is_stock: true,
        ..nmi(Place::Stack)
    };
    let nobody = Plan {
        scenario: Scenario::Panic,
        cpus: 2,
        wedge: CpuList::default(),
        ..nmi(Place::Stack)
    };
    for plan in [stock, nobody] {
        let error = plan.check().unwrap_err().to_string();
        assert!(error.starts_with("--place says where"), "{error}");
    }
    let alone = plan(1, "0", 0).check().unwrap_err().to_string();
    assert!(alone.ends_with("--scenario nmi"), "{alone}");
}

#[test]
fn a_cpu_is_wedged_anywhere_in_the_kernel_where_another_is_left() {
    let kdump = |place| Plan {
        place,
        ..plan(4, "2", 0)
    };
    for place in [Place::El1, Place::Interrupt, Place::Stack] {
        assert!(kdump(place).check().is_ok());
    }
    let said = kdump(Place::Interrupt).bootargs();
    assert!(
        said.ends_with("lab.place=interrupt lab.crash=PANIC_IN_HARDIRQ"),
        "{said}"
    );
    let error = kdump(Place::El0).check().unwrap_err().to_string();
    assert!(error.contains("choose --scenario nmi"), "{error}");
}

#[test]
fn each_scenario_wedges_none_some_or_all() {
    for &scenario in Scenario::value_variants() {
        let with = |wedge: &str| Plan {
            scenario,
            wedge: wedge.parse().unwrap_or_default(),
            ..plan(4, "2", 0)
        };
        let fits = |wedge: &str| with(wedge).check().is_ok();
        let expected = match scenario.wedges() {
            Wedges::None => [true, false, false],
            Wedges::Some => [false, true, false],
            Wedges::All => [false, false, true],
        };
        let found = ["", "2", "0-3"].map(fits);
        assert_eq!(found, expected, "{scenario:?}");
        let value = scenario.to_possible_value().unwrap();
        assert_eq!(value.get_name(), scenario.name());
    }
    let kexec = Plan {
        scenario: Scenario::Kexec,
        ..plan(4, "2", 0)
    };
    let error = kexec.check().unwrap_err().to_string();
    assert!(error.contains("leave --wedge out (kexec has"), "{error}");
}

#[test]
fn two_panics_need_two_cpus_that_are_left() {
    let both = |cpus, wedge| Plan {
        scenario: Scenario::TwoPanics,
        ..plan(cpus, wedge, 0)
    };
    let four = both(4, "1");
    assert!(four.check().is_ok());
    assert_eq!(four.second(), Some(2));
    let said = four.bootargs();
    assert!(said.contains("lab.panic=0 lab.second=2 "), "{said}");
    assert!(four.changes_kernel() && !plan(4, "1", 0).changes_kernel());
    let error = both(2, "1").check().unwrap_err().to_string();
    assert!(error.contains("needs two CPUs"), "{error}");
    assert_eq!(plan(4, "1", 0).second(), None);
}

#[test]
fn what_a_scenario_needs_of_the_kernel_is_on_its_command_line() {
    let of = |scenario| Plan {
        scenario,
        ..plan(4, "2", 0)
    };
    let said = of(Scenario::PostNotifiers).bootargs();
    assert!(said.contains("lab.do=kdump "), "{said}");
    assert!(said.ends_with(" crash_kexec_post_notifiers"), "{said}");
    let handler = of(Scenario::PanicInHandler);
    assert!(handler.panics_by_event());
    assert!(matches!(
        handler.way(),
        Some(Way::Event { cpu: 0, wedged: 1 })
    ));
    let said = of(Scenario::Reboot).bootargs();
    assert_eq!(
        said,
        "console=ttyAMA0 lab.do=reboot lab.wedge=2 lab.panic=0 lab.check=cpus"
    );
}

#[test]
fn a_panic_wedges_nobody() {
    let panic = |wedge: CpuList| Plan {
        scenario: Scenario::Panic,
        wedge,
        ..plan(4, "1", 0)
    };
    let nobody = panic(CpuList::default());
    assert!(nobody.check().is_ok());
    assert!(
        nobody
            .bootargs()
            .contains("crashkernel=256M lab.do=panic lab.wedge= lab.panic=0")
    );
    let error = panic([1].into_iter().collect()).check().unwrap_err();
    assert!(error.to_string().contains("leave --wedge out"), "{error}");
    let nobody = Plan {
        wedge: CpuList::default(),
        ..plan(4, "1", 0)
    };
    assert!(nobody.check().is_err());
}

#[test]
fn an_ending_needs_sdei() {
    let with = |sdei, firmware: &str, fate, reclaim| Plan {
        sdei,
        firmware: firmware.into(),
        fate,
        reclaim,
        ..plan(4, "2", 0)
    };
    for (fate, reclaim) in [
        (Some(Fate::Off), false),
        (Some(Fate::Park), false),
        (None, true),
    ] {
        assert!(with(true, "spec", fate, reclaim).check().is_ok());
        for (sdei, firmware) in [(false, "spec"), (true, "absent")] {
            let error = with(sdei, firmware, fate, reclaim).check().unwrap_err();
            assert!(error.to_string().contains("there is no SDEI"), "{error}");
        }
    }
    assert!(with(false, "spec", None, false).check().is_ok());
    assert!(with(true, "absent", None, false).check().is_ok());
}

#[test]
fn the_scenario_is_on_the_command_line() {
    let bootargs = plan(4, "1,2,3", 0).bootargs();
    assert!(
        bootargs.contains("lab.do=kdump lab.wedge=1,2,3 lab.panic=0"),
        "{bootargs}"
    );
    assert!(bootargs.ends_with("lab.maxcpus=1"), "{bootargs}");
}

#[test]
fn an_ending_gives_the_capture_kernel_all_cpus() {
    let with = |fate| {
        let mut plan = plan(4, "2", 0);
        plan.fate = Some(fate);
        plan.bootargs()
    };
    assert!(with(Fate::Park).ends_with("lab.panic=0 lab.check=cpus"));
    assert!(with(Fate::Off).ends_with("lab.check=cpus sdei_ending=off"));
    let mut reclaiming = plan(4, "2", 0);
    reclaiming.reclaim = true;
    assert!(
        reclaiming
            .bootargs()
            .ends_with("lab.panic=0 lab.check=cpus")
    );
    assert!(reclaiming.comes_back() && !reclaiming.stays_in_handler());
    let mut plan = plan(4, "2", 0);
    (plan.scenario, plan.fate) = (Scenario::SysrqL, Some(Fate::Off));
    assert!(plan.check().is_err());
}

#[test]
fn the_kernels_patch_knows_every_ending() {
    for fate in Fate::value_variants() {
        let name = format!("= \"{}\"", fate.name());
        assert!(debian::kernel::PATCH.contains(&name), "{name}");
    }
}

#[test]
fn a_guest_that_the_hypervisor_dumps_has_no_crash_kernel() {
    let assisted = |wedge: &str| Plan {
        scenario: Scenario::Assisted,
        oracle: true,
        ..plan(4, wedge, 0)
    };
    let all = assisted("0-3");
    assert!(all.check().is_ok());
    assert_eq!((all.crashkernel(), all.masked().is_none()), (None, true));
    assert!(matches!(all.way(), Some(Way::Capture { cpus: 4 })));
    let (bootargs, capture) = (all.bootargs(), all.capture().unwrap());
    assert_eq!(
        bootargs,
        "console=ttyAMA0 lab.do=nmi lab.wedge=0,1,2,3 lab.panic=0 lab.capture=no"
    );
    assert!(
        capture.bootargs.ends_with("lab.do=save"),
        "{}",
        capture.bootargs
    );
    assert!(assisted("1-3").check().is_err());
    for (fate, reclaim) in [(Some(Fate::Park), false), (None, true)] {
        let plan = Plan {
            fate,
            reclaim,
            ..assisted("0-3")
        };
        let error = plan.check().unwrap_err().to_string();
        assert!(error.contains("the hypervisor stops them all"), "{error}");
    }
    assert!(plan(4, "2", 0).capture().is_none());
}

#[test]
fn our_init_knows_the_disk_for_dumps_by_its_label() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    create_dump_disk(&disk, 1).unwrap();
    let bytes = std::fs::read(&disk).unwrap();
    let length = bytes.iter().position(|&byte| byte == 0).unwrap();
    let label = std::str::from_utf8(&bytes[..length]).unwrap();
    assert_eq!(bytes.len(), 1 << 20);
    let init = include_str!("../../../../guest-tests/linux/init");
    let read = format!("bs={length} count=1 2> /dev/null)\" != \"{label}\"");
    assert!(init.contains(&read), "{read}");
}

#[test]
fn a_crash_kernel_at_a_known_place_fits_into_a_guest_of_512_mib() {
    // The hypervisor's home and its copy of the bundle are at the end of RAM.
    const END: u64 = 0x4000_0000 + (480 << 20);
    for scenario in Scenario::value_variants() {
        let plan = Plan {
            oracle: true,
            ..Plan::new(*scenario, 4)
        };
        if let Some(range) = plan.crashkernel() {
            let range = hv_bundle::parse_crashkernel(&range).unwrap();
            assert!(range.start + range.size <= END, "{scenario:?}");
        }
    }
}
