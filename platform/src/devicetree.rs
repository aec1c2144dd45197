//! Reading devicetree blobs: the machine's, and the guest bundle, which is one too.
//!
//! A blob goes through [`Blob::check`] first, which validates all of it, and has NOPs removed: the `fdt`
//! crate silently relies on either and panics without. Then [`Fdt::open`] and [`Tree::new`] give its
//! nodes.

mod blob;
mod bus;
mod interrupt;
mod tree;

pub use blob::{Blob, dtb_size};
pub use interrupt::Interrupt;
pub use tree::{Fdt, Node, Tree, number, strings};
