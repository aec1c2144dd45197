//! Who called whom, by the frame records of AAPCS64 (6.4.6), in a kernel whose functions all have them.

use anyhow::Result;

use crate::memory::Memory;
use crate::translation::Regime;

/// What a vCPU was doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Where it stood.
    pub pc: u64,
    /// Its stack pointer.
    pub sp: u64,
    /// x29.
    pub frame: u64,
    /// x30.
    pub link: u64,
}

/// How we know of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The pc is there.
    Pc,
    /// x30 names it: the function that it called has no frame, or none yet.
    Link,
    /// A frame record names it, on the same stack as the one before.
    Record,
    /// A frame record on another stack names it.
    OtherStack,
    /// An exception was taken there.
    Exception,
}

/// One function that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it stands: of a caller, where it goes on.
    pub address: u64,
    /// How we know.
    pub by: By,
}

/// Why there are no more frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It is the outermost one.
    Whole,
    /// The stack pointer leads nowhere.
    Sp(String),
    /// This frame record cannot be read.
    Unreadable(String),
    /// This frame record is not aligned, or leads back.
    Wrong(u64),
    /// A record names what is no code.
    NoCode(u64),
    /// There would be more.
    TooMany,
}

/// More frames are none, but a loop.
const MOST: usize = 128;
/// The largest stack: four pages of 16 KiB, or one of 64 KiB.
const STACK: u64 = 64 << 10;
/// A kernel changes between so many: the task's, of interrupts, of SDEI's two priorities, of an overflow.
const STACKS: u32 = 5;

/// Where `struct pt_regs` of Linux has what concerns us (`arch/arm64/include/asm/ptrace.h`).
const PT_REGS_PC: u64 = 256;
const PT_REGS_FRAME: u64 = 8 * 29;
const PT_REGS_LINK: u64 = 8 * 30;
/// Where its frame record is, which has a type behind it: since 6.13, and in kernels with other options.
const PT_REGS_RECORD: [u64; 2] = [296, 304];
/// The types.
const FINAL: u64 = 1;
const PT_REGS: u64 = 2;

impl Frame {
    /// An address in the instruction that stands there: where a call returns to may be another function already.
    pub const fn inside(&self) -> u64 {
        match self.by {
            By::Pc | By::Exception => self.address,
            By::Link | By::Record | By::OtherStack => self.address.wrapping_sub(1),
        }
    }
}

/// The frames, innermost first, and why they end. `function` says where the function begins that an address is in, if it is in
/// one.
pub fn unwind(
    memory: &mut impl Memory,
    regime: &Regime,
    registers: &Registers,
    mut function: impl FnMut(&mut dyn Memory, u64) -> Result<Option<u64>>,
) -> Result<(Vec<Frame>, End)> {
    let innermost = Frame {
        address: registers.pc,
        by: By::Pc,
    };
    let mut frames = vec![innermost];
    let mut walk = Walk {
        regime,
        at: registers.frame,
        floor: registers.sp,
        stacks: 0,
    };
    let link = walk.link(
        memory,
        &innermost,
        registers.frame,
        registers.link,
        &mut function,
    )?;
    frames.extend(link);
    if let Err(error) = regime.translate(memory, registers.sp) {
        return Ok((frames, End::Sp(format!("{error:#}"))));
    }
    while frames.len() < MOST {
        let (frame, interrupted) = match walk.next(memory)? {
            Ok(next) => next,
            Err(end) => return Ok((frames, end)),
        };
        if function(memory, frame.inside())?.is_none() {
            return Ok((frames, End::NoCode(frame.address)));
        }
        frames.push(frame);
        if let Some((record, link)) = interrupted {
            frames.extend(walk.link(memory, &frame, record, link, &mut function)?);
        }
    }
    Ok((frames, End::TooMany))
}

struct Walk<'a> {
    regime: &'a Regime,
    /// The frame record that is next.
    at: u64,
    /// Nothing below is on the same stack.
    floor: u64,
    stacks: u32,
}

/// The frame, and of an exception x29 and x30 there.
type Found = (Frame, Option<(u64, u64)>);

impl Walk<'_> {
    /// The frame of the next record, or why there is none.
    fn next(&mut self, memory: &mut impl Memory) -> Result<Result<Found, End>> {
        let at = self.at;
        if at == 0 {
            return Ok(Err(End::Whole));
        }
        if !at.is_multiple_of(8) {
            return Ok(Err(End::Wrong(at)));
        }
        let mut by = By::Record;
        if at < self.floor || at - self.floor >= STACK {
            self.stacks += 1;
            by = By::OtherStack;
            if self.stacks >= STACKS {
                return Ok(Err(End::Wrong(at)));
            }
        }
        let record = match self.record(memory, at) {
            Ok(record) => record,
            Err(error) => return Ok(Err(End::Unreadable(format!("{error:#}")))),
        };
        self.floor = at + 16;
        match record {
            [0, 0] => self.exception(memory, at),
            // Its caller has none: a thread begins there.
            [_, 0] => Ok(Err(End::Whole)),
            [next, address] => {
                self.at = next;
                let address = self.regime.strip(address);
                Ok(Ok((Frame { address, by }, None)))
            }
        }
    }

    /// A record without a caller: the outermost one, or that of an exception (since 6.13), which has a type behind it.
    fn exception(&mut self, memory: &mut impl Memory, at: u64) -> Result<Result<Found, End>> {
        match self.word(memory, at + 16) {
            Ok(PT_REGS) => {}
            Ok(FINAL) | Ok(_) | Err(_) => return Ok(Err(End::Whole)),
        }
        for before in PT_REGS_RECORD {
            let regs = at.wrapping_sub(before);
            let word = |memory: &mut _, offset| self.word(memory, regs.wrapping_add(offset));
            if let (Ok(pc), Ok(frame), Ok(link)) = (
                word(memory, PT_REGS_PC),
                word(memory, PT_REGS_FRAME),
                word(memory, PT_REGS_LINK),
            ) && Regime::is_upper(pc)
                && pc.is_multiple_of(4)
            {
                self.at = frame;
                let frame_found = Frame {
                    address: pc,
                    by: By::Exception,
                };
                return Ok(Ok((frame_found, Some((frame, link)))));
            }
        }
        Ok(Err(End::Wrong(at)))
    }

    /// What x30 says of who called the innermost function, which counts if that has no record of its own: then it has not called
    /// anybody whose return x30 would be.
    fn link(
        &self,
        memory: &mut impl Memory,
        innermost: &Frame,
        record: u64,
        link: u64,
        function: &mut impl FnMut(&mut dyn Memory, u64) -> Result<Option<u64>>,
    ) -> Result<Option<Frame>> {
        let frame = Frame {
            address: self.regime.strip(link),
            by: By::Link,
        };
        let record = self.record(memory, record);
        if link == 0 || record.is_ok_and(|record| self.regime.strip(record[1]) == frame.address) {
            return Ok(None);
        }
        let caller = function(memory, frame.inside())?;
        let own = function(memory, innermost.inside())?;
        Ok((caller.is_some() && caller != own).then_some(frame))
    }

    fn record(&self, memory: &mut impl Memory, at: u64) -> Result<[u64; 2]> {
        let mut bytes = [0; 16];
        self.regime.read(memory, at, &mut bytes)?;
        let word = |from: usize| {
            bytes[from..]
                .first_chunk()
                .map(|word| u64::from_le_bytes(*word))
        };
        Ok([word(0).unwrap_or_default(), word(8).unwrap_or_default()])
    }

    fn word(&self, memory: &mut impl Memory, at: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.regime.read(memory, at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests;
