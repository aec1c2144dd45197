//! SMC and HVC with all their registers (DEN0028 2.6).

use core::arch::asm;

/// x0 to x17: arguments in, results out.
pub type Registers = [u64; 18];

/// Which instruction calls the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// `HVC #0`
    Hvc,
    /// `SMC #0`
    Smc,
}

impl Conduit {
    /// Both, for tests that hold for either.
    pub const BOTH: [Self; 2] = [Self::Hvc, Self::Smc];

    /// What the `method` property of a devicetree node says.
    pub fn from_method(method: &str) -> Option<Self> {
        match method {
            "hvc" => Some(Self::Hvc),
            "smc" => Some(Self::Smc),
            _ => None,
        }
    }
}

macro_rules! call_with {
    ($instruction:literal, $immediate:expr, $x:expr) => {{
        let mut x: Registers = $x;
        // SAFETY: a call by SMCCC: it may change x0-x17 and nothing else of ours. Calls that do not
        // return, or that move control elsewhere (CPU_ON, SDEI), are argued where they are made.
        unsafe {
            asm!(
                concat!($instruction, " #{immediate}"),
                immediate = const $immediate,
                inlateout("x0") x[0], inlateout("x1") x[1], inlateout("x2") x[2],
                inlateout("x3") x[3], inlateout("x4") x[4], inlateout("x5") x[5],
                inlateout("x6") x[6], inlateout("x7") x[7], inlateout("x8") x[8],
                inlateout("x9") x[9], inlateout("x10") x[10], inlateout("x11") x[11],
                inlateout("x12") x[12], inlateout("x13") x[13], inlateout("x14") x[14],
                inlateout("x15") x[15], inlateout("x16") x[16], inlateout("x17") x[17],
                options(nostack),
            );
        }
        x
    }};
}

/// Calls with all eighteen registers.
pub fn call_all(conduit: Conduit, x: Registers) -> Registers {
    match conduit {
        Conduit::Hvc => call_with!("hvc", 0, x),
        Conduit::Smc => call_with!("smc", 0, x),
    }
}

/// Calls with an immediate other than 0.
pub fn call_with_immediate<const IMMEDIATE: u16>(conduit: Conduit, x: Registers) -> Registers {
    match conduit {
        Conduit::Hvc => call_with!("hvc", IMMEDIATE, x),
        Conduit::Smc => call_with!("smc", IMMEDIATE, x),
    }
}

/// Calls function `id` with up to five arguments and returns x0.
pub fn call(conduit: Conduit, id: u32, arguments: &[u64]) -> i64 {
    let mut x = [0; 18];
    x[0] = u64::from(id);
    for (register, argument) in x.iter_mut().skip(1).zip(arguments) {
        *register = *argument;
    }
    call_all(conduit, x)[0] as i64
}
