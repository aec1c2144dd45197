//! Calls of our own, in the range of vendor-specific hypervisor services (DEN0028 6.2, owner 6).

/// `HALLIGAN_EVENT_RAISE(event, target)`: the platform raises an SDEI event that the VM's configuration defines,
/// a private one on the vCPU whose MPIDR affinity is in x2. Answers as SDEI calls do. Exists only where the
/// configuration has `debug-calls`.
pub const EVENT_RAISE: u32 = 0xC600_0010;
