//! Other CPUs: turned on to run one function, and off again.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use hv_abi::psci::{AffinityState, Status};

use super::machine::{MAX_CPUS, machine};
use super::{exception, gic, psci, sync, sysreg};

/// The SGI that makes a CPU turn itself off; tests use others.
pub const STOP_SGI: u32 = 15;

/// Bytes of stack each CPU has.
pub(super) const STACK_BYTES: usize = 32 * 1024;

/// One stack per CPU; start.S gives the boot CPU the first.
#[repr(C, align(16))]
pub(super) struct Stacks(UnsafeCell<[[u8; STACK_BYTES]; MAX_CPUS]>);

// SAFETY: each CPU uses only its own element, as its stack, and nobody reads another's.
unsafe impl Sync for Stacks {}

/// The stacks.
pub(super) static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK_BYTES]; MAX_CPUS]));

/// What a started CPU does; when it returns, the CPU turns itself off.
pub type Work = fn();

/// Handed to start.S as CPU_ON's context, and filled by it with how the CPU came up.
#[repr(C)]
pub struct BootRecord {
    pub(super) stack_top: AtomicU64,
    pub(super) index: AtomicU64,
    pub(super) first_tick: AtomicU64,
    pub(super) sctlr: AtomicU64,
    pub(super) daif: AtomicU64,
    pub(super) current_el: AtomicU64,
    pub(super) spsel: AtomicU64,
}

/// Where start.S's context probe leaves what it saw.
#[repr(C)]
pub struct ContextProbe {
    pub(super) context: AtomicU64,
    pub(super) pc: AtomicU64,
    pub(super) done: AtomicU64,
    pub(super) by_smc: AtomicU64,
}

/// See [`probe_context`].
pub static CONTEXT_PROBE: ContextProbe = ContextProbe {
    context: AtomicU64::new(0),
    pc: AtomicU64::new(0),
    done: AtomicU64::new(0),
    by_smc: AtomicU64::new(0),
};

static RECORDS: [BootRecord; MAX_CPUS] = [const {
    BootRecord {
        stack_top: AtomicU64::new(0),
        index: AtomicU64::new(0),
        first_tick: AtomicU64::new(0),
        sctlr: AtomicU64::new(0),
        daif: AtomicU64::new(0),
        current_el: AtomicU64::new(0),
        spsel: AtomicU64::new(0),
    }
}; MAX_CPUS];
static WORK: [Mutex<Option<Work>>; MAX_CPUS] = [const { Mutex::new(None) }; MAX_CPUS];

unsafe extern "C" {
    static guest_image: u8;
    fn start_secondary_cpu();
    fn start_context_probe();
    fn call_big_endian(function: u64, target: u64, entry: u64, context: u64) -> u64;
}

/// How a CPU was when its first instruction ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryState {
    /// Virtual count at the first instruction.
    pub first_tick: u64,
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// DAIF as MRS shows it.
    pub daif: u64,
    /// CurrentEL.
    pub current_el: u64,
    /// SPSel.
    pub spsel: u64,
}

/// Distance of `address` from the start of the image, as the ELF file counts.
pub fn image_offset(address: u64) -> u64 {
    address.wrapping_sub(&raw const guest_image as u64)
}

/// Gives the boot CPU its index.
pub fn adopt_boot_cpu() {
    sysreg::set_cpu_index(0);
}

/// How many CPUs there are.
pub fn count() -> usize {
    machine().cpu_count
}

/// The affinity of CPU `index`.
pub fn affinity(index: usize) -> u64 {
    machine().cpus[index]
}

/// Where `start` makes CPUs begin; for tests that call CPU_ON with wrong things around it.
pub fn entry_address() -> u64 {
    start_secondary_cpu as *const () as u64
}

/// Turns CPU `index` on to do `work`. The status is CPU_ON's; on a refusal nothing runs.
pub fn start(index: usize, work: Work) -> i32 {
    let Some(context) = prepare(index, work) else {
        return Status::AlreadyOn as i32;
    };
    // SAFETY: the entry takes this context; the CPU is off, so nobody else uses its stack or record.
    unsafe { psci::cpu_on(affinity(index), entry_address(), context) }
}

/// As [`start`], by a caller whose data is big endian for the time of the call.
pub fn start_by_big_endian(index: usize, work: Work) -> i32 {
    let Some(context) = prepare(index, work) else {
        return Status::AlreadyOn as i32;
    };
    let function = u64::from(hv_abi::psci::CPU_ON[1]);
    // SAFETY: as in `start`; the routine changes the byte order and back without an access to memory, and the
    // entry of the started CPU begins with doing so.
    unsafe { call_big_endian(function, affinity(index), entry_address(), context) as i32 }
}

/// CPU_ON with a context from [`prepare`], as several CPUs may do at once.
pub fn race_to_start(index: usize, context: u64) -> i32 {
    // SAFETY: `prepare` made the context for this entry; only one CPU_ON of an off CPU can win.
    unsafe { psci::cpu_on(affinity(index), entry_address(), context) }
}

