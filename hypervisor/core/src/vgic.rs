//! The virtual GIC of one VM: its distributor and every redistributor, in one value behind the VM's lock
//! (IHI0069). The CPU interface is the hardware's own; this is what stands behind it.
//!
//! A machine with a GICv2 has its guest see a GICv2 (IHI0048): the same interrupts behind another register file
//! ([`Frame::Banked`]), SGIs that are pending once per sender, and no redistributors.
//!
//! # Who owns what
//!
//! The list registers of a vCPU live in its pCPU, which alone can read and write them. An interrupt is
//! therefore either in the shared state here or in *one* list register, its *seat*, and moves by
//! two verbs that only the owner may use: [`fold`](Vgic::fold) brings everything from the list registers
//! back, [`populate`](Vgic::populate) chooses anew. Everybody else changes the shared state and kicks the
//! owner, which folds and populates; [`Effects::kick`] says whom.
//!
//! * A write that concerns an interrupt in another vCPU's list register is noted in the seat and applied
//!   when that vCPU folds. GICD_CTLR.RWP and GICR_CTLR.RWP read 1 until it has, for GICD_ICENABLER as for
//!   the group enables.
//! * A read of the pending or active state of such an interrupt waits for that vCPU's next fold: the read is
//!   answered [`Read::Again`], the guest runs the same load again, and a polling guest
//!   (Linux's `synchronize_hardirq`) never sees a state older than its load.
//!
//! # Pending again
//!
//! An edge that arrives while its interrupt is in a list register stays in the latch and joins at the next
//! fold: as "pending and active" if HW = 0, which needs no further exit. With HW = 1 that state is not allowed
//! (IHI0069 12.4), so the list register becomes HW = 0 with its EOI bit set, and the physical interrupt is
//! deactivated when the maintenance interrupt comes.
//!
//! A level sensitive line of an emulated device can still be high at the guest's EOI, which does not exit. A
//! list register that carries a line therefore has its EOI bit set: the maintenance interrupt at the end is the
//! moment to sample the line again. "Pending and active" would save that exit, but delivers an interrupt
//! whose line may have dropped since.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::id::{IntId, Mpidr, VcpuId, VcpuSet};

pub mod affinity;
mod binding;
pub mod effects;
pub mod interface;
mod irq;
mod lines;
pub mod lr;
mod mmio;
mod published;
mod register;
mod reset;
mod seating;
mod sticky;
mod v2;

pub use affinity::{Affinities, Sgi};
pub use effects::{Deactivations, Effects, Physical, SpiMask};
use irq::{Holder, Irq};
pub use lr::{ICH_VMCR_RESET, ListReg, LrSource, LrState, hcr};
use mmio::Wait;
pub use mmio::{Frame, Read};
pub use published::Published;
pub use reset::Leftovers;
pub use seating::Entry;
pub use sticky::Sticky;
use v2::initial_target;
pub use v2::{MAX_INTERFACES, Model};

/// The most list registers a GICv3 has (ICH_VTR_EL2.ListRegs).
pub const MAX_LIST_REGS: usize = 16;

/// The highest SPI is 1019, so at most 31 blocks of 32 (the last one short).
const MAX_SPIS: u32 = 988;

/// What a VM's GIC looks like.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    /// Which one it is.
    pub model: Model,
    /// vCPU `i` has affinity `mpidrs[i]`.
    pub mpidrs: &'a [Mpidr],
    /// Whose redistributor is the last of a contiguous region (GICR_TYPER.Last).
    pub last: VcpuSet,
    /// How many SPIs; rounded up to a multiple of 32, at most 988.
    pub spis: u32,
    /// PPIs and SPIs that come from the physical interrupt of the same INTID.
    pub passed_through: &'a [IntId],
    /// How many bits of priority the hardware's virtual interface has (ICH_VTR_EL2.PRIbits + 1).
    pub priority_bits: u32,
    /// How many list registers it has (ICH_VTR_EL2.ListRegs + 1).
    pub list_regs: usize,
}

