//! The guest's own watchdog ([`crate::gwdt`]): its registers, its interrupt, and who looks whether it is due.

use hv_abi::watchdog::Act;

use super::{BOOT_VCPU, Next, Outcome, Shared};
use crate::exit::MmioAccess;
use crate::gwdt::{Frame, Gwdt};
use crate::id::{IntId, VcpuId};
use crate::regs::GuestRegs;
use crate::sdei::Board;
use crate::time::Instant;
use crate::vgic::{Held, Parts};
use crate::vm::{Hardware, Vcpu, read_register, write_register};

/// What a guest's configuration says of its watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GwdtConfig {
    /// The interrupt of its first signal.
    pub intid: IntId,
    /// What is done at the second.
    pub act: Act,
}

/// A guest's watchdog: the device, and its interrupt.
#[derive(Clone, Copy, Debug)]
pub struct GuestGwdt {
    config: GwdtConfig,
    device: Gwdt,
    /// The interrupt's line as the virtual GIC knows it.
    line: bool,
    /// The vCPU that touched it last, whose pCPU looks whether it is due.
    keeper: VcpuId,
    /// What is to be done has been done.
    is_reported: bool,
}

impl GuestGwdt {
    /// Out of reset.
    pub const fn new(config: GwdtConfig) -> Self {
        Self {
            config,
            device: Gwdt::new(),
            line: false,
            keeper: BOOT_VCPU,
            is_reported: false,
        }
    }
}

impl Shared {
    pub(super) fn access_gwdt(
        &mut self,
        (frame, offset): (Frame, u64),
        access: MmioAccess,
        vcpu: &mut Vcpu,
        regs: &mut GuestRegs,
        cpu: &mut impl Hardware,
        board_and_gic: (&Board, &impl Parts),
    ) -> Outcome {
        let now = self.clock.shown(cpu.now());
        let Some(gwdt) = &mut self.gwdt else {
            return Outcome::NOTHING;
        };
        let words = match access.size {
            4 => 1,
            8 => 2,
            // Narrower accesses are none that it has.
            _ => 0,
        };
        let mut value = if access.is_write {
            read_register(regs, access.rt)
        } else {
            0
        };
        for word in 0..words {
            let (offset, shift) = (offset + 4 * word, 32 * word);
            if access.is_write {
                let word = (value >> shift) as u32;
                gwdt.device.write(frame, offset, word, now);
            } else {
                value |= u64::from(gwdt.device.read(frame, offset)) << shift;
            }
        }
        if !access.is_write {
            write_register(regs, access.rt, access.extend(value));
            return Outcome::NOTHING;
        }
        gwdt.keeper = vcpu.id;
        let outcome = self.settle_gwdt(vcpu, cpu, board_and_gic);
        Outcome {
            next: Next::Gwdt,
            ..outcome
        }
    }

    /// When `me` is to look whether it is due, by the system counter; never, if another vCPU does, or the VM ends or is off.
    pub fn gwdt_due(&self, me: VcpuId) -> Option<Instant> {
        let is_mine = |it: &&GuestGwdt| it.keeper == me && self.life.may_start();
        let gwdt = self.gwdt.as_ref().filter(is_mine)?;
        Some(self.clock.system(gwdt.device.due()?))
    }

    /// `vcpu` looks. What is to be done, if this is its second signal, which is done once until the guest is loaded again.
    pub fn look_at_gwdt(
        &mut self,
        vcpu: &mut Vcpu,
        cpu: &mut impl Hardware,
        board_and_gic: (&Board, &impl Parts),
    ) -> (Outcome, Option<Act>) {
        let now = self.clock.shown(cpu.now());
        let runs = self.life.may_start() && !self.is_paused;
        let Some(gwdt) = self.gwdt.as_mut().filter(|_| runs) else {
            return (Outcome::NOTHING, None);
        };
        let is_second = gwdt.device.expire(now);
        let is_news = is_second && !core::mem::replace(&mut gwdt.is_reported, is_second);
        let act = gwdt.config.act;
        let outcome = self.settle_gwdt(vcpu, cpu, board_and_gic);
        (outcome, is_news.then_some(act))
    }

    /// Has the virtual GIC know of its line.
    #[inline(never)]
    fn settle_gwdt(
        &mut self,
        vcpu: &mut Vcpu,
        cpu: &mut impl Hardware,
        board_and_gic: (&Board, &impl Parts),
    ) -> Outcome {
        let Some(gwdt) = &mut self.gwdt else {
            return Outcome::NOTHING;
        };
        let (intid, line) = (gwdt.config.intid, gwdt.device.is_raised());
        if core::mem::replace(&mut gwdt.line, line) == line {
            return Outcome::NOTHING;
        }
        self.set_line(intid, line, vcpu, cpu, board_and_gic)
    }

    /// The guest is loaded anew, and nobody runs.
    pub(super) fn reset_gwdt(&mut self, gic: &impl Parts) {
        if let Some(gwdt) = &mut self.gwdt {
            *gwdt = GuestGwdt::new(gwdt.config);
            let intid = gwdt.config.intid;
            let mut held = Held::of_interrupt(gic, BOOT_VCPU, intid);
            let _ = held.set_line(intid, false);
        }
    }
}
