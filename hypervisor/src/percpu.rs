//! One block for each pCPU, found through TPIDR_EL2, and by its number from the others.

use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use hv_core::id::{MAX_PCPUS, Mpidr, PcpuId, VcpuId, VmId};
use hv_core::regs::GuestRegs;
use hv_core::stop::frames;
use hv_core::stop::watchdog::{Sample, Signs};

use crate::memory;
use crate::sysregs::{self, translation};

/// What a pCPU knows about itself, and others read of it when it has parked or is lost.
#[repr(C)]
pub struct Percpu {
    /// Top of the stack that faults are reported on; read by `vectors.S`.
    pub emergency_top: u64,
    /// Top of the stack that EL3's events are taken on; read by `sdei_entry.S`.
    pub event_top: u64,
    /// Its number, in the order of the machine's devicetree.
    pub id: PcpuId,
    /// Its affinity.
    pub mpidr: Mpidr,
    /// What it did last, for a crash report.
    pub last_exits: ExitLog,
    /// What it was doing when it parked.
    pub parked: PublishedCell<Context>,
    /// Asks this pCPU's event handler to write down what was interrupted, and says who may touch `sampled`.
    pub sample: Sample<AtomicU32>,
    /// What the event handler wrote down.
    pub sampled: PublishedCell<Context>,
    /// How many events of EL3 it has come back from.
    pub events: AtomicU32,
    /// Signs of life other than exits.
    beats: AtomicU32,
    /// What all signs were when it was reported as stuck.
    reported: AtomicU32,
    /// Whose vCPU it has: 0 for none, else 1 + VM * 256 + vCPU.
    vcpu: AtomicU32,
    /// Where that vCPU's registers are while EL2 runs; null while it is off.
    guest: AtomicPtr<GuestRegs>,
}

static BLOCKS: [AtomicPtr<Percpu>; MAX_PCPUS] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_PCPUS];

/// How many exits are remembered.
const EXITS: usize = 8;

/// The last exits of the guest on this pCPU. Its own pCPU writes; another reads when this one is past
/// answering, and may then find an entry that is half written.
#[derive(Default)]
pub struct ExitLog {
    /// When, ESR_EL2 with the vector in bits 63:62, which it has not got (DDI0487 D24.2), and pc.
    entries: [Stamped; EXITS],
    next: AtomicUsize,
}

/// Aligned, so that its place is a shift away.
#[derive(Default)]
#[repr(align(32))]
struct Stamped([AtomicU64; 3]);

/// One exit: when, the vector it came by, ESR_EL2 and the guest's pc.
#[derive(Clone, Copy, Default)]
pub struct ExitEntry {
    /// Counter ticks; 0 for an empty entry.
    pub at: u64,
    /// 0 synchronous, 1 IRQ, 2 FIQ, 3 SError.
    pub vector: u32,
    /// ESR_EL2, for a synchronous one.
    pub esr: u64,
    /// Where the guest was.
    pub pc: u64,
}

impl ExitLog {
    /// Remembers an exit.
    #[inline]
    pub fn push(&self, entry: ExitEntry) {
        let next = self.next.load(Ordering::Relaxed);
        let syndrome = entry.esr | u64::from(entry.vector) << 62;
        let words = [entry.at, syndrome, entry.pc];
        for (word, value) in self.entries[next % EXITS].0.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        self.next.store(next.wrapping_add(1), Ordering::Relaxed);
    }

    /// Newest first.
    pub fn iter(&self) -> impl Iterator<Item = ExitEntry> + '_ {
        let next = self.next.load(Ordering::Relaxed);
        (1..=EXITS)
            .map(move |back| {
                let Stamped(words) = &self.entries[next.wrapping_sub(back) % EXITS];
                let [at, syndrome, pc] = words.each_ref().map(|w| w.load(Ordering::Relaxed));
                ExitEntry {
                    at,
                    vector: (syndrome >> 62) as u32,
                    esr: syndrome << 2 >> 2,
                    pc,
                }
            })
            .filter(|entry| entry.at != 0)
    }
}

