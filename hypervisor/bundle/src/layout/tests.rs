use super::*;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

const RAM: Range = Range::new(0x4000_0000, 512 * MIB);

fn image(text_offset: u64, image_size: u64) -> Kernel {
    Kernel {
        format: Format::Image {
            text_offset,
            image_size,
            page_size: None,
        },
        size: image_size / 2,
    }
}

fn flat(size: u64) -> Kernel {
    Kernel {
        format: Format::Flat,
        size,
    }
}

fn parts(kernel: Kernel, ramdisk: Option<u64>, dtb: u64) -> Parts {
    Parts {
        kernel,
        ramdisk,
        dtb,
        dtb_at: None,
    }
}

/// Places in `ram`, which is all that the machine has.
fn place(ram: Range, parts: Parts) -> Result<Layout, Error> {
    let memory = Memory {
        pieces: &[ram],
        bare: ram,
    };
    Layout::place(&memory, &parts)
}

/// The start of devicetree and ramdisk, 0 for none, of a flat binary of so many bytes.
fn places(pieces: &[Range], bare: Range, kernel: u64, ramdisk: Option<u64>) -> [u64; 3] {
    let memory = Memory { pieces, bare };
    let layout = Layout::place(&memory, &parts(flat(kernel), ramdisk, 0x3000)).expect("room");
    let ramdisk = layout.ramdisk.map_or(0, |ramdisk| ramdisk.start);
    [layout.entry, layout.dtb.start, ramdisk]
}

#[test]
fn an_image_leaves_the_base_of_ram_to_the_devicetree() {
    let layout = place(RAM, parts(image(0, 32 * MIB), Some(10 * MIB), 0x3000));
    assert_eq!(
        layout,
        Ok(Layout {
            kernel: Range::new(0x4020_0000, 32 * MIB),
            entry: 0x4020_0000,
            dtb: Range::new(0x4000_0000, 0x3000),
            ramdisk: Some(Range::new(0x4800_0000, 10 * MIB)),
        })
    );
}

#[test]
fn no_devicetree_is_at_address_0() {
    let ram = Range::new(0, 128 * MIB);
    let layout = place(ram, parts(image(0, 16 * MIB), None, 0x3000)).expect("room");
    assert_eq!(layout.dtb, Range::new(PAGE, 0x3000));
    assert_eq!(layout.kernel.start, BLOCK);
    let wanted = Parts {
        dtb_at: Some(0),
        ..parts(image(0, 16 * MIB), None, 0x3000)
    };
    let said = place(ram, wanted).expect_err("nobody would find it");
    assert!(
        said.to_string()
            .contains("says that there is no devicetree")
    );
}

#[test]
fn an_old_image_has_its_offset_in_the_first_block() {
    let layout = place(RAM, parts(image(0x8_0000, 16 * MIB), None, 0x3000));
    assert_eq!(layout.map(|layout| layout.entry), Ok(0x4008_0000));
}

#[test]
fn an_image_has_the_largest_piece_of_memory() {
    let pieces = [Range::new(0x1000, 900 * MIB), Range::new(GIB, 1000 * MIB)];
    let memory = Memory {
        pieces: &pieces,
        bare: pieces[0],
    };
    let layout = Layout::place(&memory, &parts(image(0, 32 * MIB), None, 0x3000));
    assert_eq!(layout.map(|layout| layout.entry), Ok(GIB + BLOCK));
}

