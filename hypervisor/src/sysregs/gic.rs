//! The GIC's system registers: the physical CPU interface, and the virtual one that guests use.

use core::arch::asm;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::*;
use hv_core::id::Mpidr;
use hv_core::vgic::interface::InterfaceState;
use hv_core::vgic::lr::{ListReg, hcr};

/// Turns the CPU interface on for EL2, with EOI split into priority drop and deactivation, and lets
/// EL1 use its virtual one (IHI0069 12.2).
pub fn enable_cpu_interface() {
    write!("S3_4_C12_C9_5", 0b1111); // ICC_SRE_EL2: Enable, DIB, DFB, SRE
    barrier::isb(barrier::SY);
    write!("S3_0_C12_C12_5", 0b111); // ICC_SRE_EL1: the guest has no choice either
    write!("S3_0_C4_C6_0", 0xff); // ICC_PMR_EL1: everything passes
    write!("S3_0_C12_C12_3", 0); // ICC_BPR1_EL1
    clear_active_priorities();
    write!("S3_0_C12_C12_4", 0b10); // ICC_CTLR_EL1.EOImode
    write!("S3_0_C12_C12_7", 1); // ICC_IGRPEN1_EL1
    barrier::isb(barrier::SY);
}

/// ICC_AP1R<n>_EL1, of which there are as many as ICC_CTLR_EL1.PRIbits says (IHI0069 12.2): a priority that a loader has left active would
/// keep back all that are not higher.
fn clear_active_priorities() {
    let priority_bits = (read!("S3_0_C12_C12_4") >> 8 & 7) + 1;
    write!("S3_0_C12_C9_0", 0);
    if priority_bits >= 6 {
        write!("S3_0_C12_C9_1", 0);
    }
    if priority_bits >= 7 {
        write!("S3_0_C12_C9_2", 0);
        write!("S3_0_C12_C9_3", 0);
    }
}

/// Turns the CPU interface off for good: this pCPU takes no interrupt any more.
pub fn disable_cpu_interface() {
    write!("S3_0_C12_C12_7", 0);
    barrier::isb(barrier::SY);
}

/// Deactivates `intid` (ICC_DIR_EL1).
#[inline]
pub fn deactivate(intid: u32) {
    write!("S3_0_C12_C11_1", u64::from(intid));
}

/// Drops the priority of `intid` (ICC_EOIR1_EL1 with EOImode set).
#[inline]
pub fn drop_priority(intid: u32) {
    write!("S3_0_C12_C12_1", u64::from(intid));
}

/// Acknowledges the highest pending interrupt (ICC_IAR1_EL1); 1023 when there is none.
#[inline]
pub fn acknowledge() -> u32 {
    let intid = read!("S3_0_C12_C12_0") as u32 & 0xff_ffff;
    // The read has side effects; accesses to the device come after it (IHI0069 4.2.4).
    barrier::dsb(barrier::SY);
    intid
}

/// ICC_SGI1R_EL1 for an SGI to one pCPU.
pub fn sgi(intid: u32, to: Mpidr) -> u64 {
    u64::from(to.aff(3)) << 48
        | u64::from(to.aff(0) >> 4) << 44
        | u64::from(to.aff(2)) << 32
        | u64::from(intid & 0xf) << 24
        | u64::from(to.aff(1)) << 16
        | 1 << (to.aff(0) & 0xf)
}

/// ICC_SGI1R_EL1.
#[inline]
pub fn send_sgi(value: u64) {
    write!("S3_0_C12_C11_5", value);
    barrier::isb(barrier::SY);
}

/// Number of list registers and of priority bits (ICH_VTR_EL2).
pub fn virtual_interface() -> (usize, u32) {
    let vtr = ICH_VTR_EL2.get();
    ((vtr & 0x1f) as usize + 1, (vtr >> 29 & 7) as u32 + 1)
}

/// ICH_HCR_EL2.
#[inline]
pub fn ich_hcr() -> u64 {
    ICH_HCR_EL2.get()
}

/// ICH_VMCR_EL2.
#[inline]
pub fn ich_vmcr() -> u64 {
    ICH_VMCR_EL2.get()
}

