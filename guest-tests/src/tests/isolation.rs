//! What a guest was not given: every access is an external abort, and life goes on.

use crate::harness::{TestResult, needs_hypervisor};
use crate::rt::exception::Fault;
use crate::rt::gic::{self, gicd};
use crate::rt::machine::machine;
use crate::rt::probe;
use crate::rt::search::{self, Line};
use crate::rt::timer::Timer;
use crate::rt::walk;
use crate::tests::timer::takes_interrupts;

/// Exception classes of aborts taken from the same level (DDI0487 D24.2 ESR_ELx).
const DATA_ABORT: u64 = 0x25;
const FETCH_ABORT: u64 = 0x21;
/// Synchronous external abort, not on a table walk.
const EXTERNAL: u64 = 0x10;
/// Synchronous external abort on a walk at level 0; those of levels 1 to 3 follow.
const EXTERNAL_ON_WALK: u64 = 0x14;
/// The access was a write.
const WNR: u64 = 1 << 6;

/// Devices of QEMU `virt` and of a Raspberry Pi 4 that no guest gets, and holes.
const NOT_OURS: [u64; 30] = [
    0x0000_0000,    // flash
    0x0400_0000,    // flash
    0x0801_0000,    // GICC, unless the GIC is a GICv2
    0x0802_0000,    // GICv2m
    0x0803_0000,    // GICH
    0x0804_0000,    // GICV
    0x0808_0000,    // ITS
    0x0902_0000,    // fw_cfg
    0x0903_0000,    // GPIO
    0x0904_0000,    // secure UART
    0x0905_0000,    // SMMU
    0x0b00_0000,    // nothing
    0x1000_0000,    // PCIe memory
    0x3eff_0000,    // PCIe ports
    0x3f00_0000,    // PCIe configuration
    0x40_1000_0000, // PCIe configuration, high
    0x0000_00d8,    // spin table
    0x001f_fff8,    // memory beside it
    0xfd50_0000,    // PCIe
    0xfd58_0000,    // Ethernet
    0xfe00_3000,    // system timer
    0xfe00_7000,    // DMA controller
    0xfe10_0000,    // power management
    0xfe10_4000,    // random numbers
    0xfe21_5040,    // mini-UART
    0xfe98_0000,    // USB
    0xff80_0000,    // local interrupts
    0xff84_4000,    // GICH
    0xff84_5000,    // GICH of other CPUs
    0xff84_6000,    // GICV
];

/// Addresses that are neither memory nor in the devicetree.
fn holes() -> impl Iterator<Item = u64> {
    let end = machine().home().end();
    let above = [end, end + 0x1000, end + 0xf_fff0, end + (1 << 30)];
    let bare = machine().has_argument("bare");
    let devices = NOT_OURS.into_iter().filter(move |_| !bare);
    above
        .into_iter()
        .chain(devices)
        .filter(|address| !probe::is_memory(*address) && !machine().describes(*address))
}

fn expect_abort<T: core::fmt::Debug>(
    result: Result<T, Fault>,
    class: u64,
    status: u64,
    address: u64,
) -> TestResult {
    match result {
        Ok(value) => fail!("the access at {address:#x} gave {value:x?}"),
        Err(fault) => {
            expect_eq!(fault.class(), class, "at {address:#x}, {fault:#x?}");
            expect_eq!(fault.status(), status, "at {address:#x}, {fault:#x?}");
            expect_eq!(fault.far, address, "{fault:#x?}");
        }
    }
    Ok(())
}

guest_test!(a_read_outside_is_an_external_abort);
fn a_read_outside_is_an_external_abort() -> TestResult {
    for address in holes() {
        expect_abort(probe::read32(address), DATA_ABORT, EXTERNAL, address)?;
        expect_abort(probe::read64(address), DATA_ABORT, EXTERNAL, address)?;
    }
    expect_that!(takes_interrupts(Timer::Virtual, 3));
    Ok(())
}

