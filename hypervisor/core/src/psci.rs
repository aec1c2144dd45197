//! The Power State Coordination Interface (DEN0022) of one VM, version 1.3: which of its vCPUs are on, and
//! what each call answers and starts.
//!
//! Nothing is powered here. A [`Decision`] says what has to happen, and the vCPU concerned reports with
//! [`Power::started`] and [`Power::stopped`] when it has.

use hv_abi::{psci, smccc};

use crate::id::{MAX_VCPUS, Mpidr, VcpuId, VcpuSet};
use crate::siblings::Siblings;

pub use hv_abi::psci::{AffinityState, Reclaim, Status};

/// A call with its arguments, those of SMC32 cut to 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `PSCI_VERSION`
    Version,
    /// `CPU_SUSPEND`
    CpuSuspend {
        /// Which state, in the original format.
        power_state: u32,
        /// Where to go on after a powerdown state, an ipa.
        entry: u64,
    },
    /// `CPU_OFF`
    CpuOff,
    /// `CPU_ON`
    CpuOn {
        /// Affinity of the vCPU.
        target: u64,
        /// Where it starts, an ipa.
        entry: u64,
        /// What it finds in x0.
        context: u64,
    },
    /// `AFFINITY_INFO`
    AffinityInfo {
        /// Affinity of the vCPU.
        target: u64,
        /// The lowest affinity level that counts.
        level: u32,
    },
    /// `MIGRATE_INFO_TYPE`
    MigrateInfoType,
    /// `SYSTEM_OFF`
    SystemOff,
    /// `SYSTEM_RESET`
    SystemReset,
    /// `PSCI_FEATURES` of this function identifier
    Features(u32),
    /// `SYSTEM_SUSPEND`
    SystemSuspend {
        /// Where the caller goes on, an ipa.
        entry: u64,
        /// What it finds in x0 there.
        context: u64,
    },
    /// `SYSTEM_RESET2`
    SystemReset2 {
        /// 0, or vendor-specific from 0x8000_0000 on.
        kind: u32,
        /// For a vendor-specific reset.
        cookie: u64,
    },
    /// `SYSTEM_OFF2`
    SystemOff2 {
        /// Why: 0 or [`psci::HIBERNATE_OFF`].
        kind: u32,
        /// Must be 0.
        cookie: u64,
    },
}

/// Reads the call `function` with the arguments x1 to x3. `None` is a function that does not exist here and
/// answers NOT_SUPPORTED.
#[inline(always)]
pub fn decode(function: u32, args: [u64; 3]) -> Option<Call> {
    // SMC32 arguments are W registers (DEN0028 2.6).
    let [a, b, c] = if smccc::FunctionId(function).is_64bit() {
        args
    } else {
        args.map(|arg| arg & 0xffff_ffff)
    };
    Some(match function {
        psci::VERSION => Call::Version,
        id if psci::CPU_SUSPEND.contains(&id) => Call::CpuSuspend {
            power_state: a as u32,
            entry: b,
        },
        psci::CPU_OFF => Call::CpuOff,
        id if psci::CPU_ON.contains(&id) => Call::CpuOn {
            target: a,
            entry: b,
            context: c,
        },
        id if psci::AFFINITY_INFO.contains(&id) => Call::AffinityInfo {
            target: a,
            level: b as u32,
        },
        psci::MIGRATE_INFO_TYPE => Call::MigrateInfoType,
        psci::SYSTEM_OFF => Call::SystemOff,
        psci::SYSTEM_RESET => Call::SystemReset,
        psci::FEATURES => Call::Features(a as u32),
        id if psci::SYSTEM_SUSPEND.contains(&id) => Call::SystemSuspend {
            entry: a,
            context: b,
        },
        id if psci::SYSTEM_RESET2.contains(&id) => Call::SystemReset2 {
            kind: a as u32,
            cookie: b,
        },
        id if psci::SYSTEM_OFF2.contains(&id) => Call::SystemOff2 {
            kind: a as u32,
            cookie: b,
        },
        _ => return None,
    })
}

