//! What each VM gets: never what another has or what is the hypervisor's, on any machine, and a clear refusal otherwise.

#[path = "../../../platform/tests/data/trees.rs"]
mod trees;

use dtoolkit::{Node, Property};
use hv_abi::watchdog::Act;
use hv_bundle::{
    BLOCK_SIZE, Bundle, Capture, CpuInterface, DumpConfig, Error, Fresh, Guest, GuestConfig, Host,
    Identity, Keep, Layout, OwnDevices, Piece, REDISTRIBUTOR_SIZE, Secret, Seeds, VmPlan,
    parse_crashkernel, plan, tables,
};
use platform::{Device, DeviceKind, Gic, Machine, Range, Spi};
use proptest::prelude::*;
use trees::{GicVersion, pi, virt};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const LIMIT: u64 = 512 * GIB;
const SPIS: u32 = 256;
const PAGE: u64 = 4096;
/// A flat binary.
const KERNEL: &[u8] = &[0x1f, 0x20, 0x03, 0xd5, 0xff, 0xff, 0xff, 0x17];

/// An arm64 Image.
const IMAGE: &[u8] = &image();

const fn image() -> [u8; 64] {
    let mut bytes = [0; 64];
    // image_size: 64 KiB.
    bytes[18] = 1;
    let (magic, mut at) = (*b"ARM\x64", 0);
    while at < magic.len() {
        bytes[0x38 + at] = magic[at];
        at += 1;
    }
    bytes
}

/// A machine, with the devicetree that it was read from.
struct Board {
    machine: Machine,
    dtb: Vec<u8>,
}

impl Board {
    fn of(tree: &dtoolkit::model::DeviceTree) -> Self {
        let dtb = tree.to_dtb();
        let machine = Machine::discover(&dtb).expect("a complete machine");
        Self { machine, dtb }
    }

    fn virt(cpus: u32) -> Self {
        Self::of(&virt(cpus, GicVersion::V3))
    }

    fn host<'a>(&'a self, taken: &'a [Range]) -> Host<'a> {
        Host {
            dtb: &self.dtb,
            taken,
            limit: LIMIT,
            spis: SPIS,
            secret: Secret::gather(&self.machine.seed, &Fresh::default()),
            transport: |_| [2, 2],
        }
    }

    fn plan(&self, configs: &[GuestConfig]) -> Result<Vec<VmPlan<'static>>, Error> {
        plan(&self.machine, bundle(configs), &self.host(&[]))
    }

    fn refusal(&self, configs: &[GuestConfig]) -> String {
        let refused = self.plan(configs);
        refused.expect_err("more than there is").to_string()
    }

    /// What is said of a guest on this machine if all of its RAM but so many bytes is taken.
    fn refusal_when_taken(&self, config: GuestConfig, left: u64) -> String {
        let bank = self.machine.ram[0];
        let taken = [Range::new(bank.start + left, bank.size - left)];
        let refused = plan(&self.machine, bundle(&[config]), &self.host(&taken));
        refused.expect_err("more than there is").to_string()
    }

    /// What is said of a guest on this machine once it has been changed.
    fn refusal_when(mut self, change: impl FnOnce(&mut Machine)) -> String {
        change(&mut self.machine);
        self.refusal(&[GuestConfig::default()])
    }
}

fn bundle(configs: &[GuestConfig]) -> Bundle<'static> {
    let guest = |config: GuestConfig| Guest {
        config,
        kernel: KERNEL,
        ramdisk: Some(&[7; 100]),
        flash: None,
        capture: Capture {
            kernel: Some(IMAGE),
            ramdisk: Some(&[9; 50]),
        },
    };
    Bundle {
        operator: Default::default(),
        guests: named(configs).into_iter().map(guest).collect(),
    }
}

/// The same, each with a name of its own.
fn named(configs: &[GuestConfig]) -> Vec<GuestConfig> {
    let name = |(number, config): (usize, &GuestConfig)| match number {
        0 => config.clone(),
        _ => GuestConfig {
            name: format!("{}-{number}", config.name),
            ..config.clone()
        },
    };
    configs.iter().enumerate().map(name).collect()
}

fn wants(vcpus: u32, memory: u64) -> GuestConfig {
    GuestConfig {
        vcpus,
        memory,
        ..GuestConfig::default()
    }
}

fn dumps(memory: u64) -> DumpConfig {
    DumpConfig {
        memory,
        bootargs: "panic=5".into(),
    }
}

/// A guest whose crash kernel is watched.
fn watched(start: u64, size: u64) -> GuestConfig {
    GuestConfig {
        crashkernel: Some(Range::new(start, size)),
        ..GuestConfig::default()
    }
}

#[test]
fn a_watched_crash_kernel_is_in_the_guest_s_ram_and_has_tables_of_nobody_s() {
    let board = Board::virt(2);
    let bank = board.machine.ram[0];
    let [usual] = &board.plan(&[GuestConfig::default()]).expect("a plan")[..] else {
        panic!("one guest");
    };
    assert!(usual.tables.is_empty());
    let at = bank.start + 64 * MIB;
    let [vm] = &board.plan(&[watched(at, 32 * MIB)]).expect("a plan")[..] else {
        panic!("one guest");
    };
    let size: u64 = vm.ram.iter().map(|part| part.size).sum();
    assert!(
        vm.tables.size / PAGE >= size / BLOCK_SIZE,
        "a table for each block"
    );
    assert!(vm.ram.iter().all(|part| !part.overlaps(vm.tables)));
    assert!(bank.covers(vm.tables));

    let elsewhere = "crashkernel is not in the guest's RAM, in one piece";
    for (start, size) in [
        (bank.end(), 32 * MIB),
        (bank.end() - 32 * MIB, 64 * MIB),
        (0, 2 * MIB),
        // The flat binary is at the beginning.
        (bank.start, 32 * MIB),
    ] {
        let refused = board.refusal(&[watched(start, size)]);
        assert!(refused.starts_with(elsewhere), "{start:#x}: {refused}");
    }
}

#[test]
fn a_place_of_a_crash_kernel_is_whole_blocks_with_an_address() {
    let good = parse_crashkernel("256M@0x60000000").expect("a place");
    assert_eq!(good, Range::new(0x6000_0000, 256 * MIB));
    for (text, what) in [
        ("256M", "crashkernel does not say where the crash kernel is"),
        (
            "256M,high",
            "crashkernel does not say where the crash kernel is",
        ),
        ("1M@0x60000000", "crashkernel is not whole units of 2 MiB"),
        ("256M@0x60001000", "crashkernel is not whole units of 2 MiB"),
        ("0@0x60000000", "crashkernel is not whole units of 2 MiB"),
        (
            "256M@0xffffffffffe00000",
            "crashkernel is not whole units of 2 MiB",
        ),
        ("256M@here", "here is no size"),
    ] {
        let refused = parse_crashkernel(text).expect_err(text).to_string();
        assert!(refused.starts_with(what), "{text}: {refused}");
    }
}