/// ICH_ELRSR_EL2 (IHI0069 12.4).
#[inline]
pub fn empty_list_registers() -> u64 {
    read!("S3_4_C12_C11_5")
}

/// ICH_EISR_EL2 (IHI0069 12.4).
#[inline]
pub fn ended_list_registers() -> u64 {
    read!("S3_4_C12_C11_3")
}

/// Sets ICH_HCR_EL2, with TDIR or what stands for it (ICH_VTR_EL2.TDS).
#[inline]
pub fn set_ich_hcr(value: u64) {
    let has_tdir = ICH_VTR_EL2.get() & 1 << 19 != 0;
    ICH_HCR_EL2.set(hcr::as_available(value, has_tdir));
}

/// What the virtual CPU interface holds.
#[cold]
pub fn interface_state() -> InterfaceState {
    let vtr = ICH_VTR_EL2.get();
    let mut active = [0; 4];
    let bits = vtr >> 26 & 7;
    active[0] = (ICH_AP0R0_EL2.get() | ICH_AP1R0_EL2.get()) as u32;
    if bits >= 5 {
        active[1] = (ICH_AP0R1_EL2.get() | ICH_AP1R1_EL2.get()) as u32;
    }
    if bits >= 6 {
        active[2] = (ICH_AP0R2_EL2.get() | ICH_AP1R2_EL2.get()) as u32;
        active[3] = (ICH_AP0R3_EL2.get() | ICH_AP1R3_EL2.get()) as u32;
    }
    InterfaceState {
        vmcr: ICH_VMCR_EL2.get(),
        vtr,
        active,
    }
}

/// Sets ICH_VMCR_EL2.
#[cold]
pub fn set_ich_vmcr(value: u64) {
    ICH_VMCR_EL2.set(value);
}

/// The virtual CPU interface out of reset: everything disabled, nothing active.
pub fn reset_virtual_interface() {
    write!("S3_0_C12_C12_5", 0b111); // ICC_SRE_EL1, where a guest may have written
    ICH_HCR_EL2.set(0);
    ICH_VMCR_EL2.set(0);
    let priority_bits = virtual_interface().1;
    ICH_AP0R0_EL2.set(0);
    ICH_AP1R0_EL2.set(0);
    if priority_bits >= 6 {
        ICH_AP0R1_EL2.set(0);
        ICH_AP1R1_EL2.set(0);
    }
    if priority_bits >= 7 {
        ICH_AP0R2_EL2.set(0);
        ICH_AP1R2_EL2.set(0);
        ICH_AP0R3_EL2.set(0);
        ICH_AP1R3_EL2.set(0);
    }
    barrier::isb(barrier::SY);
}

macro_rules! list_registers {
    ($($index:literal $register:ident),*) => {
        /// List register `index`.
        #[inline]
        pub fn list_register(index: usize) -> ListReg {
            ListReg::decode_v3(match index {
                $($index => $register.get(),)*
                _ => 0,
            })
        }

        /// Sets list register `index`, most often the first one.
        #[inline(always)]
        pub fn set_list_register(index: usize, word: u64) {
            if index == 0 {
                ICH_LR0_EL2.set(word);
            } else {
                set_later_list_register(index, word);
            }
        }

        #[inline]
        fn set_later_list_register(index: usize, word: u64) {
            match index {
                $($index => $register.set(word),)*
                _ => {}
            }
        }
    };
}
list_registers!(
    0 ICH_LR0_EL2, 1 ICH_LR1_EL2, 2 ICH_LR2_EL2, 3 ICH_LR3_EL2, 4 ICH_LR4_EL2, 5 ICH_LR5_EL2,
    6 ICH_LR6_EL2, 7 ICH_LR7_EL2, 8 ICH_LR8_EL2, 9 ICH_LR9_EL2, 10 ICH_LR10_EL2, 11 ICH_LR11_EL2,
    12 ICH_LR12_EL2, 13 ICH_LR13_EL2, 14 ICH_LR14_EL2, 15 ICH_LR15_EL2
);
