//! Devicetrees that QEMU would not make: its own, changed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

use crate::qemu::Machine;

/// A property that is set: the node's path, its name and its value. The node is made if it is not there.
pub type Edit<'a> = (&'a str, &'a str, Vec<u8>);

/// Has QEMU dump the devicetree of `machine`, and writes it to `file` with `edits`.
pub fn devicetree(machine: &Machine, file: &Path, edits: &[Edit<'_>]) -> Result<()> {
    machine.dump_devicetree(None, file)?;
    let blob = fs::read(file).context("QEMU has written no devicetree")?;
    fs::write(file, edit(&blob, edits)?).with_context(|| format!("cannot write {}", file.display()))
}

fn edit(blob: &[u8], edits: &[Edit<'_>]) -> Result<Vec<u8>> {
    let damaged = |error| anyhow!("QEMU's devicetree is damaged: {error:?}");
    let mut tree = DeviceTree::from_fdt(&Fdt::new(blob).map_err(damaged)?);
    for (path, name, value) in edits {
        let (above, own) = path.rsplit_once('/').context("a path begins with /")?;
        if tree.find_node(path).is_none() {
            let node = DeviceTreeNode::new(own).map_err(|error| anyhow!("{own}: {error:?}"))?;
            let parent = match above {
                "" => &mut tree.root,
                _ => tree
                    .find_node_mut(above)
                    .with_context(|| format!("there is no {above}"))?,
            };
            parent.add_child(node);
        }
        let property = DeviceTreeProperty::new(*name, value.clone());
        let property = property.map_err(|error| anyhow!("{name}: {error:?}"))?;
        let node = tree.find_node_mut(path).context("it was just added")?;
        node.remove_property(name);
        node.add_property(property);
    }
    Ok(tree.to_dtb())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtoolkit::{Node, Property};

    #[test]
    fn properties_are_set_in_nodes_old_and_new() {
        let blob = DeviceTree::new().to_dtb();
        let edits: [Edit<'_>; 3] = [
            ("/a", "x", vec![1]),
            ("/a", "x", vec![2]),
            ("/a/b@1", "y", vec![3]),
        ];
        let blob = edit(&blob, &edits).unwrap();
        let tree = Fdt::new(&blob).unwrap();
        let value = |path, name| {
            let node = tree.find_node(path).unwrap();
            node.property(name).unwrap().value().to_vec()
        };
        assert_eq!((value("/a", "x"), value("/a/b@1", "y")), (vec![2], vec![3]));
        assert!(edit(&blob, &[("/no/b", "x", vec![])]).is_err());
        assert!(edit(b"nothing", &[]).is_err());
    }
}
