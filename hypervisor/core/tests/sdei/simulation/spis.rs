//! The SPIs of the simulation that no event is ever bound to: each vCPU has one that it alone routes and enables, and that
//! anybody makes pending. What the distributor holds for a vCPU must reach it, however its list registers are chosen.

use hv_core::id::{IntId, VcpuId};
use hv_core::mailbox::Requests;
use hv_core::vgic::Published;
use hv_testbed::DISTRIBUTOR;

use super::Broken;
use super::guest::Dice;

/// The first of them; vCPU n has the nth.
const FIRST: u32 = 64;
/// As many as there are vCPUs at most.
const MOST: u32 = 8;
/// Those that come from the machine, as edges. The others are only ever made pending by a store.
pub const PASSED_THROUGH: [IntId; 4] = [IntId(65), IntId(67), IntId(69), IntId(71)];

/// Their registers' offsets (IHI0069 12.8): GICD_IGROUPR2, GICD_ISENABLER2, GICD_ICENABLER2, GICD_ISPENDR2,
/// GICD_ISACTIVER2, GICD_ICFGR4.
const GROUP: u64 = 0x88;
const ENABLE: u64 = 0x108;
const DISABLE: u64 = 0x188;
const PEND: u64 = 0x208;
const ACTIVE: u64 = 0x308;
const TRIGGER: u64 = 0xc10;

/// An access to the distributor: its ipa, how many bytes, what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub ipa: u64,
    pub size: u8,
    /// `None` is a load.
    pub value: Option<u64>,
}

const fn store(offset: u64, value: u64) -> Access {
    Access {
        ipa: DISTRIBUTOR + offset,
        size: 4,
        value: Some(value),
    }
}

/// What vCPU `n` stores when it begins: all in group 1 and edge triggered, and its own enabled.
pub const PREPARATIONS: usize = 3;

pub fn preparation(n: usize, which: usize) -> Access {
    match which {
        0 => store(GROUP, 0xff),
        1 => store(TRIGGER, 0xaaaa),
        _ => store(ENABLE, 1 << n),
    }
}

/// What vCPU `n` of `vcpus` does with them.
pub fn act(dice: &mut Dice, n: usize, vcpus: usize) -> Access {
    match dice.below(8) {
        0..4 => store(PEND, 1 << dice.below(vcpus)),
        4 => Access {
            ipa: DISTRIBUTOR + 0x6000 + 8 * (u64::from(FIRST) + n as u64),
            size: 8,
            value: Some(dice.below(vcpus) as u64),
        },
        5 => store(DISABLE, 1 << n),
        6 => store(ENABLE, 1 << n),
        _ => Access {
            ipa: DISTRIBUTOR + dice.pick(&[PEND, ACTIVE]),
            size: 4,
            value: None,
        },
    }
}

/// What is known of them.
#[derive(Debug)]
pub struct Spis {
    /// Pending and not taken since, a bit each.
    owed: u32,
    enabled: u32,
    routes: [usize; MOST as usize],
    /// The store of each vCPU that makes some pending, and has not taken effect.
    made: [u32; MOST as usize],
}

impl Spis {
    /// As after reset.
    pub fn new() -> Self {
        Self {
            owed: 0,
            enabled: 0,
            routes: [0; MOST as usize],
            made: [0; MOST as usize],
        }
    }

    fn bit(intid: IntId) -> u32 {
        let n = intid.0.checked_sub(FIRST).filter(|&n| n < MOST);
        n.map_or(0, |n| 1 << n)
    }

    /// vCPU `n` stores. What is its own has taken effect when all is quiet.
    pub fn stores(&mut self, n: usize, access: Access) {
        let Some(value) = access.value else { return };
        match access.ipa - DISTRIBUTOR {
            PEND => self.made[n] = value as u32,
            ENABLE => self.enabled |= value as u32,
            DISABLE => self.enabled &= !value as u32,
            0x6000.. => self.routes[n] = value as usize,
            _ => {}
        }
    }

    /// vCPU `n` has locked the distributor: what it stored takes effect.
    pub fn take_effect(&mut self, n: usize) {
        self.owed |= std::mem::take(&mut self.made[n]);
    }

    /// The machine's has come to the virtual GIC.
    pub fn comes(&mut self, intid: IntId) {
        self.owed |= Self::bit(intid);
    }

    /// A guest has acknowledged it.
    pub fn is_taken(&mut self, intid: IntId) {
        self.owed &= !Self::bit(intid);
    }

    /// Whether the machine may raise it.
    pub fn may_fire(&self, intid: IntId) -> bool {
        self.enabled & Self::bit(intid) != 0
    }

    /// All is quiet: the first that was lost on its way to a vCPU that is ready for it.
    pub fn lost(&self, is_ready: impl Fn(usize) -> bool) -> Option<(u32, usize)> {
        (0..MOST)
            .filter(|n| self.owed & self.enabled & 1 << n != 0)
            .map(|n| (FIRST + n, self.routes[n as usize]))
            .find(|&(_, target)| is_ready(target))
    }
}

/// What is said of all vCPUs, as a broken machine says it.
#[derive(Debug, Default)]
pub struct Said {
    /// When the distributor was locked.
    before: Vec<u32>,
    /// What each vCPU says of others when it has kicked them.
    late: Vec<(usize, VcpuId, u32)>,
    /// What each vCPU takes back of itself when it no longer has the distributor.
    takes_back: Vec<(usize, u32)>,
}

impl Said {
    /// vCPU `n` has locked the distributor.
    pub fn begin(&mut self, published: &Published, vcpus: usize) {
        self.before = (0..vcpus as u8)
            .map(|vcpu| published.said(VcpuId(vcpu)))
            .collect();
    }

    /// vCPU `n` is about to release it.
    pub fn end(&mut self, published: &Published, n: usize, broken: Broken) {
        for (vcpu, &before) in (0..).map(VcpuId).zip(&self.before) {
            let now = published.said(vcpu);
            match broken {
                Broken::SharedRaisedAfterKick if vcpu.index() != n && now & !before != 0 => {
                    published.say(vcpu, before);
                    self.late.push((n, vcpu, now & !before));
                }
                Broken::SharedLoweredWithoutLock if vcpu.index() == n && before & !now != 0 => {
                    published.say(vcpu, before | now);
                    self.takes_back.push((n, before & !now));
                }
                _ => {}
            }
        }
    }

    /// vCPU `n` has asked another for something.
    pub fn has_asked(&mut self, published: &Published, n: usize, other: VcpuId, of: Requests) {
        if of.has(Requests::SYNC) {
            self.late.retain(|&(by, vcpu, bits)| {
                let is_due = by == n && vcpu == other;
                if is_due {
                    published.say(vcpu, published.said(vcpu) | bits);
                }
                !is_due
            });
        }
    }

    /// vCPU `n` goes on.
    pub fn goes_on(&mut self, published: &Published, n: usize) {
        self.takes_back.retain(|&(by, bits)| {
            if by == n {
                let vcpu = VcpuId(n as u8);
                published.say(vcpu, published.said(vcpu) & !bits);
            }
            by != n
        });
    }
}
