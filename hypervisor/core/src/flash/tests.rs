use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

/// 1 MiB: 4 sectors.
const SIZE: u64 = 0x10_0000;

#[derive(Clone)]
struct Ram(Vec<u32>);

impl Array for Ram {
    fn word(&self, index: usize) -> u32 {
        self.0.get(index).copied().unwrap_or(u32::MAX)
    }
    fn set_word(&mut self, index: usize, value: u32) {
        if let Some(word) = self.0.get_mut(index) {
            *word = value;
        }
    }
    fn erase(&mut self, first: usize, count: usize) {
        if let Some(words) = self.0.get_mut(first..first + count) {
            words.fill(u32::MAX);
        }
    }
}

struct Chips {
    flash: Flash,
    ram: Ram,
}

fn chips() -> Chips {
    Chips {
        flash: Flash::new(SIZE),
        ram: Ram(vec![u32::MAX; (SIZE / 4) as usize]),
    }
}

impl Chips {
    fn read(&self, offset: u64, size: u8) -> u64 {
        self.flash.read(offset, size, &self.ram)
    }
    fn write(&mut self, offset: u64, size: u8, value: u64) {
        self.flash.write(offset, size, value, &mut self.ram);
    }
    /// A command for both chips.
    fn command(&mut self, offset: u64, byte: u8) {
        self.write(offset, 4, u64::from(byte) * 0x1_0001);
    }
    fn status(&mut self) -> u64 {
        self.command(0, 0x70);
        self.read(0, 4)
    }
    /// As U-Boot does it: commands go to where the sector begins.
    fn write_buffer(&mut self, offset: u64, words: &[u32]) {
        let sector = offset / SECTOR * SECTOR;
        self.command(sector, 0xe8);
        assert_eq!(self.read(sector, 4), 0x80_0080);
        self.command(sector, (words.len() - 1) as u8);
        for (at, &word) in (offset..).step_by(4).zip(words) {
            self.write(at, 4, word.into());
        }
        self.command(sector, 0xd0);
    }
}

#[test]
fn a_driver_that_asks_learns_what_the_chips_are() {
    let mut chips = chips();
    chips.command(0x55 * 4, 0x98);
    let table: Vec<u64> = (0..0x40).map(|at| chips.read(4 * at, 4)).collect();
    assert!(
        table.iter().all(|word| word >> 16 == word & 0xffff),
        "both chips answer alike"
    );
    let byte = |at: usize| table[at] & 0xff;
    assert_eq!(
        [0x10, 0x11, 0x12].map(byte),
        [b'Q', b'R', b'Y'].map(u64::from)
    );
    assert_eq!(byte(0x13) | byte(0x14) << 8, 1, "Intel's command set");
    let own = (byte(0x15) | byte(0x16) << 8) as usize;
    assert_eq!(
        [own, own + 1, own + 2].map(byte),
        [b'P', b'R', b'I'].map(u64::from)
    );
    assert_eq!(2 << byte(0x27), SIZE);
    let sectors = 1 + (byte(0x2d) | byte(0x2e) << 8);
    let sector = 2 * 256 * (byte(0x2f) | byte(0x30) << 8);
    assert_eq!((byte(0x2c), sectors * sector, sector), (1, SIZE, 0x4_0000));
    // On a bus of 8 or 16 bits nobody finds the name where it would be.
    assert_ne!(chips.read(0x10, 1), u64::from(b'Q'));
    assert_ne!(chips.read(0x20, 2), u64::from(b'Q'));
    chips.command(0, 0x90);
    assert_eq!(
        [0, 4, 8].map(|at| chips.read(at, 4)),
        [0x89_0089, 0x18_0018, 0]
    );
    assert_eq!(chips.read(2 * SECTOR + 8, 1), 0, "no sector is locked");
    chips.command(0, 0xff);
    assert_eq!(chips.read(0x40, 4), 0xffff_ffff);
}

#[test]
fn what_is_programmed_only_loses_bits_until_its_sector_is_erased() {
    let mut chips = chips();
    for (value, found) in [(0xf0, 0xf0), (0x3c, 0x30)] {
        chips.command(0x10, 0x40);
        chips.write(0x10, 1, value);
        assert_eq!(chips.status(), 0x80_0080);
        chips.command(0, 0xff);
        assert_eq!(chips.read(0x10, 1), found);
        assert_eq!(chips.read(0x11, 1), 0xff);
    }
    chips.command(SECTOR, 0x10);
    chips.write(SECTOR + 2, 2, 0x1234);
    chips.command(0, 0x20);
    chips.command(0x100, 0xd0);
    assert_eq!(chips.status(), 0x80_0080);
    chips.command(0, 0xff);
    assert_eq!(chips.read(0x10, 8), u64::MAX);
    assert_eq!(chips.read(SECTOR, 4), 0x1234_ffff, "another sector");
}

#[test]
fn a_buffer_is_programmed_when_it_is_confirmed() {
    let mut chips = chips();
    chips.write_buffer(SECTOR + 8, &[1, 2, 3]);
    assert_eq!(chips.status(), 0x80_0080);
    chips.command(0, 0xff);
    let words = [4, 8, 12, 16, 20].map(|at| chips.read(SECTOR + at, 4));
    assert_eq!(words, [0xffff_ffff, 1, 2, 3, 0xffff_ffff]);
    // Unless something else comes.
    chips.command(0, 0xe8);
    chips.command(0, 0);
    chips.write(0, 4, 7);
    chips.command(0, 0xff);
    assert_eq!(chips.read(0, 4), 0xb0_00b0);
    chips.command(0, 0x50);
    assert_eq!(chips.status(), 0x80_0080);
    chips.command(0, 0xff);
    assert_eq!(chips.read(0, 4), 0xffff_ffff);
}