/// CPU_ON that must be refused: for wrong targets, wrong entries and CPUs that run.
pub fn try_cpu_on(affinity: u64, entry: u64) -> i32 {
    let context = &raw const RECORDS[MAX_CPUS - 1] as u64;
    // SAFETY: should it be granted in error, the CPU finds a record without work and a stack of its
    // own at an entry of ours; at a wrong entry it runs into its own exceptions.
    unsafe { psci::cpu_on(affinity, entry, context) }
}

/// Fills the boot record of CPU `index`, which is off. None when the CPU is not off.
pub fn prepare(index: usize, work: Work) -> Option<u64> {
    if psci::affinity_info(affinity(index)) != AffinityState::Off as i32 {
        return None;
    }
    Some(prepare_next(index, work))
}

/// The same for the life after the one that CPU `index` is about to end: it has begun its work, and will not
/// come back to it.
pub fn prepare_next(index: usize, work: Work) -> u64 {
    *WORK[index].lock() = Some(work);
    let record = &RECORDS[index];
    let stack_top = STACKS.0.get() as u64 + ((index + 1) * STACK_BYTES) as u64;
    record.stack_top.store(stack_top, Ordering::Release);
    record.index.store(index as u64, Ordering::Release);
    sysreg::store_barrier();
    &raw const *record as u64
}

/// Turns CPU `index` on though it is not off: it is parked in an event handler, and never leaves that.
pub fn take_back(index: usize, work: Work) -> i32 {
    let context = prepare_next(index, work);
    // SAFETY: the entry takes this context; a CPU in an event handler is on that handler's stack, and if it
    // is not taken back it stays there.
    unsafe { psci::cpu_on(affinity(index), entry_address(), context) }
}

/// How CPU `index` was at its first instruction. It must have begun its work.
pub fn entry_state(index: usize) -> EntryState {
    let record = &RECORDS[index];
    EntryState {
        first_tick: record.first_tick.load(Ordering::Acquire),
        sctlr: record.sctlr.load(Ordering::Acquire),
        daif: record.daif.load(Ordering::Acquire),
        current_el: record.current_el.load(Ordering::Acquire),
        spsel: record.spsel.load(Ordering::Acquire),
    }
}

/// Turns CPU `index` on at an entry that notes x0 and turns itself off; what it saw, or CPU_ON's refusal.
pub fn probe_context(index: usize, context: u64) -> Result<u64, i32> {
    let probe = &CONTEXT_PROBE;
    let by_smc = machine().conduit == super::call::Conduit::Smc;
    probe.context.store(!context, Ordering::Release);
    probe.done.store(0, Ordering::Release);
    probe.by_smc.store(u64::from(by_smc), Ordering::Release);
    sysreg::store_barrier();
    let entry = start_context_probe as *const () as u64;
    // SAFETY: the entry uses no stack and writes only the probe.
    let status = unsafe { psci::cpu_on(affinity(index), entry, context) };
    if status != Status::Success as i32 {
        return Err(status);
    }
    if !sync::eventually(|| probe.done.load(Ordering::Acquire) != 0 && is_off(index)) {
        return Err(Status::InternalFailure as i32);
    }
    Ok(probe.context.load(Ordering::Acquire))
}

/// Whether CPU `index` is off.
pub fn is_off(index: usize) -> bool {
    psci::affinity_info(affinity(index)) == AffinityState::Off as i32
}

/// Waits until CPU `index` is off; false when it is not in time.
#[must_use]
pub fn wait_off(index: usize) -> bool {
    sync::eventually(|| is_off(index))
}

/// Makes sure that only this CPU runs; the index of one that cannot be stopped, if any.
pub fn stop_others() -> Result<(), usize> {
    let me = sysreg::cpu_index();
    for index in (0..count()).filter(|index| *index != me) {
        if sync::within_ms(200, || is_off(index)) {
            continue;
        }
        gic::send_sgi_to(affinity(index), STOP_SGI);
        if !sync::within_ms(sync::PATIENCE_MS + 1000, || is_off(index)) {
            return Err(index);
        }
    }
    Ok(())
}

/// First Rust of a started CPU.
pub(super) extern "C" fn enter_secondary(record: &BootRecord) -> ! {
    let index = record.index.load(Ordering::Acquire) as usize;
    sysreg::set_cpu_index(index);
    exception::install_vectors();
    gic::start_cpu();
    let work = WORK[index].lock().take();
    if let Some(work) = work {
        work();
    }
    stop_here()
}

/// Turns this CPU off.
pub fn stop_here() -> ! {
    sysreg::mask_all();
    gic::stop_cpu();
    let status = psci::cpu_off();
    panic!("CPU_OFF of CPU {} returned {status}", sysreg::cpu_index())
}
