//! Reading devicetree blobs: the machine's, and the guest bundle, which is one too.
//!
//! A blob goes through [`Blob::check`] first, which validates all of it; what the `fdt` crate silently
//! relies on beyond that is checked or made true there, because `fdt` panics where it is not. Then
//! [`Fdt::open`] and [`Tree::new`] give its nodes.

mod blob;
mod bus;
mod interrupt;
mod tree;

pub use blob::{Blob, dtb_size};
pub use interrupt::Interrupt;
pub use tree::{Fdt, Node, Tree, number, strings};
