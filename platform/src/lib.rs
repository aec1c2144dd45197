//! What this machine is, read from its devicetree, and the few drivers that differ by board.
#![no_std]
