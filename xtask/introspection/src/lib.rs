//! What is in a guest's memory, seen from outside: virtual addresses by the guest's own tables.
//!
//! Nothing here knows how memory is read: over the operator's line, out of a dump, or out of a test. Nothing here trusts what it
//! reads: each walk is bounded, and what makes no sense is an error.
#![forbid(unsafe_code)]

pub mod btf;
pub mod core_file;
pub mod kallsyms;
pub mod linux;
pub mod memory;
pub mod modules;
pub mod oracle;
pub mod pages;
pub mod translation;
pub mod unwind;
pub mod vmcoreinfo;
