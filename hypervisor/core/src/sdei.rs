//! The Software Delegated Exception Interface (DEN0054) as one vCPU sees it.
//!
//! A [`Pe`] belongs to its vCPU and is touched by nobody else: a sibling that signals it posts a bit to
//! the vCPU's mailbox, and the vCPU itself hands that bit to [`Pe::post_signal`]. So event 0 and the
//! platform's private events need no lock, and what a call answers never depends on how fast somebody else
//! is. What PEs have in common, shared events and bound interrupts, is [`SharedEvents`], behind the VM's lock:
//! [`Pe::needs_shared`] says which calls take it.
//!
//! Where DEN0054 leaves a choice, `docs/decisions/0002-sdei-ambiguities.md` says what is done and why.

mod bindings;
mod board;
mod calls;
mod config;
mod dispatch;
pub mod handler;
mod level;
mod pe;
mod shared_calls;
mod shared_events;

pub use board::{Board, WithBoard};
pub use calls::Effect;
pub use config::{Config, SLOTS, Version};
pub use dispatch::Due;
pub use hv_abi::sdei::{Definition, MAX_EVENTS, Priority, Scope};
pub use level::Interrupted;
pub use pe::{Departure, Fate, Pe};
pub use shared_events::{SdeiEffects, SharedEvents};
