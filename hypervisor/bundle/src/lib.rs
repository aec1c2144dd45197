//! What a guest is: the bundle it arrives in, where its parts go, and the devicetree it sees.
//!
//! A bundle is checked as a whole before any of it is believed; nothing in it, and nothing in the
//! machine's devicetree, can make this crate panic. What runs once is kept out of its callers, which may
//! be built for speed rather than size.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bundle;
mod config;
mod crc;
mod digest;
mod error;
mod fit;
mod guest_dtb;
mod home;
mod kernel;
mod layout;
mod page;
mod pieces;
mod places;
mod plan;
mod ram;
mod seed;
mod vmcore;
mod writer;

pub use bundle::{Bundle, Capture, Guest};
pub use config::{
    DumpConfig, GuestConfig, MAX_FLASH, MAX_VCPUS, MIN_FLASH, parse_crashkernel, parse_size,
};
pub use crc::{Crc32, Table as Crc32Table};
pub use error::Error;
pub use fit::{write, write_for};
pub use guest_dtb::{GuestSpec, HEADROOM, build as build_guest_dtb};
pub use home::{Image, STACKS, find_home};
pub use kernel::{Compression, Format, Kernel};
pub use layout::{Layout, Memory, Parts};
pub use page::{BLOCK_WORDS, word as page_word};
pub use pieces::Pieces;
pub use places::{Identity, Loaded, Places, given, identity, tables};
pub use plan::{
    Backing, CapturePlan, CpuInterface, Host, Keep, MAX_VMS, Mediated, OwnDevices, Piece,
    REDISTRIBUTOR_SIZE, Seeding, VmPlan, Wanted, plan, reaches_memory,
};
pub use ram::{BLOCK_SIZE, PAGE_SIZE, highest_free, without};
pub use seed::{Fresh, Secret, Seeds};
pub use vmcore::{By, Cpus, Registers, Vmcore, VmcoreInfo, find_info, room};
