//! What the guest of a [`Machine`] does.

use hv_abi::psci;
use hv_core::id::{IntId, Mpidr, VcpuId};
use hv_core::vgic::Model;
use hv_core::vm::REDISTRIBUTOR_SIZE;

use crate::exits::{DISTRIBUTOR, GICC_DIR, RAM, REDISTRIBUTORS, SGI_FRAME, Transfer, exit_of};
use crate::world::Place;
use crate::{Acknowledged, Ended, Machine};

impl Machine {
    // What a guest does that exits.

    /// A store of `size` bytes.
    pub fn store(&mut self, n: u8, ipa: u64, size: u8, value: u64) {
        self.regs(n).x[1] = value;
        self.exit(n, exit_of(Transfer::Store { ipa, size, rt: 1 }));
    }

    /// A load of `size` bytes; `None` if the guest has to run it again.
    pub fn load(&mut self, n: u8, ipa: u64, size: u8) -> Option<u64> {
        let pc = self.regs(n).pc;
        self.exit(n, exit_of(Transfer::Load { ipa, size, rt: 2 }));
        let regs = self.regs(n);
        (regs.pc != pc).then(|| regs.x[2])
    }

    /// A load that is run again until siblings, who take their kicks meanwhile, have answered.
    ///
    /// # Panics
    ///
    /// If it finds no end.
    pub fn poll(&mut self, n: u8, ipa: u64, size: u8) -> u64 {
        for _ in 0..3 * self.vcpus() {
            if let Some(value) = self.load(n, ipa, size) {
                return value;
            }
            for other in 0..self.vcpus() {
                self.interrupt(other);
            }
        }
        panic!("the load at {ipa:#x} finds no end");
    }

    /// MSR of S3_0_C12_`crm`_`op2`.
    pub fn write_register(&mut self, n: u8, (crm, op2): (u8, u8), value: u64) {
        self.regs(n).x[1] = value;
        self.exit(n, exit_of(Transfer::Write { crm, op2, rt: 1 }));
    }

    /// MRS of S3_0_C12_`crm`_`op2`.
    pub fn read_register(&mut self, n: u8, (crm, op2): (u8, u8)) -> u64 {
        self.exit(n, exit_of(Transfer::Read { crm, op2, rt: 2 }));
        self.regs(n).x[2]
    }

    /// ICC_SGI1R_EL1: to vCPUs of affinity 0.0.0.n with n in `targets`.
    pub fn send_sgi(&mut self, n: u8, intid: u32, targets: u16) {
        self.write_register(n, (11, 5), u64::from(intid) << 24 | u64::from(targets));
    }

    /// SMC with these in x0 and on; what is in x0 then.
    pub fn call(&mut self, n: u8, function: u32, args: &[u64]) -> u64 {
        {
            let mut regs = self.regs(n);
            regs.x[0] = function.into();
            regs.x[1..=args.len()].copy_from_slice(args);
        }
        self.exit(n, exit_of(Transfer::Smc));
        self.regs(n).x[0]
    }

    /// CPU_ON of `target`, which then is in its guest.
    ///
    /// # Panics
    ///
    /// If it is not off.
    pub fn turn_on(&mut self, n: u8, target: u8) {
        let mpidr = self
            .world
            .map
            .affinities
            .mpidr(VcpuId(target))
            .map_or(0, Mpidr::bits);
        let answer = self.call(n, psci::CPU_ON[1], &[mpidr, RAM.start, 0]);
        assert_eq!(answer as i64, 0, "CPU_ON of vCPU {target}");
        self.interrupt(target);
        assert!(self.is_on(target));
    }

    /// CPU_OFF.
    pub fn turn_off(&mut self, n: u8) {
        self.call(n, psci::CPU_OFF, &[]);
        assert_eq!(self.place(n), Place::Asleep);
    }

    /// SYSTEM_RESET by a vCPU that is on, until vCPU 0 is in the guest that was loaded anew.
    ///
    /// # Panics
    ///
    /// If that does not come to be.
    pub fn reset(&mut self, n: u8) {
        self.call(n, psci::SYSTEM_RESET, &[]);
        self.finish_end();
        assert!(self.is_on(0), "vCPU 0 is {:?}", self.place(0));
    }

    /// If a vCPU ends the VM, has its siblings leave until it has. After a reset vCPU 0 is in the guest.
    ///
    /// # Panics
    ///
    /// If they never do.
    pub fn finish_end(&mut self) {
        for _ in 0..200 {
            let mut all = 0..self.vcpus();
            let Some(by) = all.find(|&n| self.place(n) == Place::Waiting) else {
                return;
            };
            // Who waits takes no interrupt.
            for other in (0..self.vcpus()).filter(|&other| other != by) {
                self.interrupt(other);
            }
            self.run(by);
            if self.place(by) != Place::Waiting {
                self.settle();
            }
        }
        panic!("the VM never ends");
    }

    /// ICC_DIR_EL1 or GICC_DIR, which mostly traps.
    pub fn deactivate(&mut self, n: u8, which: Acknowledged) {
        if !self.interface(n).traps_deactivation() {
            let ended = self.interface(n).deactivate(which);
            if let Ended::Physical(intid) = ended {
                self.physical().deactivate(intid, n);
            }
            self.check();
        } else if self.world.map.gic == Model::V3 {
            self.write_register(n, (11, 1), which.intid.0.into());
        } else {
            let word = u64::from(which.sender) << 10 | u64::from(which.intid.0);
            self.store(n, GICC_DIR, 4, word);
        }
    }

    // What a guest does without an exit.

    /// Takes the interrupt that is signalled to vCPU `n`, if any.
    pub fn acknowledge(&mut self, n: u8) -> Option<Acknowledged> {
        if !self.is_on(n) {
            return None;
        }
        let taken = self.interface(n).acknowledge();
        self.check();
        taken
    }

    /// Ends the interrupt that vCPU `n` acknowledged last.
    pub fn end(&mut self, n: u8) -> Option<Acknowledged> {
        if !self.is_on(n) {
            return None;
        }
        let (last, ended) = self.interface(n).end()?;
        if let Ended::Physical(intid) = ended {
            self.physical().deactivate(intid, n);
        }
        self.check();
        Some(last)
    }

    // Where things are.

    /// Where the register of an interrupt is in a bank of one bit each, and its bit.
    pub fn bit_of(&self, bank: u64, intid: IntId, owner: u8) -> (u64, u32) {
        let offset = bank + u64::from(intid.0 / 32) * 4;
        (self.place_of(intid, owner) + offset, intid.0 % 32)
    }

    /// Where the frame begins that has the registers of an interrupt.
    pub fn place_of(&self, intid: IntId, owner: u8) -> u64 {
        if intid.is_private() && self.world.map.gic == Model::V3 {
            REDISTRIBUTORS + u64::from(owner) * REDISTRIBUTOR_SIZE + SGI_FRAME
        } else {
            DISTRIBUTOR
        }
    }

    /// Writes 1 to the bit of an interrupt.
    pub fn store_bit(&mut self, n: u8, bank: u64, intid: IntId, owner: u8) {
        let (ipa, bit) = self.bit_of(bank, intid, owner);
        self.store(n, ipa, 4, 1 << bit);
    }

    /// Reads the bit of an interrupt, see [`poll`](Self::poll).
    pub fn poll_bit(&mut self, n: u8, bank: u64, intid: IntId, owner: u8) -> bool {
        let (ipa, bit) = self.bit_of(bank, intid, owner);
        self.poll(n, ipa, 4) >> bit & 1 != 0
    }
}