/// What has to happen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// The caller goes on with this in x0.
    Answer(u64),
    /// The caller goes on with 0 in x0, and a vCPU starts.
    Start(Start),
    /// The caller waits until an interrupt is pending for it, masked or not, or an SDEI event is dispatchable;
    /// then it goes on with 0 in x0.
    Suspend,
    /// The caller stops. When it touches no memory any more, [`Power::stopped`] says so.
    Off,
    /// The caller waits as in [`Self::Suspend`], and then goes on as a vCPU that starts: with `context` in x0
    /// at `entry`, its byte order its own. What its SDEI and the interrupt controller know is kept, but SDEI is
    /// masked.
    SystemSuspend {
        /// At which ipa.
        entry: u64,
        /// With what in x0.
        context: u64,
    },
    /// Every vCPU of the VM stops, for good.
    SystemOff,
    /// Every vCPU of the VM stops, and the VM starts again.
    SystemReset(Reset),
}

/// The byte order of data at EL1 (SCTLR_EL1.EE).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Endian {
    /// The lowest byte first.
    #[default]
    Little,
    /// The highest byte first.
    Big,
}

/// How a vCPU that was off starts: at EL1h, D, A, I and F set, stage 1 off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Who starts.
    pub vcpu: VcpuId,
    /// At which ipa.
    pub entry: u64,
    /// With what in x0.
    pub context: u64,
    /// With what in x4: 0, but for a VM that is loaded ([`Load`](crate::vm::Load)).
    pub x4: u64,
    /// With this byte order, its caller's (DEN0022, initial state of a core).
    pub endian: Endian,
}

/// What kind of reset the guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// `SYSTEM_RESET`
    Cold,
    /// `SYSTEM_RESET2`, SYSTEM_WARM_RESET
    Warm,
    /// `SYSTEM_RESET2`, a vendor's
    Vendor {
        /// Which, from 0x8000_0000 on.
        kind: u32,
        /// Its parameter.
        cookie: u64,
    },
}

/// Which vCPUs of a VM are on.
#[derive(Clone, Debug)]
pub struct Power {
    states: [AffinityState; MAX_VCPUS],
    reclaim: Reclaim,
}

impl Power {
    /// The VM as it starts: `boot` is on, all others are off.
    pub fn new(boot: VcpuId) -> Self {
        let mut power = Self {
            states: [AffinityState::Off; MAX_VCPUS],
            reclaim: Reclaim::Off,
        };
        power.set(boot, AffinityState::On);
        power
    }

    /// The same with this answer to CPU_ON of a parked vCPU.
    #[must_use]
    pub fn with_reclaim(self, reclaim: Reclaim) -> Self {
        Self { reclaim, ..self }
    }

    /// Back to how the VM starts.
    pub fn reset(&mut self, boot: VcpuId) {
        *self = Self::new(boot).with_reclaim(self.reclaim);
    }

    /// The state of a vCPU as AFFINITY_INFO tells it.
    pub fn state(&self, vcpu: VcpuId) -> AffinityState {
        let state = self.states.get(vcpu.index());
        state.copied().unwrap_or(AffinityState::Off)
    }

    /// A vCPU that a [`Start`] was for begins to run.
    pub fn started(&mut self, vcpu: VcpuId) {
        self.set(vcpu, AffinityState::On);
    }

    /// A vCPU that turned itself off has stopped and touches no memory any more. If a sibling has taken it back
    /// meanwhile, its [`Start`] is on its way, and it is not off.
    pub fn stopped(&mut self, vcpu: VcpuId) {
        if self.state(vcpu) != AffinityState::OnPending {
            self.set(vcpu, AffinityState::Off);
        }
    }

    /// Whether no vCPU is on or starting: nothing can ever happen in this VM again.
    pub fn are_all_off(&self) -> bool {
        self.states.iter().all(|&state| state == AffinityState::Off)
    }