#[test]
fn what_comes_out_of_order_is_an_error_and_changes_nothing() {
    let wrong: [&[(u64, u64)]; 5] = [
        // Too many words; one outside the buffer's block; no confirmation; no lock.
        &[(0, 0xe8), (0, 1024)],
        &[(0, 0xe8), (0, 1), (0, 0), (4096, 0), (0, 0xd0)],
        &[(SECTOR, 0xe8), (SECTOR, 0), (SECTOR, 0), (SECTOR, 0xff)],
        &[(0, 0x20), (0, 0x70)],
        &[(0, 0x60), (0, 0x44)],
    ];
    for writes in wrong {
        let mut chips = chips();
        chips.command(0, 0x40);
        chips.write(0, 4, 0x55);
        for &(offset, value) in writes {
            chips.write(offset, 4, value);
        }
        assert_eq!(chips.status(), 0xb0_00b0, "{writes:?}");
        chips.command(0, 0x50);
        chips.command(0, 0xff);
        assert_eq!(chips.read(0, 4), 0x55);
        assert!(chips.ram.0[1..].iter().all(|&word| word == u32::MAX));
    }
}

#[test]
fn locks_are_answered() {
    let mut chips = chips();
    for byte in [0x01, 0xd0, 0x2f, 0x03] {
        chips.command(SECTOR, 0x60);
        chips.command(SECTOR, byte);
        assert_eq!(chips.read(SECTOR, 4), 0x80_0080);
    }
}

#[test]
fn a_reset_keeps_what_is_kept() {
    let mut chips = chips();
    chips.command(0, 0x40);
    chips.write(0, 4, 0x1234_5678);
    chips.command(0, 0xe8);
    chips.flash.reset();
    assert_eq!(chips.read(0, 4), 0x1234_5678);
    // The last byte, and what is not there any more.
    assert_eq!(chips.read(SIZE - 1, 2), 0xffff);
}

/// What a driver does.
#[derive(Clone, Debug)]
enum Job {
    Word { at: u64, size: u8, value: u32 },
    Buffer { at: u64, words: Vec<u32> },
    Erase { sector: u64 },
    Ask { command: u8 },
}

fn job() -> impl Strategy<Value = Job> {
    let word = (0..SIZE, 0..3u8, any::<u32>()).prop_map(|(at, log, value)| Job::Word {
        at: at >> log << log,
        size: 1 << log,
        value,
    });
    let words = prop::collection::vec(any::<u32>(), 1..40);
    let buffer = (0..SIZE / 4096, 0..984u64, words).prop_map(|(block, word, words)| Job::Buffer {
        at: 4096 * block + 4 * word,
        words,
    });
    let erase = (0..SIZE / SECTOR).prop_map(|sector| Job::Erase { sector });
    const ASKED: &[u8] = &[0x90, 0x98, 0x70, 0x50, 0xff, 0xf0, 0x00, 0xaa, 0xb0];
    let ask = prop::sample::select(ASKED).prop_map(|command| Job::Ask { command });
    prop_oneof![4 => word, 2 => buffer, 1 => erase, 2 => ask]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a driver does, byte for byte the chips keep what a list of bytes does.
    #[test]
    fn it_keeps_what_a_list_of_bytes_keeps(jobs in prop::collection::vec(job(), 1..40)) {
        let mut chips = chips();
        let mut model = vec![0xffu8; SIZE as usize];
        let program = |model: &mut Vec<u8>, at: u64, bytes: &[u8]| {
            for (place, byte) in model[at as usize..].iter_mut().zip(bytes) {
                *place &= byte;
            }
        };
        for job in jobs {
            match job {
                Job::Word { at, size, value } => {
                    chips.command(at, 0x40);
                    chips.write(at, size, value.into());
                    program(&mut model, at, &value.to_le_bytes()[..size.into()]);
                }
                Job::Buffer { at, words } => {
                    chips.write_buffer(at, &words);
                    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                    program(&mut model, at, &bytes);
                }
                Job::Erase { sector } => {
                    chips.command(sector * SECTOR, 0x20);
                    chips.command(sector * SECTOR, 0xd0);
                    let start = (sector * SECTOR) as usize;
                    model[start..start + SECTOR as usize].fill(0xff);
                }
                Job::Ask { command } => chips.command(0, command),
            }
            chips.command(0, 0x50);
            prop_assert_eq!(chips.status(), 0x80_0080);
        }
        chips.command(0, 0xff);
        for (at, bytes) in (0..).step_by(8).zip(model.chunks(8)) {
            prop_assert_eq!(chips.read(at, 8).to_le_bytes(), bytes);
        }
    }

    /// Whatever is written where and how: nothing panics, and the chips can be made to answer again.
    #[test]
    fn nothing_written_to_it_harms(
        writes in prop::collection::vec((0..SIZE + 8, 0..4u8, any::<u64>(), any::<bool>()), 0..400)
    ) {
        let commands = [0x20, 0xd0, 0xe8, 0x40, 0x60, 0x98, 0x70, 0xff];
        let mut chips = chips();
        for (offset, log, value, is_known) in writes {
            let value = if is_known { commands[(value % 8) as usize] } else { value };
            let _ = chips.read(offset, 1 << log);
            chips.write(offset, 1 << log, value);
        }
        // At most a buffer is still to be filled.
        for _ in 0..=BUFFER_WORDS + 2 {
            chips.command(0, 0xff);
        }
        chips.command(0, 0x98);
        prop_assert_eq!(chips.read(0x40, 4), u64::from(b'Q') * 0x1_0001);
    }
}
