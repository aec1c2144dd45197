//! SDEI as a client (DEN0054): the calls, and a handler for event 0 on each CPU.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use hv_abi::sdei::{Call, EVENT_SIGNALLED};
use hv_abi::vendor;

use super::call::{self, Conduit};
use super::exception::Frame;
use super::machine::{MAX_CPUS, machine};
use super::sysreg;

const STACK_BYTES: usize = 16 * 1024;

/// Handlers of shared events that tests may keep apart.
const SHARED: usize = 4;

/// Handlers that can run at once: on each CPU a normal one, a critical one above it; those of shared events.
const HANDLERS: usize = 2 * MAX_CPUS + SHARED;

/// Where the critical ones end among them.
const CRITICAL_END: usize = 2 * MAX_CPUS;

/// One stack for each handler.
#[repr(C, align(16))]
struct Stacks(UnsafeCell<[[u8; STACK_BYTES]; HANDLERS]>);

// SAFETY: each CPU uses only its own elements, as the stacks of its event handlers.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK_BYTES]; HANDLERS]));

/// What a CPU's handler saw last, and how it shall end. The registration argument points here.
#[repr(C)]
pub struct Slot {
    x: [AtomicU64; 31],
    sp: AtomicU64,
    nzcv: AtomicU64,
    daif: AtomicU64,
    current_el: AtomicU64,
    spsel: AtomicU64,
    elr: AtomicU64,
    spsr: AtomicU64,
    sctlr: AtomicU64,
    stack_top: AtomicU64,
    by_smc: AtomicU64,
    function: AtomicU64,
    parameter: AtomicU64,
    runs: AtomicU64,
}

static SLOTS: [Slot; HANDLERS] = [const {
    Slot {
        x: [const { AtomicU64::new(0) }; 31],
        sp: AtomicU64::new(0),
        nzcv: AtomicU64::new(0),
        daif: AtomicU64::new(0),
        current_el: AtomicU64::new(0),
        spsel: AtomicU64::new(0),
        elr: AtomicU64::new(0),
        spsr: AtomicU64::new(0),
        sctlr: AtomicU64::new(0),
        stack_top: AtomicU64::new(0),
        by_smc: AtomicU64::new(0),
        function: AtomicU64::new(0),
        parameter: AtomicU64::new(0),
        runs: AtomicU64::new(0),
    }
}; HANDLERS];

global_asm!(
    include_str!("sdei.S"),
    x = const offset_of!(Slot, x),
    sp = const offset_of!(Slot, sp),
    nzcv = const offset_of!(Slot, nzcv),
    daif = const offset_of!(Slot, daif),
    current_el = const offset_of!(Slot, current_el),
    spsel = const offset_of!(Slot, spsel),
    elr = const offset_of!(Slot, elr),
    spsr = const offset_of!(Slot, spsr),
    sctlr = const offset_of!(Slot, sctlr),
    stack_top = const offset_of!(Slot, stack_top),
    by_smc = const offset_of!(Slot, by_smc),
    function = const offset_of!(Slot, function),
    parameter = const offset_of!(Slot, parameter),
    frame_x = const offset_of!(Frame, x),
    frame_sp = const offset_of!(Frame, sp),
    handle = sym handle,
    refused = sym refused,
);

unsafe extern "C" {
    fn sdei_entry();
    fn sdei_entry_critical();
    fn sdei_end();
    fn sdei_complete_from_frame(frame: *const Frame, by_smc: u64, function: u64) -> !;
    fn sdei_complete_raw(slot: *const Slot, x: *const call::Registers, by_smc: u64) -> !;
}

/// How a handler ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// COMPLETE with this status.
    Complete(u64),
    /// COMPLETE_AND_RESUME at this address.
    Resume(u64),
}

/// What runs inside a handler, before it ends.
pub type Hook = fn(&Slot) -> End;

/// A [`Hook`] each, or null. No lock: an event may come while its own CPU changes the hook.
static HOOKS: [AtomicPtr<()>; HANDLERS] = [const { AtomicPtr::new(null_mut()) }; HANDLERS];

/// Sets a hook.
fn store_hook(place: usize, hook: Option<Hook>) {
    let hook = hook.map_or(null_mut(), |hook| hook as *mut ());
    HOOKS[place].store(hook, Ordering::Release);
}

