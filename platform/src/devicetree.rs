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

use crate::Error;

/// There is no memory for all of a blob, before the hypervisor has found any.
#[cold]
#[inline(never)]
fn too_large() -> Error {
    Error::new(
        "blob",
        "has more than 3000 nodes, or, with parts blanked out, than 128 KiB",
        "have the loader leave out what is not used",
    )
}
