//! Fault injection, for those who test the stop and its report: only the test image (`test_image.rs`) has it. The words
//! stand on the hypervisor's own command line (/chosen bootargs of the machine's devicetree), which only the loader
//! writes; no guest can reach it. A machine that has just crashed does not obey them again.
//!
//! `wedge=1:spin,2:lock` makes pCPUs deaf, and `wedge=1:mask` a vCPU; `break=WORD` breaks when all are up, `break=WORD@N` at the
//! first TRNG call of the guest on pCPU N after the others have become so. `probe=N:COUNT` lets EL3 interrupt
//! pCPU N so many times at the first TRNG call of the guest on another, and makes that call answer what it met.
//!
//! A pCPU counts as stuck only in the function that the report must name: an emulator's host may stop it for long
//! between any two instructions. The vector is the exception: it counts when any exit leads there.

use core::arch::global_asm;
use core::hint::black_box;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use hv_abi::cmdline::{Fault, fault};
use hv_abi::operator::NMI_SYNDROME;
use hv_core::id::{MAX_PCPUS, PcpuId};
use hv_core::regs::GuestRegs;

use crate::percpu::{self, Percpu};
use crate::stop::{Cause, stop_machine};
use crate::{console, log, memory, stop, sysregs};

global_asm!(
    include_str!("enter_guest.S"),
    include_str!("fault_injection.S"),
    X = const offset_of!(GuestRegs, x),
    PC = const offset_of!(GuestRegs, pc),
);

unsafe extern "C" {
    fn guest_enter_stuck(regs: *mut GuestRegs, left: *const AtomicU8);
    fn break_vectors();
    static vectors: [u8; 0];
    static vectors_end: [u8; 0];
    static guest_switch: [u8; 0];
    static guest_switch_end: [u8; 0];
}

/// Whether this image can break itself.
pub const IS_HERE: bool = true;

/// Where a pCPU gets stuck: 1 + its number in `hv_abi::cmdline::PLACES`.
const SPIN: u8 = 1;
const LOCK: u8 = 2;
const EXIT: u8 = 3;
const VECTOR: u8 = 4;
const ERET: u8 = 5;
/// Its vCPU is to be masked at the operator's first NMI.
const MASK: u8 = 6;
/// It has come.
const MASK_NOW: u8 = 7;
/// Its vCPU has been masked.
const HAS_MASKED: u8 = 8;
/// Another NMI has come.
const NMI_NOW: u8 = 9;

/// PSTATE.I and F, as an SPSR has them (DDI0487 C5.2.19, SPSR_EL2).
const MASKED: u64 = 1 << 7 | 1 << 6;

/// Where each pCPU is to get stuck: 0 nowhere, else 1 + its number in `PLACES`.
static WEDGES: [AtomicU8; MAX_PCPUS] = [const { AtomicU8::new(0) }; MAX_PCPUS];
/// How it breaks, as 1 + its number in `hv_abi::cmdline::WAYS`, and on which pCPU, as 1 + its number if on one in particular.
static BREAK: [AtomicU8; 2] = [const { AtomicU8::new(0) }; 2];
/// pCPUs that are to get stuck and are not yet.
static LEFT: AtomicU8 = AtomicU8::new(0);
/// The prober spins for less than 1 << 10 turns between two events: several times what a guest's call takes in EL2.
const DELAY_BITS: u32 = 10;
/// Of the congruential generator modulo 1 << 32 in Numerical Recipes (Press et al.), 7.1.
const MULTIPLIER: u32 = 1_664_525;
/// Which pCPU EL3 is to interrupt, and how many times.
static PROBE: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];