/// A guest that is dumped into so many bytes.
fn dumped(memory: u64) -> GuestConfig {
    GuestConfig {
        dump: Some(dumps(memory)),
        ..GuestConfig::default()
    }
}

#[test]
fn memory_is_held_back_for_a_capture_kernel() {
    let board = Board::virt(4);
    let [vm] = &board.plan(&[dumped(64 * MIB)]).expect("a plan")[..] else {
        panic!("one guest");
    };
    let bank = board.machine.ram[0];
    let held = Range::new(bank.end() - 64 * MIB, 64 * MIB);
    assert_eq!(vm.ram, [Range::between(bank.start, held.start)]);
    let capture = vm.capture.as_ref().expect("a capture kernel");
    let piece = Piece {
        ipa: held.start,
        pa: held.start,
        size: held.size,
    };
    assert_eq!((capture.memory, capture.kernel), (piece, IMAGE));
    assert_eq!(capture.header.end(), held.end());
    let tree = dtoolkit::fdt::Fdt::new(&capture.dtb).expect("a sound blob");
    let tree = dtoolkit::model::DeviceTree::from_fdt(&tree);
    let value = |path: &str, name: &str| -> Vec<u8> {
        let node = tree.find_node(path).expect(path);
        node.property(name).expect(name).value().to_vec()
    };
    let reg = |range: Range| [range.start.to_be_bytes(), range.size.to_be_bytes()].concat();
    let memory = format!("/memory@{:x}", held.start);
    assert_eq!(value(&memory, "reg"), reg(held));
    assert_eq!(value("/chosen", "linux,elfcorehdr"), reg(capture.header));
    assert_eq!(value("/chosen", "bootargs"), b"panic=5\0");
    // The guest's own tree says nothing of it.
    let own = dtoolkit::fdt::Fdt::new(&vm.dtb).expect("a sound blob");
    let own = dtoolkit::model::DeviceTree::from_fdt(&own);
    assert!(own.find_node(&memory).is_none());
    let chosen = own.find_node("/chosen").expect("chosen");
    assert!(chosen.property("linux,elfcorehdr").is_none());
}

/// Linux with pages of 64 KiB reads memory by such pages, and beside the guest's there is nothing.
#[test]
fn memory_that_is_to_be_dumped_begins_and_ends_with_a_page_of_any_size() {
    const LARGEST: u64 = 64 << 10;
    let board = Board::virt(4);
    let bank = board.machine.ram[0];
    let hole = |at: u64| Range::new(bank.start + at, PAGE);
    let taken = [
        hole(0),
        hole(32 * MIB + 3 * PAGE),
        hole(bank.size - 5 * PAGE),
    ];
    let host = board.host(&taken);
    let edges = |config: GuestConfig| {
        let plans = plan(&board.machine, bundle(&[config]), &host).expect("a plan");
        let ram = plans[0].ram.clone();
        let total: u64 = ram.iter().map(|part| part.size).sum();
        let is_edge_of_any = |at: u64| at.is_multiple_of(LARGEST);
        let edges = ram.iter().flat_map(|part| [part.start, part.end()]);
        (edges.filter(|&at| !is_edge_of_any(at)).count(), total)
    };
    let (ragged, all) = edges(GuestConfig::default());
    let (even, less) = edges(dumped(64 * MIB));
    assert_eq!((ragged > 0, even), (true, 0));
    // Less than a page of that size is lost at each edge.
    let lost = all - less - 64 * MIB;
    assert!(0 < lost && lost < 8 * LARGEST, "{lost} bytes are lost");
}

#[test]
fn a_device_that_nothing_resets_before_a_capture_kernel_is_named() {
    let not_reset = |board: &Board| {
        let plans = board.plan(&[dumped(64 * MIB)]).expect("a plan");
        let capture = plans[0].capture.as_ref().expect("a capture kernel");
        capture.not_reset.clone()
    };
    let mut board = Board::virt(4);
    // Virtio devices are reset with the VM, mediated or not.
    assert!(not_reset(&board).is_empty());
    // The clock, as if it were a controller of cards.
    let mut devices = board.machine.devices.iter_mut();
    let clock = devices.find(|it| it.kind == DeviceKind::Rtc).unwrap();
    clock.kind = DeviceKind::Sd;
    let path = format!(" {}", clock.path);
    assert_eq!(not_reset(&board), path);
}

#[test]
fn a_guest_beside_others_finds_its_capture_kernel_behind_its_own_memory() {
    let board = Board::virt(4);
    let small = GuestConfig {
        dump: Some(dumps(64 * MIB)),
        ..wants(1, 128 * MIB)
    };
    let configs = [wants(1, 256 * MIB), small];
    let plans = board.plan(&configs).expect("a plan");
    hold(&board, &named(&configs), &[], &plans);
    let bank = board.machine.ram[0];
    let memory = plans[1].capture.as_ref().expect("a capture kernel").memory;
    assert_eq!(memory.ipa, bank.start + 128 * MIB);
    assert_eq!(memory.pa, bank.end() - 64 * MIB);
}

#[test]
fn a_guest_may_have_a_capture_kernel_and_a_crash_kernel_that_is_watched() {
    let board = Board::virt(4);
    let bank = board.machine.ram[0];
    let both = |start| GuestConfig {
        dump: Some(dumps(64 * MIB)),
        ..watched(start, 32 * MIB)
    };
    let [vm] = &board.plan(&[both(bank.start + 64 * MIB)]).expect("a plan")[..] else {
        panic!("one guest");
    };
    let memory = vm.capture.as_ref().expect("a capture kernel").memory;
    let held = Range::new(memory.pa, memory.size);
    assert!(!vm.tables.is_empty() && !vm.tables.overlaps(held));
    let mut parts = vm.ram.iter();
    assert!(parts.all(|part| !part.overlaps(held) && !part.overlaps(vm.tables)));
    // What is held back is none of the guest's, and so no place for its crash kernel.
    let refused = board.refusal(&[both(held.start)]);
    assert!(
        refused.starts_with("crashkernel is not in the guest's RAM"),
        "{refused}"
    );
}

#[test]
fn each_of_several_guests_may_have_a_crash_kernel_that_is_watched() {
    let board = Board::virt(4);
    // Behind all that they boot.
    let start = board.machine.ram[0].start + 144 * MIB;
    let one = || GuestConfig {
        crashkernel: Some(Range::new(start, 32 * MIB)),
        ..wants(1, 192 * MIB)
    };
    let configs = [one(), wants(1, 64 * MIB), one()];
    let plans = board.plan(&configs).expect("a plan");
    hold(&board, &named(&configs), &[], &plans);
    let tables: Vec<Range> = plans.iter().map(|plan| plan.tables).collect();
    let [first, none, last] = tables[..] else {
        panic!("three guests");
    };
    assert!(none.is_empty() && !first.is_empty() && !last.is_empty());
    assert!(!first.overlaps(last));
}

