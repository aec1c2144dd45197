//! A devicetree as a flat list of nodes that know their parents. The only user of `fdt`.

use alloc::string::String;
use alloc::vec::Vec;

use fdt::node::FdtNode;

use super::Settled;
use crate::{Error, Range};

const CORRECT: &str = "correct the devicetree";

/// How many nodes are listed at most. A Raspberry Pi 4 has 450, large boards 2000.
const MOST_NODES: usize = 3000;
/// So many have room in the list from the beginning.
const USUAL_NODES: usize = 512;

// What is read before the hypervisor has found RAM of its own has 512 KiB: a list that grows is there twice meanwhile, and an
// allocator of powers of two must have room for both beside a blob's copy.
const _: () = assert!(MOST_NODES * size_of::<Entry<'_, '_>>() <= 256 << 10);
const _: () = assert!(USUAL_NODES * size_of::<Entry<'_, '_>>() <= 64 << 10);

/// A blob's header, which its nodes refer to.
pub struct Fdt<'a>(fdt::Fdt<'a>);

impl<'a> Fdt<'a> {
    /// Opens a blob, which lives as long as `settled`.
    ///
    /// # Errors
    ///
    /// None for a blob that has been checked.
    pub fn open(settled: &'a Settled<'_>) -> Result<Self, Error> {
        Self::new(settled.bytes())
    }

    /// Opens a blob that is too large to be copied. None if it has been, for its NOPs.
    ///
    /// # Errors
    ///
    /// As [`Fdt::open`].
    pub fn open_original(settled: &Settled<'a>) -> Result<Option<Self>, Error> {
        settled.original().map(Self::new).transpose()
    }

    fn new(settled: &'a [u8]) -> Result<Self, Error> {
        fdt::Fdt::new(settled).map(Self).map_err(|_| {
            let mend = "have the loader hand it over unaltered";
            Error::new("blob", "is not readable", mend)
        })
    }

    /// The memory reservation block's entries.
    pub fn reservations(&self) -> impl Iterator<Item = Range> {
        let entries = self.0.memory_reservations();
        entries.map(|entry| Range::new(entry.address().addr() as u64, entry.size() as u64))
    }
}

/// All nodes of a devicetree, parents before children.
pub struct Tree<'f, 'a> {
    nodes: Vec<Entry<'f, 'a>>,
    is_cut: bool,
}

#[derive(Clone, Copy)]
struct Entry<'f, 'a> {
    node: FdtNode<'f, 'a>,
    parent: u32,
    /// 0 if it has none: no node has that (Devicetree Specification 2.3.3). Many are asked for it, and often.
    phandle: u32,
}

/// One node of a [`Tree`].
#[derive(Clone, Copy)]
pub struct Node<'t, 'a> {
    pub(super) tree: &'t Tree<'t, 'a>,
    index: usize,
}

