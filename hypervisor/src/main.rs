//! The hypervisor: entry, exceptions and hardware; the rules are in hv-core.
#![no_std]
#![no_main]
