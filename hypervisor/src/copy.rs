//! `memcpy` and `memset` (`copy.S`), which the compiler calls for whatever is longer than a few registers. They are on
//! the path of every event and every interrupt.

use core::arch::global_asm;

global_asm!(
    include_str!("copy.S"),
    ".section .text.copy, \"ax\"",
    "copy_functions memcpy, memset",
);
