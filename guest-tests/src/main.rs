//! EL1 test kernels.
#![no_std]
#![no_main]
