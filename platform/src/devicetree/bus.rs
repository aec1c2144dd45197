//! What properties mean on a bus: addresses, sizes, interrupts.

use alloc::vec::Vec;

use super::tree::number;
use super::{Interrupt, Node};
use crate::{Error, Range};

/// Physical addresses have at most 52 bits (DDI0487 D8.1).
const PA_LIMIT: u64 = 1 << 52;
/// How many places a `reg` has at most, and interrupts a node: lists are made of them before there is much memory. A GIC has 988
/// shared interrupts.
const MOST_PLACES: usize = 512;
const MOST_INTERRUPTS: usize = 1024;

/// How many nodes an interrupt may go by; more only if they lead round in circles.
const MOST_HOPS: usize = 16;

const MAP: &str = "interrupt-map";

/// An interrupt on its way: who takes it next, and the unit address and the specifier that it has there.
type Hop<'t, 'a> = (Node<'t, 'a>, &'a [u8], &'a [u8]);

impl<'t, 'a> Node<'t, 'a> {
    /// How many cells children take for an address and for a size (Devicetree Specification 2.3.5).
    ///
    /// # Errors
    ///
    /// If it is more than two for either.
    pub fn cells(self) -> Result<(usize, usize), Error> {
        let address = self.u32("#address-cells")?.unwrap_or(2) as usize;
        let size = self.u32("#size-cells")?.unwrap_or(1) as usize;
        if address > 2 || size > 2 {
            return Err(self.fault("", "has addresses of more than two cells"));
        }
        Ok((address, size))
    }

    /// The address of a `reg` whose parent gives children no size, such as `/cpus`.
    ///
    /// # Errors
    ///
    /// If it is missing or something else.
    pub fn unit_address(self) -> Result<u64, Error> {
        let cells = match self.parent() {
            Some(parent) => parent.cells()?.0,
            None => 0,
        };
        match self.property("reg") {
            None => Err(self.fault("reg", "is missing")),
            Some(value) if value.len() == cells * 4 && cells > 0 => Ok(number(value)),
            Some(_) => Err(self.fault("reg", "does not fit its parent's #address-cells")),
        }
    }

    /// What `reg` holds, as physical addresses.
    ///
    /// # Errors
    ///
    /// If it is missing, or not made of addresses the CPU has.
    pub fn reg(self) -> Result<Vec<Range>, Error> {
        let (Some(value), Some(bus)) = (self.property("reg"), self.parent()) else {
            return Err(self.fault("reg", "is missing"));
        };
        let (address, size) = bus.cells()?;
        let entry = (address + size) * 4;
        if address == 0 || size == 0 || !value.len().is_multiple_of(entry) {
            return Err(self.fault("reg", "does not fit its parent's cells"));
        }
        if value.len() / entry > MOST_PLACES {
            return Err(self.fault("reg", "has more than 512 places"));
        }
        let mut found = Vec::new();
        for entry in value.chunks_exact(entry) {
            let (start, size) = entry.split_at(address * 4);
            match bus.translate(Range::new(number(start), number(size))) {
                Some(range) => found.push(range),
                None => return Err(self.fault("reg", "is no address of the CPU's")),
            }
        }
        Ok(found)
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
        for window in windows.chunks_exact(window) {
            let (child, rest) = window.split_at(child_cells * 4);
            let (base, size) = rest.split_at(parent_cells * 4);
            let seen = Range::new(number(child), number(size));
            if seen.covers(range) {
                let start = number(base).checked_add(range.start - seen.start)?;
                return parent.translate(Range::new(start, range.size));
            }
        }
        None
    }

    /// The interrupts this node raises at `gic`, through whatever nexus is in between; `None` if it raises one elsewhere.
    ///
    /// # Errors
    ///
    /// If they are none that a GIC has.
    pub fn interrupts(self, gic: Self) -> Result<Option<Vec<Interrupt>>, Error> {
        let Some(specifiers) = self.specifiers(gic)? else {
            return Ok(None);
        };
        let mut found = Vec::new();
        for specifier in specifiers {
            match Interrupt::decode(specifier) {
                Some(interrupt) => found.push(interrupt),
                None => return Err(self.fault("interrupts", "names no interrupt a GIC has")),
            }
        }
        Ok(Some(found))
    }

