//! Steps made up from numbers that look like none: calls, accesses to system registers, accesses to memory and devices,
//! and words that are no instruction of ours.

use hv_abi::{psci, sdei, smccc, trng, vendor};

use crate::rt::assault::{Places, Step};
use crate::rt::cpu;
use crate::rt::machine::machine;
use crate::rt::mmio::Region;

/// A sequence of numbers that looks like none.
pub struct Numbers(u64);

impl Numbers {
    /// The sequence that `seed` stands for.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number (xorshift64*).
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SMC or HVC.
    Call,
    /// MRS, MSR or SYS, of every encoding.
    Register,
    /// A load, a store, maintenance or a jump.
    Access,
    /// Any word.
    Word,
}

/// A step, and what must not come of it.
#[derive(Clone, Copy)]
pub struct Made {
    pub step: Step,
    pub kind: Kind,
    /// It reads or writes what is not the guest's: it cannot go through.
    pub must_fault: bool,
}

/// Functions that end the run; nobody calls them.
const ENDS: [u32; 6] = [
    psci::SYSTEM_OFF,
    psci::SYSTEM_RESET,
    psci::SYSTEM_RESET2[0],
    psci::SYSTEM_RESET2[1],
    psci::SYSTEM_OFF2[0],
    psci::SYSTEM_OFF2[1],
];

/// Functions that there are, and where there may be some: the first of a range.
const FUNCTIONS: [u32; 24] = [
    psci::VERSION,
    psci::CPU_SUSPEND[0],
    psci::CPU_SUSPEND[1],
    psci::CPU_ON[0],
    psci::CPU_ON[1],
    psci::AFFINITY_INFO[0],
    psci::AFFINITY_INFO[1],
    psci::MIGRATE_INFO_TYPE,
    psci::FEATURES,
    psci::SYSTEM_SUSPEND[0],
    psci::SYSTEM_SUSPEND[1],
    psci::CLEAN_INV_MEMREGION[0],
    psci::CLEAN_INV_MEMREGION[1],
    trng::VERSION,
    trng::FEATURES,
    trng::GET_UUID,
    trng::RND32,
    trng::RND64,
    smccc::VERSION,
    smccc::ARCH_FEATURES,
    smccc::ARCH_WORKAROUND_1,
    smccc::VENDOR_HYP_UID,
    smccc::VENDOR_HYP_REVISION,
    vendor::EVENT_RAISE,
];
const RANGES: [u32; 8] = [
    0x8400_0000,
    0xc400_0000,
    0x8600_ff00,
    0xc600_0000,
    0x8000_0000,
    0xc000_0000,
    0x8500_0000,
    0xb200_0000,
];

/// Loads and stores of x2, and x3 where there are two, at x1; x4 is a status or an operand. All of them read or write.
const ACCESSES: [u32; 48] = [
    0x3940_0022,
    0x3900_0022,
    0x3980_0022,
    0x39c0_0022, // LDRB, STRB, LDRSB X, LDRSB W
    0x7940_0022,
    0x7900_0022,
    0x7980_0022,
    0x79c0_0022, // halfwords
    0xb940_0022,
    0xb900_0022,
    0xb980_0022,
    0xf940_0022,
    0xf900_0022, // LDR W, STR W, LDRSW, LDR X, STR X
    0xf840_8422,
    0xf800_8422,
    0xf840_8c22,
    0xf800_8c22, // post-index and pre-index
    0xb840_4422,
    0xb800_4422,
    0x3840_1422,
    0x3800_1422,
    0xa940_0c22,
    0xa900_0c22,
    0x2940_0c22,
    0x2900_0c22, // LDP, STP
    0xa8c1_0c22,
    0xa881_0c22,
    0xa9c1_0c22,
    0x6940_0c22,
    0xa840_0c22,
    0xa800_0c22, // LDP post, STP post, LDPSW, LDNP, STNP
    0xf840_0822,
    0xf800_0822, // LDTR, STTR
    0x3dc0_0022,
    0x3d80_0022,
    0xad40_0c22,
    0xad00_0c22,
    0xfd40_0022,
    0xbd40_0022, // SIMD and FP registers
    0x4c40_7022,
    0x4c00_7022,
    0x0c40_8022,
    0x4ddf_c822, // LD1, ST1, LD2, LD1R
    0xc85f_7c22,
    0x885f_7c22,
    0xc8df_fc22,
    0xc89f_fc22,
    0x88df_fc22, // LDXR, LDAR, STLR
];
/// More of them: those that need not access, maintenance, hints, jumps, atomics.
const OTHERS: [u32; 24] = [
    0xc804_7c22,
    0xc87f_0c22,
    0xf8bf_c022, // STXR, LDXP, LDAPR
    0xf824_8022,
    0xf824_0022,
    0xb864_8022,
    0xc8e4_7c22,
    0x4824_7c22, // SWP, LDADD, CAS, CASP
    0xd50b_7421,
    0xd50b_7e21,
    0xd508_7621,
    0xd50b_7521,
    0xd50b_7a21, // DC ZVA, CIVAC, IVAC, IC IVAU, DC CVAC
    0xd508_7801,
    0xd508_7841,
    0xd50c_7801, // AT S1E1R, S1E0R, S1E2R
    0xf980_0020,
    0xf820_0422,
    0xd960_0022,
    0xd920_0822,
    0xf83f_d022, // PRFM, LDRAA, LDG, STG, LD64B
    0xd61f_0020,
    0xd63f_0020,
    0xd65f_0020, // BR, BLR, RET
];