/// The hook that is set.
fn load_hook(place: usize) -> Option<Hook> {
    let hook = HOOKS[place].load(Ordering::Acquire);
    if hook.is_null() {
        return None;
    }
    // SAFETY: `store_hook` alone writes here, and what it writes, if not null, was a `Hook`.
    Some(unsafe { core::mem::transmute::<*mut (), Hook>(hook) })
}

impl Slot {
    /// xN as the handler found it.
    pub fn x(&self, n: usize) -> u64 {
        self.x[n].load(Ordering::Acquire)
    }

    /// Changes what xN, 18 to 30, will be after the handler.
    pub fn set_x(&self, n: usize, value: u64) {
        self.x[n].store(value, Ordering::Release);
    }

    /// The interrupted PC: x2.
    pub fn pc(&self) -> u64 {
        self.x(2)
    }

    /// The interrupted PSTATE: x3.
    pub fn pstate(&self) -> u64 {
        self.x(3)
    }

    /// SP_EL1 at entry.
    pub fn sp(&self) -> u64 {
        self.sp.load(Ordering::Acquire)
    }

    /// Flags, DAIF, CurrentEL and SPSel at entry.
    pub fn state(&self) -> [u64; 4] {
        [&self.nzcv, &self.daif, &self.current_el, &self.spsel].map(|s| s.load(Ordering::Acquire))
    }

    /// ELR_EL1 and SPSR_EL1 at entry.
    pub fn exception_return(&self) -> [u64; 2] {
        [&self.elr, &self.spsr].map(|s| s.load(Ordering::Acquire))
    }

    /// SCTLR_EL1 at entry.
    pub fn sctlr(&self) -> u64 {
        self.sctlr.load(Ordering::Acquire)
    }

    /// Says how the handler will end.
    fn set_end(&self, end: End) {
        let (call, parameter) = match end {
            End::Complete(status) => (Call::EventComplete, status),
            End::Resume(address) => (Call::EventCompleteAndResume, address),
        };
        self.function.store(call as u64, Ordering::Release);
        self.parameter.store(parameter, Ordering::Release);
    }

    /// How often the handler ran since the last [`forget`].
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::Acquire)
    }
}

/// Whether there is an SDEI to test.
pub fn is_available() -> bool {
    machine().sdei_conduit.is_some() && call(Call::Version, &[]) >= 0
}

/// How SDEI is called.
pub fn conduit() -> Conduit {
    machine().sdei_conduit.unwrap_or(machine().conduit)
}

/// Makes an SDEI call. An entry point handed to REGISTER must be [`entry`], or never be reached.
pub fn call(call: Call, arguments: &[u64]) -> i64 {
    call::call(conduit(), call as u32, arguments)
}

/// What the critical handler of CPU `index` goes by, for [`slot`] and [`set_hook`].
pub const fn critical(index: usize) -> usize {
    MAX_CPUS + index
}

/// The same of handler `n`, below 4, for a shared event that runs who knows where.
pub const fn shared(n: usize) -> usize {
    2 * MAX_CPUS + n % SHARED
}

/// The handler of CPU `index`, or a [`critical`] or [`shared`] one.
pub fn slot(index: usize) -> &'static Slot {
    &SLOTS[index]
}

/// The address and the argument under which this CPU's handler is registered.
pub fn entry() -> [u64; 2] {
    entry_of(sysreg::cpu_index())
}

/// The same of CPU `index`, or of a [`critical`] or [`shared`] handler, whose slot and stack must not be in use.
pub fn entry_of(index: usize) -> [u64; 2] {
    let slot = &SLOTS[index];
    let stack_top = STACKS.0.get() as u64 + ((index + 1) * STACK_BYTES) as u64;
    slot.stack_top.store(stack_top, Ordering::Release);
    let by_smc = u64::from(conduit() == Conduit::Smc);
    slot.by_smc.store(by_smc, Ordering::Release);
    let entry = match index {
        MAX_CPUS..CRITICAL_END => sdei_entry_critical as *const () as u64,
        _ => sdei_entry as *const () as u64,
    };
    [entry, &raw const *slot as u64]
}

/// Lets this CPU's handlers end by `conduit` from now on.
pub fn end_by(conduit: Conduit) {
    let by_smc = u64::from(conduit == Conduit::Smc);
    SLOTS[sysreg::cpu_index()]
        .by_smc
        .store(by_smc, Ordering::Release);
}

/// Registers this CPU's handler for event 0.
pub fn register() -> i64 {
    let [address, argument] = entry();
    let event = u64::from(EVENT_SIGNALLED);
    call(Call::EventRegister, &[event, address, argument, 0, 0])
}