/// As QEMU 10.0.2 puts them on `virt`: seen by a payload on the bare machine.
#[test]
fn a_flat_binarys_parts_go_where_qemu_puts_them() {
    for (ram, kernel, ramdisk, expected) in [
        (128, 2640, None, [0x4400_0000, 0]),
        (256, 2640, None, [0x4800_0000, 0]),
        (1024, 2640, None, [0x4800_0000, 0]),
        (1024, 2640, Some(100), [0x4820_0000, 0x4800_0000]),
        (64, 2640, Some(5_255_225), [0x4260_0000, 0x4200_0000]),
        (256, 2640, Some(5_255_225), [0x4860_0000, 0x4800_0000]),
        (128, 70 << 20, None, [0x4480_0000, 0]),
        (128, 70 << 20, Some(5_255_225), [0x44c0_0000, 0x4468_0000]),
        (1024, 200 << 20, Some(5_255_225), [0x4ce0_0000, 0x4c88_0000]),
    ] {
        let bare = Range::new(0x4000_0000, ram * MIB);
        // The end of RAM is the hypervisor's.
        let piece = Range::new(bare.start, bare.size - 10 * MIB);
        let [dtb, ramdisk_at] = expected;
        assert_eq!(
            places(&[piece], bare, kernel, ramdisk),
            [0x4008_0000, dtb, ramdisk_at],
            "{ram} MiB, {kernel}, {ramdisk:?}"
        );
    }
}

#[test]
fn a_flat_binary_is_at_the_base_of_ram_whatever_is_reserved_beside_it() {
    // A Raspberry Pi 4: the first page has the spin table.
    let low = Range::new(0x1000, 946 * MIB - 0x1000);
    let pieces = [low, Range::new(GIB, 1000 * MIB)];
    let bare = Range::new(0, 946 * MIB);
    assert_eq!(
        places(&pieces, bare, 0x1000, None),
        [0x8_0000, 0x800_0000, 0]
    );
    // Unless that is where the binary goes.
    let low = Range::new(0x8_1000, 946 * MIB - 0x8_1000);
    let expected = [0x28_0000, 0x820_0000, 0];
    assert_eq!(places(&[low, pieces[1]], bare, 0x1000, None), expected);
    assert_eq!(places(&pieces[1..], bare, 0x1000, None)[0], 0x4008_0000);
}

#[test]
fn what_qemus_places_have_no_room_for_goes_below() {
    let bare = Range::new(0x4000_0000, 128 * MIB);
    let piece = Range::new(bare.start, 114 * MIB);
    // At half of RAM the first would end where the guest has no memory, at half of that the second.
    let half = [0x4008_0000, 0x46e0_0000, 0x4390_0000];
    assert_eq!(places(&[piece], bare, 0x1000, Some(52 * MIB)), half);
    let behind = [0x4008_0000, 0x43e0_0000, 0x4008_1000];
    assert_eq!(places(&[piece], bare, 0x1000, Some(60 * MIB)), behind);
}

#[test]
fn a_ramdisk_that_leaves_no_gap_follows_the_kernel() {
    let ram = Range::new(0x4000_0000, 128 * MIB);
    let layout = place(ram, parts(image(0, 32 * MIB), Some(90 * MIB), 0x3000));
    let ramdisk = layout.map(|layout| layout.ramdisk);
    assert_eq!(ramdisk, Ok(Some(Range::new(0x4220_0000, 90 * MIB))));
}

#[test]
fn too_little_memory_names_what_does_not_fit() {
    let part = |ram, kernel, ramdisk, dtb| match place(ram, parts(kernel, ramdisk, dtb)) {
        Err(Error::NoRoom { part, .. }) => part,
        other => panic!("placed: {other:?}"),
    };
    let small = Range::new(0x4000_0000, 33 * MIB);
    let kernel = image(0, 32 * MIB);
    assert_eq!(part(small, kernel, None, 0x3000), "kernel");
    assert_eq!(part(RAM, kernel, Some(500 * MIB), 0x3000), "ramdisk");
    let end = Range::new(u64::MAX - 4, 2);
    assert_eq!(part(end, kernel, None, 0), "devicetree");
    assert_eq!(part(small, flat(33 * MIB), None, 0x3000), "kernel");
    assert_eq!(part(RAM, flat(4), Some(512 * MIB), 0x3000), "ramdisk");
    assert_eq!(part(small, flat(32 * MIB), None, 0x3000), "devicetree");
    assert!(place(RAM, parts(kernel, None, 3 * MIB)).is_err());
    let none = Memory {
        pieces: &[],
        bare: RAM,
    };
    assert!(Layout::place(&none, &parts(flat(4), None, 40)).is_err());
    assert!(Layout::place(&none, &parts(kernel, None, 40)).is_err());
}