impl PartialEq for Node<'_, '_> {
    /// Whether both are the same node of one tree.
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl<'f, 'a> Tree<'f, 'a> {
    /// Lists a blob's nodes, of very many the first.
    #[inline(never)]
    pub fn new(fdt: &'f Fdt<'a>) -> Self {
        Self::only(fdt, &|_| true)
    }

    /// Lists the nodes that are `wanted`, and those above them.
    #[inline(never)]
    pub fn only(fdt: &'f Fdt<'a>, wanted: &dyn Fn(Node<'_, 'a>) -> bool) -> Self {
        let mut tree = Self {
            nodes: Vec::with_capacity(USUAL_NODES),
            is_cut: false,
        };
        if let Some(root) = fdt.0.find_node("/") {
            tree.add(root, 0, wanted);
        }
        tree
    }

    /// Checks that these are all nodes of a blob, from which they were read.
    ///
    /// # Errors
    ///
    /// If there are more than 3000, or a copy of the blob had no room for all.
    pub fn check_whole(&self, blob: &Settled<'_>) -> Result<(), Error> {
        if self.is_cut || blob.is_cut() {
            return Err(super::too_large());
        }
        Ok(())
    }

    fn add(&mut self, node: FdtNode<'f, 'a>, parent: u32, wanted: &dyn Fn(Node<'_, 'a>) -> bool) {
        if self.nodes.len() == MOST_NODES {
            self.is_cut = true;
            return;
        }
        if self.nodes.len() == USUAL_NODES {
            self.nodes.reserve_exact(MOST_NODES - USUAL_NODES);
        }
        let index = self.nodes.len() as u32;
        let phandle = node.property("phandle");
        let phandle = phandle.filter(|own| own.value.len() == 4);
        self.nodes.push(Entry {
            node,
            parent,
            phandle: phandle.map_or(0, |own| number(own.value) as u32),
        });
        for child in node.children() {
            self.add(child, index, wanted);
            if self.is_cut {
                return;
            }
        }
        let place = index as usize;
        let own = Node {
            tree: self,
            index: place,
        };
        // With nothing behind it that is.
        if place + 1 == self.nodes.len() && !wanted(own) {
            self.nodes.truncate(place);
        }
    }

    /// Every node, in the devicetree's order.
    pub fn all<'t>(&'t self) -> impl Iterator<Item = Node<'t, 'a>> {
        (0..self.nodes.len()).map(|index| Node { tree: self, index })
    }

    /// The first node that is not disabled and has this `compatible`.
    pub fn compatible<'t>(&'t self, name: &str) -> Option<Node<'t, 'a>> {
        self.all()
            .find(|node| node.is_compatible(name) && node.is_enabled())
    }

    /// The node at an absolute path; a component without unit address fits any.
    pub fn find<'t>(&'t self, path: &str) -> Option<Node<'t, 'a>> {
        let mut node = self.all().next()?;
        for part in path.split('/') {
            if !part.is_empty() {
                node = node.child(part)?;
            }
        }
        Some(node)
    }

    /// The node that `/chosen stdout-path` leads to, and the property: a path or an alias, options
    /// behind a colon (Devicetree Specification 3.6).
    pub fn stdout<'t>(&'t self) -> Option<(Node<'t, 'a>, &'a str)> {
        let own = self.find("/chosen")?.string("stdout-path").ok()??;
        let name = own.split_once(':').map_or(own, |(name, _)| name);
        let path = if name.starts_with('/') {
            name
        } else {
            self.find("/aliases")?.string(name).ok()??
        };
        Some((self.find(path)?, own))
    }

    /// The node whose phandle `cells` begin with, which loses it.
    pub(super) fn named<'t>(&'t self, cells: &mut &[u8]) -> Option<Node<'t, 'a>> {
        self.by_phandle(number(cells.split_off(..4)?) as u32)
    }

    /// The node with a phandle.
    pub fn by_phandle<'t>(&'t self, phandle: u32) -> Option<Node<'t, 'a>> {
        self.all().find(|node| node.phandle() == Some(phandle))
    }
}

impl<'t, 'a> Node<'t, 'a> {
    fn entry(self) -> Entry<'t, 'a> {
        // An index is only ever made by walking `nodes`, which never shrinks once they are listed.
        self.tree.nodes[self.index]
    }

