//! The interrupt controller: which GIC, where, and how it calls the hypervisor.

use alloc::vec::Vec;

use super::CORRECT;
use super::tree::{Node, Tree};
use crate::{Error, Gic, Range};

/// What each `compatible` that is driven is.
const KNOWN: [(&str, Version); 3] = [
    ("arm,gic-v3", Version::V3),
    ("arm,gic-400", Version::V2),
    ("arm,cortex-a15-gic", Version::V2),
];

const VIRTUALISABLE: &str =
    "use a GIC with virtualisation extensions; for QEMU that is virtualization=on";

#[derive(Clone, Copy)]
enum Version {
    V2,
    V3,
}

/// The GIC's node, which other nodes' interrupts lead to.
pub struct Controller<'t> {
    pub node: Node<'t>,
    version: Version,
}

impl<'t> Controller<'t> {
    /// Finds the GIC.
    pub fn find(tree: &'t Tree<'t>) -> Result<Self, Error> {
        for node in tree.enabled() {
            for (name, version) in KNOWN {
                if node.is_compatible(name) {
                    return Ok(Self { node, version });
                }
            }
        }
        Err(Error::new(
            "/interrupt-controller",
            "is missing or neither a GICv2 nor a GICv3",
            "use a machine with either",
        ))
    }

    /// Reads its registers' places and its maintenance interrupt.
    pub fn kind(&self) -> Result<Gic, Error> {
        let node = self.node;
        let reg = node.reg()?;
        let maintenance = match node.interrupts(node)?.unwrap_or_default().first() {
            Some(interrupt) => interrupt.intid,
            None => {
                return Err(node.error(
                    "interrupts",
                    "has no maintenance interrupt",
                    VIRTUALISABLE,
                ));
            }
        };
        match self.version {
            Version::V3 => {
                let regions = node.u32("#redistributor-regions")?.unwrap_or(1) as usize;
                match reg.split_first() {
                    Some((&dist, rest)) if regions > 0 && rest.len() >= regions => Ok(Gic::V3 {
                        dist,
                        redists: rest.iter().take(regions).copied().collect(),
                        redist_stride: node.number("redistributor-stride")?,
                        maintenance,
                    }),
                    _ => Err(node.error("reg", "lacks distributor or redistributors", CORRECT)),
                }
            }
            Version::V2 => {
                let blocks: Vec<Range> = reg;
                let &[dist, cpu, hyp, vcpu, ..] = blocks.as_slice() else {
                    return Err(node.error("reg", "lacks GICH or GICV", VIRTUALISABLE));
                };
                Ok(Gic::V2 {
                    dist,
                    cpu,
                    hyp,
                    vcpu,
                    maintenance,
                })
            }
        }
    }
}