#[test]
fn a_devicetree_goes_where_it_is_wanted_or_is_refused_by_name() {
    let pieces = [
        Range::new(0x4000_0000, 256 * MIB),
        Range::new(0x6000_0000, MIB),
    ];
    let memory = Memory {
        pieces: &pieces,
        bare: pieces[0],
    };
    let wanted = |kernel, at| {
        let parts = Parts {
            dtb_at: Some(at),
            ..parts(kernel, Some(10 * MIB), 0x3000)
        };
        Layout::place(&memory, &parts)
    };
    let refused = |kernel, at| wanted(kernel, at).expect_err("it does not fit").to_string();
    for (kernel, start) in [(flat(0x1_0000), 0x4008_0000), (image(0, MIB), 0x4000_0000)] {
        for at in [0x4480_0008, 0x4fff_d000, 0x6000_0000] {
            let layout = wanted(kernel, at).expect("it fits");
            assert_eq!(layout.dtb, Range::new(at, 0x3000));
            // Nothing else moves, but that nothing keeps an Image from the base.
            assert_eq!(layout.kernel.start, start);
        }
        let ramdisk = wanted(kernel, 0x4480_0000)
            .expect("it fits")
            .ramdisk
            .expect("one")
            .start;
        for (at, what) in [
            (0x4480_0004, "is not a multiple of 8"),
            (0x3fff_fff8, "leads out of the guest's memory"),
            (0x4fff_d008, "leads out of the guest's memory"),
            (0x7000_0000, "leads out of the guest's memory"),
            (u64::MAX - 7, "leads out of the guest's memory"),
            (start, "is over the kernel"),
            (start + 0xf000, "is over the kernel"),
            (ramdisk, "is over the initrd"),
            (ramdisk - 8, "is over the initrd"),
            (ramdisk + 10 * MIB - 8, "is over the initrd"),
        ] {
            let error = refused(kernel, at);
            let expected = alloc::format!(
                "dtb-at {at:#x}, for a devicetree of 12 KiB, {what}; choose another address"
            );
            assert_eq!(error, expected);
        }
    }
}

/// Some pieces of what the machine has from `start` on.
fn pieces_of(bare: Range) -> impl Strategy<Value = Vec<Range>> {
    let pages = bare.size / PAGE;
    prop_oneof![
        Just(vec![bare]),
        prop::collection::btree_set(0..=pages, 2..8).prop_map(move |cuts| {
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let piece = |ends: &[u64]| {
                let [first, end] = [ends[0], ends[1]].map(|page| bare.start + page * PAGE);
                Range::between(first, end)
            };
            cuts.chunks_exact(2).map(piece).collect()
        }),
    ]
}

/// A machine's RAM, and what a guest has of it.
fn memory() -> impl Strategy<Value = (Range, Vec<Range>)> {
    let bare = (0u64..1 << 20, 1u64..1 << 20)
        .prop_map(|(start, pages)| Range::new(start * PAGE, pages * PAGE));
    bare.prop_flat_map(|bare| (Just(bare), pieces_of(bare)))
}

