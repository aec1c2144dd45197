//! Host and loader on one line, by a clock of our own: whatever goes wrong on it, what is started is what was
//! sent, and a line that mends lets it come to that.

use std::collections::VecDeque;

use chainload::fault::{Faults, Rates};
use chainload::frame::LONGEST_ON_LINE;
use chainload::host::{Event, Failure, Host, Load, Phase, Took};
use chainload::loader::{Action, Board, Loader};
use chainload::message::Refusal;
use chainload::offer::Part;
use chainload::{BASE_RATE, Millis};
use proptest::prelude::*;

/// A board's memory.
#[derive(Default)]
struct Memory {
    parts: [Vec<u8>; 2],
    prepared: Option<([u32; 2], Vec<u8>)>,
    /// Reads of the image are wrong so many times.
    rot: u32,
}

const ROOM: u32 = 200_000;

impl Board for Memory {
    fn room(&self, _: Part) -> u32 {
        ROOM
    }

    fn write(&mut self, part: Part, offset: usize, bytes: &[u8]) {
        let memory = &mut self.parts[part as usize];
        let end = offset + bytes.len();
        if memory.len() < end {
            memory.resize(end, 0xcc);
        }
        memory[offset..end].copy_from_slice(bytes);
    }

    fn read(&self, part: Part, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.parts[part as usize][offset..offset + bytes.len()]);
        if self.rot > 0 && part == Part::Image && offset == 0 {
            bytes[0] ^= 1;
        }
    }

    fn prepare(&mut self, sizes: [u32; 2], bootargs: &[u8]) -> Result<(), Refusal> {
        self.prepared = Some((sizes, bootargs.to_vec()));
        Ok(())
    }
}

/// Both ends, and the time.
struct Desk<'a> {
    now: Millis,
    host: Host<'a>,
    loader: Loader<Memory>,
    life: u32,
    down: Faults,
    up: Faults,
    to_loader: VecDeque<u8>,
    to_host: VecDeque<u8>,
    /// The rates that the two ends have set.
    rates: [u32; 2],
    /// What rates the line carries.
    carries: u32,
    events: Vec<Event>,
    /// What the board's memory was when it was started.
    started: Option<[Vec<u8>; 2]>,
}

/// Bytes that pass in a step of the clock, at the base rate.
const BYTES_PER_STEP: usize = 58;
const STEP: Millis = 5;

impl<'a> Desk<'a> {
    fn new(load: Load<'a>, rate: u32, faults: [Rates; 2], seed: u64) -> Self {
        Self {
            now: 1,
            host: Host::new(load, rate, 1).expect("small enough"),
            loader: Loader::new(Memory::default(), 1, 3_000_000, 1),
            life: 1,
            down: Faults::new(faults[0], seed),
            up: Faults::new(faults[1], seed ^ 0xabcd),
            to_loader: VecDeque::new(),
            to_host: VecDeque::new(),
            rates: [BASE_RATE; 2],
            carries: 1_000_000,
            events: Vec::new(),
            started: None,
        }
    }

    fn note(&mut self, event: Option<Event>) {
        if let Some(event) = event {
            if let Event::Rate(rate) = event {
                self.rates[0] = rate;
            }
            if let Event::Slow(_) = event {
                self.rates[0] = BASE_RATE;
            }
            self.events.push(event);
        }
    }

