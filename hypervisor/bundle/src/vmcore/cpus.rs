//! Which vCPU is which of Linux's CPUs, and which of them are dumped: those that Linux has online, by its own word, where that can be
//! read; else those that are on for PSCI, by the numbers of the vCPUs.

use core::cell::Cell;
use core::fmt;

use super::info::VmcoreInfo;
use super::kallsyms::{Image, MOST_LOOKS, find};
use super::{MAX_CPUS, Registers};
use crate::Piece;

/// What of Linux's is asked: the CPUs that are online (`kernel/cpu.c`), which is which by its affinity (arm64's
/// `kernel/setup.c`), and who has panicked (`kernel/panic.c`).
const NAMES: [&[u8]; 3] = [b"__cpu_online_mask", b"__cpu_logical_map", b"panic_cpu"];
/// `panic_cpu` as long as nobody has (`PANIC_CPU_INVALID`).
const NOBODY: [u8; 4] = (-1_i32).to_le_bytes();

/// Who has said which vCPUs are dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Linux: those that it has online.
    Linux,
    /// PSCI, since Linux has panicked, and takes the CPUs that it stops offline: those are looked for.
    Panic,
    /// PSCI, since Linux's word cannot be read: it is older than 6.0, its KALLSYMS has no data, or it is no Linux.
    Psci,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux => "linux",
            Self::Panic => "panic",
            Self::Psci => "psci",
        })
    }
}

/// Which vCPUs are dumped, and as which of Linux's CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// Who says so.
    pub by: By,
    /// Of each number of Linux's, that of the vCPU.
    vcpus: [u8; MAX_CPUS],
}

/// The number of no vCPU.
const NONE: u8 = u8::MAX;

impl Cpus {
    /// Of a guest with this memory, which `read` reads, and these registers of the vCPUs that were on.
    #[inline(never)]
    #[must_use]
    pub fn of(
        info: Option<&VmcoreInfo>,
        kept: &[Option<Registers>],
        ram: &[Piece],
        read: impl Fn(u64, &mut [u8]),
    ) -> Self {
        let by_linux = info.and_then(|info| {
            let image = Image {
                ram,
                voffset: info.voffset,
                read,
                looks: Cell::new(MOST_LOOKS),
            };
            Self::by_linux(info, kept, &image)
        });
        by_linux.unwrap_or_else(|| Self {
            by: By::Psci,
            vcpus: core::array::from_fn(|number| number as u8),
        })
    }

    fn by_linux<R: Fn(u64, &mut [u8])>(
        info: &VmcoreInfo,
        kept: &[Option<Registers>],
        image: &Image<'_, R>,
    ) -> Option<Self> {
        let [online, affinities, panicked] = find(NAMES, info.text(), image)?;
        let has_panicked = image.bytes(panicked)? != NOBODY;
        let online = u128::from_le_bytes(image.bytes(online)?);
        let mut vcpus = [NONE; MAX_CPUS];
        let mut seen = 0_u128;
        for (number, vcpu) in (0_u64..).zip(&mut vcpus) {
            let Some(affinity) = image.bytes(affinities.wrapping_add(8 * number)) else {
                break;
            };
            let affinity = u64::from_le_bytes(affinity);
            let is_it = |slot: &Option<Registers>| {
                slot.as_ref()
                    .is_some_and(|registers| registers.affinity == affinity)
            };
            let Some(at) = kept.iter().position(is_it) else {
                continue;
            };
            // A kernel for fewer CPUs has something else behind its own: the first counts.
            let is_first = seen >> (at & 127) & 1 == 0;
            seen |= 1 << (at & 127);
            if is_first && (has_panicked || online >> number & 1 != 0) {
                *vcpu = at as u8;
            }
        }
        let by = if has_panicked { By::Panic } else { By::Linux };
        let is_any = vcpus.iter().any(|&vcpu| vcpu != NONE);
        is_any.then_some(Self { by, vcpus })
    }

    /// The registers of those that are dumped, each with Linux's number of its CPU.
    pub fn numbered<'r>(
        &self,
        kept: &'r [Option<Registers>],
    ) -> impl Iterator<Item = (u32, &'r Registers)> {
        (0..)
            .zip(self.vcpus)
            .filter_map(|(number, vcpu)| Some((number, kept.get(usize::from(vcpu))?.as_ref()?)))
    }
}
