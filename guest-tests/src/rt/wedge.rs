//! Ways for a CPU to be stuck, and the one way out: event 0, whose handler resumes at [`escape`].

use core::arch::global_asm;
use core::mem::offset_of;
use core::ops::Range;

use super::call::Conduit;
use super::machine::machine;
use super::{exception, sdei, sysreg};

/// Where wedge.S keeps the caller's registers; its first 112 bytes are x19-x30, SP and DAIF.
#[repr(C, align(16))]
struct Escape {
    registers: [u64; 14],
    lock: u64,
    by_smc: u64,
}

global_asm!(
    include_str!("wedge.S"),
    lock = const offset_of!(Escape, lock),
    by_smc = const offset_of!(Escape, by_smc),
    signal = const hv_abi::sdei::Call::EventSignal as u32,
);

macro_rules! wedges {
    ($($(#[$doc:meta])* $kind:ident: $into:ident, $begin:ident, $end:ident;)+) => {
        /// How a CPU is stuck.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Wedge {
            $($(#[$doc])* $kind,)+
        }

        unsafe extern "C" {
            $(
                fn $into(escape: *mut Escape, parameter: u64);
                fn $begin();
                fn $end();
            )+
            fn wedge_escape();
        }

        impl Wedge {
            fn routine(self) -> unsafe extern "C" fn(*mut Escape, u64) {
                match self {
                    $(Self::$kind => $into,)+
                }
            }

            /// The addresses of its loop.
            pub fn code(self) -> Range<u64> {
                match self {
                    $(Self::$kind => $begin as *const () as u64..$end as *const () as u64,)+
                }
            }
        }
    };
}

wedges! {
    /// DAIF masked, a branch to itself.
    Spin: wedge_into_spin, wedge_spin, wedge_spin_end;
    /// DAIF masked, waiting for a lock that is never released.
    Lock: wedge_into_lock, wedge_lock, wedge_lock_end;
    /// DAIF masked, in WFI.
    Wfi: wedge_into_wfi, wedge_wfi, wedge_wfi_end;
    /// DAIF masked, in WFE.
    Wfe: wedge_into_wfe, wedge_wfe, wedge_wfe_end;
    /// DAIF masked, SP_EL1 no address.
    Stack: wedge_into_stack, wedge_stack, wedge_stack_end;
    /// DAIF masked, MMU and data cache off.
    Mmu: wedge_into_mmu, wedge_mmu, wedge_mmu_end;
    /// DAIF masked, calling an unknown function for ever.
    Call: wedge_into_call, wedge_call, wedge_call_end;
    /// DAIF masked, signalling itself for ever.
    Signal: wedge_into_signal, wedge_signal, wedge_signal_end;
    /// VBAR_EL1 where nothing is: an exception in every exception.
    Vectors: wedge_into_vectors, wedge_vectors, wedge_vectors_end;
    /// DAIF masked, at EL1t.
    Thread: wedge_into_thread, wedge_thread, wedge_thread_end;
}

/// Is stuck as `wedge` says, until a handler of event 0 resumes at [`escape`].
pub fn enter(wedge: Wedge) {
    let mut place = Escape {
        registers: [0; 14],
        lock: 0,
        by_smc: u64::from(sdei::conduit() == Conduit::Smc),
    };
    let parameter = match wedge {
        Wedge::Vectors => nowhere(),
        Wedge::Signal => sysreg::affinity(),
        _ => 0x8200_0000,
    };
    // SAFETY: the routine keeps the C calling convention if it returns at all; it returns by
    // `escape`, with x19 pointing at `place`, which lives until then.
    unsafe { wedge.routine()(&raw mut place, parameter) };
    exception::install_vectors();
}

/// Where a handler must resume to get its CPU out of a wedge.
pub fn escape() -> u64 {
    wedge_escape as *const () as u64
}

/// Points VBAR_EL1 where nothing is; the way out of a wedge puts it right again.
pub fn lose_vectors() {
    sysreg::write!("vbar_el1", nowhere());
    sysreg::isb();
}

/// The vector base of [`Wedge::Vectors`]: above all memory.
pub fn nowhere() -> u64 {
    machine().home().end() + 0x10_0000
}