/// Where a guest's addresses may lead.
pub struct Map {
    places: Places,
    /// What is not the guest's beside its RAM.
    foreign: Option<Region>,
    devices: [Option<Region>; 4],
}

impl Map {
    /// As the devicetree says; of a CPU whose sandbox has these places.
    pub fn new(places: Places) -> Self {
        let machine = machine();
        let end = machine.home().end();
        let limit = (((end >> 30) + 1) << 30).min(end + (64 << 20));
        // Of 64 MiB behind the RAM, as much as the devicetree names nothing in: a look takes its time.
        let is_named = |at: u64| {
            let mut memory = machine.memory.iter().flatten();
            machine.describes(at) || memory.any(|ram| ram.contains(at))
        };
        let mut size = 0;
        while end + size < limit && !is_named(end + size) {
            size += 0x20_0000;
        }
        let region = |device: crate::rt::mmio::Device| device.region();
        Self {
            places,
            foreign: (size > 0).then_some(Region { base: end, size }),
            devices: [
                Some(region(machine.gicd)),
                machine.gicr.map(region),
                machine.gicc.map(region),
                Some(region(machine.uart)),
            ],
        }
    }

    pub fn device(&self, numbers: &mut Numbers) -> u64 {
        let region = numbers
            .one_of(&self.devices)
            .unwrap_or(machine().gicd.region());
        let offset = numbers.below(region.size);
        // What the console prints would fill the log.
        if region == machine().uart.region() && offset & 0xffc == 0 {
            return region.base + 0x18;
        }
        region.base + offset
    }

    pub fn foreign(&self, numbers: &mut Numbers) -> Option<u64> {
        let region = self.foreign?;
        // More often near the guest's RAM, where the hypervisor is.
        let reach = region.size.min(1 << (12 + numbers.below(20)));
        Some(region.base + numbers.below(reach))
    }

    /// A value for a register.
    fn value(&self, numbers: &mut Numbers) -> u64 {
        match numbers.below(10) {
            0 => numbers.below(64),
            1 => self.device(numbers) & !7,
            2 => self.foreign(numbers).unwrap_or(0),
            // Not the hypervisor's own base, which nobody is to show.
            3 => match numbers.below(64) {
                47 => 0,
                bit => 1 << bit,
            },
            4 => self.places.scratch + numbers.below(4096),
            5 => u64::MAX << numbers.below(64),
            6 => numbers.next() & 0xff_ffff_ffff,
            _ => numbers.next(),
        }
    }

    /// One for a call: an address of the guest's only if a CPU without the sandbox's tables may begin there.
    fn argument(&self, numbers: &mut Numbers) -> u64 {
        match numbers.below(10) {
            0 | 1 => numbers.below(4),
            2 => cpu::affinity(numbers.below(cpu::count() as u64) as usize),
            3 => numbers.one_of(&[0x100, 0x101, 0x200, 0x201, 0x202, 1 << 30, 1 << 30 | 1]),
            4 => numbers.below(1024),
            5 => self.places.park + numbers.below(2),
            6 => self.places.handler,
            7 => self.device(numbers),
            8 => self.foreign(numbers).unwrap_or(0),
            // Odd: of some calls 32 bits count, and those may be an address of the guest's RAM.
            _ => numbers.next() | 1,
        }
    }
}

/// Makes up steps; each system register has its turn.
pub struct Maker {
    pub numbers: Numbers,
    map: Map,
    encoding: u64,
}

impl Maker {
    pub fn new(seed: u64, places: Places) -> Self {
        let mut numbers = Numbers::new(seed);
        let encoding = numbers.next();
        Self {
            numbers,
            map: Map::new(places),
            encoding,
        }
    }

    /// The next step.
    pub fn make(&mut self) -> Made {
        let map = &self.map;
        let numbers = &mut self.numbers;
        let x = core::array::from_fn(|_| map.value(numbers));
        let mut made = Made {
            step: Step {
                word: 0,
                x,
                pstate: pstate(numbers),
                is_flat: false,
            },
            kind: Kind::Word,
            must_fault: false,
        };
        match numbers.below(16) {
            0..4 => self.call(&mut made),
            4..8 => self.register(&mut made),
            8..13 => self.access(&mut made),
            _ => made.step.word = word(&mut self.numbers),
        }
        if ENDS.contains(&(made.step.x[0] as u32)) {
            made.step.x[0] = 0;
        }
        made
    }