#[test]
fn what_a_capture_kernel_cannot_start_with_is_named() {
    let board = Board::virt(4);
    assert_eq!(
        board.refusal(&[dumped(32 * MIB)]),
        "dump memory has 32 MiB, and its kernel, initrd and header with room to run need at least 36 MiB; hold more back"
    );
    let refused = board.refusal(&[dumped(64 * GIB)]);
    assert!(
        refused.starts_with("dump memory is more than the machine has of RAM in one piece"),
        "{refused}"
    );
    let mut bundle = bundle(&[dumped(64 * MIB)]);
    bundle.guests[0].capture.kernel = None;
    let refused = plan(&board.machine, bundle, &board.host(&[])).expect_err("no Image");
    assert!(
        refused
            .to_string()
            .starts_with("dump kernel is no arm64 Image"),
        "{refused}"
    );
}

#[test]
fn one_guest_gets_all_there_is() {
    let board = Board::virt(4);
    let [vm] = &board.plan(&[GuestConfig::default()]).expect("a plan")[..] else {
        panic!("not one VM");
    };
    assert_eq!(vm.id, 0);
    assert_eq!(vm.cpus, [0, 1, 2, 3]);
    assert_eq!(vm.ram, board.machine.ram);
    // A flat binary of a machine with more than 256 MiB, and its ramdisk of a page.
    let base = board.machine.ram[0].start;
    assert_eq!(vm.layout.entry, base + 0x8_0000);
    assert_eq!(vm.layout.dtb.start, base + 130 * MIB);
    assert_eq!(vm.layout.dtb.size, vm.dtb.len() as u64);
    assert_eq!(vm.uart, Range::new(0x0900_0000, 0x1000));
    assert_eq!(vm.uart_intid, 33);
    assert_eq!(vm.distributor, Range::new(0x0800_0000, 0x1_0000));
    let frames = Range::new(0x080a_0000, 4 * REDISTRIBUTOR_SIZE);
    assert_eq!(vm.redistributors, [frames]);
    assert_eq!(vm.cpu_interface, None);
    assert_eq!(vm.registers.len(), board.machine.devices.len());
    assert_eq!(vm.transports.len(), 32);
    let mut interrupts = vec![27, 30];
    let devices = board.machine.devices.iter();
    interrupts.extend(devices.flat_map(|device| device.spis.iter().map(|spi| spi.intid)));
    assert_eq!(vm.interrupts, interrupts);
}

#[test]
fn a_guest_of_256_mib_loses_only_what_is_ours_and_what_is_reserved() {
    let mut board = Board::virt(4);
    let bank = Range::new(0x4000_0000, 256 * MIB);
    board.machine.ram = vec![bank];
    board.machine.reserved = vec![Range::new(bank.start, PAGE), Range::new(0x4234_5678, 100)];
    board.machine.initrd = Some(Range::new(0x4800_0000, 3 * MIB + 5));
    let home = Range::new(bank.end() - BLOCK_SIZE, BLOCK_SIZE);
    let keep = Keep::find(&board.machine, &[home], LIMIT).expect("room");
    assert_eq!(
        keep.to,
        Range::new(home.start - 3 * MIB - PAGE, 3 * MIB + PAGE)
    );
    let taken = [home, keep.to];
    let plans = plan(
        &board.machine,
        bundle(&[GuestConfig::default()]),
        &board.host(&taken),
    );
    let plans = plans.expect("a plan");
    let parts = [
        Range::between(bank.start + PAGE, 0x4234_5000),
        Range::between(0x4234_6000, keep.to.start),
    ];
    assert_eq!(plans[0].ram, parts);
    let ours: u64 = taken.iter().map(|range| range.size).sum();
    let has: u64 = parts.iter().map(|range| range.size).sum();
    assert_eq!(bank.size - ours - has, 2 * PAGE);
    assert!((bank.size - ours) * 99 / 100 <= has);
    // The page at the base does not move what QEMU would put there.
    assert_eq!(plans[0].layout.entry, bank.start + 0x8_0000);
    // So many tables are enough, whoever maps that.
    let given = |range| Identity {
        range,
        is_device: false,
    };
    let mapped: Vec<Identity> = parts.map(given).to_vec();
    let known = tables(&hv_bundle::given(&board.machine, LIMIT));
    assert!(tables(&mapped) <= known + 6, "{} {known}", tables(&mapped));
}

#[test]
fn a_guest_gets_what_it_asks_for_and_the_next_one_what_is_left() {
    let board = Board::virt(4);
    let configs = [wants(1, 256 * MIB), wants(0, 0)];
    let [first, second] = &board.plan(&configs).expect("a plan")[..] else {
        panic!("not two VMs");
    };
    assert_eq!((first.id, second.id), (0, 1));
    assert_eq!(first.cpus, [0]);
    assert_eq!(second.cpus, [1, 2, 3]);
    assert_eq!(first.ram, [Range::new(0x4000_0000, 256 * MIB)]);
    // Each finds its own where the machine's begins.
    let rest = 2048 * MIB - 256 * MIB;
    assert_eq!(second.ram, [Range::new(0x4000_0000, rest)]);
    let pieces = |vm: &VmPlan<'_>| {
        let pieces = vm.backing.pieces().iter();
        let of = |piece: &Piece| (piece.ipa, piece.pa, piece.size);
        pieces.map(of).collect::<Vec<_>>()
    };
    assert_eq!(pieces(first), [(0x4000_0000, 0x4000_0000, 256 * MIB)]);
    assert_eq!(pieces(second), [(0x4000_0000, 0x5000_0000, rest)]);
    assert!(first.registers.is_empty() && first.transports.is_empty());
    // A flat binary is where it would be on a machine with so much memory.
    assert_eq!(second.layout.entry, 0x4008_0000);
    assert_eq!(second.layout.dtb.start, 0x4000_0000 + 130 * MIB);
    assert!(second.registers.is_empty() && second.transports.is_empty());
    assert_eq!(second.interrupts, [27, 30]);
    // Emulated, so both have them at the same addresses.
    assert_eq!(
        (first.uart, first.distributor),
        (second.uart, second.distributor)
    );
    assert_eq!(
        second.redistributors,
        [Range::new(0x080a_0000, 3 * REDISTRIBUTOR_SIZE)]
    );
}

