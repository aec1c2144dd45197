//! Names of things: which VM, which vCPU, which interrupt, which affinity.

/// A virtual machine, numbered from 0 in the order of the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmId(pub u8);

/// A physical CPU, numbered from 0 in the order of the machine's devicetree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PcpuId(pub u8);

impl PcpuId {
    /// The id as an index into a per-pCPU table.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A vCPU of one VM, numbered from 0 in the order of the VM's devicetree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuId(pub u8);

impl VcpuId {
    /// The id as an index into a per-vCPU table.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The most vCPUs one VM can have; the width of [`VcpuSet`].
pub const MAX_VCPUS: usize = 128;

/// The most pCPUs a machine can have; the width of [`PcpuSet`].
pub const MAX_PCPUS: usize = 128;

macro_rules! id_set {
    ($(#[$about:meta])* $set:ident of $id:ident) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $set(pub u128);

        impl $set {
            /// Nobody.
            pub const EMPTY: Self = Self(0);

            /// Just this one.
            pub const fn only(id: $id) -> Self {
                Self(1u128.wrapping_shl(id.0 as u32))
            }

            /// Whether nobody is in it.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// Whether `id` is in it.
            pub const fn contains(self, id: $id) -> bool {
                self.0 & Self::only(id).0 != 0
            }

            /// Adds `id`.
            pub const fn insert(&mut self, id: $id) {
                self.0 |= Self::only(id).0;
            }

            /// Takes `id` out.
            pub const fn remove(&mut self, id: $id) {
                self.0 &= !Self::only(id).0;
            }

            /// Everybody in either.
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// Everybody in both.
            #[must_use]
            pub const fn and(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }

            /// Everybody here who is not in `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// How many.
            pub const fn len(self) -> u32 {
                self.0.count_ones()
            }

            /// The members, lowest first.
            pub fn iter(self) -> impl Iterator<Item = $id> {
                let mut left = self.0;
                core::iter::from_fn(move || {
                    if left == 0 {
                        return None;
                    }
                    let lowest = left.trailing_zeros();
                    left &= left - 1;
                    u8::try_from(lowest).ok().map($id)
                })
            }
        }
    };
}

id_set! {
    /// A set of vCPUs of one VM.
    VcpuSet of VcpuId
}

id_set! {
    /// A set of pCPUs.
    PcpuSet of PcpuId
}

/// The affinity fields of MPIDR_EL1 (DDI0487 D24.2): Aff3 in `[39:32]`, Aff2..Aff0 in `[23:0]`; all
/// other bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mpidr(u64);

impl Mpidr {
    /// The bits that name a PE.
    pub const AFFINITY: u64 = 0xff_00ff_ffff;

    /// Takes the affinity out of a register value or an argument, whatever its other bits are.
    pub const fn new(raw: u64) -> Self {
        Self(raw & Self::AFFINITY)
    }

    /// The affinity bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Affinity level `level` (0 to 3).
    pub const fn aff(self, level: u32) -> u8 {
        let shift = if level == 3 { 32 } else { 8 * (level & 3) };
        (self.0 >> shift) as u8
    }
}

/// An interrupt as the GIC numbers it (IHI0069 2.2): 0-15 SGI, 16-31 PPI, 32-1019 SPI.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntId(pub u32);

impl IntId {
    /// Whether it is a software generated interrupt.
    pub const fn is_sgi(self) -> bool {
        self.0 < 16
    }

    /// Whether it is private to a PE (SGI or PPI).
    pub const fn is_private(self) -> bool {
        self.0 < 32
    }

    /// Whether it is a shared peripheral interrupt.
    pub const fn is_spi(self) -> bool {
        self.0 >= 32 && self.0 < 1020
    }
}

impl core::fmt::Debug for IntId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            0..16 => write!(f, "SGI {}", self.0),
            16..32 => write!(f, "PPI {} (INTID {})", self.0 - 16, self.0),
            32..1020 => write!(f, "SPI {} (INTID {})", self.0 - 32, self.0),
            other => write!(f, "INTID {other}"),
        }
    }
}
