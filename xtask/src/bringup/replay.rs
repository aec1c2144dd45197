//! A recorded line, judged as if it were live.

use anyhow::Result;
use chainload::frame::{Decoder, Heard};
use chainload::message::FromLoader;

use super::boot::Boot;
use super::stage;

/// What a record has.
#[derive(Default)]
pub struct Replay {
    /// Whether a loader spoke.
    pub loader: bool,
    /// Whether it had in memory what was sent, at least once.
    pub verified: bool,
    /// Each start of the hypervisor.
    pub boots: Vec<Boot>,
    /// Whether the last of them is what is being written.
    open: bool,
}

/// Opens a line of the hypervisor's.
const RS: u8 = hv_abi::console::RS;

impl Replay {
    /// Reads it.
    pub fn read(record: &[u8]) -> Result<Self> {
        let mut replay = Self::default();
        let mut decoder = Decoder::default();
        let mut raw = Vec::new();
        for &byte in record {
            raw.push(byte);
            match decoder.push(byte) {
                Heard::Nothing if byte == 0 => raw.clear(),
                Heard::Nothing => {}
                Heard::Message(message) => {
                    if let Some(message) = FromLoader::read(message) {
                        replay.hear(message);
                    }
                    raw.clear();
                }
                Heard::Noise => {
                    replay.write(&raw)?;
                    raw.clear();
                }
            }
        }
        replay.write(&raw)?;
        Ok(replay)
    }

    fn hear(&mut self, message: FromLoader) {
        match message {
            FromLoader::Ready { .. } => {
                self.loader = true;
                self.open = false;
            }
            FromLoader::Verified(_) => self.verified = true,
            FromLoader::Going(_, 0) => self.start(),
            _ => {}
        }
    }

    fn start(&mut self) {
        self.boots.push(Boot::default());
        self.open = true;
    }

    fn write(&mut self, text: &[u8]) -> Result<()> {
        if !self.open && text.contains(&RS) {
            // What the loader said last was lost, or there was none.
            self.start();
        }
        if self.open
            && let Some(boot) = self.boots.last_mut()
        {
            boot.push(text)?;
        }
        Ok(())
    }

    /// That the hypervisor was started at all; the lines of the stages before.
    pub fn check(&self) -> Result<Vec<String>> {
        let mut passed = Vec::new();
        if self.loader {
            passed.push(stage::LOADER.passed("it answered"));
        }
        if self.verified {
            passed.push(stage::TRANSFER.passed("all blocks arrived"));
            passed.push(stage::MEMORY.passed("SHA-256 of image and bundle as sent"));
        }
        if !self.boots.is_empty() {
            return Ok(passed);
        }
        let (stage, why) = match (self.loader, self.verified) {
            (false, _) => (
                stage::LOADER,
                "the record has neither a loader nor a hypervisor in it",
            ),
            (true, false) => (stage::TRANSFER, "the record ends before all was sent"),
            (true, true) => (
                stage::ENTRY,
                "the record ends before the hypervisor was started",
            ),
        };
        stage.judge(Err(anyhow::anyhow!(why)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chainload::frame::{LONGEST, LONGEST_ON_LINE, encode};

    fn said(message: FromLoader) -> Vec<u8> {
        let (mut buffer, mut line) = ([0; LONGEST], [0; LONGEST_ON_LINE]);
        let bytes = message.write(&mut buffer).unwrap();
        encode(bytes, &mut line).unwrap().to_vec()
    }

    fn ready() -> Vec<u8> {
        said(FromLoader::Ready {
            tag: [0; 3],
            version: 1,
            rates: true,
            life: 1,
        })
    }

    #[test]
    fn each_start_after_a_loader_is_a_boot() {
        let mut record = b"halligan chainloader\r\n".to_vec();
        for _ in 0..2 {
            record.extend(ready());
            record.extend(said(FromLoader::Verified([1; 3])));
            record.extend(said(FromLoader::Going([1; 3], 0)));
            record
                .extend(b"\x1e[    0.000001 p0] entered\r\n\x1e@ready vms=1\r\nPASS a\r\nDONE\r\n");
        }
        let replay = Replay::read(&record).unwrap();
        assert_eq!(replay.boots.len(), 2);
        assert!(
            replay
                .boots
                .iter()
                .all(|boot| boot.ready && boot.results.done)
        );
        assert_eq!(replay.check().unwrap().len(), 3);
    }

    #[test]
    fn a_record_that_stops_early_says_at_which_stage() {
        let at = |record: &[u8]| {
            let replay = Replay::read(record).unwrap();
            replay.check().unwrap_err().to_string()
        };
        assert!(at(b"").contains("`loader`"));
        assert!(at(&ready()).contains("`transfer`"));
        let mut record = ready();
        record.extend(said(FromLoader::Verified([1; 3])));
        assert!(at(&record).contains("`entry`"));
    }

    #[test]
    fn without_a_loader_the_hypervisors_first_line_begins_a_boot() {
        let replay = Replay::read(b"firmware\r\n\x1e[    0.000001 p0] entered\r\n").unwrap();
        let entered = replay
            .boots
            .first()
            .and_then(|boot| boot.entered.as_deref());
        assert_eq!(entered, Some("entered"));
    }
}