    /// Who is on or starting.
    #[inline(never)]
    pub fn on(&self) -> VcpuSet {
        let mut on = VcpuSet::EMPTY;
        for (vcpu, &state) in (0..).map(VcpuId).zip(&self.states) {
            if state != AffinityState::Off {
                on.insert(vcpu);
            }
        }
        on
    }

    /// How many vCPUs are on or starting.
    pub fn count(&self) -> usize {
        let is_on = |state: &&AffinityState| **state != AffinityState::Off;
        self.states.iter().filter(is_on).count()
    }

    /// Performs a call of `caller`. `endian` is asked for its byte order, `is_ram` whether an ipa is in the guest's
    /// memory, and `is_parked` whether a vCPU waits, masked, in an SDEI handler that never completes.
    pub fn call(
        &mut self,
        caller: VcpuId,
        call: Call,
        endian: impl Fn() -> Endian,
        siblings: &(impl Siblings + ?Sized),
        is_ram: impl Fn(u64) -> bool,
        is_parked: impl Fn(VcpuId) -> bool,
    ) -> Decision {
        let result = match call {
            Call::Version => Ok(Decision::Answer(u64::from(psci::VERSION_1_3))),
            Call::CpuSuspend { power_state, entry } => cpu_suspend(power_state, entry, is_ram),
            Call::CpuOff => Ok(Decision::Off),
            Call::CpuOn {
                target,
                entry,
                context,
            } => {
                let place = (entry, context);
                self.cpu_on(caller, target, place, endian, siblings, (is_ram, is_parked))
            }
            Call::AffinityInfo { target, level } => self.affinity_info(target, level, siblings),
            // No trusted OS, or one that needs no migration (DEN0022, MIGRATE_INFO_TYPE).
            Call::MigrateInfoType => Ok(Decision::Answer(2)),
            Call::SystemOff => Ok(Decision::SystemOff),
            Call::SystemReset => Ok(Decision::SystemReset(Reset::Cold)),
            Call::Features(function) => features(function),
            Call::SystemSuspend { entry, context } => self.system_suspend(entry, context, is_ram),
            Call::SystemReset2 { kind, cookie } => system_reset2(kind, cookie),
            Call::SystemOff2 { kind, cookie } => system_off2(kind, cookie),
        };
        result.unwrap_or_else(|status| Decision::Answer(word(status)))
    }

    /// The order of the checks is target, address, state: a wrong address is found on a vCPU that is on, too.
    /// Who calls is on, and not parked: it may yet complete.
    fn cpu_on(
        &mut self,
        caller: VcpuId,
        target: u64,
        (entry, context): (u64, u64),
        endian: impl Fn() -> Endian,
        siblings: &(impl Siblings + ?Sized),
        (is_ram, is_parked): (impl Fn(u64) -> bool, impl Fn(VcpuId) -> bool),
    ) -> Result<Decision, Status> {
        let vcpu = resolve(target, siblings)?;
        check_entry(entry, is_ram)?;
        let may_take_back = self.reclaim == Reclaim::Parked && vcpu != caller && is_parked(vcpu);
        match self.state(vcpu) {
            AffinityState::On if !may_take_back => Err(Status::AlreadyOn),
            AffinityState::OnPending => Err(Status::OnPending),
            AffinityState::Off | AffinityState::On => {
                self.set(vcpu, AffinityState::OnPending);
                Ok(Decision::Start(Start {
                    vcpu,
                    entry,
                    context,
                    x4: 0,
                    endian: endian(),
                }))
            }
        }
    }

    /// Higher affinity levels may be refused since PSCI 1.0 (DEN0022 5.1.5).
    fn affinity_info(
        &self,
        target: u64,
        level: u32,
        siblings: &(impl Siblings + ?Sized),
    ) -> Result<Decision, Status> {
        if level != 0 {
            return Err(Status::InvalidParameters);
        }
        let vcpu = resolve(target, siblings)?;
        Ok(Decision::Answer(self.state(vcpu) as u64))
    }

