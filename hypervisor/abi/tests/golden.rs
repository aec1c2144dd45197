//! Every number guests, firmware and tools share, as a literal beside its source. Both sides of every other
//! test use the constants, so only here would a wrong one show.

use hv_abi::{console, crash, psci, sdei, smccc, trng, virtio};

#[test]
fn smccc_functions_have_the_identifiers_of_den0028_7() {
    assert_eq!(smccc::VERSION, 0x8000_0000); // SMCCC_VERSION
    assert_eq!(smccc::ARCH_FEATURES, 0x8000_0001); // SMCCC_ARCH_FEATURES
    assert_eq!(smccc::ARCH_SOC_ID, 0x8000_0002); // SMCCC_ARCH_SOC_ID
    assert_eq!(smccc::ARCH_WORKAROUND_1, 0x8000_8000); // SMCCC_ARCH_WORKAROUND_1
    assert_eq!(smccc::ARCH_WORKAROUND_2, 0x8000_7fff); // SMCCC_ARCH_WORKAROUND_2
    assert_eq!(smccc::ARCH_WORKAROUND_3, 0x8000_3fff); // SMCCC_ARCH_WORKAROUND_3
    assert_eq!(smccc::VENDOR_HYP_UID, 0x8600_ff01); // call UID of the vendor-specific hypervisor service
    assert_eq!(smccc::VENDOR_HYP_REVISION, 0x8600_ff03); // its revision
    assert_eq!(smccc::VERSION_1_1, 0x0001_0001); // [30:16] major, [15:0] minor
    assert_eq!(smccc::VERSION_1_2, 0x0001_0002);
}

#[test]
fn uuids_are_in_four_words_as_den0028_5_3_lays_them_out() {
    // abe9376c-c822-42ee-b245-dce8cdbe42f0
    let hypervisor = [0x6c37_e9ab, 0xee42_22c8, 0xe8dc_45b2, 0xf042_becd];
    assert_eq!(smccc::uuid_words(smccc::HYPERVISOR_UUID), hypervisor);
    // 90872751-5164-4b04-9452-26e7e56f2b81
    let trng = [0x5127_8790, 0x044b_6451, 0xe726_5294, 0x812b_6fe5];
    assert_eq!(smccc::uuid_words(trng::UUID), trng);
    assert_eq!(smccc::HYPERVISOR_REVISION, [1, 0]);
}

#[test]
fn trng_functions_and_answers_have_the_values_of_den0098() {
    assert_eq!(trng::VERSION, 0x8400_0050); // TRNG_VERSION
    assert_eq!(trng::FEATURES, 0x8400_0051); // TRNG_FEATURES
    assert_eq!(trng::GET_UUID, 0x8400_0052); // TRNG_GET_UUID
    assert_eq!(trng::RND32, 0x8400_0053); // TRNG_RND, SMC32
    assert_eq!(trng::RND64, 0xc400_0053); // TRNG_RND, SMC64
    assert_eq!(trng::VERSION_1_0, 0x0001_0000); // [30:16] major, [15:0] minor
    assert_eq!(trng::Status::Success as i32, 0);
    assert_eq!(trng::Status::NotSupported as i32, -1);
    assert_eq!(trng::Status::InvalidParameters as i32, -2);
    assert_eq!(trng::Status::NoEntropy as i32, -3);
}

#[test]
fn smccc_answers_have_the_values_of_den0028_7() {
    assert_eq!(smccc::SUCCESS, 0);
    assert_eq!(smccc::NOT_SUPPORTED, -1);
    assert_eq!(smccc::INVALID_PARAMETER, -3);
    assert_eq!(smccc::NOT_SUPPORTED as u64, 0xffff_ffff_ffff_ffff);
}

#[test]
fn function_identifiers_have_the_fields_of_den0028_2_5() {
    // SDEI_EVENT_SIGNAL: fast, SMC64, standard secure service.
    let id = smccc::FunctionId(0xc400_002f);
    assert!(id.is_fast() && id.is_64bit());
    assert_eq!((id.owner(), id.number()), (4, 0x2f));
    // PSCI_VERSION: fast, SMC32.
    let id = smccc::FunctionId(0x8400_0000);
    assert!(id.is_fast() && !id.is_64bit());
    assert_eq!((id.owner(), id.number()), (4, 0));
    // A yielding call of a trusted OS.
    let id = smccc::FunctionId(0x3200_0001);
    assert!(!id.is_fast() && !id.is_64bit());
    assert_eq!((id.owner(), id.number()), (50, 1));
    // The hypervisor's own.
    assert_eq!(smccc::FunctionId(0x8600_ff01).owner(), 6);
}

