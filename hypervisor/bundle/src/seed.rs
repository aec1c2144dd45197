//! Seeds for a guest's random numbers: `kaslr-seed` and `rng-seed` in `/chosen` of its devicetree (Devicetree schema
//! `chosen.yaml`).
//!
//! Every VM has them anew each time it is loaded. They are SHA-256 of a secret, which is SHA-256 of what the machine's
//! loader left in its own devicetree and of what the hypervisor could draw. Whoever knows a VM's seeds learns nothing of
//! another's, or of the next, but by guessing the secret.

use core::fmt::{self, Debug, Formatter};

use sha2::{Digest, Sha256};

/// Bytes of `kaslr-seed`: a number of 64 bits.
pub const KASLR_SIZE: usize = 8;
/// Bytes of `rng-seed`: as many as Linux's generator has of state.
pub const RNG_SIZE: usize = 32;

/// What the hypervisor adds of its own at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fresh {
    /// Bits that nobody can foretell, if the machine has a source of them: as many as firmware gives by one call
    /// (DEN0098, TRNG_RND).
    pub random: Option<[u64; 3]>,
    /// The time. It is no secret, but another each time.
    pub ticks: u64,
}

/// What seeds are derived from: one of the machine's, of which each VM gets one of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u8; 32]);

/// It is not for the log.
impl Debug for Secret {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What one boot of a guest gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seeds {
    /// Where its kernel puts itself.
    pub kaslr: [u8; KASLR_SIZE],
    /// What its generator of random numbers begins with.
    pub rng: [u8; RNG_SIZE],
}

/// It is not for the log.
impl Debug for Seeds {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Seeds")
    }
}

/// What a hash is for: no two uses share one.
mod label {
    pub const MACHINE: u64 = 1;
    pub const VM: u64 = 2;
    pub const KASLR: u64 = 3;
    pub const RNG: u64 = 4;
}

impl Secret {
    /// The machine's secret of this boot, from the seeds in the devicetree it was given. `None` if there is nothing
    /// secret to make one of; then guests get no seeds, rather than such as anybody can compute.
    #[inline(never)]
    pub fn gather(machine: &[u8], fresh: &Fresh) -> Option<Self> {
        if machine.is_empty() && fresh.random.is_none() {
            return None;
        }
        Some(Self(hash(label::MACHINE, machine, 0, fresh)))
    }

    /// That of a VM.
    pub fn of_vm(&self, id: u8) -> Self {
        Self(hash(label::VM, &self.0, id.into(), &Fresh::default()))
    }

    /// The seeds of a VM whose secret this is, for its load number `load`.
    #[inline(never)]
    pub fn seeds(&self, load: u64, fresh: &Fresh) -> Seeds {
        let [kaslr, rng] =
            [label::KASLR, label::RNG].map(|label| hash(label, &self.0, load, fresh));
        let [a, b, c, d, e, f, g, h, ..] = kaslr;
        Seeds {
            kaslr: [a, b, c, d, e, f, g, h],
            rng,
        }
    }
}

/// SHA-256 of all of it. What is hashed under one label has one length but for [`label::MACHINE`], which says its own, so no
/// two inputs are the same bytes, and none begins another: that a SHA-256 can be continued without its input helps nobody.
fn hash(label: u64, secret: &[u8], number: u64, fresh: &Fresh) -> [u8; 32] {
    let mut hash = Sha256::new();
    let random = fresh.random.unwrap_or_default();
    let head = [
        label,
        secret.len() as u64,
        number,
        fresh.ticks,
        fresh.random.is_some().into(),
    ];
    for word in head.into_iter().chain(random) {
        hash.update(word.to_le_bytes());
    }
    hash.update(secret);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const MACHINE: &[u8] = &[1, 2, 3, 4];

    fn fresh(ticks: u64) -> Fresh {
        Fresh {
            random: None,
            ticks,
        }
    }

    fn secret(machine: &[u8], fresh: Fresh) -> Secret {
        Secret::gather(machine, &fresh).expect("something secret")
    }

    #[test]
    fn nothing_is_made_of_nothing() {
        assert_eq!(Secret::gather(&[], &fresh(7)), None);
        let drawn = Fresh {
            random: Some([0; 3]),
            ticks: 7,
        };
        assert!(Secret::gather(&[], &drawn).is_some());
        assert!(Secret::gather(MACHINE, &fresh(7)).is_some());
    }

    #[test]
    fn what_is_secret_is_not_printed() {
        let secret = secret(MACHINE, fresh(0));
        assert_eq!(alloc::format!("{secret:?}"), "Secret");
        assert_eq!(alloc::format!("{:?}", secret.seeds(0, &fresh(0))), "Seeds");
    }

    /// Computed with Python's hashlib from the same description.
    #[test]
    fn the_derivation_is_what_it_was() {
        let vm = secret(MACHINE, fresh(5)).of_vm(1);
        let drawn = Fresh {
            random: Some([1, 2, 3]),
            ticks: 6,
        };
        let seeds = vm.seeds(2, &drawn);
        assert_eq!(seeds.kaslr, KASLR);
        assert_eq!(seeds.rng, RNG);
    }

    const KASLR: [u8; 8] = [0x3a, 0x2d, 0x0d, 0xfb, 0x41, 0xca, 0xb6, 0x35];
    const RNG: [u8; 32] = [
        0x66, 0x52, 0xb5, 0x38, 0x78, 0x35, 0xda, 0xa2, 0x0d, 0xca, 0x61, 0x6e, 0x3f, 0x35, 0x50,
        0x7f, 0xb7, 0x43, 0xda, 0x64, 0xcb, 0x3e, 0x9b, 0x82, 0x33, 0x1c, 0xe5, 0xa1, 0x0d, 0x3b,
        0x61, 0x1b,
    ];

    /// Any that differ in one thing give seeds that differ in everything.
    #[test]
    fn vms_loads_moments_and_machines_have_seeds_of_their_own() {
        let mut all = Vec::new();
        for machine in [MACHINE, &[1, 2, 3], &[1, 2, 3, 4, 0]] {
            for boot in [0, 1] {
                let secret = secret(machine, fresh(boot));
                for vm in 0..3 {
                    for load in 0..3 {
                        for random in [None, Some([0; 3]), Some([0, 0, 1])] {
                            let drawn = Fresh { random, ticks: 9 };
                            all.push(secret.of_vm(vm).seeds(load, &drawn));
                        }
                    }
                }
            }
        }
        for (index, one) in all.iter().enumerate() {
            for other in &all[..index] {
                assert_ne!(one.kaslr, other.kaslr);
                assert_ne!(one.rng, other.rng);
            }
            assert_ne!(one.kaslr[..], one.rng[..8]);
        }
    }

    proptest! {
        #[test]
        fn the_same_gives_the_same_and_another_vm_or_load_another(
            machine in prop::collection::vec(any::<u8>(), 1..64),
            boot in any::<u64>(),
            random in any::<Option<[u64; 3]>>(),
            ticks in any::<u64>(),
            vms in any::<[u8; 2]>(),
            loads in any::<[u64; 2]>(),
        ) {
            let fresh = Fresh { random, ticks };
            let seeds = |which: usize| {
                let secret = secret(&machine, Fresh { random: None, ticks: boot });
                secret.of_vm(vms[which]).seeds(loads[which], &fresh)
            };
            prop_assert_eq!(seeds(0), seeds(0));
            let is_same = vms[0] == vms[1] && loads[0] == loads[1];
            prop_assert_eq!(seeds(0) == seeds(1), is_same);
            prop_assert_eq!(seeds(0).kaslr == seeds(1).kaslr, is_same);
        }
    }
}
