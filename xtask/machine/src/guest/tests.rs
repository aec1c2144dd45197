use hv_abi::sdei;

use super::*;

#[test]
fn every_key_of_a_guest_file_is_read() {
    let options = file::parse(
        r#"
        kernel = "Image"
        initrd = "initrd.gz"
        dtb-at = 0x44000000
        append = "quiet"
        cpus = 8
        memory = "2G"
        disks = ["a.img"]
        cpu = "cortex-a72"
        sdei = "off"
        machine = "virt-gicv2"
        el3 = "tfa"
        hv-append = "crash=reset"
        qemu-args = ["-d", "int"]
        timeout = 60
        log = "serial.log"
        "#,
    )
    .unwrap();
    assert_eq!(options.cpus().unwrap(), 8);
    assert_eq!(
        memory_mib(options.memory.as_deref().unwrap()).unwrap(),
        2048
    );
    assert_eq!(options.config("").dtb_at, Some(0x4400_0000));
    assert_eq!(options.sdei, Some(Switch::Off));
    assert_eq!(options.machine, Some(Board::VirtGicv2));
    assert_eq!(options.el3, Some(El3::Tfa));
    assert_eq!(options.qemu_args, ["-d", "int"]);
}

#[test]
fn what_the_hypervisor_is_told_can_be_in_a_file() {
    let options = file::parse(
        "firmware = \"tfa-2.12\"\nreclaim = \"parked\"\ndebug-calls = true\nsdei = \"on\"\n\
         events = [{ number = 0x100, scope = \"private\", priority = \"critical\" }]\n",
    )
    .unwrap();
    let config = options.config("quiet");
    assert_eq!(config.check(), Ok(()));
    assert_eq!(config.bootargs, "quiet");
    assert_eq!(config.firmware, "tfa-2.12");
    assert_eq!(config.reclaim, psci::Reclaim::Parked);
    assert!(config.sdei && config.debug_calls);
    assert_eq!(config.events.len(), 1);
    let event = config.events[0];
    assert_eq!((event.number, event.scope), (0x100, sdei::Scope::Private));
    assert_eq!(event.priority, sdei::Priority::Critical);
}

#[test]
fn an_only_guest_that_is_not_to_be_trusted_says_which_devices_it_has() {
    let told = |text: &str| {
        let config = file::parse(text).unwrap().config("");
        (config.devices, config.trusted)
    };
    let all = Some(vec!["all".to_owned()]);
    assert_eq!(told(""), (None, false));
    assert_eq!(told("trusted = false"), (all, false));
    assert_eq!(told("trusted = true"), (None, true));
    let one = Some(vec!["virtio:0".to_owned()]);
    assert_eq!(
        told("devices = [\"virtio:0\"]\ntrusted = false"),
        (one, false)
    );
    // One of several has none unless it says so.
    let guest = file::parse("trusted = false").unwrap();
    assert_eq!(guest.config_of_many("").unwrap().devices, None);
}

#[test]
fn firmware_that_nobody_knows_is_named() {
    assert!(firmware("tfa-2.12,signal-lost=3").is_ok());
    let error = firmware("tfa-2.12,signal-lsot=3").unwrap_err();
    assert!(error.starts_with("`signal-lsot=3`"), "{error}");
}

#[test]
fn command_line_wins_and_lists_join() {
    let file = Options {
        cpus: Some(8.into()),
        cpu: Some("cortex-a53".into()),
        disks: vec!["a".into()],
        ..Options::default()
    };
    let line = Options {
        cpus: Some(2.into()),
        disks: vec!["b".into()],
        ..Options::default()
    };
    let merged = line.over(file);
    assert_eq!(merged.cpus, Some(2.into()));
    assert_eq!(merged.cpu.as_deref(), Some("cortex-a53"));
    assert_eq!(merged.disks, [PathBuf::from("a"), PathBuf::from("b")]);
}

#[test]
fn too_many_cpus_are_refused() {
    let options = |cpus| Options {
        cpus: Some(Cpus::Number(cpus)),
        ..Options::default()
    };
    assert_eq!(options(128).cpus().unwrap(), 128);
    assert!(options(0).cpus().is_err());
    assert!(options(129).cpus().is_err());
}

#[test]
fn a_board_has_the_ram_it_has() {
    let options = |memory: Option<&str>| Options {
        machine: Some(Board::Raspi4b),
        memory: memory.map(str::to_owned),
        ..Options::default()
    };
    assert!(options(Some("512M")).memory_mib().is_err());
    assert!(options(Some("3G")).memory_mib().is_err());
    assert_eq!(options(Some("1G")).memory_mib().unwrap(), 1024);
    assert_eq!(options(None).memory_mib().unwrap(), 2048);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let options = Options {
        disks: vec!["/no/such/disk".into()],
        ..Options::default()
    };
    let error = options.check_files().unwrap_err().to_string();
    assert!(error.contains("disk /no/such/disk"), "{error}");
}