#[test]
fn devices_of_a_guests_own_are_where_the_machine_has_nothing() {
    let config = || GuestConfig {
        flash: 64 * MIB,
        pvpanic: true,
        gwdt: Some(Act::Reset),
        ..GuestConfig::default()
    };
    let board = Board::virt(2);
    let plain = board.plan(&[GuestConfig::default()]).unwrap();
    assert_eq!(plain[0].own, OwnDevices::default());
    let plans = board.plan(&[config()]).unwrap();
    let (own, machine) = (plans[0].own, &board.machine);
    assert_eq!(own.flash, Range::new(0x400_0000, 64 * MIB));
    let devices = machine.devices.iter().flat_map(|device| &device.mmio);
    let [control, refresh] = own.gwdt;
    assert!(
        !plans[0].interrupts.contains(&own.gwdt_intid) && own.gwdt_intid != plans[0].uart_intid
    );
    assert!(own.gwdt_intid >= 32 && !control.overlaps(refresh));
    for place in [own.flash, own.pvpanic, control, refresh] {
        assert!(!place.is_empty());
        let all = machine.ram.iter().chain(devices.clone());
        assert!(
            all.chain([&plans[0].uart, &plans[0].distributor])
                .all(|range| !range.overlaps(place))
        );
    }
    // What the flash keeps is in RAM that nobody else has.
    assert_eq!(own.flash_ram.size, 64 * MIB);
    assert!(machine.ram.iter().any(|bank| bank.covers(own.flash_ram)));
    assert!(
        plans[0]
            .ram
            .iter()
            .all(|part| !part.overlaps(own.flash_ram))
    );
    let size = |plan: &VmPlan<'_>| plan.ram.iter().map(|part| part.size).sum::<u64>();
    assert_eq!(size(&plans[0]) + 64 * MIB, size(&plain[0]));

    // A Raspberry Pi has RAM there; and there can be too little.
    let refusal = Board::of(&pi()).refusal(&[config()]);
    assert!(
        refusal.contains("where this machine has something else"),
        "{refusal}"
    );
    let refusal = Board::virt(2).refusal_when_taken(config(), 48 * MIB);
    assert!(
        refusal.contains("more than the machine has of RAM in one piece"),
        "{refusal}"
    );
}

#[test]
fn a_gicv2_shows_the_half_of_its_interface_that_needs_no_trap() {
    let interface = |machine: &Machine, dtb: &[u8]| {
        let board = Board {
            machine: machine.clone(),
            dtb: dtb.to_vec(),
        };
        let plans = board.plan(&[GuestConfig::default()]).expect("a plan");
        plans[0].cpu_interface
    };
    let board = Board::of(&pi());
    let Gic::V2 { cpu, vcpu, .. } = board.machine.gic else {
        panic!("a Raspberry Pi 4 has a GICv2");
    };
    let small = CpuInterface {
        at: cpu.start,
        gicv: Range::new(vcpu.start, 0x1000),
        deactivate: Range::new(cpu.start + 0x1000, 0x1000),
    };
    assert_eq!(interface(&board.machine, &board.dtb), Some(small));

    // 64 KiB pages: GICC_DIR at the end of the first.
    let mut board = Board::of(&virt(2, GicVersion::V2));
    let (large, gicv) = (
        Range::new(0x0a80_0000, 0x2_0000),
        Range::new(0x0b00_0000, 0x2_0000),
    );
    if let Gic::V2 { cpu, vcpu, .. } = &mut board.machine.gic {
        (*cpu, *vcpu) = (large, gicv);
    }
    let half = CpuInterface {
        at: large.start,
        gicv: Range::new(gicv.start, 0x1_0000),
        deactivate: Range::new(large.start + 0x1_0000, 0x1_0000),
    };
    assert_eq!(interface(&board.machine, &board.dtb), Some(half));
}

#[test]
fn redistributors_go_on_in_the_next_region() {
    let mut board = Board::virt(5);
    let regions = [
        Range::new(0x0810_0000, 2 * REDISTRIBUTOR_SIZE),
        Range::new(0x0820_0000, 8 * REDISTRIBUTOR_SIZE),
    ];
    if let Gic::V3 { redists, .. } = &mut board.machine.gic {
        *redists = regions.into();
    }
    let plans = board.plan(&[wants(0, 256 * MIB)]).expect("a plan");
    let rest = Range::new(0x0820_0000, 3 * REDISTRIBUTOR_SIZE);
    assert_eq!(plans[0].redistributors, [regions[0], rest]);
}

#[test]
fn an_interrupt_that_two_devices_have_is_passed_once() {
    let mut board = Board::virt(1);
    let intid = board.machine.devices[0].spis[0].intid;
    board.machine.devices[1].spis[0].intid = intid;
    let plans = board.plan(&[GuestConfig::default()]).expect("a plan");
    let count = plans[0].interrupts.iter().filter(|&&own| own == intid);
    assert_eq!(count.count(), 1);
}

#[test]
fn more_guests_than_are_supported_are_refused() {
    let board = Board::virt(32);
    let many = vec![wants(1, 4 * MIB); 17];
    assert_eq!(
        board.refusal(&many),
        "the bundle, with 17 guests, has more than there can be; give it fewer; docs/guests.md says how many"
    );
}

#[test]
fn a_guest_that_wants_more_than_is_left_is_told_what() {
    let board = Board::virt(4);
    let said = board.refusal(&[wants(5, 0)]);
    assert!(said.contains("vcpus = 5, but the machine has 4;"), "{said}");
    let said = board.refusal(&[wants(3, 256 * MIB), wants(2, 256 * MIB)]);
    assert!(said.contains("vcpus = 2, but the machine has 1;"), "{said}");
    let said = board.refusal(&[wants(1, 4 * GIB)]);
    assert!(said.contains("memory = 4294967296"), "{said}");
    let said = board.refusal(&[wants(4, 256 * MIB), wants(0, 256 * MIB)]);
    assert_eq!(
        said,
        "the guest guest-1 is left without CPUs; start a larger machine"
    );
    let said = board.refusal(&[wants(1, 2 * GIB), wants(1, 0)]);
    assert_eq!(
        said,
        "the guest guest-1 is left without RAM; give the machine more memory"
    );
    let said = board.refusal(&[wants(1, 0), wants(1, 0)]);
    assert_eq!(
        said,
        "the guests guest and guest-1 both ask for all memory; say memory for all but one"
    );
    let said = board.refusal(&[wants(0, 2 * MIB), wants(0, 2 * MIB)]);
    assert_eq!(
        said,
        "the guests guest and guest-1 both ask for all CPUs; say cpus for all but one"
    );
    let mut two = bundle(&[wants(1, 2 * MIB), wants(1, 2 * MIB)]);
    two.guests[1].config.name = "guest".into();
    let said = plan(&board.machine, two, &board.host(&[])).map_err(|error| error.to_string());
    let expected = "the guests guest and guest have one name; give each a name of its own";
    assert_eq!(said, Err(expected.into()));
}

/// A guest with a CPU and some memory, and these devices.
fn has(devices: &[&str], trusted: bool) -> GuestConfig {
    GuestConfig {
        devices: Some(devices.iter().copied().map(str::to_owned).collect()),
        trusted,
        ..wants(1, 64 * MIB)
    }
}

#[test]
fn a_guest_gets_the_cpus_that_it_lists_in_its_order() {
    let board = Board::virt(4);
    let lists = |pcpus: &[u32]| GuestConfig {
        vcpus: pcpus.len() as u32,
        pcpus: pcpus.to_vec(),
        ..wants(0, 256 * MIB)
    };
    // Whoever lists some is served first, wherever it stands.
    let configs = [wants(2, 256 * MIB), lists(&[3, 0])];
    let plans = board.plan(&configs).expect("a plan");
    assert_eq!(plans[0].cpus, [1, 2]);
    assert_eq!(plans[1].cpus, [3, 0]);
    // Each counts its own from the machine's first on, unless it asks for theirs.
    assert_eq!(
        (&plans[0].affinities, &plans[1].affinities),
        (&vec![0, 1], &vec![0, 1])
    );
    let as_they_are = GuestConfig {
        machine_affinities: true,
        ..lists(&[3, 0])
    };
    let alone = board.plan(&[as_they_are]).expect("a plan");
    assert_eq!(alone[0].affinities, [3, 0]);
    assert_eq!((plans[0].id, plans[1].id), (0, 1));
    for (configs, whose) in [
        (vec![lists(&[1, 4])], "the guest guest, cpus: 4 is no CPU"),
        (vec![lists(&[1, 1])], "the guest guest, cpus: 1 is no CPU"),
        (
            vec![lists(&[0, 1]), lists(&[1, 2])],
            "the guest guest-1, cpus: 1 is no CPU",
        ),
    ] {
        let said = board.refusal(&configs);
        assert!(said.starts_with(whose), "{said}");
    }
}