/// What was interrupted on a pCPU, and the registers that tell of it.
#[derive(Clone, Copy, Default)]
pub struct Context {
    /// When, in counter ticks; 0 if nothing was written.
    pub at: u64,
    /// x0 to x30.
    pub x: [u64; 31],
    /// SP_EL2; of a guest, what was to be restored to it.
    pub sp: u64,
    /// Where it was.
    pub pc: u64,
    /// Its PSTATE in SPSR format: of EL2, or of the guest.
    pub pstate: u64,
    /// ELR_EL2, SPSR_EL2, ESR_EL2 and FAR_EL2 as they were.
    pub el2: [u64; 4],
    /// SP_EL0, SP_EL1, ELR_EL1, SPSR_EL1, ESR_EL1, FAR_EL1, VBAR_EL1, SCTLR_EL1, TTBR0_EL1, TTBR1_EL1.
    pub el1: [u64; 10],
    /// The callers of what its guest was doing, if that is known; 0 behind the last.
    pub callers: [u64; frames::MOST],
}

impl Context {
    /// What the system registers of this pCPU say now.
    pub fn now() -> Self {
        Self {
            at: sysregs::now().0,
            el2: sysregs::el2_syndromes(),
            el1: sysregs::el1_state(),
            ..Self::default()
        }
    }

    /// Finds the callers of what the guest of `percpu`, this pCPU, was doing, which is never entered again.
    pub fn note_callers(&mut self, percpu: &Percpu) {
        let frame = match percpu.guest_regs() {
            _ if self.is_guest() => self.x[29],
            Some(regs) => regs.x[29],
            None => return,
        };
        self.callers = translation::guest_callers(frame);
    }

    /// Whether a guest was interrupted, not EL2: PSTATE.M says EL0 or EL1, or AArch32.
    pub const fn is_guest(&self) -> bool {
        self.pstate & 1 << 4 != 0 || self.pstate & 0b1100 < 0b1000
    }
}

/// Something its pCPU writes before it parks, and others read after that.
pub struct PublishedCell<T>(UnsafeCell<T>);

// SAFETY: writer and readers take turns, by the contracts of `set` and `get`.
unsafe impl<T: Send> Sync for PublishedCell<T> {}

impl<T: Copy> PublishedCell<T> {
    /// Holds `value` to begin with.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Replaces what is in there.
    ///
    /// # Safety
    ///
    /// The caller is the pCPU it belongs to, which has not parked; with a [`Sample`], that has begun.
    pub unsafe fn set(&self, value: T) {
        // SAFETY: nobody reads before that pCPU has parked, or its sample is written, by the contract of `get`.
        unsafe { self.0.get().write(value) };
    }

    /// What is in there.
    ///
    /// # Safety
    ///
    /// Its pCPU has been seen to have parked (`Slot::state`), or the caller has collected the [`Sample`].
    pub unsafe fn get(&self) -> T {
        // SAFETY: that pCPU writes no more, by the contract of `set`.
        unsafe { self.0.get().read() }
    }
}

impl Percpu {
    /// This pCPU is not stuck.
    pub fn beat(&self) {
        // It alone writes; a lost beat of an event in between is no loss.
        let next = self.beats.load(Ordering::Relaxed).wrapping_add(1);
        self.beats.store(next, Ordering::Relaxed);
    }

    /// How often it has: with each line that it writes, while it waits, and while it loads a guest.
    pub fn beats(&self) -> u32 {
        self.beats.load(Ordering::Relaxed)
    }

    /// What it shows of itself.
    pub fn signs(&self) -> Signs {
        let exits = self.last_exits.next.load(Ordering::Relaxed) as u32;
        Signs {
            count: exits.wrapping_add(self.beats.load(Ordering::Relaxed)),
            reported: self.reported.load(Ordering::Relaxed),
        }
    }