/// The virtual GIC of one VM.
#[derive(Clone, Debug)]
pub struct Vgic {
    is_v2: bool,
    resamples: bool,
    /// GICv2: some SPI has had more than one target.
    has_one_of_n: bool,
    affinities: Affinities,
    published: Published,
    priority_mask: u8,
    list_regs: usize,
    /// GICD_CTLR.EnableGrp0 and EnableGrp1.
    groups: [bool; 2],
    vcpus: Vec<PerVcpu>,
    /// From INTID 32 on; as many as the distributor's registers have room for.
    spis: Vec<Irq>,
    /// GICD_IROUTER of each; none of a GICv2.
    routes: Vec<Mpidr>,
    /// Of each block of SPIs: bit n of block b is INTID 32 * (b + 1) + n.
    words: Box<[Words]>,
    /// Who must populate.
    dirty: VcpuSet,
    /// Who must fold before a write that has taken effect here has taken effect there.
    unsynced: VcpuSet,
}

/// What is one vCPU's own.
#[derive(Clone, Debug)]
struct PerVcpu {
    irqs: [Irq; 32],
    words: Words,
    /// The INTID in each list register.
    slots: [Option<IntId>; MAX_LIST_REGS],
    /// GICR_WAKER.ProcessorSleep; of a GICv2, that it has not populated since it was reset.
    asleep: bool,
    /// Whose reads wait for this vCPU to fold.
    asked: VcpuSet,
    /// The read of this vCPU that waits.
    wait: Wait,
}

/// Of 32 interrupts, a bit each: what a whole register shows, and which have to be looked at one by one. What one
/// access costs under the VM's lock is bounded by that: a write walks the 32 interrupts of a register at
/// most, and looks at what follows only for those that are not idle; GICD_CTLR looks at a word of each
/// vCPU, and once at each SPI that is not idle.
#[derive(Clone, Copy, Debug, Default)]
struct Words {
    /// Not idle: pending, active, held or in a list register.
    not_idle: u32,
    /// GICD_ISENABLER.
    enabled: u32,
    /// GICD_IGROUPR.
    group1: u32,
    /// Bound to an SDEI event, and thereby out of the guest's view.
    bound: u32,
    /// From the physical interrupt of the same INTID; never changes.
    passed_through: u32,
    /// Pending at the physical GIC when it was last asked.
    lines: u32,
}

impl Words {
    /// Takes over what `irq`, which is bit `bit`, has become.
    fn note(&mut self, bit: u32, irq: &Irq) {
        let mask = 1u32.checked_shl(bit).unwrap_or(0);
        for (word, is_set) in [
            (&mut self.not_idle, !irq.is_idle()),
            (&mut self.enabled, irq.enabled),
            (&mut self.group1, irq.group1),
            (&mut self.bound, irq.bound),
        ] {
            *word = *word & !mask | if is_set { mask } else { 0 };
        }
    }
}

impl PerVcpu {
    fn new(vcpu: VcpuId, passed_through: u32) -> Self {
        Self {
            irqs: core::array::from_fn(|n| {
                // SGIs are edge triggered, PPIs start level sensitive.
                Irq::new(n < 16, passed_through >> n & 1 != 0, Some(vcpu))
            }),
            words: Words {
                passed_through,
                ..Words::default()
            },
            slots: [None; MAX_LIST_REGS],
            asleep: true,
            asked: VcpuSet::EMPTY,
            wait: Wait::default(),
        }
    }
}

