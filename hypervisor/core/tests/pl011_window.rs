//! The page that a guest reads instead of the PL011's registers: what it holds, and when it is there.

use hv_core::pl011::{Change, Image, Pl011, Window};
use proptest::prelude::*;

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const CR: u64 = 0x30;
const LOOPBACK: u64 = 0x380;

/// A UART and its page, as the hypervisor keeps them.
struct Rig {
    uart: Pl011,
    window: Window,
    page: Vec<u8>,
    is_shown: bool,
}

impl Rig {
    /// Of a VM that was just loaded.
    fn new() -> Self {
        let uart = Pl011::new();
        let page: Vec<u8> = uart.image().words().flat_map(u32::to_le_bytes).collect();
        assert_eq!(page.len(), 4 * Image::WORDS);
        let mut rig = Self {
            uart,
            window: Window::new(true),
            page,
            is_shown: false,
        };
        rig.reset();
        rig
    }

    fn follow(&mut self, change: Change) {
        if matches!(change, Change::Write | Change::Open) {
            for (word, value) in self.page.chunks_mut(4).zip(self.uart.image().changing()) {
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
        match change {
            Change::Open => assert!(!core::mem::replace(&mut self.is_shown, true)),
            Change::Close => assert!(core::mem::replace(&mut self.is_shown, false)),
            Change::Keep | Change::Write => {}
        }
        assert_eq!(self.is_shown, self.window.is_open());
    }

    fn reset(&mut self) {
        self.uart.reset();
        let change = self.window.reset(true);
        self.follow(change);
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        if self.uart.write(offset, size, value as u32).is_changed {
            let change = self.window.changed(&self.uart);
            self.follow(change);
        }
    }

    fn receive(&mut self, byte: u8) {
        let _ = self.uart.receive(byte);
        let change = self.window.changed(&self.uart);
        self.follow(change);
    }

    /// A load of the guest's.
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        if self.is_shown {
            return self.in_page(offset, size);
        }
        let (value, _) = self.uart.read(offset, size);
        let change = self.window.read(&self.uart);
        self.follow(change);
        value
    }

    fn in_page(&self, offset: u64, size: u8) -> u64 {
        let bytes = self.page[offset as usize..].iter().take(size.into());
        bytes
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    /// Every load that is aligned finds in the page what the registers would answer, and has no side effect.
    fn check(&self) {
        if !self.is_shown {
            return;
        }
        for size in [1u8, 2, 4, 8] {
            for offset in (0..0x1000).step_by(size.into()) {
                let mut uart = self.uart.clone();
                let (value, done) = uart.read(offset, size);
                assert_eq!(uart, self.uart, "a read of {offset:#x} has a side effect");
                assert_eq!((done.transmit, done.is_changed), (None, false));
                let shown = self.in_page(offset, size);
                assert_eq!(shown, value, "{size} bytes at {offset:#x}");
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u8, u64),
    Read(u64, u8),
    Receive(u8),
    Break,
    Drain,
    Reset,
}

fn steps() -> impl Strategy<Value = Step> {
    let register = prop_oneof![
        4 => (0u64..0x13).prop_map(|index| index * 4),
        1 => 0u64..0x1008,
    ];
    let size = prop_oneof![Just(1u8), Just(2), Just(4), Just(8)];
    prop_oneof![
        8 => (register.clone(), size.clone(), any::<u64>()).prop_map(|(o, s, v)| Step::Write(o, s, v)),
        8 => (register, size).prop_map(|(o, s)| Step::Read(o, s)),
        2 => any::<u8>().prop_map(Step::Receive),
        1 => Just(Step::Break),
        2 => Just(Step::Drain),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #[test]
    fn the_page_is_what_the_registers_are(script in proptest::collection::vec(steps(), 0..120)) {
        let mut rig = Rig::new();
        rig.check();
        for step in script {
            match step {
                Step::Write(offset, size, value) => rig.write(offset, size, value),
                Step::Read(offset, size) => {
                    if !rig.is_shown || offset + u64::from(size) <= 0x1000 {
                        let _ = rig.read(offset, size);
                    }
                }
                Step::Receive(byte) => rig.receive(byte),
                Step::Break => {
                    let _ = rig.uart.receive_break();
                    let change = rig.window.changed(&rig.uart);
                    rig.follow(change);
                }
                Step::Drain => while !rig.uart.is_quiet() {
                    let _ = rig.read(DR, 4);
                },
                Step::Reset => rig.reset(),
            }
            prop_assert!(!rig.is_shown || rig.uart.is_quiet(), "shown while something is received");
            rig.check();
        }
    }
}

#[test]
fn it_is_there_from_the_start() {
    let mut rig = Rig::new();
    assert!(rig.is_shown);
    assert_eq!(rig.read(FR, 4), 0x90);
    assert_eq!(rig.read(FR, 2), 0x90);
    assert_eq!(rig.read(0xfe0, 1), 0x11);
    assert_eq!(rig.read(0xff8, 8), 0xb1_0000_0005);
}

/// Console output changes no register but the first time, so the page is not even written.
#[test]
fn output_changes_nothing_but_the_first_time() {
    let mut uart = Pl011::new();
    let mut written = |byte| {
        let done = uart.write(DR, 4, byte);
        (done.transmit, done.is_changed)
    };
    assert_eq!(written(0x41), (Some(0x41), true));
    assert_eq!(written(0x42), (Some(0x42), false));
    assert_eq!(written(0x43), (Some(0x43), false));
}

#[test]
fn what_comes_in_hides_it_until_it_is_read_and_some_reads_more() {
    let mut rig = Rig::new();
    rig.receive(b'x');
    assert!(!rig.is_shown);
    for _ in 0..100 {
        assert_eq!(rig.read(FR, 4) & 0x10, 0, "received");
    }
    assert!(!rig.is_shown);
    assert_eq!(rig.read(DR, 4), u64::from(b'x'));
    for _ in 1..Window::PATIENCE {
        assert!(!rig.is_shown);
        assert_eq!(rig.read(FR, 4), 0x90);
    }
    assert!(rig.is_shown);
}

/// A line that is pasted costs the guest's translations once, not once a byte.
#[test]
fn bytes_that_come_one_after_another_leave_it_hidden() {
    let mut rig = Rig::new();
    for _ in 0..100 {
        rig.receive(b'x');
        let _ = rig.read(DR, 4);
        for _ in 2..Window::PATIENCE {
            let _ = rig.read(FR, 4);
        }
        assert!(!rig.is_shown);
    }
}

#[test]
fn loopback_is_received_like_all_else() {
    let mut rig = Rig::new();
    rig.write(CR, 4, LOOPBACK);
    assert!(rig.is_shown);
    rig.write(DR, 4, 0x5a);
    assert!(!rig.is_shown);
    assert_eq!(rig.read(DR, 4), 0x5a);
}

#[test]
fn a_reset_shows_it_at_once() {
    let mut rig = Rig::new();
    rig.write(CR, 4, LOOPBACK);
    rig.write(DR, 4, 0x5a);
    assert!(!rig.is_shown);
    rig.reset();
    assert!(rig.is_shown);
    assert_eq!(rig.read(CR, 4), 0x300);
    rig.check();
}

#[test]
fn without_a_page_there_is_nothing_to_show() {
    let uart = Pl011::new();
    let mut window = Window::new(false);
    assert_eq!(window.reset(false), Change::Keep);
    for _ in 0..100 {
        assert_eq!(window.read(&uart), Change::Keep);
        assert_eq!(window.changed(&uart), Change::Keep);
    }
    assert!(!window.is_open());
}
