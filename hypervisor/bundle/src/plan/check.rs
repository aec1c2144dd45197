//! What a devicetree may say of interrupts without contradicting itself: each is somebody's. (`places` is about addresses.)

use alloc::format;

use platform::{Device, Gic, Machine};

use super::Host;
use crate::Error;

/// INTIDs from here on are special (IHI0069 2.2.1).
const FIRST_SPECIAL: u32 = 1020;

const CORRECT: &str = "correct the machine's devicetree";

/// What interrupts there are.
pub struct Check<'m> {
    machine: &'m Machine,
    /// The first INTID that is no SPI's.
    end: u32,
}

impl<'m> Check<'m> {
    /// Looks over what all VMs share.
    pub fn new(machine: &'m Machine, host: &Host<'_>) -> Result<Self, Error> {
        let end = host.spis.saturating_add(32).min(FIRST_SPECIAL);
        let check = Self { machine, end };
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

    /// Whether a device's interrupts can be handed to a guest.
    pub fn device(&self, device: &Device) -> Result<(), Error> {
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
}
