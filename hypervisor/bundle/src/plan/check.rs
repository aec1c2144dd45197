//! What a devicetree may say without contradicting itself: a guest's pages hold nothing that is not its own, and each
//! interrupt is somebody's.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use platform::{Device, Gic, Machine, Range};

use super::Host;
use crate::Error;

/// Guests get devices in units of this.
const PAGE: u64 = 4096;

/// INTIDs from here on are special (IHI0069 2.2.1).
const FIRST_SPECIAL: u32 = 1020;

const CORRECT: &str = "correct the machine's devicetree";

/// What is the hypervisor's, or emulated, in whole pages.
pub struct Check<'m> {
    machine: &'m Machine,
    limit: u64,
    /// The first INTID that is no SPI's.
    end: u32,
    kept: Vec<(String, Range)>,
}

impl<'m> Check<'m> {
    /// Looks over what all VMs share.
    pub fn new(machine: &'m Machine, host: &Host<'_>) -> Result<Self, Error> {
        let mut kept = Vec::new();
        for region in machine.gic.regions() {
            kept.push((String::from("the interrupt controller"), pages(region)));
        }
        for uart in [&machine.console, &machine.shown] {
            kept.push((uart.path.clone(), pages(uart.base)));
        }
        if let Some(power) = machine.power {
            let name = String::from("the power management block");
            kept.push((name, pages(power)));
        }
        let end = host.spis.saturating_add(32).min(FIRST_SPECIAL);
        let check = Self {
            machine,
            limit: host.limit,
            end,
            kept,
        };
        let (Gic::V3 { maintenance, .. } | Gic::V2 { maintenance, .. }) = machine.gic;
        let timers = &machine.timers;
        for intid in [
            timers.virt,
            timers.physical,
            timers.hyp_physical,
            maintenance,
        ] {
            if !(16..32).contains(&intid) {
                let place = format!("interrupt {intid} of a timer or the interrupt controller");
                let what = "is not private to a CPU (16 to 31)";
                return Err(Error::invalid(&place, what, CORRECT));
            }
        }
        for uart in [&machine.console, &machine.shown] {
            check.spi(&uart.path, uart.intid)?;
        }
        Ok(check)
    }

    /// Whether RAM is RAM and nothing else.
    pub fn ram(&self, part: Range) -> Result<(), Error> {
        self.apart("RAM", part)
    }

    /// Whether a device can be handed to a guest.
    pub fn device(&self, device: &Device) -> Result<(), Error> {
        for &range in &device.mmio {
            let range = pages(range);
            if range.end() > self.limit {
                let what = "is at an address that the hypervisor does not map";
                return Err(Error::invalid(&device.path, what, CORRECT));
            }
            if self.machine.ram.iter().any(|bank| bank.overlaps(range)) {
                let what = "has registers where RAM is";
                return Err(Error::invalid(&device.path, what, CORRECT));
            }
            self.apart(&device.path, range)?;
        }
        for spi in &device.spis {
            self.spi(&device.path, spi.intid)?;
            let uarts = [&self.machine.console, &self.machine.shown];
            if uarts.iter().any(|uart| uart.intid == spi.intid) {
                return Err(Error::invalid(
                    &device.path,
                    "has the interrupt of a UART that guests do not get",
                    "disable it in the machine's devicetree",
                ));
            }
        }
        Ok(())
    }

    /// Whether the interrupt controller has this SPI.
    fn spi(&self, whose: &str, intid: u32) -> Result<(), Error> {
        if (32..self.end).contains(&intid) {
            return Ok(());
        }
        let place = format!("{whose} interrupt {intid}");
        let what = "is no shared interrupt that the interrupt controller has";
        Err(Error::invalid(&place, what, CORRECT))
    }

    /// Whether a range shares no page with what guests do not get.
    fn apart(&self, whose: &str, range: Range) -> Result<(), Error> {
        let Some((other, _)) = self.kept.iter().find(|(_, kept)| kept.overlaps(range)) else {
            return Ok(());
        };
        let place = format!("{whose} at {:#x} and {other}", range.start);
        let what = "share a page, and no guest gets the latter";
        Err(Error::invalid(&place, what, CORRECT))
    }
}

/// The pages that a range touches.
fn pages(range: Range) -> Range {
    let start = range.start & !(PAGE - 1);
    let end = range.end().checked_next_multiple_of(PAGE);
    Range::between(start, end.unwrap_or(u64::MAX))
}
