//! The callers of EL2's own code, by frame records.

use crate::percpu::Context;
use crate::{memory, sysregs};

/// Callers that are followed.
const MOST: usize = 32;

/// The calls that led to the frame record at `frame`, innermost first, as long as records lie on a stack of ours and
/// climb.
pub fn callers(mut frame: u64) -> impl Iterator<Item = u64> {
    let mut is_over = false;
    let next_caller = move || {
        if is_over || frame & 7 != 0 || frame < memory::HV_BASE || memory::is_stack_guard(frame) {
            return None;
        }
        let record = core::ptr::with_exposed_provenance::<[u64; 2]>(frame as usize);
        // SAFETY: an aligned address in EL2's window; should it be unmapped after all, the fault comes to
        // `stop_machine` again, which goes on with its next step.
        let [next, pc] = unsafe { record.read_volatile() };
        if !memory::is_text(pc) {
            return None;
        }
        is_over = next <= frame;
        frame = next;
        // The call, not what follows it, which may be another function.
        Some(pc.wrapping_sub(4))
    };
    core::iter::from_fn(next_caller).take(MOST)
}

/// The EL2 code that calls this.
#[inline(never)]
pub fn here() -> Context {
    let frame = sysregs::frame_pointer();
    let mut x = [0; 31];
    x[29] = frame;
    Context {
        x,
        pc: here as *const () as u64,
        pstate: sysregs::EL2H_MASKED,
        ..Context::now()
    }
}
