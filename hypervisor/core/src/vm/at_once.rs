//! The exits that are settled at once: common, and about nothing but a register or two and what is known without a lock.

use hv_abi::sdei;

use super::{GuestMap, Syndrome, Vcpu, read_register, write_register};
use crate::exit::{self, MmioAccess, Sysreg, SysregAccess, class};
use crate::regs::GuestRegs;
use crate::smc;
use crate::vgic::Frame;

/// What is left of an exit that was settled at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum AtOnce {
    /// Nothing.
    Resume,
    /// An SGI is sent: ICC_SGI1R_EL1 has been written with this.
    Sgi(u64),
    /// An SGI of a GICv2 is sent: GICD_SGIR has been written with this.
    Generate(u64),
    /// SDEI_EVENT_SIGNAL is called: [`Vcpu::signal`] answers.
    Signal,
}

impl AtOnce {
    /// A store to GICD_SGIR, if it is one.
    #[inline(always)]
    pub(super) fn generate(
        frame: Frame,
        offset: u64,
        access: MmioAccess,
        regs: &GuestRegs,
    ) -> Option<Self> {
        let is_it = matches!(frame, Frame::Banked(_)) && (offset, access.size) == SGIR;
        is_it.then(|| Self::Generate(read_register(regs, access.rt)))
    }
}

/// Which registers are in [`GuestRegs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// All.
    All,
    /// All but x20 to x28 ([`exit::is_late`]).
    Few,
}

impl Saved {
    const fn has(self, register: u8) -> bool {
        matches!(self, Self::All) || !exit::is_late(register)
    }
}

const ICC_SGI1R: Sysreg = Sysreg::new(3, 0, 12, 11, 5);

/// GICD_SGIR of a GICv2, and how it is written (IHI0048 4.3.15).
const SGIR: (u64, u8) = (0xf00, 4);

impl Vcpu {
    /// Settles a synchronous exit, if it is one of those. If not, nothing has changed, and [`Vcpu::handle_exit`] settles it.
    #[inline(always)]
    pub fn at_once(
        &self,
        syndrome: Syndrome,
        saved: Saved,
        regs: &mut GuestRegs,
        map: &GuestMap,
    ) -> Option<AtOnce> {
        if exit::class(syndrome.esr) == class::DATA_ABORT {
            self.access_device(syndrome, saved, regs, map)
        } else {
            self.access_register(syndrome.esr, saved, regs)
        }
    }

    /// The same for all but accesses to devices.
    #[inline(always)]
    pub(super) fn access_register(
        &self,
        esr: u64,
        saved: Saved,
        regs: &mut GuestRegs,
    ) -> Option<AtOnce> {
        match exit::class(esr) {
            class::SMC => {
                let done = answer(esr as u16, regs)?;
                regs.pc = regs.pc.wrapping_add(4);
                Some(done)
            }
            class::HVC => answer(esr as u16, regs),
            class::SYSREG if saved.has(exit::sysreg_register(esr)) => {
                self.access_sysreg(SysregAccess::decode(esr), regs)
            }
            _ => None,
        }
    }

    /// A read of an identification register, or an SGI.
    #[inline(always)]
    fn access_sysreg(&self, access: SysregAccess, regs: &mut GuestRegs) -> Option<AtOnce> {
        let done = match (access.register, access.is_read) {
            (register, true) if register.is_id() => {
                write_register(regs, access.rt, self.ids.get(register));
                AtOnce::Resume
            }
            (ICC_SGI1R, false) => AtOnce::Sgi(read_register(regs, access.rt)),
            _ => return None,
        };
        regs.pc = regs.pc.wrapping_add(4);
        Some(done)
    }

    /// A load from a register of the virtual GIC that needs no lock, or a store to GICD_SGIR.
    #[inline(always)]
    pub(super) fn access_device(
        &self,
        syndrome: Syndrome,
        saved: Saved,
        regs: &mut GuestRegs,
        map: &GuestMap,
    ) -> Option<AtOnce> {
        let Syndrome { esr, far, hpfar } = syndrome;
        // What is loaded most, by the shortest way there is.
        if let Some((ipa, rt)) = exit::word_load(esr, far, hpfar)
            && saved.has(rt)
            && let Some(value) = map.published_word(ipa)
        {
            write_register(regs, rt, value.into());
            regs.pc = regs.pc.wrapping_add(4);
            return Some(AtOnce::Resume);
        }
        self.access_any(syndrome, saved, regs, map)
    }

    #[inline(never)]
    fn access_any(
        &self,
        syndrome: Syndrome,
        saved: Saved,
        regs: &mut GuestRegs,
        map: &GuestMap,
    ) -> Option<AtOnce> {
        let (frame, offset, access) = self.find_access(syndrome, saved, map)?;
        let done = if access.is_write {
            AtOnce::generate(frame, offset, access, regs)?
        } else {
            let value = map.published.read(frame, offset, access.size)?;
            write_register(regs, access.rt, access.extend(value));
            AtOnce::Resume
        };
        regs.pc = regs.pc.wrapping_add(4);
        Some(done)
    }

    /// What of the virtual GIC an exit accesses, and how.
    #[inline(always)]
    pub(super) fn find_access(
        &self,
        syndrome: Syndrome,
        saved: Saved,
        map: &GuestMap,
    ) -> Option<(Frame, u64, MmioAccess)> {
        let Syndrome { esr, far, hpfar } = syndrome;
        if !saved.has(exit::abort_register(esr)) {
            return None;
        }
        let access = MmioAccess::decode(esr, far, hpfar)?;
        let (frame, offset) = map.frame(self.id, access.ipa)?;
        Some((frame, offset, access))
    }
}

/// Answers a call that nobody has to be asked about, or says that it is SDEI_EVENT_SIGNAL.
#[inline(always)]
fn answer(immediate: u16, regs: &mut GuestRegs) -> Option<AtOnce> {
    let [x0, x1, ..] = &mut regs.x;
    let function = *x0 as u32;
    match smc::at_once(immediate, function, *x1) {
        Some(answer) => {
            *x0 = answer as u64;
            Some(AtOnce::Resume)
        }
        None if function == sdei::Call::EventSignal as u32 => Some(AtOnce::Signal),
        None => None,
    }
}
