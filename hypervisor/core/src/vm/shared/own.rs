//! Devices of a guest's own: its flash, pvpanic, and its watchdog. Accesses to them are rare, and nothing here is on the way of others.

use super::{Next, Outcome, Shared};
use crate::exit::MmioAccess;
use crate::regs::GuestRegs;
use crate::sdei::Board;
use crate::vgic::Parts;
use crate::vm::{Hardware, OwnAccess, OwnDevice, Vcpu, read_register, write_register};

/// What a guest may say by pvpanic (QEMU docs/specs/pvpanic.rst; Linux drivers/misc/pvpanic).
pub mod event {
    /// It has panicked, and stays there.
    pub const PANICKED: u8 = 1 << 0;
    /// It has panicked, and a kernel that was loaded for this case goes on.
    pub const CRASH_LOADED: u8 = 1 << 1;
    /// It is about to switch itself off.
    pub const SHUTDOWN: u8 = 1 << 2;
    /// All of them.
    pub const ALL: u8 = PANICKED | CRASH_LOADED | SHUTDOWN;
}

impl Shared {
    /// An access to a device of the guest's own.
    #[cold]
    #[inline(never)]
    pub(super) fn access_own(
        &mut self,
        OwnAccess {
            device,
            offset,
            access,
        }: OwnAccess,
        vcpu: &mut Vcpu,
        regs: &mut GuestRegs,
        cpu: &mut impl Hardware,
        board_and_gic: (&Board, &impl Parts),
    ) -> Outcome {
        let written = access.is_write.then(|| read_register(regs, access.rt));
        let next = match device {
            OwnDevice::Flash => self.access_flash(offset, access, written, regs, cpu),
            OwnDevice::Pvpanic => self.access_pvpanic(offset, access, written, regs),
            OwnDevice::Gwdt(frame) => {
                let at = (frame, offset);
                let outcome = self.access_gwdt(at, access, vcpu, regs, cpu, board_and_gic);
                regs.pc = regs.pc.wrapping_add(4);
                return outcome;
            }
        };
        regs.pc = regs.pc.wrapping_add(4);
        Outcome::next(next)
    }

    fn access_flash(
        &mut self,
        offset: u64,
        access: MmioAccess,
        written: Option<u64>,
        regs: &mut GuestRegs,
        cpu: &mut impl Hardware,
    ) -> Next {
        match (&mut self.flash, written) {
            (Some(flash), Some(value)) => flash.write(offset, access.size, value, cpu),
            (Some(flash), None) => {
                let value = flash.read(offset, access.size, cpu);
                write_register(regs, access.rt, access.extend(value));
            }
            // A guest whose map has a flash has one.
            (None, _) => {}
        }
        Next::Continue
    }

    /// The device has one register of a byte; what is behind that reads as 0.
    fn access_pvpanic(
        &mut self,
        offset: u64,
        access: MmioAccess,
        written: Option<u64>,
        regs: &mut GuestRegs,
    ) -> Next {
        match written {
            // Each is told once until the guest is loaded again: a guest must not make us talk.
            Some(value) if offset == 0 => {
                let events = value as u8 & event::ALL & !self.told;
                self.told |= events;
                if events == 0 {
                    Next::Continue
                } else {
                    Next::TellOfPanic(events)
                }
            }
            Some(_) => Next::Continue,
            None => {
                let value = if offset == 0 { event::ALL.into() } else { 0 };
                write_register(regs, access.rt, access.extend(value));
                Next::Continue
            }
        }
    }
}