    /// What the line makes of a byte if its ends are set so.
    fn garble(&self, byte: u8) -> u8 {
        let [host, loader] = self.rates;
        if host == loader && host <= self.carries {
            byte
        } else {
            byte.rotate_left(3) ^ 0x55
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        if self.to_loader.is_empty() {
            let mut line = [0; LONGEST_ON_LINE];
            if let Some(bytes) = self.host.transmit(self.now, &mut line) {
                self.to_loader.extend(bytes);
            }
        }
        let most = BYTES_PER_STEP * (self.rates[0] / BASE_RATE).max(1) as usize;
        for _ in 0..most {
            let Some(byte) = self.to_loader.pop_front() else {
                break;
            };
            let byte = self.garble(byte);
            for byte in self.down.pass(byte).into_iter().flatten() {
                self.loader.receive(self.now, byte);
            }
        }
        if self.started.is_none() {
            for _ in 0..20 {
                while let Some(byte) = self.loader.transmit() {
                    let byte = self.garble(byte);
                    self.to_host
                        .extend(self.up.pass(byte).into_iter().flatten());
                }
                match self.loader.poll(self.now) {
                    Action::None => {}
                    Action::Rate(rate) => {
                        self.hear();
                        self.rates[1] = rate;
                    }
                    Action::Start => {
                        self.started = Some(self.loader.board().parts.clone());
                        break;
                    }
                }
            }
        }
        self.hear();
        let event = self.host.poll(self.now);
        self.note(event);
    }

    fn hear(&mut self) {
        while let Some(byte) = self.to_host.pop_front() {
            if let Took::Message(event) = self.host.receive(self.now, byte) {
                self.note(event);
            }
        }
    }

    fn reset_board(&mut self) {
        self.life += 1;
        self.rates[1] = BASE_RATE;
        self.loader = Loader::new(Memory::default(), self.life, 3_000_000, self.now);
    }

    /// Until the host is through, or for so long.
    fn run(&mut self, limit: Millis) -> Phase {
        let end = self.now + limit;
        while self.now < end && !matches!(self.host.phase(), Phase::Started | Phase::Failed) {
            self.step();
        }
        self.host.phase()
    }

    fn run_until(&mut self, blocks: u32) {
        while self.host.progress().0 < blocks {
            self.step();
            assert!(self.now < 1_000_000, "it takes too long");
        }
    }
}

/// An image of so many bytes that has a header.
fn image(size: usize, seed: u8) -> Vec<u8> {
    let mut image: Vec<u8> = (0..size)
        .map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed))
        .collect();
    image[0x08..0x10].fill(0);
    image[0x10..0x18].copy_from_slice(&(size as u64 + 4096).to_le_bytes());
    image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    image
}

const CLEAN: [Rates; 2] = [Rates {
    lost: 0,
    broken: 0,
    made_up: 0,
}; 2];

fn load<'a>(image: &'a [u8], bundle: &'a [u8]) -> Load<'a> {
    Load {
        image,
        bundle,
        bootargs: b"words",
    }
}

#[test]
fn on_a_good_line_each_block_goes_once() {
    let (image, bundle) = (image(50_000, 1), vec![0; 30_001]);
    let mut desk = Desk::new(load(&image, &bundle), BASE_RATE, CLEAN, 1);
    assert_eq!(desk.run(60_000), Phase::Started);
    assert_eq!(desk.started, Some([image.clone(), bundle.clone()]));
    assert_eq!(
        desk.loader.board().prepared,
        Some(([50_000, 30_001], b"words".to_vec()))
    );
    assert_eq!(desk.events.first(), Some(&Event::Found));
    assert_eq!(
        desk.events[desk.events.len() - 2..],
        [Event::Verified, Event::Started]
    );
    // 80,001 bytes at 11,600 a second, and little besides.
    assert!(desk.now < 9000, "{} ms", desk.now);
}

#[test]
fn a_bundle_may_be_missing() {
    let image = image(3000, 1);
    let mut desk = Desk::new(load(&image, b""), BASE_RATE, CLEAN, 1);
    assert_eq!(desk.run(10_000), Phase::Started);
    assert_eq!(desk.started, Some([image, Vec::new()]));
}

#[test]
fn after_a_reset_it_begins_anew_and_says_so() {
    let (image, bundle) = (image(40_000, 1), vec![7; 10_000]);
    let mut desk = Desk::new(load(&image, &bundle), BASE_RATE, CLEAN, 1);
    desk.run_until(20);
    desk.reset_board();
    assert_eq!(desk.run(60_000), Phase::Started);
    assert!(desk.events.contains(&Event::Reset));
    assert_eq!(desk.started, Some([image, bundle]));
}

