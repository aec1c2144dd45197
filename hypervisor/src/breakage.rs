//! Ways to break on purpose, for those who test the stop and its report. The words stand on the hypervisor's
//! own command line (/chosen bootargs of the machine's devicetree), which only the loader writes; no guest can
//! reach it. A machine that has just crashed does not break again.
//!
//! `wedge=1:spin,2:lock` makes pCPUs deaf; `break=WORD` breaks when all are up, `break=WORD@N` at the
//! first TRNG call of the guest on pCPU N after the others have become so.

use alloc::vec::Vec;
use core::hint::black_box;
use core::sync::atomic::{AtomicUsize, Ordering};

use hv_core::id::PcpuId;
use spin::Once;

use crate::stop::{Cause, stop_machine};
use crate::{console, log, memory, sysregs};

/// Where a pCPU gets stuck, its interrupts masked: in EL2 with no vCPU running; in a call of the guest's, with
/// the console's lock or without; in the first instruction of the vector, at the guest's next exit.
const PLACES: [&str; 4] = ["spin", "lock", "exit", "vector"];

/// How it breaks: three crashes and one with the console locked, and the machine told to stop.
const WAYS: [&str; 6] = ["panic", "lock", "fault", "stack", "off", "reset"];

struct Plan {
    /// Where each pCPU gets stuck.
    wedges: Vec<(PcpuId, &'static str)>,
    /// How it breaks, and on which pCPU if not on just any.
    break_at: Option<(&'static str, Option<PcpuId>)>,
}

static PLAN: Once<Plan> = Once::new();
/// pCPUs that are stuck as planned.
static STUCK: AtomicUsize = AtomicUsize::new(0);

/// Reads what `bootargs` asks for; without a word of ours there is no plan.
#[inline(never)]
pub fn plan(bootargs: &str) {
    let mut plan = Plan {
        wedges: Vec::new(),
        break_at: None,
    };
    let mut is_understood = true;
    for word in bootargs.as_bytes().split(|&byte| byte == b' ') {
        if let Some(list) = word.strip_prefix(b"wedge=") {
            for item in list.split(|&byte| byte == b',') {
                let (pcpu, place) = cut(item, b':');
                match (number(pcpu), known(place, &PLACES)) {
                    (Some(pcpu), Some(place)) => plan.wedges.push((pcpu, place)),
                    _ => is_understood = false,
                }
            }
        } else if let Some(item) = word.strip_prefix(b"break=") {
            let (way, pcpu) = cut(item, b'@');
            plan.break_at = known(way, &WAYS).map(|way| (way, number(pcpu)));
            is_understood &= plan.break_at.is_some();
        }
    }
    if !is_understood {
        log!("wedge= or break= is not understood");
    }
    if plan.break_at.is_some() || !plan.wedges.is_empty() {
        PLAN.call_once(|| plan);
    }
}

/// What is before and after `mark`; all of it and nothing without one.
fn cut(item: &[u8], mark: u8) -> (&[u8], &[u8]) {
    let mut parts = item.splitn(2, |&byte| byte == mark);
    (parts.next().unwrap_or(&[]), parts.next().unwrap_or(&[]))
}

fn known(word: &[u8], table: &[&'static str]) -> Option<&'static str> {
    let mut table = table.iter().copied();
    table.find(|known| known.as_bytes() == word)
}

fn number(digits: &[u8]) -> Option<PcpuId> {
    let digit = |sum: u8, byte: &u8| {
        let digit = byte.checked_sub(b'0').filter(|&digit| digit < 10)?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    let number = digits.iter().try_fold(0, digit)?;
    (!digits.is_empty()).then_some(PcpuId(number))
}

/// All pCPUs are up, and no guest runs.
pub fn at_ready() {
    if let Some(Plan {
        break_at: Some((way, None)),
        ..
    }) = PLAN.get()
    {
        log!("breaking on purpose");
        break_now(way);
    }
}

/// pCPU `me` is about to wait for its vCPU's start.
pub fn at_start(me: PcpuId) {
    match wedge_of(me) {
        Some("spin") => spin(),
        Some("vector") => {
            STUCK.fetch_add(1, Ordering::Release);
            sysregs::break_vectors();
        }
        _ => {}
    }
}

/// The guest on pCPU `me` has made a TRNG call.
pub fn at_exit(me: PcpuId) {
    if let Some(plan) = PLAN.get() {
        follow(plan, me);
    }
}

#[cold]
fn follow(plan: &Plan, me: PcpuId) {
    match wedge_of(me) {
        Some("lock") => console::hold(spin),
        Some("exit") => spin(),
        _ => {}
    }
    if let Some((way, Some(at))) = plan.break_at
        && at == me
        && STUCK.load(Ordering::Acquire) >= plan.wedges.len()
    {
        break_now(way);
    }
}

fn wedge_of(me: PcpuId) -> Option<&'static str> {
    let wedges = &PLAN.get()?.wedges;
    let (_, place) = wedges.iter().find(|(pcpu, _)| *pcpu == me)?;
    Some(*place)
}

/// Never leaves. `wedged_here` is the name the report must show.
fn spin() {
    STUCK.fetch_add(1, Ordering::Release);
    wedged_here()
}

#[inline(never)]
fn wedged_here() {
    while !black_box(false) {
        sysregs::yield_pcpu();
    }
}

fn break_now(way: &str) {
    match way {
        "panic" => panic!("asked to panic"),
        "lock" => console::hold(|| panic!("asked to panic with the console locked")),
        "fault" => fault(),
        "stack" => {
            black_box(overflow(0));
        }
        "off" => stop_machine(Cause::Shutdown, &|| ()),
        _ => stop_machine(Cause::Reboot, &|| ()),
    }
}

/// Reads where nothing is mapped.
fn fault() {
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
