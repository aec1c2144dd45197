//! Devices of a guest's own in its devicetree.

use alloc::format;

use platform::devicetree::{Node, number};

use super::{EXTENDED, Graft, reg, unusable};
use crate::{Error, OwnDevices};

/// What the UART's clock is said to run at, in Hz: as a Raspberry Pi's. Nothing depends on it.
const CLOCK_HZ: u32 = 48_000_000;

impl Graft<'_, '_, '_> {
    /// A clock of fixed rate (Linux binding `fixed-clock`) in the place of that which the UART names, by whose number it goes, unless
    /// the guest has that one: a driver waits for its clock for ever, and an emulated UART needs none.
    pub(super) fn clock(&mut self) {
        let source = self.console.property("clocks");
        let Some(source) = source.and_then(|clocks| clocks.get(..4)) else {
            return;
        };
        let is_it = |node: &Node<'_, '_>| node.phandle() == Some(number(source) as u32);
        let Some(clock) = self.machine.all().find(is_it) else {
            return;
        };
        if self.is_given(clock) {
            return;
        }
        let cells = clock.property("#clock-cells").unwrap_or(&[0; 4]);
        self.guest.begin("uart-clock");
        self.guest.text("compatible", &["fixed-clock"]);
        self.guest.property("#clock-cells", cells);
        self.guest
            .property("clock-frequency", &CLOCK_HZ.to_be_bytes());
        self.guest.property("phandle", source);
        self.guest.end();
    }

    /// Devices of the guest's own (Linux bindings `cfi-flash`, in mtd/mtd-physmap.yaml, `qemu,pvpanic-mmio`, and
    /// `arm,sbsa-gwdt`).
    pub(super) fn own(&mut self, root: Node<'_, '_>) -> Result<(), Error> {
        /// Bytes that the flash's bus carries at once.
        const BANK_WIDTH: u32 = 4;
        let OwnDevices {
            flash,
            pvpanic,
            gwdt: [control, refresh],
            gwdt_intid,
            ..
        } = self.spec.own;
        if !flash.is_empty() {
            let reg = reg(root, flash)?;
            self.guest.begin(&format!("flash@{:x}", flash.start));
            self.guest.text("compatible", &["cfi-flash"]);
            self.guest.property("reg", &reg);
            self.guest.property("bank-width", &BANK_WIDTH.to_be_bytes());
            self.guest.end();
        }
        if !pvpanic.is_empty() {
            let reg = reg(root, pvpanic)?;
            self.guest.begin(&format!("pvpanic@{:x}", pvpanic.start));
            self.guest.text("compatible", &["qemu,pvpanic-mmio"]);
            self.guest.property("reg", &reg);
            self.guest.end();
        }
        if !control.is_empty() {
            let mut frames = reg(root, control)?;
            frames.extend(reg(root, refresh)?);
            // An SPI, by its number among those, level-sensitive (Linux bindings `arm,gic` and `arm,gic-v3`).
            let gic = self.gic.phandle().unwrap_or_default();
            // Of a GICv3 there may be a fourth cell.
            let cells = [gic, 0, gwdt_intid - 32, 4, 0].map(u32::to_be_bytes);
            let cells = cells.as_flattened();
            let count = self.gic.u32("#interrupt-cells").map_err(unusable)?;
            let end = 4 + 4 * count.unwrap_or(3) as usize;
            self.guest.begin(&format!("watchdog@{:x}", control.start));
            self.guest.text("compatible", &["arm,sbsa-gwdt"]);
            self.guest.property("reg", &frames);
            self.guest
                .property(EXTENDED, cells.get(..end).unwrap_or(cells));
            self.guest.end();
        }
        Ok(())
    }
}
