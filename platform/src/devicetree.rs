//! Reading devicetree blobs: the machine's, and the guest bundle, which is one too.
//!
//! A blob becomes [`Settled`] first, which checks all of it (`dtb`) and removes NOPs: the `fdt` crate silently
//! relies on either and panics without. Then [`Fdt::open`], which takes nothing else, and [`Tree::new`] give its
//! nodes.

mod blob;
mod bus;
mod interrupt;
mod tree;

pub use blob::{Settled, dtb_size};
pub use interrupt::Interrupt;
pub use tree::{Fdt, Node, Tree, number, strings};
