//! The devicetree as a flat list of nodes that know their parents, and what its properties mean on a
//! bus: addresses, sizes, interrupts. The only user of `fdt`.

use alloc::string::String;
use alloc::vec::Vec;

use fdt::Fdt;
use fdt::node::FdtNode;

use super::interrupt::Interrupt;
use crate::{Error, Range};

/// Physical addresses have at most 52 bits (DDI0487 D8.1).
const PA_LIMIT: u64 = 1 << 52;

const CORRECT: &str = "correct the devicetree";

/// All nodes of a devicetree, parents before children.
pub struct Tree<'t> {
    nodes: Vec<(FdtNode<'t, 't>, usize)>,
}

/// One node of a [`Tree`].
#[derive(Clone, Copy)]
pub struct Node<'t> {
    tree: &'t Tree<'t>,
    index: usize,
}

impl<'t> Tree<'t> {
    /// Lists the nodes of a blob that [`check`](super::blob::check) has passed.
    pub fn new(fdt: &'t Fdt<'t>) -> Self {
        let mut tree = Self { nodes: Vec::new() };
        if let Some(root) = fdt.find_node("/") {
            tree.add(root, 0);
        }
        tree
    }

    fn add(&mut self, node: FdtNode<'t, 't>, parent: usize) {
        let index = self.nodes.len();
        self.nodes.push((node, parent));
        for child in node.children() {
            self.add(child, index);
        }
    }

    /// Every node that is not disabled, in the devicetree's order.
    pub fn enabled(&'t self) -> impl Iterator<Item = Node<'t>> {
        self.all().filter(|node| node.is_enabled())
    }

    fn all(&'t self) -> impl Iterator<Item = Node<'t>> {
        (0..self.nodes.len()).map(|index| Node { tree: self, index })
    }

    /// The node at an absolute path; a component without unit address fits any.
    pub fn find(&'t self, path: &str) -> Option<Node<'t>> {
        let mut node = self.all().next()?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            node = node.children().find(|child| child.is_called(part))?;
        }
        Some(node)
    }

    fn by_phandle(&'t self, phandle: u32) -> Option<Node<'t>> {
        self.all()
            .find(|node| matches!(node.u32("phandle"), Ok(Some(value)) if value == phandle))
    }
}

impl<'t> Node<'t> {
    fn entry(self) -> (FdtNode<'t, 't>, usize) {
        // An index is only ever made by walking `nodes`, which never shrinks.
        self.tree.nodes[self.index]
    }

    /// The node's name with its unit address.
    pub fn name(self) -> &'t str {
        self.entry().0.name
    }

    fn is_called(self, name: &str) -> bool {
        let own = self.name();
        own == name || own.split('@').next() == Some(name)
    }

    fn parent(self) -> Option<Self> {
        (self.index != 0).then(|| Self {
            index: self.entry().1,
            ..self
        })
    }

    /// Whether both are one node.
    fn is(self, other: Self) -> bool {
        self.index == other.index
    }

    /// The nodes right below this one.
    pub fn children(self) -> impl Iterator<Item = Self> {
        let parent = self.index;
        self.tree
            .all()
            .filter(move |node| node.index != 0 && node.entry().1 == parent)
    }

    /// The absolute path.
    pub fn path(self) -> String {
        match self.parent() {
            None => String::from("/"),
            Some(parent) => {
                let mut path = parent.path();
                if !path.ends_with('/') {
                    path.push('/');
                }
                path.push_str(self.name());
                path
            }
        }
    }

    /// Something is wrong with `property` of this node.
    pub fn error(self, property: &str, what: &'static str, mend: &'static str) -> Error {
        let mut place = self.path();
        if !property.is_empty() {
            place.push(' ');
            place.push_str(property);
        }
        Error::new(place, what, mend)
    }

    /// The bytes of a property.
    pub fn property(self, name: &str) -> Option<&'t [u8]> {
        self.entry().0.property(name).map(|property| property.value)
    }

    /// A property that holds one string.
    pub fn string(self, name: &str) -> Result<Option<&'t str>, Error> {
        let Some(value) = self.property(name) else {
            return Ok(None);
        };
        match value.strip_suffix(&[0]).map(core::str::from_utf8) {
            Some(Ok(text)) if !text.contains('\0') => Ok(Some(text)),
            _ => Err(self.error(name, "is not one string", CORRECT)),
        }
    }