    /// It has been reported as stuck, as it is now.
    pub fn note_stuck(&self) {
        self.reported.store(self.signs().count, Ordering::Relaxed);
    }

    /// This pCPU has a vCPU, which is off.
    pub fn assign(&self, vm: VmId, vcpu: VcpuId) {
        let whose = 1 + u32::from(vm.0) * 256 + u32::from(vcpu.0);
        self.vcpu.store(whose, Ordering::Relaxed);
    }

    /// It now runs that, whose registers are at `regs` whenever EL2 runs.
    pub fn enter_guest(&self, regs: &GuestRegs) {
        let regs = core::ptr::from_ref(regs).cast_mut();
        self.guest.store(regs, Ordering::Release);
    }

    /// Its vCPU is off.
    pub fn leave_guest(&self) {
        self.guest.store(core::ptr::null_mut(), Ordering::Release);
    }

    /// The vCPU it has, and whether that is on.
    pub fn vcpu(&self) -> Option<(VmId, VcpuId, bool)> {
        let whose = self.vcpu.load(Ordering::Relaxed).checked_sub(1)?;
        let is_on = !self.guest.load(Ordering::Acquire).is_null();
        Some((VmId((whose >> 8) as u8), VcpuId(whose as u8), is_on))
    }

    /// The registers of its vCPU as EL2 has them, if that is on. Of a pCPU that still runs they may be of
    /// two moments.
    pub fn guest_regs(&self) -> Option<GuestRegs> {
        let regs = self.guest.load(Ordering::Acquire);
        if regs.is_null() {
            return None;
        }
        // SAFETY: `enter_guest` was given a reference to them, in a frame of `VcpuLoop::run`, which is never
        // left; all bit patterns are registers.
        Some(unsafe { regs.read_volatile() })
    }
}

/// Makes the block of this pCPU.
pub fn install(id: PcpuId) -> &'static Percpu {
    let block = Box::leak(Box::new(Percpu {
        emergency_top: memory::emergency_stack_top(id.index()),
        event_top: memory::event_stack_top(id.index()),
        id,
        mpidr: sysregs::mpidr(),
        last_exits: ExitLog::default(),
        parked: PublishedCell::new(Context::default()),
        sample: Sample::new(AtomicU32::new(0)),
        sampled: PublishedCell::new(Context::default()),
        events: AtomicU32::new(0),
        beats: AtomicU32::new(0),
        reported: AtomicU32::new(u32::MAX),
        vcpu: AtomicU32::new(0),
        guest: AtomicPtr::new(core::ptr::null_mut()),
    }));
    let block: &'static Percpu = block;
    sysregs::set_percpu_address(core::ptr::from_ref(block).expose_provenance() as u64);
    if let Some(entry) = BLOCKS.get(id.index()) {
        entry.store(core::ptr::from_ref(block).cast_mut(), Ordering::Release);
    }
    block
}

/// This pCPU's block, once it has one.
pub fn this() -> Option<&'static Percpu> {
    let block = core::ptr::with_exposed_provenance::<Percpu>(sysregs::percpu_address() as usize);
    // SAFETY: TPIDR_EL2 is zero or what `install` put there on this pCPU: a leaked, initialised block.
    unsafe { block.as_ref() }
}

/// This pCPU is not stuck.
#[inline(never)]
pub fn beat() {
    if let Some(percpu) = this() {
        percpu.beat();
    }
}

/// The block of a pCPU, once it has one.
pub fn of(id: PcpuId) -> Option<&'static Percpu> {
    let block = BLOCKS.get(id.index())?.load(Ordering::Acquire);
    // SAFETY: null or what `install` put there: a leaked block, initialised before it was stored.
    unsafe { block.as_ref() }
}

/// This pCPU's number; 0 before it has a block.
pub fn index() -> u8 {
    this().map_or(0, |percpu| percpu.id.0)
}