#[test]
fn devices_go_to_whoever_asks_for_them() {
    let board = Board::virt(4);
    let configs = [
        has(&["rtc"], false),
        has(&["virtio:0", "virtio:2", "/virtio_mmio@a000200"], true),
        has(&["virtio", "gpio"], true),
        has(&[], false),
    ];
    let plans = board.plan(&configs).expect("a plan");
    assert_eq!(plans[0].registers, [Range::new(0x0901_0000, 0x1000)]);
    // What it has cannot write to memory: it finds its own where the machine's begins.
    assert_eq!(plans[0].ram, [Range::new(0x4000_0000, 64 * MIB)]);
    assert_eq!(plans[1].transports, [0x0a00_0000, 0x0a00_0200, 0x0a00_0400]);
    let piece = plans[1].backing.pieces()[0];
    assert_eq!((piece.ipa, plans[1].ram.len()), (piece.pa, 1));
    assert_ne!(piece.pa, 0x4000_0000);
    // The other five of the first eight are in the same page as those.
    assert_eq!(plans[2].transports.len(), 24);
    let beside = [has(&["virtio:0"], true), has(&["virtio:7"], true)];
    let said = board.refusal(&beside);
    assert!(said.contains("or a device with its page"), "{said}");
    assert!(plans[3].registers.is_empty());
    hold(&board, &named(&configs), &[], &plans);
}

/// QEMU's transports: a block device in the first 8, then one of another type each, nothing from 24 on.
fn transport(at: u64) -> [u32; 2] {
    match (at - 0x0a00_0000) / 0x200 {
        0..8 => [2, 2],
        slot @ 8..24 => [2, slot as u32 - 7],
        _ => [2, 0],
    }
}

#[test]
fn virtio_devices_are_mediated_and_share_their_pages() {
    let board = Board::virt(4);
    let host = Host {
        transport,
        ..board.host(&[])
    };
    let configs = [
        has(&["virtio:0", "rtc"], false),
        has(&["virtio:1", "virtio:9"], false),
        has(&["virtio:24"], true),
    ];
    let plans = plan(&board.machine, bundle(&configs), &host).expect("a plan");
    let of = |vm: &VmPlan<'_>| -> Vec<_> {
        let them = vm.mediated.iter();
        them.map(|it| (it.transport, it.intid, it.kind.name))
            .collect()
    };
    assert_eq!(of(&plans[0]), [(0x0a00_0000, 48, "block")]);
    assert_eq!(
        of(&plans[1]),
        [(0x0a00_0200, 49, "block"), (0x0a00_1200, 57, "block")]
    );
    // Their registers and interrupts are not shown, and their guests' RAM is where any other's is.
    assert_eq!(plans[0].registers, [Range::new(0x0901_0000, 0x1000)]);
    assert!(plans[1].registers.is_empty() && !plans[1].interrupts.contains(&49));
    assert_eq!(plans[0].ram, [Range::new(0x4000_0000, 64 * MIB)]);
    assert_eq!(plans[1].ram, plans[0].ram);
    assert!(plans[0].queues.size >= 1024 * 16 && plans[1].queues.size >= 2 * 1024 * 16);
    assert_eq!(
        plans.iter().map(|vm| vm.reaches_all).collect::<Vec<_>>(),
        [false, false, true]
    );
    hold(&board, &named(&configs), &[], &plans);
    let tree = |vm: &VmPlan<'_>| String::from_utf8_lossy(&vm.dtb).into_owned();
    assert!(tree(&plans[1]).contains("virtio_mmio@a000200"));
    assert!(!tree(&plans[1]).contains("virtio_mmio@a000000"));
    // Who asks for a kind gets what is there.
    let all = plan(&board.machine, bundle(&[has(&["virtio:0"], false)]), &host).expect("a plan");
    assert_eq!(all[0].mediated.len(), 1);
}

#[test]
fn what_cannot_be_mediated_is_named() {
    let board = Board::virt(2);
    let refused = |configs: &[GuestConfig], transport: fn(u64) -> [u32; 2]| {
        let host = Host {
            transport,
            ..board.host(&[])
        };
        let refused = plan(&board.machine, bundle(configs), &host);
        refused.expect_err("more than there is").to_string()
    };
    for (slot, words) in [
        (
            12,
            "of virtio type 5, can be told to reach all memory; network, block, console,",
        ),
        (
            30,
            "of virtio type 0, is a transport without a device; ask for another",
        ),
    ] {
        let said = refused(&[has(&[&format!("virtio:{slot}")], false)], transport);
        assert!(said.contains(words), "{said}");
    }
    let said = refused(&[has(&["virtio"], false)], |_| [1, 2]);
    assert!(
        said.starts_with(
            "the guest guest, devices: /virtio_mmio@a000000, of virtio type 2, is a legacy"
        ) && said.contains("-global virtio-mmio.force-legacy=false"),
        "{said}"
    );
    // Of a page in which a device is mediated nobody is shown anything, and the other way round.
    for trusts in [[false, true], [true, false]] {
        let configs = [has(&["virtio:0"], trusts[0]), has(&["virtio:1"], trusts[1])];
        let said = refused(&configs, transport);
        assert!(
            said.starts_with("the guest guest-1, devices: virtio:1 is no device")
                && said.contains("or a device with its page"),
            "{said}"
        );
    }
}

#[test]
fn no_guest_is_shown_the_page_of_its_mediated_device() {
    let mut board = Board::virt(2);
    // The clock where the last transport of the first page was.
    let devices = &mut board.machine.devices;
    let last = Range::new(0x0a00_0e00, 0x200);
    devices.retain(|device| device.mmio != [last]);
    let clocks = devices.iter_mut().filter(|it| it.kind == DeviceKind::Rtc);
    clocks.for_each(|clock| clock.mmio = vec![last]);
    for words in [&["virtio:0", "rtc"][..], &["rtc", "virtio:0"], &["all"]] {
        let said = board.refusal(&[has(words, false)]);
        assert!(
            said.contains("is mediated, and has registers in a page with a device")
                || said.contains("or a device with its page"),
            "{said}"
        );
    }
    assert!(board.plan(&[has(&["virtio:8", "rtc"], false)]).is_ok());
}

