//! A bundle is read back as it was written, or not at all.

use hv_abi::operator::Access;
use hv_abi::policy::{After, Policy};
use hv_abi::psci::Reclaim;
use hv_abi::sdei::{Definition, Priority, Scope};
use hv_abi::watchdog::{Act, Last, Nmi, Watchdog};
use std::sync::LazyLock;

use hv_bundle::{
    Bundle, Capture, Crc32, Crc32Table, DumpConfig, Error, Guest, GuestConfig, write, write_for,
};
use proptest::prelude::*;

fn crc() -> &'static Crc32Table {
    static TABLE: LazyLock<Crc32Table> = LazyLock::new(Crc32Table::new);
    &TABLE
}

fn image() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..300u32).map(|byte| byte as u8).collect();
    bytes[8..32].fill(0);
    bytes[16..24].copy_from_slice(&4096u64.to_le_bytes());
    bytes[0x38..0x3c].copy_from_slice(b"ARM\x64");
    bytes
}

fn config() -> GuestConfig {
    GuestConfig {
        policy: Policy {
            is_manual: true,
            on_off: After::Restart,
            on_reset: After::MachineOff,
            on_crash: Some(After::Stop),
        },
        name: "kdump".into(),
        vcpus: 4,
        memory: 1 << 30,
        bootargs: "console=ttyAMA0 crashkernel=128M".into(),
        dtb_at: Some(0x4_4800_0008),
        sdei: false,
        firmware: "tfa-2.12,signal-lost=3".into(),
        events: vec![
            Definition {
                number: 0x100,
                scope: Scope::Private,
                priority: Priority::Critical,
            },
            Definition {
                number: 0x200,
                scope: Scope::Shared,
                priority: Priority::Normal,
            },
        ],
        reclaim: Reclaim::Parked,
        debug_calls: true,
        flash: 64 << 20,
        pvpanic: true,
        gwdt: Some(Act::Freeze),
        watchdog: Some(Watchdog {
            limit_ms: 10_000,
            one: Act::Report,
            all: Act::Nmi,
        }),
        machine_affinities: true,
        pcpus: vec![3, 1, 0, 2],
        devices: Some(vec!["virtio:0".into(), "/pl031@9010000".into()]),
        trusted: true,
        nmi: Nmi {
            event: 0x100,
            limit_ms: 500,
            last: Last::Dump,
        },
        crashkernel: Some(platform::Range::new(0x6000_0000, 256 << 20)),
        dump: Some(DumpConfig {
            memory: 192 << 20,
            bootargs: "maxcpus=1".into(),
        }),
    }
}

fn capture() -> Capture<'static> {
    static KERNEL: LazyLock<Vec<u8>> = LazyLock::new(image);
    Capture {
        kernel: Some(&KERNEL),
        ramdisk: Some(b"saves"),
    }
}

fn bundle(kernel: &[u8]) -> Vec<u8> {
    write(&[Guest {
        config: config(),
        kernel,
        ramdisk: Some(b"ramdisk"),
        flash: Some(b"flash"),
        capture: capture(),
    }])
    .expect("a sensible guest")
}

fn refusal(bytes: &[u8]) -> String {
    Bundle::parse(bytes, crc())
        .expect_err("an unsound bundle")
        .to_string()
}

#[test]
fn a_bundle_is_read_back_as_it_was_written() {
    let kernel = image();
    let bytes = bundle(&kernel);
    let bundle = Bundle::parse(&bytes, crc()).expect("a sound bundle");
    assert_eq!(
        bundle.guests,
        [Guest {
            config: config(),
            kernel: &kernel,
            ramdisk: Some(b"ramdisk"),
            flash: Some(b"flash"),
            capture: capture(),
        }]
    );
}

#[test]
fn a_guest_that_is_paused_needs_an_operator_who_lets_it_go_on() {
    let kernel = image();
    let guests = [Guest {
        config: config(),
        kernel: &kernel,
        ramdisk: None,
        flash: None,
        capture: Capture::default(),
    }];
    assert!(write_for(Access::Full, &guests).is_ok());
    for access in [Access::Read, Access::Off] {
        let refusal = write_for(access, &guests).unwrap_err().to_string();
        assert!(
            refusal.starts_with("crashkernel pauses the guest")
                && refusal.ends_with("leave crashkernel out"),
            "{refusal}"
        );
    }
}

