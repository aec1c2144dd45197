//! The operator's line: what comes in over the console's UART, and what is answered. What is asked, and what of it is done, is
//! decided in `hv_core::operator` and `hv_core::vm`.

use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hv_abi::operator::{Access, Base64, Crc};
use hv_core::id::{Mpidr, VmId};
use hv_core::operator::{Came, OperatorLine};
use hv_core::stop::frames;
use hv_core::vm::{Answer, Lateness};

use crate::patience::Mutex;
use crate::percpu::Context;
use crate::registers::Registers;
use crate::sysregs::translation::guest_callers;
use crate::vm::VMS;
use crate::{console, gic, log, sysregs};

static LINE: Mutex<OperatorLine> = Mutex::new(OperatorLine::new());

/// Says what the operator may do.
pub fn allow(access: Access) {
    LINE.lock().allow(access);
}

/// Has the operator do what this says and no more than before.
pub fn confine(access: Access) {
    LINE.lock().confine(access);
}

/// The pCPU that takes the console's interrupt: its affinity, and one more; 0 if none does.
static LISTENER: AtomicU64 = AtomicU64::new(0);
/// That interrupt.
static INTID: AtomicU32 = AtomicU32::new(0);

/// This pCPU takes the console's interrupt, which is this.
pub fn listens(pcpu: Mpidr, intid: u32) {
    INTID.store(intid, Ordering::Relaxed);
    LISTENER.store(pcpu.bits() + 1, Ordering::Relaxed);
}

/// The pCPU `lost` does not get out of EL2: if it takes the console's interrupt, `me` does so from now on.
#[cold]
pub fn take_over(lost: Mpidr, me: Mpidr) {
    if LISTENER.load(Ordering::Relaxed) == lost.bits() + 1 {
        let intid = INTID.load(Ordering::Relaxed);
        gic::get().take_over_spi(intid, me);
        listens(me, intid);
    }
}

/// Takes in a byte that the UART has received.
pub fn receive() -> Option<Came> {
    let mut line = LINE.lock();
    Some(line.push(console::read()?))
}

/// Whether a VM has a device that can reach all memory.
fn reaches_all(vm: u8) -> bool {
    let vms = VMS.get().map_or(&[][..], Vec::as_slice);
    vms.get(usize::from(vm)).is_some_and(|vm| vm.reaches_all)
}

/// Tells the operator.
#[cold]
pub fn tell(VmId(vm): VmId, answer: &Answer<'_>) {
    match answer {
        Answer::Vm {
            vm: VmId(vm),
            vcpus,
            asked,
            refusal,
            state,
            is_held,
            room,
        } => {
            let id = asked.request.id;
            let (before, what) = match refusal {
                Some(refusal) => (" error=", refusal.name()),
                None if asked.is_again => (" again=", "1"),
                None => ("", ""),
            };
            let state = state.name();
            let vcpus = vcpus.iter().count();
            let memory = if reaches_all(*vm) { " memory=all" } else { "" };
            let clock = if *is_held { " clock=held" } else { "" };
            line(format_args!(
                "@answer id={id:#x} vm={vm} vcpus={vcpus} state={state} room={room}{clock}{memory}{before}{what}"
            ));
        }
        Answer::Memory {
            vm: VmId(vm),
            id,
            ipa,
            data: Ok(data),
        } => {
            let data = Base64(data);
            line(format_args!(
                "@answer id={id:#x} vm={vm} ipa={ipa:#x} data={data}"
            ));
        }
        Answer::Memory {
            vm: VmId(vm),
            id,
            ipa,
            data: Err(at),
        } => line(format_args!(
            "@answer id={id:#x} vm={vm} ipa={ipa:#x} error=unmapped at={at:#x}"
        )),
        Answer::Vcpu {
            vcpu,
            question,
            stand,
            regs,
            watch,
        } => {
            let (id, vcpu, state) = (question.id, vcpu.0, stand.name());
            let Some(regs) = regs else {
                line(format_args!(
                    "@answer id={id:#x} vm={vm} vcpu={vcpu} state={state}"
                ));
                return;
            };
            let (pc, pstate, late) = (regs.pc, regs.pstate, OrNothing(watch.map(Late)));
            let serror = u8::from(sysregs::is_serror_pending());
            let context = question.in_full.then(Context::now);
            let registers = context.as_ref().map(|context| Registers {
                x: &regs.x,
                is_partial: regs.is_partial != 0,
                context: Some(context),
            });
            let pointers = question.in_full.then(|| Pointers(sysregs::el1_pointers()));
            let callers = question.in_full.then(|| Callers(guest_callers(regs.x[29])));
            line(format_args!(
                "@answer id={id:#x} vm={vm} vcpu={vcpu} state={state} pc={pc:#x} pstate={pstate:#x} serror={serror}{late}{}{}{}",
                OrNothing(registers),
                OrNothing(pointers),
                OrNothing(callers)
            ));
        }
        Answer::Nmi { vcpu, rung, answer } => {
            let (vcpu, rung, answer) = (vcpu.0, rung.name(), answer.name());
            log!("@vm-nmi vm={vm} vcpu={vcpu} rung={rung} answer={answer}");
        }
        Answer::Gwdt { vcpu, act } => {
            let (vcpu, act) = (vcpu.0, act.name());
            log!("@vm-gwdt vm={vm} vcpu={vcpu} do={act}");
        }
        Answer::Health {
            vcpu,
            watch,
            regs,
            done,
        } => {
            let (vcpu, pc, pstate) = (vcpu.0, regs.pc, regs.pstate);
            let (act, is_all) =
                done.map_or(("none", 0), |(act, is_all)| (act.name(), u8::from(is_all)));
            let late = OrNothing(watch.map(Late));
            log!(
                "@vm-late vm={vm} vcpu={vcpu} pc={pc:#x} pstate={pstate:#x} do={act} all={is_all}{late}"
            );
        }
    }
}

/// A record with its checksum at the end, which is of all before ` crc=`.
fn line(text: fmt::Arguments<'_>) {
    let mut crc = Crc::new();
    // A checksum cannot fail.
    let _ = crc.write_fmt(text);
    log!("{text} crc={:#x}", crc.value());
}

/// What the watchdog says of a vCPU.
struct Late(Lateness);

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lateness {
            health,
            waiting,
            since,
        } = self.0;
        let since = since.as_us(sysregs::counter_frequency());
        let now = sysregs::now().as_us(sysregs::counter_frequency());
        let (late, mask) = (health.name(), waiting.mask.name());
        let (intid, ms) = (waiting.intid.0, now.saturating_sub(since) / 1000);
        write!(f, " late={late} intid={intid} masked={mask} ms={ms}")
    }
}

/// Of [`sysregs::el1_pointers`].
struct Pointers([u64; 4]);

impl fmt::Display for Pointers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [tcr, el0, ro, el1] = self.0;
        write!(
            f,
            " tcr_el1={tcr:#x} tpidr_el0={el0:#x} tpidrro_el0={ro:#x} tpidr_el1={el1:#x}"
        )
    }
}

/// Of [`guest_callers`], the last of which is 0 at the latest.
struct Callers([u64; frames::MOST]);

impl fmt::Display for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(" callers=")?;
        for caller in self.0.iter().take_while(|&&caller| caller != 0) {
            write!(f, "{caller:#x},")?;
        }
        f.write_char('0')
    }
}

struct OrNothing<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for OrNothing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(shown) => shown.fmt(f),
            None => Ok(()),
        }
    }
}