impl Vgic {
    /// A GIC after reset: nothing enabled, every SPI routed to affinity 0.0.0.0. The only allocations. For the
    /// physical distributor to agree, the shell performs [`reset_spis`](Self::reset_spis) once.
    pub fn new(config: &Config) -> Self {
        let affinities = Affinities::new(config.mpidrs);
        let blocks = blocks(config);
        let passed = |intid: u32| config.passed_through.contains(&IntId(intid));
        let ppis = (16..32).fold(0, |mask, n| mask | u32::from(passed(n)) << n);
        let is_v2 = config.model != Model::V3;
        let target = initial_target(is_v2, &affinities);
        let spis = 32..(32 + 32 * blocks).min(32 + MAX_SPIS);
        let shift = 8u32.saturating_sub(config.priority_bits);
        Self {
            is_v2,
            has_one_of_n: false,
            resamples: config.model != Model::V2 { resamples: false },
            published: Published::new(config),
            priority_mask: 0xffu8.checked_shl(shift).unwrap_or(0),
            list_regs: config.list_regs.clamp(1, MAX_LIST_REGS),
            groups: [false; 2],
            vcpus: (0u8..)
                .map(VcpuId)
                .take(affinities.len())
                .map(|vcpu| PerVcpu::new(vcpu, ppis))
                .collect(),
            routes: spis
                .clone()
                .filter(|_| !is_v2)
                .map(|_| Mpidr::new(0))
                .collect(),
            spis: spis
                .map(|intid| Irq::new(false, passed(intid), target))
                .collect(),
            words: (1..=blocks)
                .map(|block| Words {
                    passed_through: (0..32)
                        .fold(0, |mask, n| mask | u32::from(passed(32 * block + n)) << n),
                    ..Words::default()
                })
                .collect(),
            affinities,
            dirty: VcpuSet::EMPTY,
            unsynced: VcpuSet::EMPTY,
        }
    }

    /// The affinities it was made with.
    pub fn affinities(&self) -> &Affinities {
        &self.affinities
    }

    /// What of it is read without a lock.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// A physical interrupt was acknowledged, and its priority dropped, on the pCPU of `vcpu`.
    pub fn forward(&mut self, vcpu: VcpuId, intid: IntId) -> Effects {
        let mut effects = Effects::NONE;
        match self.irq_mut(vcpu, intid) {
            Some(irq) if irq.bound && irq.passed_through => {
                irq.held = true;
                effects.bound = Some(intid);
            }
            Some(irq) if irq.passed_through => {
                let (is_v2, resamples) = (self.is_v2, self.resamples);
                self.update(vcpu, intid, &mut effects, |irq| {
                    irq.holder = match is_v2 {
                        false => Holder::Anyone,
                        true if resamples || irq.edge => Holder::Only(vcpu),
                        true => Holder::Nobody,
                    };
                    irq.fire();
                });
            }
            _ => effects.deactivate.push(vcpu, intid),
        }
        effects
    }

    /// The interrupt line of an emulated device is now `level`; `vcpu` says whose, for a PPI.
    pub fn set_line(&mut self, intid: IntId, vcpu: Option<VcpuId>, level: bool) -> Effects {
        let mut effects = Effects::NONE;
        let vcpu = vcpu.unwrap_or(VcpuId(0));
        if self
            .irq(vcpu, intid)
            .is_some_and(|irq| irq.line != level && !irq.passed_through)
        {
            self.update(vcpu, intid, &mut effects, |irq| {
                irq.line = level;
                irq.latch |= level && irq.edge && !irq.bound;
            });
            let is_news = |irq: &Irq| irq.bound && (level || !irq.edge);
            if self.irq(vcpu, intid).is_some_and(is_news) {
                effects.bound = Some(intid);
            }
        }
        effects
    }

    /// Takes over the SGIs (bit n is SGI n) that siblings posted to `vcpu`. It must then populate.
    pub fn take_sgis(&mut self, vcpu: VcpuId, bits: u16) {
        let mut effects = Effects::NONE;
        for intid in bits_of(u32::from(bits)) {
            self.update(vcpu, IntId(intid), &mut effects, |irq| irq.latch = true);
        }
    }

    /// An SGI sent through ICC_SGI0R_EL1 or ICC_ASGI1R_EL1: it reaches those targets that have it in group 0.
    /// (ICC_SGI1R_EL1 reaches either group and needs no look: IHI0069, GICD_CTLR.DS = 1.)
    pub fn send_sgi_group0(&mut self, sgi: Sgi) -> Effects {
        let mut effects = Effects::NONE;
        for vcpu in sgi.targets.iter() {
            if self.irq(vcpu, sgi.intid).is_some_and(|irq| !irq.group1) {
                self.update(vcpu, sgi.intid, &mut effects, |irq| irq.latch = true);
            }
        }
        effects
    }

