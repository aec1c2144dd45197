//! A page that a guest reads instead of the registers, without an exit, while no read has a side effect.

use super::{Pl011, offset};

/// Registers that can change, from offset 0 on: up to UARTDMACR.
const CHANGING: usize = offset::DMACR as usize / 4 + 1;

/// What the registers read as, a word each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image([u16; CHANGING]);

impl Image {
    /// Words of the page.
    pub const WORDS: usize = 1024;

    /// The words that can change, which are the first of the page.
    pub fn changing(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied().map(u32::from)
    }

    /// All words of the page.
    pub fn words(&self) -> impl Iterator<Item = u32> + '_ {
        // Identification registers never change, and nothing else is there.
        let fixed = Pl011::new();
        let rest = (CHANGING..Self::WORDS).map(move |index| fixed.register(index as u64 * 4));
        self.changing().chain(rest.map(u32::from))
    }
}

impl Pl011 {
    /// What a guest reads of each register while [`Pl011::is_quiet`].
    pub fn image(&self) -> Image {
        let mut words = [0; CHANGING];
        for (word, offset) in words.iter_mut().zip((0..).step_by(4)) {
            *word = self.register(offset);
        }
        Image(words)
    }
}

/// What is to be done about the page. Whoever asked for the access that it comes from has it done before that access
/// has an effect that another vCPU can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Change {
    /// Nothing.
    Keep,
    /// Write the image into the page, which the guest sees.
    Write,
    /// Write the image into the page and let the guest see it.
    Open,
    /// Hide the page: from now on each read exits.
    Close,
}

/// Whether the guest reads the page.
#[derive(Clone, Debug)]
pub struct Window {
    /// There is a page.
    is_there: bool,
    is_open: bool,
    /// Reads since the last one that the page could not have answered.
    quiet_reads: u8,
}

impl Window {
    /// How many reads in a row the page must have been good for before it is shown again: hiding it costs all vCPUs
    /// their translations, so it stays hidden while bytes come one after another.
    pub const PATIENCE: u8 = 16;

    /// A window that is shut; for good if the machine has no page for it.
    pub const fn new(is_there: bool) -> Self {
        Self {
            is_there,
            is_open: false,
            quiet_reads: 0,
        }
    }

    /// Whether the guest sees the page.
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// The UART is as after reset, and no vCPU runs. Whether there is a page for the kernel that is next.
    pub fn reset(&mut self, is_there: bool) -> Change {
        self.quiet_reads = 0;
        self.is_there = is_there;
        match (is_there, core::mem::replace(&mut self.is_open, is_there)) {
            (false, false) => Change::Keep,
            (false, true) => Change::Close,
            (true, false) => Change::Open,
            (true, true) => Change::Write,
        }
    }

    /// A register has changed, or something was received.
    pub fn changed(&mut self, uart: &Pl011) -> Change {
        match (self.is_open, uart.is_quiet()) {
            (true, true) => Change::Write,
            (true, false) => {
                self.is_open = false;
                self.quiet_reads = 0;
                Change::Close
            }
            (false, true) => Change::Keep,
            (false, false) => {
                self.quiet_reads = 0;
                Change::Keep
            }
        }
    }

    /// A read has exited, and is done.
    pub fn read(&mut self, uart: &Pl011) -> Change {
        if !self.is_there || self.is_open {
            return Change::Keep;
        }
        if !uart.is_quiet() {
            self.quiet_reads = 0;
            return Change::Keep;
        }
        self.quiet_reads += 1;
        if self.quiet_reads < Self::PATIENCE {
            return Change::Keep;
        }
        self.is_open = true;
        Change::Open
    }
}
