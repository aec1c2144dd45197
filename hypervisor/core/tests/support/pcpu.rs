//! What a model pCPU is made of.

use hv_core::id::IntId;
use hv_core::vgic::{Entry, ListReg, LrSource, LrState, Sticky, hcr};

/// One physical interrupt.
#[derive(Clone, Debug, Default)]
pub struct Wire {
    pub enabled: bool,
    pub edge: bool,
    pub pending: bool,
    pub level: bool,
    pub active: bool,
    pub route: u8,
}

impl Wire {
    pub fn fires(&self) -> bool {
        self.enabled && !self.active && if self.edge { self.pending } else { self.level }
    }
}

/// One pCPU and the vCPU on it.
#[derive(Clone, Debug)]
pub struct Pcpu {
    /// ICH_LR<n>_EL2.
    pub lrs: Vec<u64>,
    pub hcr: u64,
    pub eoi_count: u32,
    pub sync: bool,
    pub sgis: u16,
    /// What the guest is handling, innermost last, with its priority.
    pub running: Vec<(IntId, u8)>,
    pub timer: Wire,
    /// What may go into a list register again without the virtual GIC; nothing ever does if not.
    pub sticky: Option<Sticky>,
    /// How often something did.
    pub reseated: u32,
    /// How many list registers the virtual GIC has put something into.
    pub used: usize,
}

impl Pcpu {
    pub fn decode(&self) -> Vec<ListReg> {
        self.lrs
            .iter()
            .map(|&raw| ListReg::decode_v3(raw))
            .collect()
    }

    pub fn load(&mut self, lrs: &[ListReg], entry: Entry) {
        self.lrs = lrs.iter().map(|lr| lr.encode_v3()).collect();
        self.hcr = entry.hcr;
        self.used = entry.used;
        if let Some(sticky) = &mut self.sticky {
            sticky.clear();
            for (index, lr) in lrs.iter().enumerate().take(entry.used) {
                sticky.remember(entry.again, IntId(lr.vintid), index, self.lrs[index]);
            }
        }
    }

    /// What goes into list registers that were not in use.
    pub fn add(&mut self, lrs: &[ListReg], used: usize, again: u32) {
        for (index, lr) in lrs.iter().enumerate().take(used).skip(self.used) {
            assert_eq!(self.lrs[index], 0);
            self.lrs[index] = lr.encode_v3();
            if let Some(sticky) = &mut self.sticky {
                sticky.remember(again, IntId(lr.vintid), index, self.lrs[index]);
            }
        }
        self.used = used;
    }

    /// ICH_ELRSR_EL2 (IHI0069 12.4).
    fn empty(&self) -> u64 {
        let is_empty = |lr: &ListReg| {
            lr.state == LrState::Invalid && lr.source != LrSource::Software { eoi: true }
        };
        let lrs = self.decode();
        (0..)
            .zip(&lrs)
            .fold(0, |bits, (n, lr)| bits | u64::from(is_empty(lr)) << n)
    }

    /// As the shell does when a private interrupt comes: whether it went in again where it was.
    pub fn reseat(&mut self, intid: IntId) -> bool {
        let empty = self.empty();
        let place = match &self.sticky {
            Some(sticky) if !self.sync => sticky.reseat(intid, empty),
            _ => None,
        };
        if let Some((index, word)) = place {
            self.lrs[index] = word;
            self.reseated += 1;
        }
        place.is_some()
    }

    pub fn holds(&self, intid: IntId) -> Option<ListReg> {
        let mut lrs = self.decode().into_iter();
        lrs.find(|lr| lr.vintid == intid.0 && lr.state != LrState::Invalid)
    }

    /// ICH_MISR_EL2 is not zero (IHI0069 12.4).
    pub fn maintenance(&self) -> bool {
        let lrs = self.decode();
        let no_pending = lrs.iter().all(|lr| lr.state != LrState::Pending);
        let ended = lrs.iter().any(|lr| {
            lr.state == LrState::Invalid && lr.source == LrSource::Software { eoi: true }
        });
        ended
            || self.hcr & hcr::NPIE != 0 && no_pending
            || self.hcr & hcr::LRENPIE != 0 && self.eoi_count != 0
    }
}