    /// ICC_DIR_EL1 or GICC_DIR by `vcpu`, which has folded.
    pub fn deactivate(&mut self, vcpu: VcpuId, intid: IntId) -> Effects {
        let mut effects = Effects::NONE;
        if self.irq(vcpu, intid).is_some_and(Irq::shows_active) {
            self.update(vcpu, intid, &mut effects, Irq::clear_active);
        }
        effects
    }

    /// Whether `vcpu` has to populate before it enters its guest again.
    pub fn needs_populate(&self, vcpu: VcpuId) -> bool {
        self.dirty.contains(vcpu)
    }

    /// The words of INTID `32 * block` and the 31 after it.
    fn words(&self, vcpu: VcpuId, block: u32) -> Words {
        let words = if block == 0 {
            self.vcpus.get(vcpu.index()).map(|local| &local.words)
        } else {
            self.words.get((block as usize).wrapping_sub(1))
        };
        words.copied().unwrap_or_default()
    }

    fn words_mut(&mut self, vcpu: VcpuId, block: u32) -> Option<&mut Words> {
        if block == 0 {
            self.vcpus
                .get_mut(vcpu.index())
                .map(|local| &mut local.words)
        } else {
            self.words.get_mut((block as usize).wrapping_sub(1))
        }
    }

    fn irq(&self, vcpu: VcpuId, intid: IntId) -> Option<&Irq> {
        if intid.is_private() {
            let local = self.vcpus.get(vcpu.index())?;
            local.irqs.get(intid.0 as usize)
        } else {
            self.spis.get((intid.0 as usize).wrapping_sub(32))
        }
    }

    fn irq_mut(&mut self, vcpu: VcpuId, intid: IntId) -> Option<&mut Irq> {
        if intid.is_private() {
            let local = self.vcpus.get_mut(vcpu.index())?;
            local.irqs.get_mut(intid.0 as usize)
        } else {
            self.spis.get_mut((intid.0 as usize).wrapping_sub(32))
        }
    }

    /// Changes one interrupt, and sees to all that follows from it: every change comes through here.
    fn update(
        &mut self,
        vcpu: VcpuId,
        intid: IntId,
        effects: &mut Effects,
        change: impl FnOnce(&mut Irq),
    ) {
        if let Some(irq) = self.irq_mut(vcpu, intid) {
            change(irq);
            self.propagate(vcpu, intid, effects);
        }
    }

    /// What follows from a change; once, and not in every one of its callers.
    #[inline(never)]
    fn propagate(&mut self, vcpu: VcpuId, intid: IntId, effects: &mut Effects) {
        let groups = self.groups;
        let Some(irq) = self.irq_mut(vcpu, intid) else {
            return;
        };
        if irq.settle() {
            effects.deactivate.push(vcpu, intid);
        }
        let concerned = match irq.seat {
            Some(seat) => Some(seat.vcpu),
            None if irq.is_ready() && enabled(groups, irq) => irq.target,
            None => None,
        };
        let irq = irq.clone();
        if let Some(concerned) = concerned {
            effects.kick.insert(concerned);
            self.dirty.insert(concerned);
        }
        if let Some(words) = self.words_mut(vcpu, intid.0 / 32) {
            words.note(intid.0 % 32, &irq);
            let words = *words;
            self.published.show(vcpu, intid.0 / 32, &words);
        }
    }
}

/// How many blocks of 32 SPIs there are.
fn blocks(config: &Config<'_>) -> u32 {
    config.spis.min(MAX_SPIS).div_ceil(32).max(1)
}

/// Whether the interrupt's group is enabled in GICD_CTLR.
fn enabled(groups: [bool; 2], irq: &Irq) -> bool {
    let [group0, group1] = groups;
    if irq.group1 { group1 } else { group0 }
}

/// The INTID of bit `bit` of block `block` of [`Vgic::words`].
fn spi(block: usize, bit: u32) -> IntId {
    IntId((block as u32 + 1) * 32 + bit)
}

/// The numbers of the bits that are set, lowest first.
pub(crate) fn bits_of(mut word: u32) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let lowest = word.trailing_zeros();
        word &= word - 1;
        Some(lowest)
    })
}