#[test]
fn another_host_goes_on_where_the_first_was() {
    let (image, bundle) = (image(40_000, 1), vec![7; 10_000]);
    let mut desk = Desk::new(load(&image, &bundle), BASE_RATE, CLEAN, 1);
    desk.run_until(20);
    desk.host = Host::new(load(&image, &bundle), BASE_RATE, desk.now).unwrap();
    desk.to_loader.clear();
    assert_eq!(desk.run(60_000), Phase::Started);
    let resumed = |event: &Event| matches!(event, Event::Resumed(blocks) if *blocks >= 15);
    assert!(desk.events.iter().any(resumed), "{:?}", desk.events);
    assert_eq!(desk.started, Some([image, bundle]));
}

#[test]
fn another_image_takes_nothing_of_the_first() {
    let (first, second) = (image(40_000, 1), image(40_000, 2));
    let mut desk = Desk::new(load(&first, b"bundle"), BASE_RATE, CLEAN, 1);
    desk.run_until(20);
    desk.host = Host::new(load(&second, b"bundle"), BASE_RATE, desk.now).unwrap();
    assert_eq!(desk.run(60_000), Phase::Started);
    assert_eq!(desk.started, Some([second, b"bundle".to_vec()]));
}

#[test]
fn what_is_no_image_or_too_large_is_refused() {
    let mut foreign = image(5000, 1);
    foreign[0x38] = 0;
    let mut greedy = image(5000, 1);
    greedy[0x10..0x18].copy_from_slice(&(u64::from(ROOM) + 1).to_le_bytes());
    let large = image(ROOM as usize + 1, 1);
    for (image, why) in [
        (foreign, Refusal::NoImage),
        (vec![0; 20], Refusal::NoImage),
        (greedy, Refusal::TooLarge),
        (large, Refusal::TooLarge),
    ] {
        let mut desk = Desk::new(load(&image, b"bundle"), BASE_RATE, CLEAN, 1);
        assert_eq!(desk.run(60_000), Phase::Failed);
        assert_eq!(
            desk.events.last(),
            Some(&Event::Failed(Failure::Refused(why)))
        );
        assert_eq!(desk.started, None);
    }
}

#[test]
fn memory_that_does_not_hold_is_found_and_nothing_is_started() {
    let image = image(20_000, 1);
    let mut desk = Desk::new(load(&image, b"bundle"), BASE_RATE, CLEAN, 1);
    desk.loader.board().rot = 1;
    assert_eq!(desk.run(60_000), Phase::Failed);
    assert_eq!(
        desk.events.last(),
        Some(&Event::Failed(Failure::Corrupt(Part::Image)))
    );
    assert_eq!(desk.started, None);
}

#[test]
fn a_loader_that_falls_silent_is_an_error() {
    let image = image(20_000, 1);
    let mut desk = Desk::new(load(&image, b"bundle"), BASE_RATE, CLEAN, 1);
    desk.run_until(10);
    desk.up.lose(u32::MAX);
    assert_eq!(desk.run(30_000), Phase::Failed);
    assert_eq!(desk.events.last(), Some(&Event::Failed(Failure::Silent)));
    assert_eq!(desk.started, None);
}

#[test]
fn a_loader_that_does_not_hear_is_an_error() {
    let image = image(20_000, 1);
    for blocks in [0, 10] {
        let mut desk = Desk::new(load(&image, b"bundle"), BASE_RATE, CLEAN, 1);
        desk.run_until(blocks);
        desk.down.lose(u32::MAX);
        assert_eq!(desk.run(60_000), Phase::Failed);
        assert_eq!(desk.events.last(), Some(&Event::Failed(Failure::Deaf)));
        assert_eq!(desk.events.contains(&Event::Found), blocks > 0);
        assert_eq!(desk.started, None);
    }
}

