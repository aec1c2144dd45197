//! System registers that trap.

use super::interrupts::access_interface;
use super::{Action, Deferred, GuestMap, Pcpu, Vcpu, read_register, write_register};
use crate::entry;
use crate::exit::{Sysreg, SysregAccess};
use crate::id::IntId;
use crate::regs::GuestRegs;

// IHI0069 12.2.
const ICC_ASGI1R: Sysreg = Sysreg::new(3, 0, 12, 11, 6);
const ICC_SGI0R: Sysreg = Sysreg::new(3, 0, 12, 11, 7);
const ICC_DIR: Sysreg = Sysreg::new(3, 0, 12, 11, 1);

impl Vcpu {
    pub(super) fn handle_sysreg(
        &mut self,
        access: SysregAccess,
        esr: u64,
        regs: &mut GuestRegs,
        pcpu: &mut impl Pcpu,
        map: &GuestMap,
    ) -> Action {
        let SysregAccess {
            register,
            rt,
            is_read,
        } = access;
        let value = read_register(regs, rt);
        let action = match (register, is_read) {
            (ICC_SGI0R | ICC_ASGI1R, false) => {
                Action::Locked(Deferred::SgiGroup0(map.affinities.sgi(self.id, value)))
            }
            (ICC_DIR, false) => {
                Action::Locked(Deferred::Deactivate(IntId(value as u32 & 0xff_ffff)))
            }
            // Whatever else traps was hidden from the guest, so it does not exist.
            _ if access_interface(access, regs, pcpu) => Action::Resume,
            _ if self.access_os_lock(access, regs) => Action::Resume,
            _ => {
                entry::inject_undefined(regs, pcpu, self.features, esr);
                return Action::Resume;
            }
        };
        regs.pc = regs.pc.wrapping_add(4);
        action
    }

    /// A register of the OS lock, if it is one.
    #[cold]
    fn access_os_lock(&mut self, access: SysregAccess, regs: &mut GuestRegs) -> bool {
        if !access.is_read {
            let value = read_register(regs, access.rt);
            return self.os_lock.write(access.register, value);
        }
        let value = self.os_lock.read(access.register);
        if let Some(value) = value {
            write_register(regs, access.rt, value);
        }
        value.is_some()
    }
}
