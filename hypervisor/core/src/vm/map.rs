//! What one VM looks like to its guest.

use alloc::vec::Vec;
use hv_abi::policy::Policy;

use super::{Action, Deferred, GwdtConfig};
use crate::exit::MmioAccess;
use crate::id::{IntId, Mpidr, VcpuId, VcpuSet};
use crate::sdei::{Board, WithBoard};
use crate::siblings::Siblings;
use crate::vgic::affinity::Affinities;
use crate::vgic::{Frame, Model, Published};
use crate::{gwdt, ladder, watch};

/// A range of guest physical addresses, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpaRange {
    /// First byte.
    pub start: u64,
    /// Length.
    pub size: u64,
}

impl IpaRange {
    /// How far into the range `ipa` lies, if it does.
    pub const fn offset_of(self, ipa: u64) -> Option<u64> {
        let offset = ipa.wrapping_sub(self.start);
        if offset < self.size {
            Some(offset)
        } else {
            None
        }
    }
}

/// What one VM looks like to its guest; does not change while it runs, but for the board.
#[derive(Debug)]
pub struct GuestMap {
    /// Its vCPUs by affinity.
    pub affinities: Affinities,
    /// Its RAM.
    pub ram: Vec<IpaRange>,
    /// What is held back of RAM for a capture kernel, which then has nothing else that it can write to; empty if there is none.
    pub held: IpaRange,
    /// The emulated PL011.
    pub uart: IpaRange,
    /// The distributor.
    pub distributor: IpaRange,
    /// Which GIC's it is.
    pub gic: Model,
    /// GICC_DIR of a GICv2, which is alone in the second half of the CPU interface; empty otherwise.
    pub deactivate: IpaRange,
    /// What of the virtual GIC is read without a lock.
    pub published: Published,
    /// What becomes of the guest when it ends.
    pub policy: Policy,
    /// What an NMI does.
    pub nmi: ladder::Config,
    /// The watchdog over the guest, if there is one.
    pub watchdog: Option<watch::Config>,
    /// Regions of redistributors, filled in vCPU order.
    pub redistributors: Vec<IpaRange>,
    /// What its vCPUs see of each other's SDEI.
    pub board: Board,
    /// It may make the calls of [`hv_abi::vendor`].
    pub has_debug_calls: bool,
    /// Devices of its own.
    pub own: OwnDevices,
    /// Transports of mediated devices.
    pub mediated: Vec<Transport>,
}

/// The transport of a mediated device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Where it is.
    pub registers: IpaRange,
    /// Its interrupt, the guest's and the device's.
    pub intid: IntId,
}

/// An access to one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MediatedAccess {
    /// Which; a byte, so that what is left of any exit stays small.
    pub number: u8,
    /// Where in it, in bytes.
    pub offset: u64,
    /// How.
    pub access: MmioAccess,
}

/// Where devices of a guest's own are, which the machine has not got: empty where the guest has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnDevices {
    /// [`crate::flash`].
    pub flash: IpaRange,
    /// The register by which it says that it has panicked.
    pub pvpanic: IpaRange,
    /// [`crate::gwdt`]: its control frame and its refresh frame.
    pub gwdt: [IpaRange; 2],
    /// Its interrupt, and what is done when it is not refreshed.
    pub gwdt_config: Option<GwdtConfig>,
}

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnDevice {
    /// The flash.
    Flash,
    /// pvpanic.
    Pvpanic,
    /// The watchdog.
    Gwdt(gwdt::Frame),
}

/// An access to one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OwnAccess {
    /// Which.
    pub device: OwnDevice,
    /// Where in it, in bytes.
    pub offset: u64,
    /// How.
    pub access: MmioAccess,
}

impl OwnDevices {
    /// The access to one of them that this is, if it is.
    #[cold]
    #[inline(never)]
    pub(super) fn find(&self, access: MmioAccess) -> Option<OwnAccess> {
        let [control, refresh] = self.gwdt;
        let devices = [
            (OwnDevice::Flash, self.flash),
            (OwnDevice::Pvpanic, self.pvpanic),
            (OwnDevice::Gwdt(gwdt::Frame::Control), control),
            (OwnDevice::Gwdt(gwdt::Frame::Refresh), refresh),
        ];
        devices.into_iter().find_map(|(device, range)| {
            let offset = range.offset_of(access.ipa)?;
            Some(OwnAccess {
                device,
                offset,
                access,
            })
        })
    }

    fn has(&self, ipa: u64) -> bool {
        let [control, refresh] = self.gwdt;
        let all = [self.flash, self.pvpanic, control, refresh];
        all.iter().any(|range| range.offset_of(ipa).is_some())
    }
}

/// Size of a redistributor's two frames, RD_base and SGI_base (IHI0069 12.10).
pub const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;