    /// A property that holds one cell.
    pub fn u32(self, name: &str) -> Result<Option<u32>, Error> {
        match self.property(name).map(<[u8; 4]>::try_from) {
            None => Ok(None),
            Some(Ok(cell)) => Ok(Some(u32::from_be_bytes(cell))),
            Some(Err(_)) => Err(self.error(name, "is not one cell", CORRECT)),
        }
    }

    /// A property that holds a number of one or two cells.
    pub fn number(self, name: &str) -> Result<Option<u64>, Error> {
        match self.property(name) {
            None => Ok(None),
            Some(value) if matches!(value.len(), 4 | 8) => Ok(Some(big_endian(value))),
            Some(_) => Err(self.error(name, "is not a number of one or two cells", CORRECT)),
        }
    }

    /// Whether `name` is among the node's `compatible` strings.
    pub fn is_compatible(self, name: &str) -> bool {
        self.property("compatible")
            .is_some_and(|value| value.split(|&byte| byte == 0).any(|s| s == name.as_bytes()))
    }

    /// Whether neither it nor a node above it has a `status` that says otherwise
    /// (Devicetree Specification 2.3.4).
    pub fn is_enabled(self) -> bool {
        let own = match self.property("status") {
            None => true,
            Some(status) => matches!(status, b"okay\0" | b"ok\0"),
        };
        own && self.parent().is_none_or(Self::is_enabled)
    }

    /// How many cells children take for an address and for a size (Devicetree Specification 2.3.5).
    fn cells(self) -> Result<(usize, usize), Error> {
        let address = self.u32("#address-cells")?.unwrap_or(2) as usize;
        let size = self.u32("#size-cells")?.unwrap_or(1) as usize;
        if address > 2 || size > 2 {
            return Err(self.error("", "has addresses of more than two cells", CORRECT));
        }
        Ok((address, size))
    }

    /// The addresses of a `reg` whose parent gives children no size, such as `/cpus`.
    pub fn unit_address(self) -> Result<u64, Error> {
        let cells = match self.parent() {
            Some(parent) => parent.cells()?.0,
            None => 2,
        };
        match self.property("reg") {
            None => Err(self.error("reg", "is missing", CORRECT)),
            Some(value) if value.len() == cells * 4 && cells > 0 => Ok(big_endian(value)),
            Some(_) => Err(self.error("reg", "does not fit its parent's #address-cells", CORRECT)),
        }
    }

    /// What `reg` holds, as physical addresses.
    pub fn reg(self) -> Result<Vec<Range>, Error> {
        let Some(value) = self.property("reg") else {
            return Err(self.error("reg", "is missing", CORRECT));
        };
        let Some(bus) = self.parent() else {
            return Err(self.error("reg", "has no place in the root", CORRECT));
        };
        let (address, size) = bus.cells()?;
        let entry = (address + size) * 4;
        if address == 0 || size == 0 || !value.len().is_multiple_of(entry) {
            return Err(self.error("reg", "does not fit its parent's cells", CORRECT));
        }
        value
            .chunks_exact(entry)
            .map(|entry| {
                let (start, size) = entry.split_at(address * 4);
                let range = Range::new(big_endian(start), big_endian(size));
                bus.translate(range)
                    .ok_or_else(|| self.error("reg", "is no address of the CPU's", CORRECT))
            })
            .collect()
    }

