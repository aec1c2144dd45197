//! The operator's line: what comes in over the console's UART, and what is answered. What is asked, and what of it is done, is
//! decided in `hv_core::operator` and `hv_core::vm`.

use core::fmt::{self, Write};

use hv_abi::operator::{Access, Crc};
use hv_core::id::VmId;
use hv_core::operator::{Asked, Inlet};
use hv_core::vm::Answer;

use crate::patience::Mutex;
use crate::percpu::Context;
use crate::registers::Registers;
use crate::{console, log, sysregs};

static INLET: Mutex<Inlet> = Mutex::new(Inlet::new());

/// So many bytes are taken in at once at most: a line that never falls silent does not keep the guest of the pCPU that listens
/// from running. The UART's interrupt comes again for the rest.
const AT_ONCE: usize = 256;

/// Says what the operator may do.
pub fn allow(access: Access) {
    INLET.lock().allow(access);
}

/// Takes in what the UART has received, up to the next request.
pub fn next_request() -> Option<Asked> {
    let mut inlet = INLET.lock();
    for _ in 0..AT_ONCE {
        if let Some(asked) = inlet.push(console::read()?) {
            return Some(asked);
        }
    }
    None
}

/// The next byte that was typed for the guest.
pub fn next_typed() -> Option<u8> {
    INLET.lock().take()
}

/// Tells the operator.
#[cold]
pub fn tell(vm: VmId, answer: &Answer<'_>) {
    let vm = vm.0;
    match answer {
        Answer::Vm {
            vcpus,
            asked,
            is_unknown,
            is_paused,
            ..
        } => {
            let id = asked.request.id;
            let what = match asked {
                _ if asked.is_refused => " error=refused",
                _ if *is_unknown => " error=unknown",
                _ if asked.is_again => " again=1",
                _ => "",
            };
            let state = if *is_paused { "paused" } else { "running" };
            let (vcpus, room) = (vcpus.iter().count(), INLET.lock().room());
            line(format_args!(
                "@answer id={id:#x} vm={vm} vcpus={vcpus} state={state} room={room}{what}"
            ));
        }
        Answer::Vcpu {
            vcpu,
            question,
            stand,
            regs,
        } => {
            let (id, vcpu, state) = (question.id, vcpu.0, stand.name());
            let Some(regs) = regs else {
                line(format_args!(
                    "@answer id={id:#x} vm={vm} vcpu={vcpu} state={state}"
                ));
                return;
            };
            let (pc, pstate) = (regs.pc, regs.pstate);
            let serror = u8::from(sysregs::is_serror_pending());
            let context = question.in_full.then(Context::now);
            let registers = context.as_ref().map(|context| Registers {
                x: &regs.x,
                is_partial: regs.is_partial != 0,
                context: Some(context),
            });
            line(format_args!(
                "@answer id={id:#x} vm={vm} vcpu={vcpu} state={state} pc={pc:#x} pstate={pstate:#x} serror={serror}{}",
                OrNothing(registers)
            ));
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

struct OrNothing<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for OrNothing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(shown) => shown.fmt(f),
            None => Ok(()),
        }
    }
}
