//! The project's one command.
#![forbid(unsafe_code)]

fn main() {}