    /// A child's range as physical addresses, through the `ranges` of this bus and those above it.
    fn translate(self, range: Range) -> Option<Range> {
        let end = range.start.checked_add(range.size)?;
        let Some(parent) = self.parent() else {
            return (end <= PA_LIMIT).then_some(range);
        };
        let windows = self.property("ranges")?;
        if windows.is_empty() {
            return parent.translate(range);
        }
        let (child_cells, size_cells) = self.cells().ok()?;
        let (parent_cells, _) = parent.cells().ok()?;
        let window = (child_cells + parent_cells + size_cells) * 4;
        if window == 0 || !windows.len().is_multiple_of(window) {
            return None;
        }
        windows.chunks_exact(window).find_map(|window| {
            let (child, rest) = window.split_at(child_cells * 4);
            let (base, size) = rest.split_at(parent_cells * 4);
            let seen = Range::new(big_endian(child), big_endian(size));
            if !seen.covers(range) {
                return None;
            }
            let start = big_endian(base).checked_add(range.start - seen.start)?;
            parent.translate(Range::new(start, range.size))
        })
    }

    /// The interrupts this node raises at `gic`; `None` if it raises them elsewhere.
    pub fn interrupts(self, gic: Self) -> Result<Option<Vec<Interrupt>>, Error> {
        if let Some(value) = self.property("interrupts-extended") {
            return self.extended_interrupts(value, gic);
        }
        let Some(value) = self.property("interrupts") else {
            return Ok(Some(Vec::new()));
        };
        if !self.interrupts_reach(gic)? {
            return Ok(None);
        }
        let size = gic.interrupt_size()?;
        if !value.len().is_multiple_of(size) {
            return Err(self.error("interrupts", "does not fit #interrupt-cells", CORRECT));
        }
        value
            .chunks_exact(size)
            .map(|specifier| self.interrupt("interrupts", specifier))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// `interrupts-extended`: each specifier behind the phandle of who takes it.
    fn extended_interrupts(
        self,
        mut value: &'t [u8],
        gic: Self,
    ) -> Result<Option<Vec<Interrupt>>, Error> {
        const NAME: &str = "interrupts-extended";
        let mut found = Vec::new();
        while !value.is_empty() {
            let Some((phandle, rest)) = value.split_at_checked(4) else {
                return Err(self.error(NAME, "ends within a cell", CORRECT));
            };
            let Some(parent) = self.tree.by_phandle(big_endian(phandle) as u32) else {
                return Err(self.error(NAME, "leads nowhere", CORRECT));
            };
            let Some((specifier, rest)) = rest.split_at_checked(parent.interrupt_size()?) else {
                return Err(self.error(NAME, "does not fit #interrupt-cells", CORRECT));
            };
            if !parent.is(gic) {
                return Ok(None);
            }
            found.push(self.interrupt(NAME, specifier)?);
            value = rest;
        }
        Ok(Some(found))
    }

    fn interrupt(self, property: &str, specifier: &[u8]) -> Result<Interrupt, Error> {
        Interrupt::decode(specifier)
            .ok_or_else(|| self.error(property, "names no interrupt a GIC has", CORRECT))
    }

    /// The bytes one interrupt of this controller takes; GICs take three cells or more.
    fn interrupt_size(self) -> Result<usize, Error> {
        match self.u32("#interrupt-cells")? {
            Some(cells @ 1..=4) => Ok(cells as usize * 4),
            _ => Err(self.error("#interrupt-cells", "is not 1 to 4", CORRECT)),
        }
    }

    /// Whether the nearest `interrupt-parent` from here upwards is `gic`.
    fn interrupts_reach(self, gic: Self) -> Result<bool, Error> {
        let mut node = self;
        loop {
            if let Some(phandle) = node.u32("interrupt-parent")? {
                return Ok(gic.u32("phandle")? == Some(phandle));
            }
            match node.parent() {
                None => return Ok(false),
                Some(parent) if parent.property("#interrupt-cells").is_some() => {
                    return Ok(parent.is(gic));
                }
                Some(parent) => node = parent,
            }
        }
    }
}

/// The number in up to eight big-endian bytes.
fn big_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}
