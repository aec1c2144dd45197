//! The guest's registers as the hypervisor holds them, and the ports to those that stay in hardware.

/// What a guest exit saves and an entry restores. The layout is read by assembly through `offset_of!`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct GuestRegs {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Where the guest goes on (ELR_EL2).
    pub pc: u64,
    /// Its process state, in SPSR format (SPSR_EL2).
    pub pstate: u64,
    /// Not 0 while x20 to x28 are not in here: the exit is on its short way ([`crate::vm::Hardware::enter`]), and they are
    /// still in the registers themselves or where the hypervisor's functions keep them.
    pub is_partial: u64,
}

/// EL1 registers that stay in hardware while the hypervisor runs. The shell reads and writes the real
/// ones; [`El1Values`] stands in for them on the host.
pub trait El1 {
    /// VBAR_EL1.
    fn vbar(&self) -> u64;
    /// SCTLR_EL1.
    fn sctlr(&self) -> u64;
    /// SP_EL0 and SP_EL1.
    fn stack_pointers(&self) -> [u64; 2];
    /// What the last exception to EL1 has left.
    fn exception(&self) -> Exception;
    /// Sets ELR_EL1 and SPSR_EL1, as an exception to EL1 does.
    fn set_return(&mut self, elr: u64, spsr: u64);
    /// Sets ESR_EL1 and FAR_EL1, as an exception to EL1 does.
    fn set_syndrome(&mut self, esr: u64, far: u64);
}

/// What an exception to EL1 leaves in registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exception {
    /// ELR_EL1.
    pub elr: u64,
    /// SPSR_EL1.
    pub spsr: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
}

/// A set of EL1 registers in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct El1Values {
    /// VBAR_EL1.
    pub vbar: u64,
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// SP_EL0, SP_EL1.
    pub sp: [u64; 2],
    /// ELR_EL1.
    pub elr: u64,
    /// SPSR_EL1.
    pub spsr: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
}

impl El1 for El1Values {
    fn vbar(&self) -> u64 {
        self.vbar
    }
    fn sctlr(&self) -> u64 {
        self.sctlr
    }
    fn stack_pointers(&self) -> [u64; 2] {
        self.sp
    }
    fn exception(&self) -> Exception {
        Exception {
            elr: self.elr,
            spsr: self.spsr,
            esr: self.esr,
            far: self.far,
        }
    }
    fn set_return(&mut self, elr: u64, spsr: u64) {
        self.elr = elr;
        self.spsr = spsr;
    }
    fn set_syndrome(&mut self, esr: u64, far: u64) {
        self.esr = esr;
        self.far = far;
    }
}

/// PSTATE as SPSR_ELx holds it for AArch64 (DDI0487 C5.2.20).
pub mod pstate {
    /// Mode EL0t.
    pub const EL0T: u64 = 0b0000;
    /// Mode EL1t.
    pub const EL1T: u64 = 0b0100;
    /// Mode EL1h.
    pub const EL1H: u64 = 0b0101;
    /// The mode field, AArch32 bit M\[4\] included.
    pub const MODE: u64 = 0b1_1111;
    /// M\[4\]: the context is AArch32.
    pub const AARCH32: u64 = 1 << 4;
    /// D, A, I and F together.
    pub const DAIF: u64 = 0b1111 << 6;
    /// FIQ mask.
    pub const F: u64 = 1 << 6;
    /// IRQ mask.
    pub const I: u64 = 1 << 7;
    /// SError mask.
    pub const A: u64 = 1 << 8;
    /// Debug mask.
    pub const D: u64 = 1 << 9;
    /// Branch target type.
    pub const BTYPE: u64 = 0b11 << 10;
    /// Speculative store bypass safe.
    pub const SSBS: u64 = 1 << 12;
    /// All-interrupts mask (FEAT_NMI).
    pub const ALLINT: u64 = 1 << 13;
    /// Illegal execution state.
    pub const IL: u64 = 1 << 20;
    /// Software step.
    pub const SS: u64 = 1 << 21;
    /// Privileged access never.
    pub const PAN: u64 = 1 << 22;
    /// User access override.
    pub const UAO: u64 = 1 << 23;
    /// Data independent timing.
    pub const DIT: u64 = 1 << 24;
    /// Tag check override.
    pub const TCO: u64 = 1 << 25;
    /// Zero, of the condition flags. DDI0487 leaves them UNKNOWN out of reset; QEMU's CPUs have it set.
    pub const Z: u64 = 1 << 30;
    /// Condition flags.
    pub const NZCV: u64 = 0b1111 << 28;
}
