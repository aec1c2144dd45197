//! All registers filled with patterns across one exit, and what they were afterwards.

use core::arch::global_asm;
use core::mem::offset_of;

use spin::Mutex;

/// The registers a guest owns, as far as instructions other than MRS and MSR see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Context {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Condition flags.
    pub nzcv: u64,
    /// q0 to q31.
    pub q: [u128; 32],
    /// Floating-point control.
    pub fpcr: u64,
    /// Floating-point status.
    pub fpsr: u64,
    /// The other stack pointer.
    pub sp_el0: u64,
}

/// What the assembly works on. SP points at `before`; frames of exceptions go into the room below.
#[repr(C, align(16))]
struct Held {
    room: [u64; 2048],
    before: Context,
    after: Context,
    saved_sp: u64,
}

static HELD: Mutex<Held> = Mutex::new(Held {
    room: [0; 2048],
    before: Context::ZERO,
    after: Context::ZERO,
    saved_sp: 0,
});

const BEFORE: usize = offset_of!(Held, before);

global_asm!(
    include_str!("patterns.S"),
    before = const 0,
    after = const offset_of!(Held, after) - BEFORE,
    saved_sp = const offset_of!(Held, saved_sp) - BEFORE,
    x = const offset_of!(Context, x),
    q = const offset_of!(Context, q),
    nzcv = const offset_of!(Context, nzcv),
    fpcr = const offset_of!(Context, fpcr),
    fpsr = const offset_of!(Context, fpsr),
    sp_el0 = const offset_of!(Context, sp_el0),
);

/// DAIF and SP after the instruction.
#[repr(C)]
struct Ending {
    daif: u64,
    sp: u64,
}

type Routine = unsafe extern "C" fn(*mut Context) -> Ending;

unsafe extern "C" {
    fn patterns_nothing(held: *mut Context) -> Ending;
    fn patterns_hvc(held: *mut Context) -> Ending;
    fn patterns_smc(held: *mut Context) -> Ending;
    fn patterns_identification(held: *mut Context) -> Ending;
    fn patterns_load(held: *mut Context) -> Ending;
    fn patterns_load_high(held: *mut Context) -> Ending;
    fn patterns_load_zero(held: *mut Context) -> Ending;
    fn patterns_load_64(held: *mut Context) -> Ending;
    fn patterns_store(held: *mut Context) -> Ending;
    fn patterns_store_high(held: *mut Context) -> Ending;
    fn patterns_sgi(held: *mut Context) -> Ending;
    fn patterns_wfi(held: *mut Context) -> Ending;
    fn patterns_yield(held: *mut Context) -> Ending;
    fn patterns_calls(held: *mut Context) -> Ending;
    fn patterns_spin(held: *mut Context) -> Ending;
    fn patterns_spin_here();
    fn patterns_spin_end();
}

/// The instruction in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Across {
    /// `NOP`: shows that the patterns themselves hold.
    Nothing,
    /// `HVC #0`, function in x0.
    Hvc,
    /// `SMC #0`, function in x0.
    Smc,
    /// x5 from ID_AA64PFR0_EL1.
    Identification,
    /// w1 from the address in x0.
    Load,
    /// w30 from the address in x29.
    LoadHigh,
    /// WZR from the address in x18.
    LoadZero,
    /// x1 from the address in x0.
    Load64,
    /// w1 to the address in x0.
    Store,
    /// w30 to the address in x29.
    StoreHigh,
    /// ICC_SGI1R_EL1 from x0.
    Sgi,
    /// `WFI`
    Wfi,
    /// `YIELD`
    Yield,
    /// PSCI_VERSION by HVC, x28 times; the answers are added to x27.
    Calls,
    /// A branch to itself, until somebody sets the PC to [`spin_end`].
    Spin,
}

impl Across {
    fn routine(self) -> Routine {
        match self {
            Self::Nothing => patterns_nothing,
            Self::Hvc => patterns_hvc,
            Self::Smc => patterns_smc,
            Self::Identification => patterns_identification,
            Self::Load => patterns_load,
            Self::LoadHigh => patterns_load_high,
            Self::LoadZero => patterns_load_zero,
            Self::Load64 => patterns_load_64,
            Self::Store => patterns_store,
            Self::StoreHigh => patterns_store_high,
            Self::Sgi => patterns_sgi,
            Self::Wfi => patterns_wfi,
            Self::Yield => patterns_yield,
            Self::Calls => patterns_calls,
            Self::Spin => patterns_spin,
        }
    }
}

impl Context {
    const ZERO: Self = Self {
        x: [0; 31],
        nzcv: 0,
        q: [0; 32],
        fpcr: 0,
        fpsr: 0,
        sp_el0: 0,
    };

    /// A different value in every register, from `seed`.
    pub fn pattern(seed: u64) -> Self {
        let mut state = seed | 1;
        let mut next = || {
            // Multiplier of L'Ecuyer's 64-bit generator: spreads the seed over all bits.
            state = state.wrapping_mul(0x27bb_2ee6_87b0_b0fd).wrapping_add(1);
            state ^ state >> 29
        };
        let mut context = Self::ZERO;
        context.x = core::array::from_fn(|_| next());
        context.q = core::array::from_fn(|_| u128::from(next()) << 64 | u128::from(next()));
        context.nzcv = next() & 0xf000_0000;
        // FZ, DN and the rounding mode; the cumulative flags and QC (DDI0487 C5.2).
        context.fpcr = next() & 0x03c0_0000;
        context.fpsr = next() & 0x0800_009f;
        context.sp_el0 = next() & !0xf;
        context
    }

    /// The first register that differs from `other`, other than the general ones in `except`.
    pub fn first_difference(
        &self,
        other: &Self,
        except: &[usize],
    ) -> Option<(&'static str, usize)> {
        let x = (0..31).find(|n| !except.contains(n) && self.x[*n] != other.x[*n]);
        let q = (0..32).find(|n| self.q[*n] != other.q[*n]);
        x.map(|n| ("x", n))
            .or(q.map(|n| ("q", n)))
            .or((self.nzcv != other.nzcv).then_some(("nzcv", 0)))
            .or((self.fpcr != other.fpcr).then_some(("fpcr", 0)))
            .or((self.fpsr != other.fpsr).then_some(("fpsr", 0)))
            .or((self.sp_el0 != other.sp_el0).then_some(("sp_el", 0)))
    }
}

/// Loads `before`, exits, and returns what was in the registers then. Panics when SP_EL1 changed, or DAIF
/// (which an event that ends a spin does change, by COMPLETE_AND_RESUME).
pub fn run(across: Across, before: &Context) -> Context {
    let mut held = HELD.lock();
    held.before = *before;
    let whole: *mut Held = &raw mut *held;
    let block = whole.wrapping_byte_add(BEFORE).cast::<Context>();
    let daif = super::sysreg::daif();
    // SAFETY: the routine keeps the C calling convention and stays inside `held`; what it loads and
    // stores by the patterns is at addresses the tests put there, devices or holes.
    let ending = unsafe { across.routine()(block) };
    assert!(ending.sp == block as u64, "SP_EL1 became {:#x}", ending.sp);
    let kept = ending.daif == daif || across == Across::Spin && ending.daif == 0b1111 << 6;
    assert!(kept, "DAIF became {:#x}", ending.daif);
    held.after
}

/// Where [`Across::Spin`] spins.
pub fn spin_here() -> u64 {
    patterns_spin_here as *const () as u64
}

/// Where a spinning CPU must be sent to leave the loop.
pub fn spin_end() -> u64 {
    patterns_spin_end as *const () as u64
}