#[test]
fn a_faster_line_is_used_and_left_before_the_start() {
    let image = image(100_000, 1);
    let mut desk = Desk::new(load(&image, b"bundle"), 921_600, CLEAN, 1);
    assert_eq!(desk.run(60_000), Phase::Started);
    assert!(desk.now < 4000, "{} ms", desk.now);
    assert!(desk.events.contains(&Event::Rate(921_600)));
    assert_eq!(desk.rates, [BASE_RATE; 2]);
}

#[test]
fn a_rate_that_the_line_does_not_carry_is_left_again() {
    let image = image(20_000, 1);
    let mut desk = Desk::new(load(&image, b"bundle"), 3_000_000, CLEAN, 1);
    assert_eq!(desk.run(60_000), Phase::Started);
    assert!(desk.events.contains(&Event::Slow(3_000_000)));
    assert_eq!(desk.started, Some([image, b"bundle".to_vec()]));
}

#[test]
fn a_reset_at_another_rate_is_noticed() {
    let image = image(100_000, 1);
    let mut desk = Desk::new(load(&image, b"bundle"), 921_600, CLEAN, 1);
    desk.run_until(40);
    desk.reset_board();
    assert_eq!(desk.run(120_000), Phase::Started);
    assert!(desk.events.contains(&Event::Reset), "{:?}", desk.events);
    assert_eq!(desk.started, Some([image, b"bundle".to_vec()]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn on_a_bad_line_what_is_started_is_what_was_sent(
        seed in any::<u64>(),
        lost in 0u32..300, broken in 0u32..300, made_up in 0u32..300,
        size in 64usize..60_000, bundle in 0usize..20_000,
        fast in any::<bool>(),
        resets in prop::collection::vec(0u32..40, 0..3),
    ) {
        let rates = Rates { lost, broken, made_up };
        let (image, bundle) = (image(size, seed as u8), vec![seed as u8; bundle]);
        let rate = if fast { 460_800 } else { BASE_RATE };
        let mut desk = Desk::new(load(&image, &bundle), rate, [rates; 2], seed);
        for at in resets {
            let all = desk.host.progress().1;
            while desk.host.progress().0 < at.min(all)
                && matches!(desk.host.phase(), Phase::Seeking | Phase::Rating(_) | Phase::Offering | Phase::Sending)
            {
                desk.step();
            }
            if desk.started.is_none() {
                desk.reset_board();
            }
        }
        let phase = desk.run(600_000);
        prop_assert_eq!(phase, Phase::Started, "{:?}", desk.events);
        // The host may be through a moment before the loader.
        for _ in 0..200 {
            desk.step();
        }
        prop_assert_eq!(desk.started, Some([image, bundle]));
    }

    #[test]
    fn on_a_line_that_is_hopeless_nothing_wrong_is_started(
        seed in any::<u64>(),
        lost in 0u32..30_000, broken in 0u32..30_000, made_up in 0u32..30_000,
    ) {
        let rates = Rates { lost, broken, made_up };
        let (image, bundle) = (image(9000, seed as u8), vec![seed as u8; 3000]);
        let mut desk = Desk::new(load(&image, &bundle), BASE_RATE, [rates; 2], seed);
        desk.run(100_000);
        if let Some(started) = desk.started {
            prop_assert_eq!(started, [image, bundle]);
        }
    }

    #[test]
    fn nothing_on_the_line_makes_either_end_panic(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        let image = image(5000, 1);
        let mut desk = Desk::new(load(&image, b"bundle"), BASE_RATE, CLEAN, 1);
        for (at, byte) in bytes.into_iter().enumerate() {
            desk.loader.receive(at as u64, byte);
            let _ = desk.host.receive(at as u64, byte);
        }
    }
}