/// Registers this CPU's handler for `event`, with these flags and this affinity.
pub fn register_event(event: u64, flags: u64, affinity: u64) -> i64 {
    let [address, argument] = entry();
    call(
        Call::EventRegister,
        &[event, address, argument, flags, affinity],
    )
}

/// Registers this CPU's critical handler for `event`.
pub fn register_critical(event: u64, flags: u64, affinity: u64) -> i64 {
    register_at(critical(sysreg::cpu_index()), event, flags, affinity)
}

/// Registers for `event` the handler that goes by `index`.
pub fn register_at(index: usize, event: u64, flags: u64, affinity: u64) -> i64 {
    let [address, argument] = entry_of(index);
    call(
        Call::EventRegister,
        &[event, address, argument, flags, affinity],
    )
}

/// The end of a critical handler that leaves its `slot` by resuming where the one it interrupted completes.
pub fn end_both(slot: &Slot, interrupted: &'static Slot) -> End {
    interrupted.set_end(End::Complete(0));
    slot.set_x(19, &raw const *interrupted as u64);
    End::Resume(sdei_end as *const () as u64)
}

/// Has the platform raise `event`, on the CPU with `affinity` if it is private.
pub fn raise(event: u64, affinity: u64) -> i64 {
    call::call(conduit(), vendor::EVENT_RAISE, &[event, affinity])
}

/// ENABLE of event 0.
pub fn enable() -> i64 {
    call(Call::EventEnable, &[0])
}

/// DISABLE of event 0.
pub fn disable() -> i64 {
    call(Call::EventDisable, &[0])
}

/// UNREGISTER of event 0.
pub fn unregister() -> i64 {
    call(Call::EventUnregister, &[0])
}

/// STATUS of event 0.
pub fn status() -> i64 {
    call(Call::EventStatus, &[0])
}

/// PE_MASK.
pub fn mask() -> i64 {
    call(Call::PeMask, &[])
}

/// PE_UNMASK.
pub fn unmask() -> i64 {
    call(Call::PeUnmask, &[])
}

/// SIGNAL of event 0 to the CPU with `affinity`, earlier stores first.
pub fn signal(affinity: u64) -> i64 {
    sysreg::store_barrier();
    call(Call::EventSignal, &[0, affinity])
}

/// Registers, enables and unmasks on this CPU; false when one of the three was refused.
#[must_use]
pub fn get_ready() -> bool {
    register() == 0 && enable() == 0 && unmask() == 0
}

/// Runs `hook` inside the handler of CPU `index`, or a [`critical`] or [`shared`] one, from now on.
pub fn set_hook(index: usize, hook: Option<Hook>) {
    store_hook(index, hook);
}

/// Back to the state of a fresh boot on this CPU; the others are off.
pub fn forget() {
    if is_available() {
        mask();
        call(Call::PrivateReset, &[]);
        call(Call::SharedReset, &[]);
    }
    for (place, slot) in SLOTS.iter().enumerate() {
        slot.runs.store(0, Ordering::Release);
        store_hook(place, None);
    }
}

/// Ends this CPU's handler from the exception that its first instruction was.
pub fn complete_from_exception(frame: &Frame) -> ! {
    let by_smc = u64::from(conduit() == Conduit::Smc);
    // SAFETY: the interrupted code goes on with x18-x30 and SP of the frame, which the handler had no
    // time to change, and the dispatcher restores the rest.
    unsafe { sdei_complete_from_frame(frame, by_smc, Call::EventComplete as u64) }
}

/// Completes from inside a hook with all of `x`, the function in x0 included.
pub fn complete_raw(slot: &Slot, x: call::Registers) -> ! {
    // SAFETY: COMPLETE goes back to the interrupted code, which finds x18-x30 and SP as `slot` has them.
    unsafe { sdei_complete_raw(slot, &raw const x, slot.by_smc.load(Ordering::Acquire)) }
}

extern "C" fn handle(slot: &Slot) {
    let place = SLOTS.iter().position(|own| core::ptr::eq(own, slot));
    let hook = place.and_then(load_hook);
    slot.runs.fetch_add(1, Ordering::AcqRel);
    sysreg::sev();
    slot.set_end(hook.map_or(End::Complete(0), |hook| hook(slot)));
}

extern "C" fn refused(status: i64) -> ! {
    panic!("the handler's end was refused with {status}")
}