/// Reads a word of the command line of a machine with so many pCPUs. Whether it is for fault injection.
#[inline(never)]
pub fn configure(word: &[u8], pcpus: usize) -> bool {
    match fault(word, pcpus) {
        None => return false,
        Some(Ok(Fault::Wedge(list))) => {
            for (pcpu, place) in Fault::wedges(list) {
                if let Some(wedge) = WEDGES.get(usize::from(pcpu)) {
                    let place = place + 1;
                    wedge.store(place, Ordering::Relaxed);
                    LEFT.fetch_add((place != MASK).into(), Ordering::Relaxed);
                }
            }
        }
        Some(Ok(Fault::Break { way, pcpu })) => {
            BREAK[0].store(way + 1, Ordering::Relaxed);
            BREAK[1].store(pcpu.map_or(0, |pcpu| pcpu + 1), Ordering::Relaxed);
        }
        Some(Ok(Fault::Probe { pcpu, count })) => {
            PROBE[0].store(pcpu.into(), Ordering::Relaxed);
            PROBE[1].store(count, Ordering::Relaxed);
        }
        Some(Err(wrong)) => log!("command line: `{}` {wrong}; ignored", word.escape_ascii()),
    }
    true
}

fn place_of(me: PcpuId) -> u8 {
    WEDGES
        .get(me.index())
        .map_or(0, |place| place.load(Ordering::Relaxed))
}

/// All pCPUs are up, and no guest runs.
pub fn at_ready() {
    let [way, pcpu] = [0, 1].map(|n: usize| BREAK[n].load(Ordering::Relaxed));
    if way != 0 && pcpu == 0 {
        log!("breaking on purpose");
        break_now(way);
    }
}

/// pCPU `me` is about to wait for its vCPU's start.
pub fn at_start(me: PcpuId) {
    if place_of(me) == SPIN {
        wedged_here();
    }
}

/// The guest on pCPU `me` has made a TRNG call. Whether that is answered. As long as pCPUs are to get stuck and are
/// not, x1 answers how many.
#[inline(never)]
pub fn at_trng_call(me: PcpuId, regs: &mut GuestRegs) -> bool {
    match place_of(me) {
        LOCK => console::hold(0, wedged_here),
        EXIT => wedged_here(),
        // Whatever comes next takes it there, as an interrupt does when it is back in the guest.
        VECTOR => {
            // SAFETY: the table that it puts in force is aligned and executable; nothing of this pCPU goes on from there.
            unsafe { break_vectors() };
            LEFT.fetch_sub(1, Ordering::Release);
        }
        // SAFETY: as in `guest::enter`, but the guest is not reached; the asm changes `LEFT` as an atomic one only.
        ERET => unsafe { guest_enter_stuck(regs, &raw const LEFT) },
        _ => {}
    }
    let left = LEFT.load(Ordering::Acquire);
    if left != 0 {
        regs.x[1] = left.into();
        return false;
    }
    let [way, pcpu] = [0, 1].map(|n: usize| BREAK[n].load(Ordering::Relaxed));
    if way != 0 && pcpu == me.0 + 1 {
        break_now(way);
    }
    let target = PcpuId(PROBE[0].load(Ordering::Relaxed) as u8);
    if target == me || PROBE[1].load(Ordering::Relaxed) == 0 {
        return false;
    }
    if let Some(target) = percpu::of(target) {
        probe(target, PROBE[1].swap(0, Ordering::Relaxed), regs);
    }
    true
}

/// The operator has sent an NMI to the vCPU on pCPU `me`. Whether [`at_entry`] sees to it.
pub fn at_nmi(me: PcpuId) -> bool {
    change(me, MASK, MASK_NOW) || change(me, HAS_MASKED, NMI_NOW)
}

/// The guest on pCPU `me` is about to go on, and has not by the short way. Whether it stays masked is for its own code to say: a
/// loop does, until an exception takes it out of there. One that has not takes the next NMI as the first.
pub fn at_entry(me: PcpuId, regs: &mut GuestRegs) {
    let is_next = change(me, NMI_NOW, HAS_MASKED);
    if is_next && regs.pstate & MASKED == MASKED {
        sysregs::set_virtual_serror(Some(NMI_SYNDROME));
    } else if is_next || change(me, MASK_NOW, HAS_MASKED) {
        regs.pstate |= MASKED;
    }
}

/// Has pCPU `me` stand at `to` if it is at `from`; whether it was. Nobody else changes that.
fn change(me: PcpuId, from: u8, to: u8) -> bool {
    let is_so = place_of(me) == from;
    if is_so && let Some(place) = WEDGES.get(me.index()) {
        place.store(to, Ordering::Relaxed);
    }
    is_so
}