proptest! {
    #[test]
    fn whatever_is_placed_is_apart_and_obeys_the_boot_protocol(
        (bare, pieces) in memory(),
        is_image in any::<bool>(),
        text_offset in 0u64..BLOCK / 8,
        size in 4u64..64 * MIB,
        ramdisk in prop::option::of(prop_oneof![0u64..40 * MIB, 0..40 * GIB]),
        dtb in 40u64..3 * MIB,
        dtb_at in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let text_offset = text_offset * 8;
        let kernel = if is_image { image(text_offset, size) } else { flat(size) };
        let dtb_at = dtb_at.map(|at| bare.start + at.index((bare.size / 8) as usize) as u64 * 8);
        let parts = Parts { kernel, ramdisk, dtb, dtb_at };
        let memory = Memory { pieces: &pieces, bare };
        let Ok(layout) = Layout::place(&memory, &parts) else {
            return Ok(());
        };
        for part in [layout.kernel, layout.dtb].into_iter().chain(layout.ramdisk) {
            prop_assert!(pieces.iter().any(|piece| piece.covers(part)));
        }
        prop_assert_eq!(layout.entry, layout.kernel.start);
        prop_assert!(!layout.kernel.overlaps(layout.dtb));
        prop_assert!(layout.dtb.start % 8 == 0 && layout.dtb.size == dtb);
        match dtb_at {
            Some(at) => prop_assert_eq!(layout.dtb.start, at),
            None => prop_assert!(layout.dtb.start / BLOCK == (layout.dtb.end() - 1) / BLOCK),
        }
        if is_image {
            prop_assert!((layout.kernel.start - text_offset) % BLOCK == 0);
        }
        prop_assert_eq!(layout.ramdisk.map(|ramdisk| ramdisk.size), ramdisk);
        if let Some(ramdisk) = layout.ramdisk {
            prop_assert!(!ramdisk.overlaps(layout.kernel) && !ramdisk.overlaps(layout.dtb));
            prop_assert!(ramdisk.start % PAGE == 0);
            if is_image {
                prop_assert!(ramdisk.end() <= (layout.kernel.start & !(GIB - 1)) + 32 * GIB);
            }
        }
    }

    /// QEMU's rule, in other words than ours: wherever the guest has the memory that it leads to, it is obeyed.
    #[test]
    fn a_flat_binary_is_placed_by_qemus_rule_where_that_can_be(
        (bare, pieces) in memory(),
        size in prop_oneof![4u64..MIB, 4..64 * MIB],
        ramdisk in prop::option::of(0u64..64 * MIB),
    ) {
        let up = |address: u64, unit: u64| address.div_ceil(unit) * unit;
        let kernel = Range::new(bare.start + 0x8_0000, size);
        let half = bare.start + (bare.size / 2).min(0x800_0000);
        let initrd = Range::new(up(half.max(kernel.end()), 0x1000), ramdisk.unwrap_or(0));
        let dtb = Range::new(up(initrd.end(), 0x20_0000), 0x3000);
        let has = |range: Range| pieces.iter().any(|piece| piece.covers(range));
        let can_be = has(kernel) && has(dtb) && (ramdisk.is_none() || has(initrd));
        let memory = Memory { pieces: &pieces, bare };
        let layout = Layout::place(&memory, &parts(flat(size), ramdisk, 0x3000));
        if can_be {
            let ramdisk = ramdisk.map(|_| initrd);
            prop_assert_eq!(layout, Ok(Layout { kernel, entry: kernel.start, dtb, ramdisk }));
        }
    }

    #[test]
    fn no_numbers_make_placing_panic(
        pieces in prop::collection::vec((any::<u64>(), any::<u64>()), 0..3),
        bare in (any::<u64>(), any::<u64>()), size in any::<u64>(),
        ramdisk in any::<Option<u64>>(), dtb in any::<u64>(), text_offset in any::<u64>(),
        dtb_at in any::<Option<u64>>(),
    ) {
        let range = |(start, size)| Range::new(start, size);
        let pieces: Vec<Range> = pieces.into_iter().map(range).collect();
        let memory = Memory { pieces: &pieces, bare: range(bare) };
        for kernel in [flat(size), image(text_offset, size)] {
            let _ = Layout::place(&memory, &Parts { kernel, ramdisk, dtb, dtb_at });
        }
    }
}
