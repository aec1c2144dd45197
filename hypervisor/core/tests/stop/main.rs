//! Stopping the machine's own pCPUs: what the ladder does in sentences, and in every order there is.

mod ladder;
mod model;
mod watchdog;
