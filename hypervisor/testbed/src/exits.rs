//! What a guest does that exits, as its syndrome.

use hv_abi::operator::hashes::Word;
use hv_core::vm::{GuestExit, IpaRange, Syndrome};

/// Where a guest finds its memory.
pub const RAM: IpaRange = IpaRange {
    start: 0x4000_0000,
    size: 0x1000_0000,
};
/// What is in its memory at an address: something else at each that is near.
pub fn ram_byte(ipa: u64) -> u8 {
    (ipa ^ ipa >> 8 ^ ipa >> 16) as u8
}

/// What stands for the page of RAM at `ipa`: four pages of zeros come behind four others.
pub const fn page_word(ipa: u64) -> Word {
    if ipa >> 14 & 1 == 0 {
        Word::of_bits(1 << 63 | ipa)
    } else {
        Word::Zeros(1)
    }
}

/// Where it finds the distributor.
pub const DISTRIBUTOR: u64 = 0x0800_0000;
/// Where it finds GICC_DIR of a GICv2.
pub const GICC_DIR: u64 = 0x0801_1000;
/// Where it finds the redistributors of a GICv3.
pub const REDISTRIBUTORS: u64 = 0x080a_0000;
/// Where in a redistributor the registers of its private interrupts begin.
pub const SGI_FRAME: u64 = 0x1_0000;
/// Where it finds the emulated UART.
pub const UART: u64 = 0x0900_0000;
/// Where it finds its pvpanic, if it has one.
pub const PVPANIC: u64 = 0x0b00_0000;
/// Where it finds its own watchdog's frames, if it has one.
pub const GWDT: [IpaRange; 2] = [
    IpaRange {
        start: 0x0b01_0000,
        size: 0x1000,
    },
    IpaRange {
        start: 0x0b02_0000,
        size: 0x1000,
    },
];

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// A load of 1, 2, 4 or 8 bytes into this register.
    Load {
        /// Where.
        ipa: u64,
        /// How many bytes.
        size: u8,
        /// Into which register.
        rt: u8,
    },
    /// A store of 1, 2, 4 or 8 bytes out of this register.
    Store {
        /// Where.
        ipa: u64,
        /// How many bytes.
        size: u8,
        /// Out of which register.
        rt: u8,
    },
    /// MSR of S3_0_C12_`crm`_`op2`, a register of the GIC's CPU interface, out of this register.
    Write {
        /// CRm.
        crm: u8,
        /// op2.
        op2: u8,
        /// Out of which register.
        rt: u8,
    },
    /// MRS of the same.
    Read {
        /// CRm.
        crm: u8,
        /// op2.
        op2: u8,
        /// Into which register.
        rt: u8,
    },
    /// SMC #0.
    Smc,
}

/// Why a vCPU leaves its guest, and what the hardware says of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A synchronous exception.
    Synchronous {
        /// ESR_EL2.
        esr: u64,
        /// FAR_EL2.
        far: u64,
        /// HPFAR_EL2.
        hpfar: u64,
    },
    /// A physical interrupt.
    Interrupt,
}

impl Exit {
    /// As the hypervisor learns of it.
    pub(crate) fn split(self) -> (GuestExit, Syndrome) {
        match self {
            Self::Synchronous { esr, far, hpfar } => {
                (GuestExit::Synchronous, Syndrome { esr, far, hpfar })
            }
            Self::Interrupt => (GuestExit::Interrupt, Syndrome::default()),
        }
    }
}

/// ESR_EL2, FAR_EL2 and HPFAR_EL2 of it (DDI0487 D24.2).
pub fn exit_of(transfer: Transfer) -> Exit {
    const IL: u64 = 1 << 25;
    const WNR: u64 = 1 << 6;
    // A data abort from EL1 that is described (ISV), and a translation fault of level 3.
    const ABORT: u64 = 0x24 << 26 | IL | 1 << 24 | 0b00_0111;
    let abort = |ipa: u64, size: u8, rt: u8, direction: u64| Exit::Synchronous {
        esr: ABORT
            | u64::from(size.trailing_zeros()) << 22
            | u64::from(rt) << 16
            // SF: a load of 8 bytes fills a 64-bit register.
            | u64::from(size == 8) << 15
            | direction,
        far: ipa & 0xfff,
        hpfar: ipa >> 12 << 4,
    };
    let msr = |crm: u8, op2: u8, rt: u8, direction: u64| Exit::Synchronous {
        esr: 0x18 << 26
            | IL
            | 3 << 20
            | u64::from(op2) << 17
            | 12 << 10
            | u64::from(rt) << 5
            | u64::from(crm) << 1
            | direction,
        far: 0,
        hpfar: 0,
    };
    match transfer {
        Transfer::Load { ipa, size, rt } => abort(ipa, size, rt, 0),
        Transfer::Store { ipa, size, rt } => abort(ipa, size, rt, WNR),
        Transfer::Write { crm, op2, rt } => msr(crm, op2, rt, 0),
        Transfer::Read { crm, op2, rt } => msr(crm, op2, rt, 1),
        Transfer::Smc => Exit::Synchronous {
            esr: 0x17 << 26 | IL,
            far: 0,
            hpfar: 0,
        },
    }
}
