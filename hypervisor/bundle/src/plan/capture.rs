//! The capture kernel of a guest: what starts beside the guest's memory to save that, in memory that is held back.

use alloc::string::String;
use alloc::vec::Vec;

use platform::{Conduit, Device, DeviceKind, Range};

use super::left::{Left, bytes_of};
use super::{Piece, VmPlan};
use crate::layout::Memory;
use crate::ram::{BLOCK_SIZE, PAGE_SIZE, whole_pages, without};
use crate::{Error, Format, GuestSpec, Kernel, Layout, vmcore};

/// What starts beside a guest's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturePlan<'a> {
    /// The memory that is held back for it: whole blocks, in one piece.
    pub memory: Piece,
    /// Its kernel.
    pub kernel: &'a [u8],
    /// Its ramdisk.
    pub ramdisk: Option<&'a [u8]>,
    /// Where in the memory goes what it boots.
    pub layout: Layout,
    /// Its devicetree.
    pub dtb: Vec<u8>,
    /// Where in the memory goes what describes the dump ([`crate::Vmcore`]).
    pub header: Range,
    /// Devices of the guest that write to memory by themselves, and that nothing resets before: their paths, a space before each.
    pub not_reset: String,
}

/// What a kernel takes at least beside its image, to run in.
const LEAST_TO_RUN: u64 = 32 << 20;

impl Left<'_> {
    /// Holds memory back: whole blocks from the end of the highest piece that has them.
    pub(super) fn hold_back(&mut self, size: u64) -> Result<Range, Error> {
        let place = |part: &Range| {
            let end = part.end() - part.end() % BLOCK_SIZE;
            let start = end.checked_sub(size)?;
            (start >= part.start).then_some(Range::new(start, size))
        };
        let found = (0..)
            .zip(&self.ram)
            .filter_map(|(index, part)| Some((index, place(part)?)));
        let Some((index, held)) = found.last() else {
            return Err(Error::invalid(
                "dump memory",
                "is more than the machine has of RAM in one piece",
                "ask for less, or give the machine more memory",
            ));
        };
        let part: Range = self.ram.remove(index);
        for (index, rest) in (index..).zip(without(part, held)) {
            self.ram.insert(index, rest);
        }
        Ok(held)
    }

    /// Plans the capture kernel of a guest that is planned, in the memory that was held back for it, if any was.
    pub(super) fn give_capture<'a>(
        &self,
        plan: &VmPlan<'a>,
        held: Range,
        given: &[&Device],
        is_placed: bool,
    ) -> Result<Option<CapturePlan<'a>>, Error> {
        let Some(dump) = &plan.guest.config.dump else {
            return Ok(None);
        };
        let capture = plan.guest.capture;
        let kernel = capture.kernel.unwrap_or(plan.guest.kernel);
        check_capture(kernel)?;
        let memory = Piece {
            ipa: if is_placed {
                held.start
            } else {
                self.shown_behind(plan, held.size)?
            },
            pa: held.start,
            size: held.size,
        };
        let whole = Range::new(memory.ipa, memory.size);
        let room = vmcore::room(plan.cpus.len(), plan.backing.pieces().len());
        let room = room.next_multiple_of(PAGE_SIZE);
        let devices: Vec<&str> = given.iter().map(|device| device.path.as_str()).collect();
        let header = Range::new(whole.end().saturating_sub(room), room);
        let spec = GuestSpec {
            ram: &[whole],
            cpus: &plan.affinities,
            bootargs: &dump.bootargs,
            initrd: None,
            sdei: plan.guest.config.sdei,
            // They are for what lives longer.
            seeds: false,
            conduit: Conduit::Smc,
            console: &self.machine.shown.path,
            devices: &devices,
            own: plan.own,
            elfcorehdr: Some(header),
        };
        let needs = Kernel::recognise(kernel)?.footprint() + bytes_of(capture.ramdisk);
        let needs = (needs + room + BLOCK_SIZE + LEAST_TO_RUN).next_multiple_of(BLOCK_SIZE);
        if needs > memory.size {
            return Err(Error::DumpTooSmall {
                has: memory.size,
                needs,
            });
        }
        let pieces = [Range::between(whole.start, header.start)];
        let memory_less_header = Memory {
            pieces: &pieces,
            bare: whole,
        };
        let ramdisk = capture.ramdisk;
        let (layout, dtb) = self.build(&spec, (kernel, ramdisk, None), &memory_less_header)?;
        let mut not_reset = String::new();
        for device in given {
            if device.kind == DeviceKind::Sd {
                not_reset.push(' ');
                not_reset.push_str(&device.path);
            }
        }
        Ok(Some(CapturePlan {
            memory,
            kernel,
            ramdisk,
            layout,
            dtb,
            header,
            not_reset,
        }))
    }

    /// An address behind all that the guest sees of RAM, where the machine has RAM: no device is there.
    fn shown_behind(&self, plan: &VmPlan<'_>, size: u64) -> Result<u64, Error> {
        let end = plan.ram.last().map_or(0, |range| range.end());
        let mut parts = whole_pages(self.machine.ram.clone(), self.host.limit);
        parts.reverse();
        let place = |part: Range| {
            let start = part.start.max(end).checked_next_multiple_of(BLOCK_SIZE)?;
            let fits = part.end().checked_sub(start)? >= size;
            fits.then_some(start)
        };
        parts.into_iter().find_map(place).ok_or_else(|| {
            Error::invalid(
                "dump memory",
                "is more than there is room for behind the guest's own memory",
                "ask for less, or give the guest less memory",
            )
        })
    }
}

/// Only an Image is told by its devicetree where the dump is.
pub fn check_capture(kernel: &[u8]) -> Result<(), Error> {
    match Kernel::recognise(kernel)?.format {
        Format::Image { .. } => Ok(()),
        Format::Flat => Err(Error::invalid(
            "dump kernel",
            "is no arm64 Image, and nothing else can save a guest's memory",
            "say a kernel of Linux in dump",
        )),
    }
}
