//! The machine's devicetree as a loader hands it over. QEMU fills in `/chosen` only for a kernel that it
//! loads itself.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeProperty};

use debian::paths::write_if_new;

/// Reads the devicetree at `dumped`, and writes it to `completed` with these in `/chosen`.
pub fn complete(
    dumped: &Path,
    completed: &Path,
    bootargs: &str,
    initrd: Option<Range<u64>>,
) -> Result<()> {
    let blob = fs::read(dumped)
        .with_context(|| format!("cannot read QEMU's devicetree {}", dumped.display()))?;
    write_if_new(completed, &chosen(&blob, bootargs, initrd)?)
}

fn chosen(blob: &[u8], bootargs: &str, initrd: Option<Range<u64>>) -> Result<Vec<u8>> {
    let damaged = |error| anyhow!("QEMU's devicetree is damaged: {error:?}");
    let mut tree = DeviceTree::from_fdt(&Fdt::new(blob).map_err(damaged)?);
    let chosen = tree
        .find_node_mut("/chosen")
        .context("QEMU's devicetree has no /chosen")?;
    let mut set = |name: &str, value: Vec<u8>| -> Result<()> {
        chosen.remove_property(name);
        let property = DeviceTreeProperty::new(name, value);
        chosen.add_property(property.map_err(|error| anyhow!("{name}: {error:?}"))?);
        Ok(())
    };
    if !bootargs.is_empty() {
        set("bootargs", [bootargs.as_bytes(), b"\0"].concat())?;
    }
    if let Some(initrd) = initrd {
        set("linux,initrd-start", initrd.start.to_be_bytes().to_vec())?;
        set("linux,initrd-end", initrd.end.to_be_bytes().to_vec())?;
    }
    Ok(tree.to_dtb())
}
