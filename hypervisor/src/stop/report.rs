//! What every pCPU was doing, in one fixed order, past the console's lock.

use hv_core::id::PcpuId;
use hv_core::stop::StoppedBy;
use hv_core::stop::ladder::Fate;

use super::progress::Progress;
use super::slots::{is_off_wanted, pcpus, slot};
use crate::backtrace::{callers, here};
use crate::percpu::{self, Context, ExitEntry, Percpu};
use crate::registers::Registers;
use crate::report_line as say;
use crate::sysregs;

/// Tells of the stop: one record for each pCPU, and what there is behind it.
pub(super) fn tell(progress: &Progress) {
    let rate = sysregs::counter_frequency();
    let us = |ticks| hv_core::time::Instant(ticks).as_us(rate);
    let took = us(progress.ended.ticks_since(progress.started));
    let is_crash = progress.cause.is_crash();
    say!(
        "@hv-stop pcpu={} cause={} us={took}",
        progress.me.0,
        progress.cause.name()
    );
    for id in pcpus() {
        if id == progress.me {
            tell_of_stopper(id, is_crash);
            continue;
        }
        let fate = progress.ladder.fate(id, slot(id).state());
        let orderly = matches!(fate, Fate::Stopped(StoppedBy::Ipi | StoppedBy::Itself));
        let Some(percpu) = percpu::of(id) else {
            say!("@hv-pcpu pcpu={} fate={}", id.0, fate.name());
            continue;
        };
        let context = if let Fate::Stopped(_) = fate {
            // SAFETY: it was seen parked when `fate` was found.
            Some(unsafe { percpu.parked.get() })
        } else {
            None
        };
        let at = context.map_or(0, |context| {
            us(context.at.saturating_sub(progress.started.0))
        });
        let name = match is_off_wanted() && context.is_some() {
            false => "hv-pcpu",
            true if progress.still_on.contains(id) => "hv-pcpu power=on",
            true => "hv-pcpu power=off",
        };
        tell_of_pcpu(
            name,
            percpu,
            fate.name(),
            at,
            context.as_ref(),
            is_crash || !orderly,
        );
    }
    if is_crash {
        say!("@hv-crash-end");
    } else {
        say!("@hv-stop-end");
    }
}

fn tell_of_stopper(id: PcpuId, is_crash: bool) {
    say!("@hv-pcpu pcpu={} fate=stopper", id.0);
    if let Some(percpu) = percpu::this().filter(|_| is_crash) {
        let mut context = here();
        context.note_callers(percpu);
        tell_of_guest(percpu, Some(&context));
        tell_of_exits(percpu);
    }
}

/// Tells of one pCPU: a record that begins with `name`, and the lines that belong to it. `context` is what was
/// interrupted on that pCPU, `us` microseconds after the stop began; without it, only the last known state is told.
pub fn tell_of_pcpu(
    name: &str,
    percpu: &Percpu,
    fate: &str,
    us: u64,
    context: Option<&Context>,
    in_full: bool,
) {
    let id = percpu.id.0;
    let Some(context) = context else {
        say!("@{name} pcpu={id} fate={fate}");
        say!("  last known:");
        tell_of_guest(percpu, None);
        tell_of_exits(percpu);
        return;
    };
    let level = if context.is_guest() { "guest" } else { "el2" };
    let (pc, pstate) = (context.pc, context.pstate);
    say!("@{name} pcpu={id} fate={fate} us={us} level={level} pc={pc:#x} pstate={pstate:#x}");
    if !in_full {
        return;
    }
    if !context.is_guest() {
        let [elr, spsr, esr, far] = context.el2;
        say!("  {pc:#x}");
        for caller in callers(context.x[29]) {
            say!("  {caller:#x}");
        }
        if fate == StoppedBy::Sdei.name() {
            say!(
                "  sp {:#x} lr {:#x} elr {elr:#x} spsr {spsr:#x} esr {esr:#x} far {far:#x}",
                context.sp,
                context.x[30]
            );
        }
    }
    tell_of_guest(percpu, Some(context));
    tell_of_exits(percpu);
}

/// Its vCPU: the registers that were interrupted, or that EL2 has saved, and the callers of what it was doing.
fn tell_of_guest(percpu: &Percpu, context: Option<&Context>) {
    let Some((vm, vcpu, is_on)) = percpu.vcpu() else {
        return;
    };
    if !is_on {
        say!("  vm{} vCPU {} is off", vm.0, vcpu.0);
        return;
    }
    let (x, pc, pstate, is_partial) = match context.filter(|context| context.is_guest()) {
        Some(context) => (context.x, context.pc, context.pstate, false),
        None => match percpu.guest_regs() {
            Some(regs) => (regs.x, regs.pc, regs.pstate, regs.is_partial != 0),
            None => return,
        },
    };
    say!(
        "@hv-vcpu vm={} vcpu={} pc={pc:#x} pstate={pstate:#x}{}",
        vm.0,
        vcpu.0,
        Registers {
            x: &x,
            is_partial,
            context
        }
    );
    let callers = context.map_or(&[][..], |context| &context.callers);
    for caller in callers.iter().take_while(|&&caller| caller != 0) {
        // The call, not what follows it.
        say!("  guest {:#x}", caller.wrapping_sub(4));
    }
}

fn tell_of_exits(percpu: &Percpu) {
    let mut exits = percpu.last_exits.iter().peekable();
    if exits.peek().is_none() {
        return;
    }
    say!(
        "  last exits of pCPU {}'s guest, newest first:",
        percpu.id.0
    );
    for ExitEntry {
        at,
        vector,
        esr,
        pc,
    } in exits
    {
        let at = hv_core::time::Instant(at).as_us(sysregs::counter_frequency());
        let (seconds, us) = (at / 1_000_000, at % 1_000_000);
        let what = ["", "interrupt", "FIQ", "SError"][vector as usize & 3];
        if what.is_empty() {
            let what = hv_core::exit::describe(esr);
            say!("    at {seconds}.{us:06} s: {what} (ESR_EL2 {esr:#x}), guest pc {pc:#x}");
        } else {
            say!("    at {seconds}.{us:06} s: {what}, guest pc {pc:#x}");
        }
    }
}