#[test]
fn a_mediated_device_shares_neither_registers_nor_its_interrupt() {
    let said = "is mediated, and has registers or an interrupt together with another device of the guest's";
    let is_virtio = |device: &&mut Device| device.kind == DeviceKind::VirtioMmio;
    // Two transports with one interrupt, and one transport twice.
    for is_twice in [false, true] {
        let mut board = Board::virt(2);
        let mut virtio = board.machine.devices.iter_mut().filter(is_virtio);
        let (first, second) = (virtio.next().unwrap(), virtio.next().unwrap());
        second.spis = first.spis.clone();
        if is_twice {
            second.mmio = first.mmio.clone();
        }
        let refusal = board.refusal(&[has(&["virtio"], false)]);
        assert!(refusal.contains(said), "{refusal}");
        assert!(board.plan(&[has(&["virtio:5"], false)]).is_ok());
        assert!(board.plan(&[has(&["virtio"], true)]).is_ok());
    }
    // With a device that the guest has as it is.
    let mut board = Board::virt(2);
    let spis = board
        .machine
        .devices
        .iter_mut()
        .find(is_virtio)
        .unwrap()
        .spis
        .clone();
    let mut clocks = board.machine.devices.iter_mut();
    clocks.find(|it| it.kind == DeviceKind::Rtc).unwrap().spis = spis;
    let refusal = board.refusal(&[has(&["virtio:0", "rtc"], false)]);
    assert!(refusal.contains(said), "{refusal}");
}

#[test]
fn a_device_that_can_write_anywhere_is_for_trusted_guests() {
    let mut board = Board::virt(2);
    // The clock, as if it were a controller of cards.
    let mut devices = board.machine.devices.iter_mut();
    let clock = devices
        .find(|it| it.kind == DeviceKind::Rtc)
        .expect("a clock");
    clock.kind = DeviceKind::Sd;
    let path = clock.path.clone();
    let said = board.refusal(&[has(&["sd"], false)]);
    assert!(
        said.starts_with(&format!(
            "the guest guest, devices: {path} can be told to read"
        )),
        "{said}"
    );
    assert!(said.ends_with("say trusted = true if this guest may do that"));
    let board = Board::virt(2);
    for words in [&["virtio:32"][..], &["virtio:0", "virtio:0"], &["/nothing"]] {
        let said = board.refusal(&[has(words, true)]);
        assert!(
            said.contains("is no device that a guest can have"),
            "{said}"
        );
    }
    let said = board.refusal(&[has(&["virtio:0"], true), has(&["virtio:0"], true)]);
    assert!(said.starts_with("the guest guest-1, devices: virtio:0 is no"));
    // A kind is for one guest, unless the machine has none of it.
    let said = board.refusal(&[has(&["rtc"], false), has(&["rtc"], false)]);
    assert!(said.starts_with("the guest guest-1, devices: rtc is no"));
    assert!(board.plan(&[has(&["sd", "all"], true)]).is_ok());
}

#[test]
fn what_a_machine_says_against_itself_is_named() {
    let said = |change: fn(&mut Machine)| Board::virt(4).refusal_when(change);
    let expect = |said: String, words: &[&str]| {
        for word in words {
            assert!(said.contains(word), "no `{word}`: {said}");
        }
    };
    let slot = |machine: &mut Machine, base| machine.devices[0].mmio = vec![base];
    expect(
        said(|machine| machine.devices[0].mmio = vec![Range::new(0x0900_0800, 0x200)]),
        &[
            "/virtio_mmio@a000000 at 0x9000800",
            "/pl011@9000000",
            "share a page",
        ],
    );
    expect(
        said(|machine| machine.devices[0].mmio = vec![Range::new(0x0800_0000, 0x200)]),
        &["/virtio_mmio@a000000", "the interrupt controller"],
    );
    expect(
        said(|machine| machine.devices[0].mmio = vec![Range::new(0x4000_0000, 0x200)]),
        &["/virtio_mmio@a000000", "where RAM is"],
    );
    expect(
        said(|machine| machine.devices[0].mmio = vec![Range::new(LIMIT - 0x100, 0x200)]),
        &["/virtio_mmio@a000000", "does not map"],
    );
    expect(
        said(|machine| machine.power = Some(Range::new(0x0a00_0800, 0x100))),
        &["the power management block", "share a page"],
    );
    expect(
        said(|machine| machine.devices[0].spis[0].intid = 33),
        &["/virtio_mmio@a000000", "interrupt of a UART"],
    );
    expect(
        said(|machine| machine.devices[0].spis[0].intid = 32 + SPIS),
        &["/virtio_mmio@a000000 interrupt 288", "no shared interrupt"],
    );
    expect(
        said(|machine| machine.console.intid = 31),
        &["/pl011@9000000 interrupt 31"],
    );
    expect(
        said(|machine| machine.timers.virt = 40),
        &["interrupt 40", "not private"],
    );
    expect(
        said(|machine| machine.ram = vec![Range::new(0x0800_0000, GIB)]),
        &[
            "the interrupt controller's distributor at 0x8000000",
            "where RAM is",
        ],
    );
    expect(
        said(|machine| {
            if let Gic::V3 { redists, .. } = &mut machine.gic {
                redists[0].size = 3 * REDISTRIBUTOR_SIZE;
            }
        }),
        &["the guest guest", "more vCPUs", "redistributors"],
    );
    let mut board = Board::of(&virt(2, GicVersion::V2));
    if let Gic::V2 { vcpu, .. } = &mut board.machine.gic {
        vcpu.size = 0x1000;
    }
    expect(
        board.refusal(&[GuestConfig::default()]),
        &["GICV", "less than 8 KiB"],
    );
    let mut board = Board::of(&virt(2, GicVersion::V2));
    let cpu = board.machine.cpus[0];
    board.machine.cpus = vec![cpu; 9];
    expect(
        board.refusal(&[GuestConfig::default()]),
        &["more than 8 vCPUs", "GICv2"],
    );
    // On its own it is none of these.
    let mut board = Board::virt(4);
    slot(&mut board.machine, Range::new(0x0a00_0000, 0x200));
    assert!(board.plan(&[GuestConfig::default()]).is_ok());
}

#[test]
fn the_bundle_is_kept_where_nothing_else_is() {
    let mut machine = Board::virt(1).machine;
    let from = Range::new(0x4800_0000, 5 * MIB);
    machine.initrd = Some(from);
    let bank = machine.ram[0];
    let home = Range::new(bank.end() - 4 * MIB, 4 * MIB);
    let keep = Keep::find(&machine, &[home], LIMIT);
    let to = Range::new(home.start - 5 * MIB, 5 * MIB);
    assert_eq!(keep, Ok(Keep { from, to }));

    let refusal = |machine: &Machine, taken: &[Range]| {
        let refused = Keep::find(machine, taken, LIMIT);
        refused.expect_err("no place").to_string()
    };
    assert!(refusal(&machine, &[bank]).contains("no room for a copy of the bundle"));
    for outside in [
        Range::new(bank.end() - MIB, 2 * MIB),
        Range::new(0, MIB),
        Range::new(LIMIT - MIB, 2 * MIB),
    ] {
        machine.initrd = Some(outside);
        assert!(refusal(&machine, &[]).contains("out of the machine's RAM"));
    }
    machine.initrd = None;
    assert!(refusal(&machine, &[]).contains("there is no guest; load a bundle"));
}

