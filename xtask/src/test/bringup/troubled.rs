//! Lines to a board on which things go wrong.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chainload::fault::{Faults, Rates};

use super::emulated::Emulated;
use super::{BUNDLE, Trouble};
use machine::serial::{Line, Port};

/// A line on which only this comes.
pub struct Scripted(pub Vec<u8>);

impl Line for Scripted {
    fn exchange(&mut self, out: &mut VecDeque<u8>, patience: Duration) -> Result<Vec<u8>> {
        out.clear();
        if self.0.is_empty() {
            std::thread::sleep(patience);
        }
        Ok(std::mem::take(&mut self.0))
    }

    fn set_rate(&mut self, _: u32) -> Result<()> {
        Ok(())
    }
}

/// A line to a board on which things go wrong.
pub struct Troubled {
    port: Port,
    down: Faults,
    up: Faults,
    /// Bytes that may yet be sent before the line is cut.
    pub budget: Option<usize>,
    /// Bytes from the board until it falls silent.
    until_silence: Option<usize>,
    /// Bytes until the board is reset.
    until_reset: Option<usize>,
    /// The board, which lives as long as its line.
    pub board: Option<Emulated>,
}

impl Troubled {
    pub fn new(port: Port, trouble: Trouble) -> Self {
        let rates = match trouble {
            Trouble::Noise => Rates {
                lost: 100,
                broken: 100,
                made_up: 100,
            },
            _ => Rates::default(),
        };
        Self {
            port,
            down: Faults::new(rates, 1),
            up: Faults::new(rates, 2),
            budget: None,
            until_reset: (trouble == Trouble::Reset).then_some(BUNDLE / 2),
            until_silence: (trouble == Trouble::Silence).then_some(1200),
            board: None,
        }
    }
}

impl Line for Troubled {
    fn exchange(&mut self, out: &mut VecDeque<u8>, patience: Duration) -> Result<Vec<u8>> {
        if let Some(budget) = &mut self.budget {
            ensure!(*budget > out.len(), "the line was cut, as is wanted");
            *budget -= out.len();
        }
        if let Some(left) = &mut self.until_reset {
            *left = left.saturating_sub(out.len());
            if *left == 0 {
                self.until_reset = None;
                let board = self.board.as_mut().context("there is no board to reset")?;
                board.reset()?;
            }
        }
        let sent = out.drain(..);
        let mut broken: VecDeque<u8> = sent
            .flat_map(|byte| self.down.pass(byte).into_iter().flatten())
            .collect();
        let mut come = Vec::new();
        loop {
            come.extend(self.port.exchange(&mut broken, patience)?);
            if broken.is_empty() {
                break;
            }
        }
        if let Some(left) = &mut self.until_silence {
            come.truncate(*left);
            *left -= come.len();
        }
        let come = come.into_iter();
        Ok(come
            .flat_map(|byte| self.up.pass(byte).into_iter().flatten())
            .collect())
    }

    fn set_rate(&mut self, rate: u32) -> Result<()> {
        self.port.set_rate(rate)
    }
}
