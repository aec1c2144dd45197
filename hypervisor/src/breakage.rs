//! Ways to break on purpose, for those who test the crash report: `break=WORD` on the hypervisor's own
//! command line (/chosen bootargs of the machine's devicetree), which only the loader writes; no guest
//! can reach it.

use core::hint::black_box;

use crate::{console, log, memory};

/// Breaks as `bootargs` asks; returns if it does not ask.
pub fn obey(bootargs: &str) {
    let word = bootargs
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("break="));
    let Some(word) = word else {
        return;
    };
    log!("breaking on purpose: {word}");
    match word {
        "panic" => panic!("asked to panic"),
        "lock" => console::hold(|| panic!("asked to panic with the console locked")),
        "fault" => fault(),
        "stack" => {
            black_box(overflow(0));
        }
        _ => log!("break={word} is unknown; it is one of panic, lock, fault, stack"),
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