/// The devicetree that a VM is loaded with, with these seeds.
fn loaded(vm: &VmPlan<'_>, seeds: &Seeds) -> Vec<u8> {
    let seeding = vm.seeding.as_ref().expect("seeds");
    let mut dtb = vm.dtb.clone();
    for (at, bytes) in [(seeding.kaslr, &seeds.kaslr[..]), (seeding.rng, &seeds.rng)] {
        let room = &mut dtb[at..at + bytes.len()];
        assert!(room.iter().all(|&byte| byte == 0));
        room.copy_from_slice(bytes);
    }
    dtb
}

#[test]
fn each_vm_has_seeds_of_its_own_each_time() {
    use dtoolkit::{Node, Property, fdt::Fdt};
    let board = Board::virt(4);
    let configs = [wants(1, 256 * MIB), wants(1, 256 * MIB)];
    let plans = board.plan(&configs).expect("a plan");
    let mut all: Vec<[Vec<u8>; 2]> = Vec::new();
    for vm in &plans {
        let secret = vm.seeding.as_ref().expect("seeds").secret;
        for load in 0..3 {
            let seeds = secret.seeds(load, &Fresh::default());
            assert_eq!(seeds, secret.seeds(load, &Fresh::default()));
            let dtb = loaded(vm, &seeds);
            let tree = Fdt::new(&dtb).expect("a sound blob");
            let chosen = tree.find_node("/chosen").expect("chosen");
            let value = |name| chosen.property(name).expect("a seed").value().to_vec();
            let found = ["kaslr-seed", "rng-seed"].map(value);
            assert_eq!(found, [seeds.kaslr.to_vec(), seeds.rng.to_vec()]);
            for other in &all {
                assert!(found[0] != other[0] && found[1] != other[1]);
            }
            assert!(!board.machine.seed.windows(8).any(|part| part == found[0]));
            all.push(found);
        }
    }
    assert_eq!(all.len(), 6);
    assert_eq!(plans, board.plan(&configs).expect("the same plan"));
}

#[test]
fn without_anything_secret_there_are_no_seeds() {
    let board = Board::virt(1);
    let host = Host {
        secret: None,
        ..board.host(&[])
    };
    let plans = plan(&board.machine, bundle(&[wants(0, 0)]), &host).expect("a plan");
    assert_eq!(plans[0].seeding, None);
    let with = board.plan(&[wants(0, 0)]).expect("a plan");
    assert!(plans[0].dtb.len() < with[0].dtb.len());
}

/// The pages of a range.
fn pages(range: Range) -> Range {
    let start = range.start & !(PAGE - 1);
    Range::between(start, range.end().next_multiple_of(PAGE))
}