    /// The node's name with its unit address; `/` or nothing for the root.
    pub fn name(self) -> &'a str {
        self.entry().node.name
    }

    /// The node's name without its unit address.
    pub fn base_name(self) -> &'a str {
        let name = self.name();
        name.split_once('@').map_or(name, |(base, _)| base)
    }

    /// The node above it, unless it is the root.
    pub fn parent(self) -> Option<Self> {
        let index = self.entry().parent as usize;
        (self.index != 0).then_some(Self { index, ..self })
    }

    /// Whether it is `other` or somewhere below it.
    pub fn is_within(self, other: Self) -> bool {
        self == other || self.parent().is_some_and(|parent| parent.is_within(other))
    }

    /// The nodes right below this one.
    pub fn children(self) -> impl Iterator<Item = Self> {
        // They are behind it, as parents come before their children.
        (self.index + 1..self.tree.nodes.len())
            .map(move |index| Self { index, ..self })
            .filter(move |node| node.entry().parent as usize == self.index)
    }

    /// The child of this name; one without unit address fits any.
    pub fn child(self, name: &str) -> Option<Self> {
        self.children()
            .find(|child| child.name() == name || child.base_name() == name)
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

    /// Says that something is wrong with `property` of this node, or with the node if that is empty.
    #[cold]
    #[inline(never)]
    pub fn error(self, property: &str, what: &'static str, mend: &'static str) -> Error {
        let mut place = self.path();
        if !property.is_empty() {
            place.push(' ');
            place.push_str(property);
        }
        Error::new(&place, what, mend)
    }

    /// As [`error`](Self::error), about a devicetree that is simply wrong.
    #[cold]
    #[inline(never)]
    pub fn fault(self, property: &str, what: &'static str) -> Error {
        self.error(property, what, CORRECT)
    }

    /// The bytes of a property.
    #[inline(never)]
    pub fn property(self, name: &str) -> Option<&'a [u8]> {
        let property = self.entry().node.property(name)?;
        Some(property.value)
    }

    /// The names and bytes of all its properties.
    pub fn properties(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let properties = self.entry().node.properties();
        properties.map(|property| (property.name, property.value))
    }

    /// A property that holds one string.
    ///
    /// # Errors
    ///
    /// If it holds something else.
    pub fn string(self, name: &str) -> Result<Option<&'a str>, Error> {
        let Some(value) = self.property(name) else {
            return Ok(None);
        };
        match value.strip_suffix(&[0]).map(core::str::from_utf8) {
            Some(Ok(text)) if !text.as_bytes().contains(&0) => Ok(Some(text)),
            _ => Err(self.fault(name, "is not one string")),
        }
    }

    /// A property that holds one cell.
    ///
    /// # Errors
    ///
    /// If it holds something else.
    pub fn u32(self, name: &str) -> Result<Option<u32>, Error> {
        match self.property(name).map(<[u8; 4]>::try_from) {
            None => Ok(None),
            Some(Ok(cell)) => Ok(Some(u32::from_be_bytes(cell))),
            Some(Err(_)) => Err(self.fault(name, "is not one cell")),
        }
    }

    /// A property that holds a number of one or two cells.
    ///
    /// # Errors
    ///
    /// If it holds something else.
    pub fn number(self, name: &str) -> Result<Option<u64>, Error> {
        match self.property(name) {
            None => Ok(None),
            Some(value) if value.len() == 4 || value.len() == 8 => Ok(Some(number(value))),
            Some(_) => Err(self.fault(name, "is not a number of one or two cells")),
        }
    }

    /// What other nodes call it by.
    pub fn phandle(self) -> Option<u32> {
        let phandle = self.entry().phandle;
        (phandle != 0).then_some(phandle)
    }

    /// Whether `name` is among the node's `compatible` strings.
    pub fn is_compatible(self, name: &str) -> bool {
        self.property("compatible")
            .is_some_and(|names| strings(names).any(|own| own == name.as_bytes()))
    }

    /// Whether neither it nor a node above it has a `status` that says otherwise
    /// (Devicetree Specification 2.3.4).
    pub fn is_enabled(self) -> bool {
        let own = match self.property("status") {
            None => true,
            Some(status) => status == b"okay\0" || status == b"ok\0",
        };
        own && self.parent().is_none_or(Self::is_enabled)
    }
}

/// The number in up to eight big-endian bytes.
pub fn number(bytes: &[u8]) -> u64 {
    let mut number = 0;
    for &byte in bytes {
        number = number << 8 | u64::from(byte);
    }
    number
}

/// The strings of a list.
pub fn strings(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == 0)
}
