//! What a guest is: the bundle it arrives in, where its parts go, and the devicetree it sees.
#![no_std]
#![forbid(unsafe_code)]