guest_test!(a_write_outside_is_an_external_abort_and_says_it_was_a_write);
fn a_write_outside_is_an_external_abort_and_says_it_was_a_write() -> TestResult {
    for address in holes() {
        let result = probe::write32(address, 0);
        expect_abort(result, DATA_ABORT, EXTERNAL, address)?;
        let fault = result.err().map_or(0, |fault| fault.esr & WNR);
        expect_eq!(fault, WNR, "at {address:#x}");
    }
    Ok(())
}

guest_test!(odd_loads_and_stores_outside_are_external_aborts);
fn odd_loads_and_stores_outside_are_external_aborts() -> TestResult {
    for address in holes() {
        expect_abort(probe::read_pair(address), DATA_ABORT, EXTERNAL, address)?;
        expect_abort(
            probe::write_and_step(address, 0),
            DATA_ABORT,
            EXTERNAL,
            address,
        )?;
    }
    Ok(())
}

guest_test!(a_fetch_outside_is_an_external_abort);
fn a_fetch_outside_is_an_external_abort() -> TestResult {
    // Stage 1 itself forbids execution where there are devices.
    for address in holes().filter(|address| address % 4 == 0 && probe::is_executable(*address)) {
        expect_abort(probe::execute(address), FETCH_ABORT, EXTERNAL, address)?;
    }
    expect_that!(takes_interrupts(Timer::Virtual, 3));
    Ok(())
}

guest_test!(a_table_walk_outside_is_an_external_abort);
fn a_table_walk_outside_is_an_external_abort() -> TestResult {
    for table in holes().filter(|address| address % 4096 == 0) {
        match probe::read_through_table(table) {
            Ok(value) => fail!("a table at {table:#x} gave {value:#x}"),
            Err(fault) => {
                expect_eq!(fault.class(), DATA_ABORT, "table {table:#x}, {fault:#x?}");
                // The first table, of level 1, is in memory.
                let status = EXTERNAL_ON_WALK + 2;
                expect_eq!(fault.status(), status, "table {table:#x}, {fault:#x?}");
            }
        }
    }
    expect_that!(takes_interrupts(Timer::Virtual, 3));
    Ok(())
}

guest_test!(an_external_abort_on_a_walk_names_the_level);
fn an_external_abort_on_a_walk_names_the_level() -> TestResult {
    let is_aligned = |address: &u64| address.is_multiple_of(1 << 16);
    let Some(hole) = holes().find(is_aligned) else {
        fail!("there is memory everywhere");
    };
    // By bits of an offset into a page: so many bits of address, and the level at which the walk begins. A first table has at
    // most 512 entries.
    let shapes = [
        (12, 25, 2u64),
        (12, 30, 2),
        (12, 31, 1),
        (12, 39, 1),
        (12, 48, 0),
        (14, 30, 2),
        (14, 40, 1),
        (14, 48, 0),
        (16, 29, 3),
        (16, 36, 2),
        (16, 48, 1),
    ];
    for granule in walk::granules() {
        let of_this = shapes.iter().filter(|shape| shape.0 == granule.page);
        for &(_, bits, first) in of_this {
            // The first table is not there; or it is, and the one of the next level is not.
            let known = walk::table_that_leads_to(Some(hole));
            let tables = [(hole, first), (known, first + 1)];
            for (table, level) in tables.into_iter().filter(|&(_, level)| level <= 3) {
                let status = EXTERNAL_ON_WALK + level;
                let (va, read, written, executed) =
                    walk::with_upper_half(granule, bits, table, |va| {
                        let (read, written) = (probe::read32(va), probe::write32(va, 0));
                        (va, read, written, probe::execute(va))
                    });
                for (result, class) in [
                    (read.map(drop), DATA_ABORT),
                    (written, DATA_ABORT),
                    (executed, FETCH_ABORT),
                ] {
                    let Err(fault) = result else {
                        fail!("{bits} bits, {granule:?}, table {table:#x}: no fault");
                    };
                    let found = (fault.class(), fault.status(), fault.far);
                    expect_eq!(found, (class, status, va), "{bits} bits, {granule:?}");
                }
            }
        }
    }
    expect_that!(takes_interrupts(Timer::Virtual, 3));
    Ok(())
}

