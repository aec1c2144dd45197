//! The lab: Linux is made to stop CPUs and to leave a vmcore, and what became of that is judged.
#![forbid(unsafe_code)]

pub mod build_id;
pub mod capture;
pub mod cpulist;
pub mod document;
pub mod dumped;
pub mod evidence;
pub mod given;
mod hashed;
pub mod instant;
mod intervention;
pub mod kdump;
pub mod ladder;
pub mod lines;
pub mod needs;
pub mod oracle;
pub mod outside;
pub mod page;
mod patch;
pub mod place;
pub mod plan;
pub mod registers;
pub mod restart;
pub mod results;
pub mod revived;
pub mod scenario;
pub mod stood;
pub mod symbolize;
pub mod symbols;
pub mod usage;
pub mod verdict;
pub mod vmcore;
pub mod watch;