/// Has EL3 interrupt `target` COUNT times, one event after the other, and on until a tenth of COUNT events have met a
/// vector or the world switch, if its guest exits all the time, or else nine tenths the guest; ten times COUNT at most. x0 to
/// x2 answer how often it came back, and how often it had been in a vector or in the world switch, and in the guest.
///
/// Where events meet the target is for the host to say. Without more, one is pending when EL3 returns from the one
/// before, and interrupts the same instruction again: so the target gets to run between two, until its guest exits again
/// if it does, and for a while that differs each time. And QEMU reads counters and signals interrupts under one
/// lock of the machine: a target that reads a counter at each exit often waits there while it is signalled, and all the time
/// if the prober reads one, too. So the prober waits by turns and not by the counter.
#[cold]
fn probe(target: &Percpu, count: u32, regs: &mut GuestRegs) {
    let events = || target.events.load(Ordering::Acquire);
    let before = events();
    let [mut in_switch, mut in_guest] = [0u32; 2];
    let mut delay = 1u32;
    let exits = || target.signs().count;
    let first = exits();
    for tried in 0..count.saturating_mul(10) {
        let exits_often = exits().wrapping_sub(first) > tried / 2;
        let is_enough = if exits_often {
            in_switch >= count / 10
        } else {
            in_guest >= count / 10 * 9
        };
        if tried >= count && is_enough {
            break;
        }
        // A guest that does not exit again is met there.
        let met = exits();
        let _again = wait(1 << DELAY_BITS, || exits() != met);
        delay = delay.wrapping_mul(MULTIPLIER).wrapping_add(1);
        let _never = wait(delay >> (32 - DELAY_BITS), || false);
        let seen = events();
        target.sample.ask();
        if !stop::interrupt(target) {
            break;
        }
        // Who did not come is not counted.
        let _came = wait(u32::MAX, || events() != seen);
        if !target.sample.collect() {
            continue;
        }
        // SAFETY: the sample has been collected.
        let context = unsafe { target.sampled.get() };
        target.sample.release();
        if context.is_guest() {
            in_guest += 1;
        } else {
            in_switch += u32::from(is_switch(context.pc));
        }
    }
    regs.x[0] = events().wrapping_sub(before).into();
    regs.x[1] = in_switch.into();
    regs.x[2] = in_guest.into();
}

/// Waits for `is_so`, for so many turns at most; whether it is so.
fn wait(turns: u32, is_so: impl Fn() -> bool) -> bool {
    (0..turns).any(|_| {
        core::hint::spin_loop();
        is_so()
    })
}

/// Whether `pc` is in a vector or on the way into a guest or out of it, where an exception's registers are live.
fn is_switch(pc: u64) -> bool {
    let address = |symbol: *const [u8; 0]| symbol.addr() as u64;
    let in_vectors = address(&raw const vectors)..address(&raw const vectors_end);
    let in_switch = address(&raw const guest_switch)..address(&raw const guest_switch_end);
    in_vectors.contains(&pc) || in_switch.contains(&pc)
}

/// Never leaves. It is the name the report must show.
#[inline(never)]
fn wedged_here() {
    LEFT.fetch_sub(1, Ordering::Release);
    while !black_box(false) {
        sysregs::yield_pcpu();
    }
}

fn break_now(way: u8) {
    match way {
        1 => panic!("asked to panic"),
        2 => console::hold(0, || panic!("asked to panic with the console locked")),
        3 => fault_at_el2(),
        4 => {
            black_box(overflow(0));
        }
        5 => stop_machine(Cause::Shutdown, &|| ()),
        _ => stop_machine(Cause::Reboot, &|| ()),
    }
}

/// Reads where nothing is mapped.
fn fault_at_el2() {
    let unmapped = core::ptr::without_provenance::<u64>((memory::HV_BASE - 8) as usize);
    // SAFETY: the read faults, which is its purpose; the vector reports and stops this pCPU.
    black_box(unsafe { unmapped.read_volatile() });
}

/// Uses up the stack: the guard page comes long before the depth does.
fn overflow(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    if room[0] == u64::MAX {
        return 0;
    }
    overflow(depth + 1) + room[63]
}
