//! The interrupt controller: which GIC, where, and how it calls the hypervisor.

use alloc::vec::Vec;

use crate::devicetree::{Node, Tree};
use crate::{Error, Gic, Range};

/// The `compatible` of GICv3 and later.
pub const V3: &str = "arm,gic-v3";

/// Those of GICv2 with virtualisation extensions.
const V2: [&str; 2] = ["arm,gic-400", "arm,cortex-a15-gic"];

const VIRTUALISABLE: &str =
    "use a GIC with virtualisation extensions; for QEMU that is virtualization=on";

/// The GIC's node, which other nodes' interrupts lead to.
pub fn find<'t, 'a>(tree: &'t Tree<'t, 'a>) -> Result<Node<'t, 'a>, Error> {
    let mut names = [V3].into_iter().chain(V2);
    match names.find_map(|name| tree.compatible(name)) {
        Some(node) => Ok(node),
        None => Err(Error::new(
            "/interrupt-controller",
            "is missing or neither a GICv2 nor a GICv3",
            "use a machine with either",
        )),
    }
}

/// Reads its registers' places and its maintenance interrupt.
pub fn read(node: Node<'_, '_>) -> Result<Gic, Error> {
    let reg = node.reg()?;
    let Some(&maintenance) = node.interrupts(node)?.unwrap_or_default().first() else {
        let what = "has no maintenance interrupt";
        return Err(node.error("interrupts", what, VIRTUALISABLE));
    };
    let maintenance = maintenance.intid;
    if node.is_compatible(V3) {
        let regions = node.u32("#redistributor-regions")?.unwrap_or(1) as usize;
        let (Some(&dist), Some(redists)) = (reg.first(), reg.get(1..regions.saturating_add(1)))
        else {
            return Err(node.fault("reg", "lacks distributor or redistributors"));
        };
        if redists.is_empty() {
            return Err(node.fault("#redistributor-regions", "is 0"));
        }
        return Ok(Gic::V3 {
            dist,
            redists: redists.to_vec(),
            redist_stride: node.number("redistributor-stride")?,
            maintenance,
        });
    }
    let &[dist, cpu, hyp, vcpu, ..] = reg.as_slice() else {
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

/// The registers of the nodes below it: frames that take messages. One that is wired to nothing the CPU addresses has none.
pub fn messages(tree: &Tree<'_, '_>, gic: Node<'_, '_>) -> Vec<Range> {
    let frames = tree
        .all()
        .filter(|node| *node != gic && node.is_within(gic));
    frames
        .filter_map(|node| node.reg().ok())
        .flatten()
        .collect()
}