#[test]
fn psci_functions_have_the_identifiers_of_den0022_5_1() {
    assert_eq!(psci::VERSION, 0x8400_0000); // PSCI_VERSION
    assert_eq!(psci::CPU_SUSPEND, [0x8400_0001, 0xc400_0001]);
    assert_eq!(psci::CPU_OFF, 0x8400_0002);
    assert_eq!(psci::CPU_ON, [0x8400_0003, 0xc400_0003]);
    assert_eq!(psci::AFFINITY_INFO, [0x8400_0004, 0xc400_0004]);
    assert_eq!(psci::MIGRATE_INFO_TYPE, 0x8400_0006);
    assert_eq!(psci::SYSTEM_OFF, 0x8400_0008);
    assert_eq!(psci::SYSTEM_RESET, 0x8400_0009);
    assert_eq!(psci::FEATURES, 0x8400_000a); // PSCI_FEATURES
    assert_eq!(psci::SYSTEM_SUSPEND, [0x8400_000e, 0xc400_000e]);
    assert_eq!(psci::SYSTEM_RESET2, [0x8400_0012, 0xc400_0012]);
    assert_eq!(psci::SYSTEM_OFF2, [0x8400_0015, 0xc400_0015]);
    assert_eq!(psci::CLEAN_INV_MEMREGION, [0x8400_0016, 0xc400_0016]);
    assert_eq!(psci::VERSION_1_3, 0x0001_0003); // [31:16] major, [15:0] minor
    assert_eq!(psci::HIBERNATE_OFF, 1); // SYSTEM_OFF2
}

#[test]
fn psci_answers_have_the_values_of_den0022_5_2_2() {
    assert_eq!(psci::Status::Success as i32, 0);
    assert_eq!(psci::Status::NotSupported as i32, -1);
    assert_eq!(psci::Status::InvalidParameters as i32, -2);
    assert_eq!(psci::Status::Denied as i32, -3);
    assert_eq!(psci::Status::AlreadyOn as i32, -4);
    assert_eq!(psci::Status::OnPending as i32, -5);
    assert_eq!(psci::Status::InternalFailure as i32, -6);
    assert_eq!(psci::Status::NotPresent as i32, -7);
    assert_eq!(psci::Status::Disabled as i32, -8);
    assert_eq!(psci::Status::InvalidAddress as i32, -9);
    assert_eq!(psci::Status::Timeout as i32, -10);
    assert_eq!(psci::Status::RateLimited as i32, -11);
    assert_eq!(psci::Status::Busy as i32, -12);
}

#[test]
fn affinity_states_have_the_values_of_den0022_5_1_5() {
    assert_eq!(psci::AffinityState::On as i32, 0);
    assert_eq!(psci::AffinityState::Off as i32, 1);
    assert_eq!(psci::AffinityState::OnPending as i32, 2);
}

#[test]
fn sdei_calls_have_the_identifiers_of_den0054_5_1() {
    use sdei::Call;
    let calls = [
        (0xc400_0020, Call::Version),                // 5.1.1
        (0xc400_0021, Call::EventRegister),          // 5.1.2
        (0xc400_0022, Call::EventEnable),            // 5.1.3
        (0xc400_0023, Call::EventDisable),           // 5.1.4
        (0xc400_0024, Call::EventContext),           // 5.1.5
        (0xc400_0025, Call::EventComplete),          // 5.1.6
        (0xc400_0026, Call::EventCompleteAndResume), // 5.1.7
        (0xc400_0027, Call::EventUnregister),        // 5.1.8
        (0xc400_0028, Call::EventStatus),            // 5.1.9
        (0xc400_0029, Call::EventGetInfo),           // 5.1.10
        (0xc400_002a, Call::EventRoutingSet),        // 5.1.11
        (0xc400_002b, Call::PeMask),                 // 5.1.12
        (0xc400_002c, Call::PeUnmask),               // 5.1.13
        (0xc400_002d, Call::InterruptBind),          // 5.1.14
        (0xc400_002e, Call::InterruptRelease),       // 5.1.15
        (0xc400_002f, Call::EventSignal),            // 5.1.16
        (0xc400_0030, Call::Features),               // 5.1.17
        (0xc400_0031, Call::PrivateReset),           // 5.1.18
        (0xc400_0032, Call::SharedReset),            // 5.1.19
    ];
    for (id, call) in calls {
        assert_eq!(call as u32, id);
        assert_eq!(Call::from_id(id), Some(call));
    }
    assert_eq!(Call::ALL, calls.map(|(_, call)| call));
}

#[test]
fn c003_c004_c279_nothing_else_is_an_sdei_call() {
    let neighbours = (0xc400_0000..0xc400_0020).chain(0xc400_0033..0xc400_0100);
    let others = [
        0x8400_0020,
        0x8400_002f,
        0xc600_0020,
        0xb200_0020,
        0x20,
        u32::MAX,
    ];
    for id in neighbours.chain(others) {
        assert_eq!(sdei::Call::from_id(id), None, "{id:#x}");
    }
    assert_eq!((sdei::FIRST, sdei::LAST), (0xc400_0020, 0xc400_003f));
}

