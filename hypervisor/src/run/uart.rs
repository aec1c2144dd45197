//! The guest's PL011 on the machine's.

use hv_core::exit::MmioAccess;
use hv_core::id::{IntId, VcpuSet};
use hv_core::vm::{read_register, write_register};

use super::Runner;
use crate::console;
use crate::vm::Shared;

impl Runner {
    pub(super) fn access_uart(&mut self, offset: u64, access: MmioAccess) {
        let (outcome, kick, is_released) = {
            let vm = self.vm;
            let mut shared = vm.lock();
            let outcome = if access.is_write {
                let value = read_register(&self.regs, access.rt) as u32;
                shared.uart.write(offset, access.size, value)
            } else {
                let (value, outcome) = shared.uart.read(offset, access.size);
                write_register(&mut self.regs, access.rt, access.extend(u64::from(value)));
                outcome
            };
            let kick = self.set_uart_line(&mut shared, outcome.line);
            let is_released = outcome.room && core::mem::take(&mut shared.is_receive_held);
            (outcome, kick, is_released)
        };
        self.kick(kick);
        if let Some(byte) = outcome.transmit {
            console::write_guest(byte);
        }
        if is_released {
            console::set_receive(true);
        }
        self.regs.pc = self.regs.pc.wrapping_add(4);
    }

    /// Bytes have arrived: as many as the guest's UART has room for.
    pub(super) fn receive(&mut self) {
        let mut set = VcpuSet::EMPTY;
        loop {
            let vm = self.vm;
            let mut shared = vm.lock();
            if !shared.uart.can_receive() {
                shared.is_receive_held = true;
                console::set_receive(false);
                break;
            }
            let Some(byte) = console::read() else {
                break;
            };
            let line = shared.uart.receive(byte);
            set = set.union(self.set_uart_line(&mut shared, line));
        }
        self.kick(set);
    }

    fn set_uart_line(&mut self, shared: &mut Shared, line: bool) -> VcpuSet {
        if core::mem::replace(&mut shared.uart_line, line) == line {
            return VcpuSet::EMPTY;
        }
        let effects = shared.vgic.set_line(IntId(self.vm.uart_intid), None, line);
        self.arrive(shared, &effects)
    }
}