#[test]
fn several_guests_keep_their_order_and_their_own_parts() {
    let kernel = image();
    let guest = |name: &str, ramdisk| Guest {
        config: GuestConfig {
            name: name.into(),
            ..GuestConfig::default()
        },
        kernel: &kernel,
        ramdisk,
        flash: None,
        capture: Capture::default(),
    };
    let guests = [guest("first", None), guest("second", Some(&b"two"[..]))];
    let bytes = write(&guests).expect("sensible guests");
    assert_eq!(
        Bundle::parse(&bytes, crc()).expect("a sound bundle").guests,
        guests
    );
}

#[test]
fn contents_that_the_flash_has_no_room_for_are_refused() {
    let kernel = image();
    let contents = vec![7; (256 << 10) + 1];
    let bytes = |flash, contents| {
        write(&[Guest {
            config: GuestConfig {
                flash,
                ..GuestConfig::default()
            },
            kernel: &kernel,
            ramdisk: None,
            flash: Some(contents),
            capture: Capture::default(),
        }])
    };
    bytes(256 << 10, &contents[1..]).expect("contents that fit");
    for flash in [0, 256 << 10] {
        let error = bytes(flash, &contents).expect_err("contents that do not");
        assert!(error.to_string().contains("larger than the flash"));
    }
}

#[test]
fn the_same_guest_makes_the_same_bytes() {
    assert_eq!(bundle(&image()), bundle(&image()));
}

#[test]
fn a_flat_kernel_is_bundled_too() {
    let bytes = bundle(&[0xd2, 0x80, 0, 0, 1, 2, 3, 4, 5]);
    let bundle = Bundle::parse(&bytes, crc()).expect("a sound bundle");
    assert_eq!(bundle.guests[0].kernel.len(), 9);
}

#[test]
fn bytes_behind_a_bundle_are_ignored() {
    let kernel = image();
    let mut bytes = bundle(&kernel);
    bytes.extend([0xff; 100]);
    assert!(Bundle::parse(&bytes, crc()).is_ok());
}

#[test]
fn a_bundle_cut_short_anywhere_is_refused() {
    let bytes = bundle(&image());
    for length in 40..bytes.len() {
        assert_eq!(
            Bundle::parse(&bytes[..length], crc()),
            Err(Error::CutShort {
                has: length as u64,
                needs: bytes.len() as u64
            })
        );
    }
    for length in 0..40 {
        assert!(Bundle::parse(&bytes[..length], crc()).is_err());
    }
    assert_eq!(
        refusal(&bytes[..100]),
        format!(
            "the guest bundle is cut short: 100 of {} bytes; make or copy it again",
            bytes.len()
        )
    );
}

#[test]
fn any_flipped_bit_is_refused() {
    let mut bytes = bundle(&image());
    for byte in 0..bytes.len() {
        for bit in 0..8 {
            bytes[byte] ^= 1 << bit;
            assert!(
                Bundle::parse(&bytes, crc()).is_err(),
                "byte {byte} bit {bit}"
            );
            bytes[byte] ^= 1 << bit;
        }
    }
    assert!(Bundle::parse(&bytes, crc()).is_ok());
}

#[test]
fn an_altered_part_is_named() {
    let kernel = image();
    let mut bytes = bundle(&kernel);
    let at = bytes
        .windows(kernel.len())
        .position(|window| window == kernel)
        .expect("the kernel");
    bytes[at + 100] ^= 1;
    assert_eq!(
        refusal(&bytes),
        "the guest bundle is altered: kernel-1 does not match its hash; make or copy it again"
    );
    bytes[at + 100] ^= 1;
    let at = bytes
        .windows(7)
        .position(|window| window == b"ttyAMA0")
        .expect("the command line");
    bytes[at] ^= 1;
    assert!(refusal(&bytes).contains("its description of the guest"));
}

