//! SDEI as a guest meets it. Tests that cover an item of the conformance list carry its number.

mod calls;
mod company;
mod completion;
mod delivery;
mod model;
mod nesting;
mod room;
mod sequences;
mod simulation;
mod table;
mod together;
mod vcpu;