guest_test!(maintenance_and_exclusives_outside_harm_nobody);
fn maintenance_and_exclusives_outside_harm_nobody() -> TestResult {
    for address in holes().filter(|address| address % 8 == 0) {
        if let Err(fault) = probe::clean_and_invalidate(address) {
            expect_eq!(fault.class(), DATA_ABORT, "{fault:#x?}");
        }
        if let Err(fault) = probe::read_exclusive(address) {
            expect_eq!(fault.class(), DATA_ABORT, "{fault:#x?}");
        } else {
            fail!("an exclusive load at {address:#x} gave something");
        }
    }
    expect_that!(takes_interrupts(Timer::Virtual, 3));
    Ok(())
}

guest_test!(accesses_no_syndrome_describes_do_not_kill_the_distributor);
fn accesses_no_syndrome_describes_do_not_kill_the_distributor() -> TestResult {
    let iidr = gic::distributor().address(gicd::IIDR);
    let before = gic::distributor().read32(gicd::IIDR);
    // Either the value or an abort; QEMU gives the first, a trapping hypervisor the second.
    if let Err(fault) = probe::read_pair(iidr) {
        expect_eq!(fault.class(), DATA_ABORT, "{fault:#x?}");
    }
    if let Err(fault) = probe::write_and_step(iidr, 0) {
        expect_eq!(fault.class(), DATA_ABORT, "{fault:#x?}");
    }
    expect_eq!(gic::distributor().read32(gicd::IIDR), before);
    expect_that!(takes_interrupts(Timer::Virtual, 3));
    Ok(())
}

guest_test!(
    a_hundred_thousand_stray_reads_change_nothing,
    cpus = 1,
    boot = shared,
    icount = false,
    timeout = 60
);
fn a_hundred_thousand_stray_reads_change_nothing() -> TestResult {
    needs_hypervisor()?;
    let address = machine().home().end();
    for _ in 0..100_000 {
        expect_abort(probe::read32(address), DATA_ABORT, EXTERNAL, address)?;
    }
    expect_that!(takes_interrupts(Timer::Virtual, 3));
    Ok(())
}

/// Whether a devicetree, a bundle, an Image or a table of pages begins there: by their magic numbers (Devicetree
/// Specification 5.2; Linux Documentation/arch/arm64/booting.rst), and as what maps one page after the other (DDI0487
/// D8.3.1).
fn begins_something(line: &Line) -> bool {
    let magic = [u32::from_be(0xd00d_feed), u32::from_le_bytes(*b"ARM\x64")];
    let is_magic =
        |word: &u64| magic.contains(&(*word as u32)) || magic.contains(&((*word >> 32) as u32));
    let goes_on = |pair: &[u64]| pair[0] & 0b11 == 0b11 && pair[0].wrapping_add(0x1000) == pair[1];
    line.iter().any(is_magic) || line.windows(2).all(goes_on)
}

guest_test!(no_page_begins_with_what_the_loader_put_there);
fn no_page_begins_with_what_the_loader_put_there() -> TestResult {
    needs_hypervisor()?;
    if let Some((address, line)) = search::first_in_ram(4096, begins_something) {
        fail!("there is {line:x?} at {address:#x}");
    }
    Ok(())
}

guest_test!(
    nothing_is_left_in_memory_of_what_the_loader_put_there,
    cpus = 1,
    boot = own,
    icount = false,
    timeout = 60
);
fn nothing_is_left_in_memory_of_what_the_loader_put_there() -> TestResult {
    needs_hypervisor()?;
    // Where RAM was blank before, there is nothing else either: stacks, tables, what a boot of the image wrote.
    let is_blank = machine().begins_blank();
    let is_left = |line: &Line| begins_something(line) || is_blank && *line != [0; 8];
    if let Some((address, line)) = search::first_in_ram(64, is_left) {
        fail!("there is {line:x?} at {address:#x}");
    }
    Ok(())
}
