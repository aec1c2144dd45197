//! Has the board's loader start an image: the line, the clock and the screen around `chainload::host`.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chainload::frame::LONGEST_ON_LINE;
use chainload::host::{Event, Host, Load, Phase, Took};
use chainload::offer::Part;

use super::stage;
use machine::serial::Line;

/// What is sent to the board.
pub struct Cargo {
    /// An arm64 Image.
    pub image: Vec<u8>,
    /// The guests, which it finds as its initrd.
    pub bundle: Vec<u8>,
    /// Its command line; if empty, the one on the card stays.
    pub bootargs: String,
}

impl Cargo {
    /// Reads both; the image must be one.
    pub fn read(image: &Path, bundle: &Path, bootargs: &str) -> Result<Self> {
        let read = |path: &Path| {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let cargo = Self {
            image: read(image)?,
            bundle: read(bundle)?,
            bootargs: bootargs.to_owned(),
        };
        if cargo.image.get(0x38..0x3c) != Some(b"ARM\x64") {
            bail!("{} is no arm64 Image", image.display());
        }
        Ok(cargo)
    }
}

/// How it is done.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Baud to send at; all else goes at 115200.
    pub rate: u32,
    /// How long to wait for the loader.
    pub patience: Duration,
}

/// What is to be told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A stage has passed.
    Passed(String),
    /// Something that one should know.
    Note(String),
    /// How far the present stage is.
    Progress(String),
    /// What the board wrote for people.
    Text(String),
}

/// How long to look at the line in one go.
const LOOK: Duration = Duration::from_millis(20);

/// Has the loader at the other end of `line` start `cargo`; answers what came after that.
pub fn load(
    line: &mut dyn Line,
    cargo: &Cargo,
    terms: Terms,
    tell: &mut dyn FnMut(Told),
) -> Result<Vec<u8>> {
    let started = Instant::now();
    let now = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let load = Load {
        image: &cargo.image,
        bundle: &cargo.bundle,
        bootargs: cargo.bootargs.as_bytes(),
    };
    let host = Host::new(load, terms.rate, now());
    let mut host = host.context("image, bundle or command line is larger than any board loads")?;
    let mut out = VecDeque::new();
    let mut heard = Heard::default();
    let mut course = Course::default();
    loop {
        if out.is_empty() {
            let mut message = [0; LONGEST_ON_LINE];
            out.extend(host.transmit(now(), &mut message).unwrap_or_default());
        }
        let bytes = line.exchange(&mut out, LOOK)?;
        heard.count += bytes.len();
        let mut bytes = bytes.into_iter();
        for byte in bytes.by_ref() {
            heard.open.push(byte);
            match host.receive(now(), byte) {
                Took::Open => {}
                Took::Noise => heard.noise(tell),
                Took::Message(event) => {
                    heard.open.clear();
                    course.follow(event, line, tell)?;
                }
            }
            if host.phase() == Phase::Started {
                break;
            }
        }
        course.follow(host.poll(now()), line, tell)?;
        match host.phase() {
            Phase::Started => return Ok(bytes.collect()),
            Phase::Seeking if !course.found && started.elapsed() > terms.patience => {
                return stage::LOADER.judge(Err(heard.why_no_loader(terms.patience)));
            }
            Phase::Sending => tell(Told::Progress(bar(host.progress(), started.elapsed()))),
            _ => {}
        }
    }
}

/// Where it is.
#[derive(Default)]
struct Course {
    found: bool,
    sent: bool,
}

