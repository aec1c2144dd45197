//! The emulated UART, whose line the virtual GIC takes, and interrupts that are bound to SDEI events.

use super::{Next, Outcome, Shared};
use crate::exit::MmioAccess;
use crate::id::IntId;
use crate::pl011::{self, Change};
use crate::regs::GuestRegs;
use crate::sdei::{Board, SdeiEffects};
use crate::vgic::{Held, Parts};
use crate::vm::{GuestMap, Hardware, Vcpu, read_register, write_register};

impl Shared {
    /// An interrupt that is bound to an SDEI event has arrived, or its line has fallen.
    pub fn take_bound(
        &mut self,
        intid: IntId,
        vcpu: &mut Vcpu,
        cpu: &mut impl Hardware,
        (board, gic): (&Board, &impl Parts),
    ) -> Outcome {
        let shared_events = &mut self.shared_events;
        let SdeiEffects { look, gic } = vcpu.sdei.take_bound(intid, shared_events, gic, board);
        cpu.perform(&gic);
        Outcome {
            kick: gic.kick,
            look,
            next: Next::Continue,
        }
    }

    #[inline]
    pub(super) fn access_uart(
        &mut self,
        (offset, access): (u64, MmioAccess),
        vcpu: &mut Vcpu,
        regs: &mut GuestRegs,
        cpu: &mut impl Hardware,
        (map, gic): (&GuestMap, &impl Parts),
    ) -> Outcome {
        let (done, change) = if access.is_write {
            let value = read_register(regs, access.rt) as u32;
            let done = self.uart.write(offset, access.size, value);
            let change = if done.is_changed {
                self.uart_window.changed(&self.uart)
            } else {
                Change::Keep
            };
            (done, change)
        } else {
            let (value, done) = self.uart.read(offset, access.size);
            write_register(regs, access.rt, access.extend(value));
            (done, self.uart_window.read(&self.uart))
        };
        regs.pc = regs.pc.wrapping_add(4);
        let next = done.transmit.map_or(Next::Continue, Next::Transmit);
        let is_plain = change == Change::Keep && done.line == self.uart_line;
        if is_plain && !self.is_input_held {
            return Outcome::next(next);
        }
        let outcome = self.settle_uart((done, change), vcpu, cpu, (&map.board, gic));
        Outcome { next, ..outcome }
    }

    /// What an access to the UART has brought about besides a byte to send.
    #[cold]
    #[inline(never)]
    fn settle_uart(
        &mut self,
        (done, change): (pl011::Outcome, Change),
        vcpu: &mut Vcpu,
        cpu: &mut impl Hardware,
        board_and_gic: (&Board, &impl Parts),
    ) -> Outcome {
        // Before anybody can learn of the access by its interrupt or by what this vCPU does next.
        self.change_uart_page(change, cpu);
        let outcome = self.set_uart_line(done.line, vcpu, cpu, board_and_gic);
        if done.room && self.is_input_held {
            let more = self.receive(vcpu, cpu, board_and_gic);
            return Outcome {
                kick: outcome.kick.union(more.kick),
                look: outcome.look.union(more.look),
                next: Next::Continue,
            };
        }
        outcome
    }

    /// Typed bytes wait: as many go to the guest's UART as that has room for.
    pub fn receive(
        &mut self,
        vcpu: &mut Vcpu,
        cpu: &mut impl Hardware,
        (board, gic): (&Board, &impl Parts),
    ) -> Outcome {
        let mut outcome = Outcome::NOTHING;
        loop {
            self.is_input_held = !self.uart.can_receive();
            if self.is_input_held {
                break;
            }
            let Some(byte) = self.typed.take() else {
                break;
            };
            let line = self.uart.receive(byte);
            let change = self.uart_window.changed(&self.uart);
            self.change_uart_page(change, cpu);
            let change = self.set_uart_line(line, vcpu, cpu, (board, gic));
            outcome.kick = outcome.kick.union(change.kick);
            outcome.look = outcome.look.union(change.look);
        }
        outcome
    }

    /// Does what the emulated UART's window asks for.
    #[cold]
    #[inline(never)]
    pub(super) fn change_uart_page(&self, change: Change, cpu: &mut impl Hardware) {
        match change {
            Change::Keep => {}
            Change::Write => cpu.write_uart_page(&self.uart.image()),
            Change::Open => {
                cpu.write_uart_page(&self.uart.image());
                cpu.show_uart_page(true);
            }
            Change::Close => cpu.show_uart_page(false),
        }
    }

    fn set_uart_line(
        &mut self,
        line: bool,
        vcpu: &mut Vcpu,
        cpu: &mut impl Hardware,
        (board, gic): (&Board, &impl Parts),
    ) -> Outcome {
        if core::mem::replace(&mut self.uart_line, line) == line {
            return Outcome::NOTHING;
        }
        self.set_line(self.uart_intid, line, vcpu, cpu, (board, gic))
    }

    /// The line of an emulated device's interrupt rises or falls.
    pub(super) fn set_line(
        &mut self,
        intid: IntId,
        line: bool,
        vcpu: &mut Vcpu,
        cpu: &mut impl Hardware,
        (board, gic): (&Board, &impl Parts),
    ) -> Outcome {
        let mut held = Held::of_interrupt(gic, vcpu.id, intid);
        let effects = held.set_line(intid, line);
        cpu.perform(&effects);
        drop(held);
        let mut outcome = match effects.bound {
            Some(intid) => self.take_bound(intid, vcpu, cpu, (board, gic)),
            None => Outcome::NOTHING,
        };
        outcome.kick = outcome.kick.union(effects.kick);
        outcome
    }
}