#[test]
fn sdei_answers_have_the_values_of_den0054_5_1() {
    assert_eq!(sdei::Status::Success as i64, 0);
    assert_eq!(sdei::Status::NotSupported as i64, -1);
    assert_eq!(sdei::Status::InvalidParameters as i64, -2);
    assert_eq!(sdei::Status::Denied as i64, -3);
    assert_eq!(sdei::Status::Pending as i64, -5);
    assert_eq!(sdei::Status::OutOfResource as i64, -10);
}

#[test]
fn sdei_fields_and_selectors_have_the_values_of_den0054() {
    assert_eq!(sdei::EVENT_SIGNALLED, 0); // 5.1.16
    assert_eq!(sdei::status_bits::REGISTERED, 1); // 5.1.9
    assert_eq!(sdei::status_bits::ENABLED, 2);
    assert_eq!(sdei::status_bits::RUNNING, 4);
    assert_eq!(sdei::info::EV_TYPE, 0); // 5.1.10
    assert_eq!(sdei::info::EV_SIGNALED, 1);
    assert_eq!(sdei::info::EV_PRIORITY, 2);
    assert_eq!(sdei::info::EV_ROUTING_MODE, 3);
    assert_eq!(sdei::info::EV_ROUTING_AFF, 4);
    assert_eq!(sdei::feature::BIND_SLOTS, 0); // 5.1.17
    assert_eq!(sdei::feature::RELATIVE_MODE, 1);
    assert_eq!(sdei::register_flags::RM_PE, 1); // 5.1.2
    assert_eq!(sdei::register_flags::RELATIVE, 2);
}

#[test]
fn console_lines_open_with_the_ascii_record_separator() {
    assert_eq!(console::RS, 0x1e);
    assert_eq!(console::US, 0x1f);
}

#[test]
fn crash_records_open_with_magic_length_and_checksum() {
    // FNV-1a's basis is the checksum of nothing.
    let header = [
        *b"HLGNcrsh",
        0u64.to_le_bytes(),
        0xcbf2_9ce4_8422_2325_u64.to_le_bytes(),
    ];
    assert_eq!(crash::header(b""), *header.as_flattened());
    assert_eq!((crash::SIZE, crash::ALIGNMENT), (65536, 4096));
}

#[test]
fn virtio_registers_and_bits_have_the_values_of_virtio_1_2() {
    use virtio::{descriptor, register, status};
    // 4.2.2.
    let registers = [
        register::MAGIC,
        register::VERSION,
        register::DEVICE_ID,
        register::VENDOR_ID,
        register::DEVICE_FEATURES,
        register::DEVICE_FEATURES_SEL,
        register::DRIVER_FEATURES,
        register::DRIVER_FEATURES_SEL,
        register::QUEUE_SEL,
        register::QUEUE_SIZE_MAX,
        register::QUEUE_SIZE,
        register::QUEUE_READY,
        register::QUEUE_NOTIFY,
        register::INTERRUPT_STATUS,
        register::INTERRUPT_ACK,
        register::STATUS,
        register::QUEUE_DESC,
        register::QUEUE_DRIVER,
        register::QUEUE_DEVICE,
        register::CONFIG_GENERATION,
        register::CONFIG,
    ];
    let offsets = [
        0, 4, 8, 0xc, 0x10, 0x14, 0x20, 0x24, 0x30, 0x34, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x80,
        0x90, 0xa0, 0xfc, 0x100,
    ];
    assert_eq!(registers, offsets);
    assert_eq!(register::SHM, 0xb0..0xc0);
    assert_eq!((virtio::MAGIC, virtio::VERSION), (0x7472_6976, 2));
    assert_eq!((virtio::USED, virtio::CONFIG_CHANGED), (1, 2));
    // 2.1.
    let bits = [status::DRIVER_OK, status::FEATURES_OK, status::NEEDS_RESET];
    assert_eq!(bits, [4, 8, 64]);
    // 2.2, 6.
    assert_eq!(virtio::DEVICE_FEATURES, 0x00ff_ffff);
    assert_eq!((virtio::INDIRECT_DESC, virtio::VERSION_1), (1 << 28, 1));
    // 2.7.5, 2.7.6.
    let flags = [descriptor::NEXT, descriptor::WRITE, descriptor::INDIRECT];
    assert_eq!((flags, virtio::NO_INTERRUPT), ([1, 2, 4], 1));
    // 5, and of 5.1 to 5.3 what brings more queues.
    let kinds = virtio::KINDS.each_ref();
    let kinds = kinds.map(|kind| (kind.id, kind.queues, kind.withheld));
    let expected = [
        (1, 3, 1 << 22),
        (2, 1, 1 << 12),
        (3, 2, 2),
        (4, 1, 0),
        (9, 1, 0),
        (19, 3, 0),
    ];
    assert_eq!(kinds, expected);
}