/// The vCPUs whose redistributor is the last of its region.
pub fn last_redistributors(regions: &[IpaRange], vcpus: usize) -> VcpuSet {
    let mut last = VcpuSet::EMPTY;
    let mut first = 0;
    for region in regions {
        let frames = (region.size / REDISTRIBUTOR_SIZE) as usize;
        let end = (first + frames).min(vcpus);
        if end > first {
            last.insert(VcpuId((end - 1) as u8));
        }
        first = end;
    }
    last
}

impl GuestMap {
    /// Which interrupt controller frame an access by `me` meets, and where in it.
    #[inline]
    pub(super) fn frame(&self, me: VcpuId, ipa: u64) -> Option<(Frame, u64)> {
        if let Some(offset) = self.distributor.offset_of(ipa) {
            let frame = match self.gic {
                Model::V2 { .. } => Frame::Banked(me),
                Model::V3 => Frame::Distributor,
            };
            return Some((frame, offset));
        }
        if let Some(offset) = self.deactivate.offset_of(ipa) {
            return Some((Frame::Deactivate(me), offset));
        }
        let mut first = 0;
        for region in &self.redistributors {
            if let Some(offset) = region.offset_of(ipa) {
                let vcpu = VcpuId(u8::try_from(first + offset / REDISTRIBUTOR_SIZE).ok()?);
                self.affinities.mpidr(vcpu)?;
                return Some((Frame::Redistributor(vcpu), offset % REDISTRIBUTOR_SIZE));
            }
            first += region.size / REDISTRIBUTOR_SIZE;
        }
        None
    }

    /// What a load of four bytes reads at `ipa`, if it is one of those that are loaded most.
    #[inline(always)]
    pub(super) fn published_word(&self, ipa: u64) -> Option<u32> {
        if let Some(offset) = self.distributor.offset_of(ipa) {
            return self.published.word(offset);
        }
        let offset = self.redistributors.first()?.offset_of(ipa)?;
        let owner = u8::try_from(offset / REDISTRIBUTOR_SIZE).ok()?;
        let offset = offset % REDISTRIBUTOR_SIZE;
        self.published.redistributor_word(VcpuId(owner), offset)
    }

    /// Whether an access by `me` at `ipa` meets a device that is emulated.
    pub(super) fn is_device(&self, me: VcpuId, ipa: u64) -> bool {
        self.frame(me, ipa).is_some()
            || self.uart.offset_of(ipa).is_some()
            || self.own.has(ipa)
            || self.mediated(ipa).is_some()
    }

    /// The transport of a mediated device that is there, and where in it.
    #[inline]
    fn mediated(&self, ipa: u64) -> Option<(u8, u64)> {
        let mut found = (0..=u8::MAX).zip(&self.mediated);
        found.find_map(|(number, it)| Some((number, it.registers.offset_of(ipa)?)))
    }

    /// An access to a device that not every guest has.
    #[cold]
    #[inline(never)]
    pub(super) fn rare_device(&self, access: MmioAccess) -> Option<Action> {
        match self.mediated(access.ipa) {
            Some((number, offset)) => Some(Action::Mediated(MediatedAccess {
                number,
                offset,
                access,
            })),
            None => self
                .own
                .find(access)
                .map(|it| Action::Locked(Deferred::Own(it))),
        }
    }

    /// The page that can stand in for the emulated UART's registers (`crate::pl011::Image`), if they fill a whole one: what
    /// a guest reads in it beside them would else change. Stage 2 maps no other page read-only.
    pub const fn uart_page(&self) -> Option<u64> {
        const PAGE: u64 = 4096;
        let IpaRange { start, size } = self.uart;
        if start.is_multiple_of(PAGE) && size >= PAGE {
            Some(start)
        } else {
            None
        }
    }

    /// The first of `length` addresses from `ipa` on that is not RAM, if there is one.
    pub fn first_outside_ram(&self, ipa: u64, length: u64) -> Option<u64> {
        let Some(end) = ipa.checked_add(length) else {
            return Some(ipa);
        };
        let mut at = ipa;
        while at < end {
            let there = self.ram.iter().find_map(|range| {
                let offset = range.offset_of(at)?;
                Some(range.size - offset)
            });
            match there {
                Some(there) => at = at.saturating_add(there),
                None => return Some(at),
            }
        }
        None
    }

    /// Whether `ipa` is RAM.
    pub fn is_ram(&self, ipa: u64) -> bool {
        self.ram.iter().any(|range| range.offset_of(ipa).is_some())
    }
}

impl Siblings for GuestMap {
    fn resolve(&self, mpidr: Mpidr) -> Option<VcpuId> {
        self.affinities.find(mpidr)
    }

    fn affinity(&self, vcpu: VcpuId) -> Option<Mpidr> {
        self.affinities.mpidr(vcpu)
    }
}

impl WithBoard for GuestMap {
    fn board(&self) -> &Board {
        &self.board
    }
}
