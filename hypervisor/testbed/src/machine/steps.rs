//! What a test has happen to the vCPUs of a machine.

use hv_core::id::IntId;
use hv_core::vgic::LrSource;

use super::Machine;
use crate::Exit;

impl Machine {
    /// Who waits for siblings has waited for too long.
    pub fn lose_patience(&self) {
        self.world.is_patient.set(false);
    }

    /// The guest's vCPU `n` stands at this instruction from now on.
    pub fn stand_at(&self, n: u8, instruction: u32) {
        self.seat(n).instruction.set(Some(instruction));
    }

    pub(crate) fn run(&mut self, n: u8) {
        self.cpus[usize::from(n)].resume(());
        self.check();
    }

    /// vCPU `n`, which waits for its siblings, looks at them again.
    pub fn proceed(&mut self, n: u8) {
        self.run(n);
    }

    /// vCPU `n` leaves its guest, and comes back or sleeps.
    ///
    /// # Panics
    ///
    /// If it is not in its guest.
    pub fn exit(&mut self, n: u8, why: Exit) {
        assert!(self.is_on(n), "vCPU {n} is not in its guest");
        self.seat(n).exit.set(Some(why));
        self.run(n);
    }

    /// vCPU `n` takes all that interrupts it. One that sleeps is woken by that.
    ///
    /// # Panics
    ///
    /// If there is no end to it.
    pub fn interrupt(&mut self, n: u8) {
        for _ in 0..200 {
            if !self.world.is_interrupted(n) {
                return;
            }
            if self.is_on(n) {
                self.exit(n, Exit::Interrupt);
            } else {
                self.run(n);
            }
        }
        panic!("vCPU {n} is interrupted without end");
    }

    /// Whether something interrupts vCPU `n`.
    pub fn is_interrupted(&self, n: u8) -> bool {
        self.world.is_interrupted(n)
    }

    /// All take what interrupts them, until nothing does.
    ///
    /// # Panics
    ///
    /// If there is no end to it.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            let Some(n) = (0..self.vcpus()).find(|&n| self.world.is_interrupted(n)) else {
                return;
            };
            self.interrupt(n);
        }
        panic!("interrupts without end");
    }

    /// What must be true at any time: an interrupt is in one list register, and if that has HW = 1, the physical
    /// interrupt is active.
    pub(crate) fn check(&self) {
        let mut seen = Vec::new();
        for n in 0..self.vcpus() {
            for lr in self.interface(n).contents() {
                let intid = IntId(lr.vintid);
                let key = (intid, intid.is_private().then_some(n));
                assert!(!seen.contains(&key), "{intid:?} is in two list registers");
                seen.push(key);
                if let LrSource::Hardware { pintid } = lr.source {
                    assert_eq!(pintid, lr.vintid);
                    let is_active = self.physical().wire(intid, n).active;
                    assert!(is_active, "{intid:?} has HW = 1 and is not active");
                }
            }
        }
    }
}