#[test]
fn what_is_no_bundle_is_named_as_such() {
    assert_eq!(
        refusal(&[0x1f; 64]),
        "the guest bundle is no FIT image; hand over, as the initrd, the bundle that xtask makes"
    );
    assert!(Bundle::parse(&[], crc()).is_err());
}

#[test]
fn what_the_operator_may_do_is_the_machine_s_and_is_read_back() {
    let kernel = image();
    let guest = || Guest {
        config: GuestConfig {
            crashkernel: None,
            ..config()
        },
        kernel: &kernel,
        ramdisk: None,
        flash: None,
        capture: Capture::default(),
    };
    let plain = write(&[guest()]).expect("a sensible guest");
    for access in [Access::Full, Access::Read, Access::Off] {
        let bytes = write_for(access, &[guest(), guest()]).expect("sensible guests");
        let bundle = Bundle::parse(&bytes, crc()).expect("a sound bundle");
        assert_eq!((bundle.operator, bundle.guests.len()), (access, 2));
        let bytes = write_for(access, &[guest()]).expect("a sensible guest");
        assert_eq!(bytes == plain, access == Access::Full, "{access:?}");
    }
}

#[test]
fn a_guest_that_makes_no_sense_is_not_written() {
    let kernel = image();
    let guest = |config, kernel| Guest {
        config,
        kernel,
        ramdisk: None,
        flash: None,
        capture: Capture::default(),
    };
    let many = GuestConfig {
        vcpus: 200,
        ..config()
    };
    assert!(write(&[guest(many, &kernel)]).is_err());
    let firmware = GuestConfig {
        firmware: "tfa-2.12,of-my-own".into(),
        ..config()
    };
    let said = write(&[guest(firmware, &kernel)]).map_err(|error| error.to_string());
    assert!(said.is_err_and(|said| said.starts_with("firmware: of-my-own is no firmware")));
    let events = GuestConfig {
        events: vec![config().events[0]; 2],
        ..config()
    };
    let said = write(&[guest(events, &kernel)]).map_err(|error| error.to_string());
    assert!(said.is_err_and(|said| said.starts_with("events have a number twice")));
    assert!(write(&[guest(config(), b"\x7fELF and so on")]).is_err());
    assert!(write(&[]).is_err());
}

mod sealed {
    //! Bundles whose hashes are right and whose contents are not: what another version may have made.

    use super::*;
    use dtoolkit::fdt::Fdt;
    use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
    use dtoolkit::{Node, Property};

    /// Changes the node at `path` and makes the digest right again.
    fn refusal_after_change_of(path: &str, change: impl Fn(&mut DeviceTreeNode)) -> String {
        let bytes = bundle(&image());
        let mut tree = DeviceTree::from_fdt(&Fdt::new(&bytes).expect("a blob"));
        change(tree.find_node_mut(path).expect("the node"));
        let mut bytes = tree.to_dtb();
        let fit = Fdt::new(&bytes).expect("a blob");
        let mut parts = Vec::new();
        let offset = |value: &[u8]| value.as_ptr().addr() - bytes.as_ptr().addr();
        for image in fit.find_node("/images").expect("images").children() {
            let data = image.property("data").expect("data");
            parts.push((offset(data.value()), data.value().len()));
        }
        let own = fit.root().property("halligan,digest").expect("the digest");
        let digest_at = offset(own.value());
        parts.push((digest_at, 4));
        parts.sort_unstable();
        let mut state = crc().start();
        let mut at = 0;
        for (start, length) in parts {
            state = crc().update(state, &bytes[at..start]);
            at = start + length;
        }
        let digest = !crc().update(state, &bytes[at..]);
        bytes[digest_at..digest_at + 4].copy_from_slice(&digest.to_be_bytes());
        refusal(&bytes)
    }

    fn refusal_after(change: impl Fn(&mut DeviceTreeNode)) -> String {
        refusal_after_change_of("/configurations/guest-1", change)
    }

    #[test]
    fn an_operator_of_another_kind_is_refused() {
        for value in [&[0u8, 0, 0, 3][..], &[0; 3], &[], &[0, 0, 0, 0, 0, 0, 0, 1]] {
            let said = refusal_after_change_of("/", |root| {
                root.add_property(property("halligan,operator", value));
            });
            assert_eq!(
                said,
                "the guest bundle's halligan,operator is none of 0, 1 and 2; make the bundle with this version's xtask"
            );
        }
    }