    fn call(&mut self, made: &mut Made) {
        let numbers = &mut self.numbers;
        made.kind = Kind::Call;
        let immediate = match numbers.below(16) {
            0 => numbers.next() as u32 & 0xffff,
            _ => 0,
        };
        let conduit = numbers.one_of(&[0xd400_0002, 0xd400_0003]);
        made.step.word = conduit | immediate << 5;
        let function = match numbers.below(8) {
            0..3 => numbers.one_of(&sdei::Call::ALL) as u32,
            3 | 4 => numbers.one_of(&FUNCTIONS),
            5 => numbers.one_of(&RANGES) + numbers.below(0x60) as u32,
            6 => numbers.next() as u32,
            // One that goes off is started again by CPU 0, which takes its time.
            _ if numbers.below(64) == 0 => psci::CPU_OFF,
            _ => sdei::Call::EventSignal as u32,
        };
        let above = if numbers.below(8) == 0 {
            numbers.next() << 32
        } else {
            0
        };
        made.step.x[0] = u64::from(function) | above;
        for n in 1..7 {
            made.step.x[n] = self.map.argument(&mut self.numbers);
        }
    }

    fn register(&mut self, made: &mut Made) {
        const SCTLR: u32 = 0xd518_1000;
        const TTBR0: u32 = 0xd518_2000;
        /// TTBR1, TCR and TCR2, MAIR and what overlays permissions (DDI0487 D24.2).
        const TRANSLATION: [u32; 10] = [
            SCTLR,
            TTBR0,
            0xd518_1060,
            0xd518_2020,
            0xd518_2040,
            0xd518_2060,
            0xd518_a200,
            0xd518_a220,
            0xd518_a240,
            0xd518_a260,
        ];
        made.kind = Kind::Register;
        // Every encoding of L, op0, op1, CRn, CRm and op2 in its turn (DDI0487 C4.1.95).
        self.encoding = self.encoding.wrapping_add(0x6a09);
        let base = 0xd500_0000 | (self.encoding as u32 & 0x1_ffff) << 5;
        let register = if base & 3 << 19 == 0 {
            31
        } else {
            self.numbers.below(31) as u32
        };
        made.step.word = base | register;
        if TRANSLATION.contains(&base) {
            // With the MMU off they can be anything, and the way back needs none of them.
            made.step.is_flat = true;
            made.step.pstate = 0x3c5;
            if base == SCTLR {
                made.step.x[register as usize] &= !1;
            }
        }
    }

    fn access(&mut self, made: &mut Made) {
        let numbers = &mut self.numbers;
        made.kind = Kind::Access;
        let is_plain = numbers.below(3) > 0;
        made.step.word = if is_plain {
            numbers.one_of(&ACCESSES)
        } else {
            numbers.one_of(&OTHERS)
        };
        let mask = if numbers.below(4) == 0 { !0 } else { !15 };
        let (address, is_foreign) = match numbers.below(8) {
            0..4 => (self.map.device(numbers), false),
            4 | 5 => match self.map.foreign(numbers) {
                Some(address) => (address, true),
                None => (0, false),
            },
            6 => (self.map.places.scratch + numbers.below(4096), false),
            _ => (numbers.next() >> (24 + numbers.below(12)), false),
        };
        made.step.x[1] = address & mask;
        // Rounded down, the first ones may be the guest's.
        let is_foreign = is_foreign && made.step.x[1] >= machine().home().end() + 16;
        made.must_fault = is_plain && is_foreign;
    }
}

/// PSTATE of a step: mostly EL1h, masked.
fn pstate(numbers: &mut Numbers) -> u32 {
    const EL1H: u32 = 0x3c5;
    match numbers.below(16) {
        0 => 0x3c4,
        1 => 0x3c0,
        2 => 0,
        3 => 0x345,
        4 => EL1H | 1 << numbers.one_of(&[10, 12, 20, 21, 22, 23, 24, 25, 28, 31]),
        5 => numbers.one_of(&[0x3c9, 0x3cd, 0x1d0, 0x1f0, 0x1d3]),
        _ => EL1H,
    }
}

/// Any word but an exception return, which would find its own address.
fn word(numbers: &mut Numbers) -> u32 {
    const RETURNS: u32 = 0xd69f_0000;
    let any = numbers.next() as u32;
    // Fields op0 of the encoding (DDI0487 C4.1): all; loads and stores; SVE; SME; registers; SIMD and FP.
    let word = match numbers.below(8) {
        0..3 => any,
        3 | 4 => any & !(0b0101 << 25) | 0b0100 << 25,
        5 => any & !(0xf << 25) | numbers.one_of(&[0b0010, 0]) << 25,
        6 => any & !(0b0111 << 25) | 0b0101 << 25,
        _ => any & !(0b0111 << 25) | 0b0111 << 25,
    };
    if word & 0xffff_0000 == RETURNS {
        0
    } else {
        word
    }
}