    /// The same as the cells that `gic` takes, each `#interrupt-cells` of it.
    ///
    /// # Errors
    ///
    /// If the devicetree contradicts itself on the way there.
    #[inline(never)]
    pub fn specifiers(self, gic: Self) -> Result<Option<Vec<&'a [u8]>>, Error> {
        let (extended, plain) = ("interrupts-extended", "interrupts");
        let (name, mut value, all_to) = match (self.property(extended), self.property(plain)) {
            (Some(value), _) => (extended, value, None),
            (None, Some(value)) => {
                let parent = self.interrupt_parent()?;
                match parent.filter(|parent| *parent == gic || parent.is_nexus()) {
                    None => return Ok(None),
                    parent => (plain, value, parent),
                }
            }
            (None, None) => return Ok(Some(Vec::new())),
        };
        let mut found = Vec::new();
        while !value.is_empty() {
            let parent = match all_to {
                Some(parent) => Some(parent),
                // Each specifier is behind the phandle of who takes it.
                None => self.tree.named(&mut value),
            };
            let Some(parent) = parent else {
                return Err(self.fault(name, "leads nowhere"));
            };
            let Some(specifier) = value.split_off(..parent.interrupt_size()?) else {
                return Err(self.fault(name, "does not fit #interrupt-cells"));
            };
            if found.len() == MOST_INTERRUPTS {
                return Err(self.fault(name, "has more than 1024 interrupts"));
            }
            match self.route(parent, specifier, gic)? {
                Some(specifier) => found.push(specifier),
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    /// Whether it only passes interrupts on, by its `interrupt-map` (Devicetree Specification 2.4.3).
    pub fn is_nexus(self) -> bool {
        self.property(MAP).is_some()
    }

    /// What an interrupt of this device's at `parent` is at `gic`; `None` if it does not get there.
    fn route(
        self,
        mut parent: Self,
        mut specifier: &'a [u8],
        gic: Self,
    ) -> Result<Option<&'a [u8]>, Error> {
        let mut unit = self.property("reg").unwrap_or_default();
        for _ in 0..MOST_HOPS {
            if parent == gic {
                return Ok(Some(specifier));
            }
            match parent.row(unit, specifier)? {
                Some(next) => (parent, unit, specifier) = next,
                None => return Ok(None),
            }
        }
        Err(self.fault("interrupts", "goes round in circles"))
    }

    /// Looks up, in this nexus's map, where the interrupt of a device at `unit` goes. `None` if there is no row for it, or no map.
    #[inline(never)]
    fn row(self, unit: &[u8], specifier: &[u8]) -> Result<Option<Hop<'t, 'a>>, Error> {
        let Some(mut rows) = self.property(MAP) else {
            return Ok(None);
        };
        // A device without an address is at 0.
        let mut asked = unit.to_vec();
        asked.resize(self.few_cells("#address-cells", 2)?, 0);
        asked.extend_from_slice(specifier);
        let mask = self.property("interrupt-map-mask");
        if mask.is_some_and(|mask| mask.len() != asked.len()) {
            return Err(self.fault(
                "interrupt-map-mask",
                "does not fit a row's address and interrupt",
            ));
        }
        while !rows.is_empty() {
            let own = rows.split_off(..asked.len());
            let Some(parent) = self.tree.named(&mut rows) else {
                return Err(self.fault(MAP, "leads nowhere"));
            };
            // Of a controller that does not say, none (as Linux takes it).
            let theirs = rows.split_off(..parent.few_cells("#address-cells", 0)?);
            let goes_on = rows.split_off(..parent.interrupt_size()?);
            let (Some(own), Some(theirs), Some(goes_on)) = (own, theirs, goes_on) else {
                return Err(self.fault(MAP, "is no list of whole rows"));
            };
            let fits = asked.iter().enumerate().all(|(index, asked)| {
                let mask = mask.map_or(0xff, |mask| mask[index]);
                (asked ^ own[index]) & mask == 0
            });
            if fits {
                return Ok(Some((parent, theirs, goes_on)));
            }
        }
        Ok(None)
    }

    /// The bytes one interrupt of this controller takes; GICs take three cells or more.
    fn interrupt_size(self) -> Result<usize, Error> {
        match self.few_cells("#interrupt-cells", 0)? {
            0 => Err(self.fault("#interrupt-cells", "is missing")),
            size => Ok(size),
        }
    }

    /// The bytes of as many cells as a property says, which are four at most.
    fn few_cells(self, property: &str, default: u32) -> Result<usize, Error> {
        match self.u32(property)?.unwrap_or(default) {
            cells @ 0..=4 => Ok(cells as usize * 4),
            _ => Err(self.fault(property, "is more than 4")),
        }
    }

    /// Who takes its interrupts: whom the nearest `interrupt-parent` from here upwards names, or the nearest node above with
    /// `#interrupt-cells`. `None` if there is nobody.
    ///
    /// # Errors
    ///
    /// If an `interrupt-parent` is no cell.
    pub fn interrupt_parent(self) -> Result<Option<Self>, Error> {
        let mut node = self;
        loop {
            if let Some(phandle) = node.u32("interrupt-parent")? {
                return Ok(self.tree.by_phandle(phandle));
            }
            match node.parent() {
                Some(next) if next.property("#interrupt-cells").is_none() => node = next,
                found => return Ok(found),
            }
        }
    }
}