impl Course {
    fn follow(
        &mut self,
        event: Option<Event>,
        line: &mut dyn Line,
        tell: &mut dyn FnMut(Told),
    ) -> Result<()> {
        let Some(event) = event else { return Ok(()) };
        let mut note = |text: String| tell(Told::Note(text));
        match event {
            Event::Found => {
                self.found = true;
                tell(Told::Passed(stage::LOADER.passed("it answers")));
            }
            Event::Rate(rate) => {
                line.set_rate(rate)?;
                note(format!("the line is at {rate} baud"));
            }
            Event::Slow(rate) => {
                line.set_rate(chainload::BASE_RATE)?;
                note(format!(
                    "the loader or the line cannot do {rate} baud; it goes on at {}",
                    chainload::BASE_RATE
                ));
            }
            Event::Resumed(blocks) => {
                note(format!(
                    "the loader still has {blocks} KiB of it, which are not sent again"
                ));
            }
            Event::Reset => {
                self.sent = false;
                note("the board was reset; all is sent again".into());
            }
            Event::Mismatch(part) => {
                self.sent = false;
                let part = match part {
                    Part::Image => "image",
                    Part::Bundle => "bundle",
                };
                note(format!(
                    "the {part} is not in memory as it was sent; it is sent again"
                ));
            }
            Event::Checking(percent) => {
                if !std::mem::replace(&mut self.sent, true) {
                    tell(Told::Passed(stage::TRANSFER.passed("all blocks arrived")));
                }
                tell(Told::Progress(format!("hashed {percent} %")));
            }
            Event::Verified => {
                if !std::mem::replace(&mut self.sent, true) {
                    tell(Told::Passed(stage::TRANSFER.passed("all blocks arrived")));
                }
                tell(Told::Passed(
                    stage::MEMORY.passed("SHA-256 of image and bundle as sent"),
                ));
            }
            Event::Started => note("the loader has started it".into()),
            Event::Failed(why) => {
                let stage = match (self.found, self.sent) {
                    (false, _) => stage::LOADER,
                    (true, false) => stage::TRANSFER,
                    (true, true) => stage::MEMORY,
                };
                return stage.judge(Err(anyhow::anyhow!("{why}")));
            }
        }
        Ok(())
    }
}

/// What came that was no message.
#[derive(Default)]
struct Heard {
    count: usize,
    /// Since the last end of a message.
    open: Vec<u8>,
    /// Text, if it could be read.
    text: String,
    garbage: usize,
}

impl Heard {
    const MOST_TEXT: usize = 2000;

    fn noise(&mut self, tell: &mut dyn FnMut(Told)) {
        let noise = std::mem::take(&mut self.open);
        match readable(&noise) {
            Some(text) => {
                tell(Told::Text(text.clone()));
                if self.text.len() < Self::MOST_TEXT {
                    self.text.push_str(&text);
                }
            }
            None => self.garbage += noise.len(),
        }
    }

    fn why_no_loader(mut self, patience: Duration) -> anyhow::Error {
        let seconds = patience.as_secs();
        self.noise(&mut |_| {});
        let text = self.text.trim();
        if self.count == 0 {
            anyhow::anyhow!("nothing came from the board in {seconds} s")
        } else if !text.is_empty() {
            anyhow::anyhow!("no loader answered in {seconds} s, but the board wrote:\n{text}")
        } else {
            anyhow::anyhow!(
                "{} bytes came in {seconds} s, and none could be read: is the rate wrong?",
                self.count
            )
        }
    }
}

/// `bytes` as text, if they are.
pub fn readable(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_matches('\0');
    let plain = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t' | '\x1b' | '\x1e');
    (!text.is_empty() && text.chars().all(plain)).then(|| text.to_owned())
}

/// `[#####.....] 120 of 512 KiB, 11.3 KiB/s, 35 s left`
fn bar((there, all): (u32, u32), elapsed: Duration) -> String {
    const WIDTH: u32 = 24;
    let full = usize::try_from(u64::from(there) * u64::from(WIDTH) / u64::from(all.max(1)));
    let full = full.unwrap_or(0);
    let empty = WIDTH as usize - full.min(WIDTH as usize);
    let rate = f64::from(there) / elapsed.as_secs_f64().max(0.001);
    let left = f64::from(all - there.min(all)) / rate.max(0.001);
    format!(
        "[{}{}] {there} of {all} KiB, {rate:.1} KiB/s, {left:.0} s left",
        "#".repeat(full),
        ".".repeat(empty)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_up() {
        let text = bar((256, 512), Duration::from_secs(16));
        assert_eq!(
            text,
            "[############............] 256 of 512 KiB, 16.0 KiB/s, 16 s left"
        );
        assert!(bar((0, 0), Duration::ZERO).starts_with("[....."));
    }

    #[test]
    fn silence_text_and_garbage_are_told_apart() {
        let why = |bytes: &[u8]| {
            let heard = Heard {
                count: bytes.len(),
                open: bytes.to_vec(),
                ..Heard::default()
            };
            heard.why_no_loader(Duration::from_secs(5)).to_string()
        };
        assert!(why(b"").contains("nothing came"));
        assert!(why(b"U-Boot 2025.01\r\n").contains("U-Boot 2025.01"));
        assert!(why(b"\xff\xfe\x80").contains("is the rate wrong?"));
    }
}