    #[test]
    fn an_unknown_algorithm_is_refused_by_name() {
        for name in ["sha256", "crc32c", ""] {
            let said = refusal_after_change_of("/images/kernel-1/hash-1", |hash| {
                hash.add_property(property("algo", name));
            });
            assert_eq!(
                said,
                format!(
                    "the guest bundle's kernel-1 hash-1: the algorithm {name} is not known to this hypervisor, \
                     which checks crc32; make the bundle with this version's xtask"
                )
            );
        }
        let said = refusal_after_change_of("/images/kernel-1/hash-1", |hash| {
            hash.add_property(property("algo", &[0xffu8, 0][..]));
        });
        assert!(said.contains("hash-1 algo is no string"), "{said}");
        let said = refusal_after_change_of("/images/ramdisk-1", |image| {
            image.remove_child("hash-1");
        });
        assert!(said.contains("ramdisk-1 does not match its hash"), "{said}");
    }

    fn property(name: &str, value: impl dtoolkit::ToPropertyValue) -> DeviceTreeProperty {
        DeviceTreeProperty::new(name, value).expect("a valid name")
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let said = refusal_after(|guest| guest.add_property(property("halligan,colour", 7u32)));
        assert_eq!(
            said,
            "the guest bundle's guest-1 halligan,colour is not known to this hypervisor; \
             make the bundle with this version's xtask"
        );
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let vcpus = refusal_after(|guest| guest.add_property(property("halligan,vcpus", 129u32)));
        assert!(vcpus.starts_with("vcpus is more than 128"), "{vcpus}");
        let vcpus = refusal_after(|guest| {
            guest.add_property(property("halligan,vcpus", 0x1_0000_0001u64));
        });
        assert!(vcpus.starts_with("vcpus is more than 128"), "{vcpus}");
        let memory = refusal_after(|guest| {
            guest.add_property(property("halligan,memory", &[1u8, 2, 3][..]));
        });
        assert!(memory.contains("halligan,memory is no number"), "{memory}");
    }

    #[test]
    fn wrong_firmware_and_events_are_refused_by_name_when_they_are_loaded() {
        let with = |name: &'static str, value: &[u8]| {
            refusal_after(|guest| guest.add_property(property(name, value)))
        };
        let said = with("halligan,firmware", b"tfa-1.0\0");
        assert!(
            said.starts_with("firmware: tfa-1.0 is no firmware"),
            "{said}"
        );
        let cells = |cells: &[u32]| -> Vec<u8> {
            cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()
        };
        for wrong in [&[1, 0][..], &[1, 2, 0], &[1, 0, 2]] {
            let said = with("halligan,events", &cells(wrong));
            assert!(
                said.contains("halligan,events is no list of events"),
                "{said}"
            );
        }
        for wrong in [&[0, 0, 0][..], &[1 << 30, 0, 0], &[1, 0, 0, 1, 1, 1]] {
            let said = with("halligan,events", &cells(wrong));
            assert!(said.starts_with("events have a number"), "{said}");
        }
        let said = with("halligan,reclaim", &cells(&[2]));
        assert!(
            said.contains("halligan,reclaim is neither 0 nor 1"),
            "{said}"
        );
    }

    #[test]
    fn a_kernel_that_is_not_there_is_refused() {
        let absent = refusal_after(|guest| guest.add_property(property("kernel", "kernel-7")));
        assert!(absent.contains("names an image that is not there"));
        let missing = refusal_after(|guest| {
            guest.remove_property("kernel");
        });
        assert!(missing.contains("kernel is missing"));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(Bundle::parse(&bytes, crc()).is_err());
    }

    #[test]
    fn no_overwritten_words_go_unnoticed(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 1..4),
    ) {
        let sound = bundle(&image());
        let mut bytes = sound.clone();
        for (place, word) in changes {
            let at = place.index(bytes.len() / 4) * 4;
            bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        }
        prop_assert_eq!(Bundle::parse(&bytes, crc()).is_ok(), bytes == sound);
    }
}