/// What must hold of any plans, whatever the machine.
fn hold(board: &Board, configs: &[GuestConfig], taken: &[Range], plans: &[VmPlan<'_>]) {
    let machine = &board.machine;
    assert_eq!(plans.len(), configs.len());
    let mut cpus: Vec<u64> = Vec::new();
    let mut interrupts: Vec<u32> = Vec::new();
    let mut memory: Vec<Range> = Vec::new();
    for (number, (vm, config)) in plans.iter().zip(configs).enumerate() {
        assert_eq!(usize::from(vm.id), number);
        assert_eq!(&vm.guest.config, config);
        assert!(config.vcpus == 0 || vm.cpus.len() == config.vcpus as usize);
        let bytes: u64 = vm.ram.iter().map(|part| part.size).sum();
        assert!(config.memory == 0 || bytes == config.memory);
        let behind = vm.backing.pieces().iter().map(|piece| piece.size);
        assert_eq!(bytes, behind.sum::<u64>());
        for &mpidr in &vm.cpus {
            assert!(machine.cpus.iter().any(|cpu| cpu.mpidr == mpidr));
            assert!(!cpus.contains(&mpidr), "CPU {mpidr:#x} twice");
            cpus.push(mpidr);
        }
        for &part in &vm.ram {
            assert!(part.start % PAGE == 0 && part.size % PAGE == 0);
            assert!(part.size != 0 && part.end() <= LIMIT);
            assert!(machine.ram.iter().any(|bank| bank.covers(part)));
        }
        let mut at = vm.ram.iter().flat_map(|part| [part.start, part.end()]);
        let mut end = at.next();
        for &Piece { ipa, pa, size } in vm.backing.pieces() {
            if end != Some(ipa) {
                assert_eq!((end, Some(ipa)), (at.next(), at.next()));
            }
            end = Some(ipa + size);
            let part = Range::new(pa, size);
            assert!(pa % PAGE == 0 && size % PAGE == 0 && size != 0);
            assert!(machine.ram.iter().any(|bank| bank.covers(part)));
            let others = memory.iter().chain(taken).chain(&machine.reserved);
            for &other in others {
                assert!(!part.overlaps(other), "{part:x?} is not free: {other:x?}");
            }
            memory.push(part);
        }
        assert_eq!((end, None), (at.next(), at.next()));
        let pieces = [vm.layout.kernel, vm.layout.dtb];
        for piece in pieces.into_iter().chain(vm.layout.ramdisk) {
            assert!(
                vm.ram.iter().any(|part| part.covers(piece)),
                "{piece:x?} leads out of RAM"
            );
        }
        assert_eq!(vm.layout.dtb.size, vm.dtb.len() as u64);
        let frames: u64 = vm.redistributors.iter().map(|region| region.size).sum();
        match &machine.gic {
            Gic::V3 { redists, .. } => {
                assert_eq!(frames, vm.cpus.len() as u64 * REDISTRIBUTOR_SIZE);
                for &region in &vm.redistributors {
                    assert!(redists.iter().any(|own| own.covers(region)));
                }
            }
            Gic::V2 { .. } => assert!(frames == 0 && vm.cpu_interface.is_some()),
        }
        let kept = machine.gic.regions();
        for range in vm.registers.iter().map(|range| pages(*range)) {
            assert!(range.end() <= LIMIT);
            for other in kept.iter().chain([&machine.console.base, &vm.uart]) {
                assert!(!range.overlaps(pages(*other)));
            }
            assert!(!machine.ram.iter().any(|bank| bank.overlaps(range)));
        }
        if vm.queues.size != 0 {
            let bytes: u64 = vm.mediated.iter().map(|it| it.queue_bytes()).sum();
            assert!(vm.queues.start % PAGE == 0 && vm.queues.size >= bytes);
            assert!(machine.ram.iter().any(|bank| bank.covers(vm.queues)));
            let others = memory.iter().chain(taken).chain(&machine.reserved);
            for &other in others {
                assert!(!vm.queues.overlaps(other), "{:x?} is not free", vm.queues);
            }
            memory.push(vm.queues);
        }
        assert_eq!(vm.queues.size == 0, vm.mediated.is_empty());
        assert_eq!(vm.capture.is_some(), config.dump.is_some());
        if let Some(capture) = &vm.capture {
            let Piece { ipa, pa, size } = capture.memory;
            assert_eq!(Some(size), config.dump.as_ref().map(|dump| dump.memory));
            assert!(pa % BLOCK_SIZE == 0 && ipa % BLOCK_SIZE == 0);
            let (shown, held) = (Range::new(ipa, size), Range::new(pa, size));
            assert!(machine.ram.iter().any(|bank| bank.covers(held)));
            assert!(machine.ram.iter().any(|bank| bank.covers(shown)));
            assert!(!vm.ram.iter().any(|part| part.overlaps(shown)));
            for &other in memory.iter().chain(taken).chain(&machine.reserved) {
                assert!(!held.overlaps(other), "{held:x?} is not free: {other:x?}");
            }
            memory.push(held);
            let Layout {
                kernel,
                dtb,
                ramdisk,
                ..
            } = capture.layout;
            let parts = [kernel, dtb, ramdisk.unwrap(), capture.header];
            for (number, part) in parts.iter().enumerate() {
                assert!(shown.covers(*part), "{part:x?} leads out of {shown:x?}");
                let mut others = parts[..number].iter();
                assert!(!others.any(|other| other.overlaps(*part)));
            }
        }
        for it in &vm.mediated {
            let transport = Range::new(it.transport, 0x200);
            // Nobody is shown any of its page.
            for range in plans.iter().flat_map(|vm| &vm.registers) {
                assert!(!pages(*range).overlaps(transport), "{range:x?} {it:x?}");
            }
            for range in kept.iter().chain([&machine.console.base, &vm.uart]) {
                assert!(!range.overlaps(transport));
            }
        }
        let mediated = vm.mediated.iter().map(|it| it.intid);
        let own = vm.interrupts.iter().copied().chain(mediated);
        for intid in own.filter(|&intid| intid >= 32) {
            assert!(
                intid < 32 + SPIS && intid != machine.console.intid,
                "{intid}"
            );
            assert!(!interrupts.contains(&intid), "SPI {intid} twice");
            interrupts.push(intid);
        }
    }
    for (one, vm) in plans.iter().enumerate() {
        for other in &plans[..one] {
            for range in vm.registers.iter().map(|range| pages(*range)) {
                assert!(
                    !other
                        .registers
                        .iter()
                        .any(|own| pages(*own).overlaps(range))
                );
            }
        }
    }
}

fn range(limit: u64, size: u64) -> impl Strategy<Value = Range> {
    (0..limit / PAGE, 0..size / PAGE)
        .prop_map(|(start, size)| Range::new(start * PAGE, size * PAGE))
}

fn guest_config() -> impl Strategy<Value = GuestConfig> {
    let vcpus = prop_oneof![1 => Just(0), 9 => 1u32..3];
    let memory = prop_oneof![1 => Just(0), 9 => 1u64..100];
    let devices = prop::option::of(prop_oneof![
        Just(vec![]),
        Just(vec!["virtio".to_owned()]),
        Just(vec!["rtc".to_owned(), "gpio".to_owned()]),
        (0..6).prop_map(|number| vec![format!("virtio:{number}")]),
    ]);
    let dump = prop::option::of(16u64..40);
    let all = (vcpus, memory, devices, any::<bool>(), dump);
    all.prop_map(|(vcpus, blocks, devices, trusted, dump)| GuestConfig {
        devices,
        trusted,
        dump: dump.map(|blocks| dumps(blocks * BLOCK_SIZE)),
        ..wants(vcpus, blocks * BLOCK_SIZE)
    })
}

/// A device that nobody knows of but the machine. Its node is one that there is.
fn device() -> impl Strategy<Value = Device> {
    let place = (0x0900_0000u64 / 4..0x0b00_0000 / 4, 0x100u64..0x3000);
    (place, 34u32..300, any::<bool>()).prop_map(|((word, size), intid, edge)| Device {
        path: "/pl031@9010000".into(),
        compatible: "virtio,mmio",
        kind: DeviceKind::VirtioMmio,
        mmio: vec![Range::new(word * 4, size)],
        spis: vec![Spi { intid, edge }],
    })
}

proptest! {
    #[test]
    fn no_two_vms_share_anything_and_none_has_what_is_ours(
        cpus in 2u32..9,
        is_v2 in any::<bool>(),
        banks in prop::collection::vec((1u64..1000, 1u64..600, 0u64..512), 1..4),
        reserved in prop::collection::vec(range(16 * GIB, 512 * MIB), 0..4),
        taken in prop::collection::vec(range(16 * GIB, 512 * MIB), 0..3),
        devices in prop::option::of(prop::collection::vec(device(), 0..3)),
        configs in prop::collection::vec(guest_config(), 1..5),
    ) {
        let version = if is_v2 { GicVersion::V2 } else { GicVersion::V3 };
        let mut board = Board::of(&virt(cpus, version));
        // Ascending and apart from each other, the first above the devices.
        let mut start = 0x2000_0000;
        board.machine.ram.clear();
        for (gap, blocks, pages) in banks {
            start += gap * BLOCK_SIZE;
            let bank = Range::new(start + pages * PAGE, blocks * BLOCK_SIZE);
            start = bank.end();
            board.machine.ram.push(bank);
        }
        board.machine.reserved = reserved;
        if let Some(devices) = devices {
            board.machine.devices = devices;
        }
        let planned = plan(&board.machine, bundle(&configs), &board.host(&taken));
        if let Ok(plans) = planned {
            hold(&board, &named(&configs), &taken, &plans);
        }
    }

    #[test]
    fn no_numbers_make_planning_panic(
        ram in prop::collection::vec((any::<u64>(), any::<u64>()), 0..3),
        place in (any::<u64>(), any::<u64>()),
        gic in (any::<u64>(), any::<u64>()),
        intids in any::<[u32; 4]>(),
        spis in any::<u32>(),
        limit in any::<u64>(),
        is_v2 in any::<bool>(),
    ) {
        let version = if is_v2 { GicVersion::V2 } else { GicVersion::V3 };
        let mut board = Board::of(&virt(2, version));
        let whole = |(start, size)| Range::new(start, size);
        // A thousand times less than the whole space: a search goes through it block by block.
        board.machine.ram.extend(ram.into_iter().map(|(start, size)| Range::new(start, size >> 24)));
        board.machine.devices[0].mmio = vec![whole(place)];
        board.machine.devices[1].spis[0].intid = intids[0];
        match &mut board.machine.gic {
            Gic::V3 { redists, .. } => redists[0] = whole(gic),
            Gic::V2 { cpu, vcpu, .. } => (cpu.size, vcpu.size) = gic,
        }
        board.machine.timers.virt = intids[1];
        board.machine.console.intid = intids[2];
        board.machine.initrd = Some(whole(place));
        let host = Host { limit, spis, ..board.host(&[]) };
        let _ = plan(&board.machine, bundle(&[GuestConfig::default()]), &host);
        let _ = Keep::find(&board.machine, &[whole(gic)], limit);
    }
}
