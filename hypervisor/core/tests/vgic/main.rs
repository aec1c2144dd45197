//! The virtual GIC, as its guests meet it: the hypervisor's own loop on a machine in memory (`hv-testbed`), which gets
//! exits and physical interrupts and whose list registers a guest acknowledges and ends interrupts in.

mod affinity;
mod books;
mod life;
mod lines;
mod linux;
mod lr;
mod mmio;
mod props;
mod scene;
mod siblings;
mod v2;
mod v2_again;