    /// Only the last vCPU that is on can suspend the system, and one that starts counts as on (DEN0022,
    /// SYSTEM_SUSPEND). The address is looked at first, as in CPU_ON.
    fn system_suspend(
        &self,
        entry: u64,
        context: u64,
        is_ram: impl Fn(u64) -> bool,
    ) -> Result<Decision, Status> {
        check_entry(entry, is_ram)?;
        let on = self.states.iter().filter(|&&s| s != AffinityState::Off);
        if on.count() == 1 {
            Ok(Decision::SystemSuspend { entry, context })
        } else {
            Err(Status::Denied)
        }
    }

    fn set(&mut self, vcpu: VcpuId, to: AffinityState) {
        if let Some(state) = self.states.get_mut(vcpu.index()) {
            *state = to;
        }
    }
}

/// Every valid state is entered as standby: the call returns, nothing is lost.
fn cpu_suspend(
    power_state: u32,
    entry: u64,
    is_ram: impl Fn(u64) -> bool,
) -> Result<Decision, Status> {
    // Original format (DEN0022, CPU_SUSPEND): [31:26] and [23:17] are 0, [16] is set for powerdown states.
    const RESERVED: u32 = 0b11_1111 << 26 | 0b111_1111 << 17;
    const POWERDOWN: u32 = 1 << 16;
    if power_state & RESERVED != 0 {
        return Err(Status::InvalidParameters);
    }
    if power_state & POWERDOWN != 0 {
        check_entry(entry, is_ram)?;
    }
    Ok(Decision::Suspend)
}

/// PSCI_FEATURES (DEN0022): 0 for what exists, and for SYSTEM_OFF2 its types. CPU_SUSPEND's flags are 0, too:
/// original format of power_state, no OS-initiated mode. SMCCC_VERSION is how a client finds out that it may
/// ask for it.
fn features(function: u32) -> Result<Decision, Status> {
    match decode(function, [0; 3]) {
        Some(Call::SystemOff2 { .. }) => Ok(Decision::Answer(psci::HIBERNATE_OFF.into())),
        Some(_) => Ok(Decision::Answer(0)),
        None if function == smccc::VERSION => Ok(Decision::Answer(0)),
        None => Err(Status::NotSupported),
    }
}

/// SYSTEM_RESET2 (DEN0022): type 0 is the warm reset, bit 31 marks the vendor's, and no other exists.
fn system_reset2(kind: u32, cookie: u64) -> Result<Decision, Status> {
    const VENDOR: u32 = 1 << 31;
    let reset = match kind {
        0 => Reset::Warm,
        VENDOR.. => Reset::Vendor { kind, cookie },
        _ => return Err(Status::InvalidParameters),
    };
    Ok(Decision::SystemReset(reset))
}

/// SYSTEM_OFF2 (DEN0022): whether the guest is off or hibernates is the same to us. Type 0 is what early
/// drafts called HIBERNATE_OFF, and means the same. No type has a use for the cookie.
fn system_off2(kind: u32, cookie: u64) -> Result<Decision, Status> {
    match (kind, cookie) {
        (0 | psci::HIBERNATE_OFF, 0) => Ok(Decision::SystemOff),
        _ => Err(Status::InvalidParameters),
    }
}

/// Finds the vCPU an affinity argument names. All bits outside the affinity fields must be 0 (DEN0022 5.1.4).
fn resolve(target: u64, siblings: &(impl Siblings + ?Sized)) -> Result<VcpuId, Status> {
    if target & !Mpidr::AFFINITY != 0 {
        return Err(Status::InvalidParameters);
    }
    let vcpu = siblings.resolve(Mpidr::new(target));
    vcpu.ok_or(Status::InvalidParameters)
}

/// A vCPU starts in its VM's memory, at an A64 instruction.
fn check_entry(entry: u64, is_ram: impl Fn(u64) -> bool) -> Result<(), Status> {
    if entry.is_multiple_of(4) && is_ram(entry) {
        Ok(())
    } else {
        Err(Status::InvalidAddress)
    }
}

/// A status as x0 holds it.
fn word(status: Status) -> u64 {
    status as i64 as u64
}

#[cfg(test)]
mod tests;
