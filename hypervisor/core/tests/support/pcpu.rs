//! What a model pCPU is made of.

use hv_core::id::IntId;
use hv_core::vgic::{ListReg, LrSource, LrState, hcr};

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
}

impl Pcpu {
    pub fn decode(&self) -> Vec<ListReg> {
        self.lrs
            .iter()
            .map(|&raw| ListReg::decode_v3(raw))
            .collect()
    }

    pub fn load(&mut self, lrs: &[ListReg], hcr: u64) {
        self.lrs = lrs.iter().map(|lr| lr.encode_v3()).collect();
        self.hcr = hcr;
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
