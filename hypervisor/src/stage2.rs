//! What a guest can reach: stage 2 tables with its RAM and its devices, and nothing else but one page of ours, which holds
//! registers that it may read ([`RegisterPage`]).

use alloc::boxed::Box;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use aarch64_paging::descriptor::{PhysicalAddress, Stage2Attributes};
use aarch64_paging::linearmap::LinearTranslation;
use aarch64_paging::paging::{self, Constraints, MemoryRegion, PageTable, RootTable, Translation};
use hv_bundle::{Backing, Piece};
use hv_core::evidence::{Access, Decision, Evidence};
use hv_core::vm::Kernel;
use platform::Range;

use crate::guest_ram;
use crate::memory::{self, HV_BASE, IDENTITY_END, PAGE_SIZE};
use crate::patience::Mutex;
use crate::sysregs;

/// Normal write-back memory, read, write and execute.
const RAM: Stage2Attributes = Stage2Attributes::VALID
    .union(Stage2Attributes::ACCESS_FLAG)
    .union(Stage2Attributes::MEMATTR_NORMAL_OUTER_WB)
    .union(Stage2Attributes::MEMATTR_NORMAL_INNER_WB)
    .union(Stage2Attributes::SH_INNER)
    .union(Stage2Attributes::S2AP_ACCESS_RW);
/// The same, read only: what a capture kernel sees of the dead guest's.
const EVIDENCE: Stage2Attributes = Stage2Attributes::VALID
    .union(Stage2Attributes::ACCESS_FLAG)
    .union(Stage2Attributes::MEMATTR_NORMAL_OUTER_WB)
    .union(Stage2Attributes::MEMATTR_NORMAL_INNER_WB)
    .union(Stage2Attributes::SH_INNER)
    .union(Stage2Attributes::S2AP_ACCESS_RO)
    .union(Stage2Attributes::XN);
/// The guest's own, which it may execute and not write.
const READ_ONLY: Stage2Attributes = EVIDENCE.difference(Stage2Attributes::XN);
/// The same, which it may write and not execute.
const NEVER_EXECUTED: Stage2Attributes = RAM.union(Stage2Attributes::XN);
/// Device memory, read and write.
const DEVICE: Stage2Attributes = Stage2Attributes::VALID
    .union(Stage2Attributes::ACCESS_FLAG)
    .union(Stage2Attributes::MEMATTR_DEVICE_nGnRE)
    .union(Stage2Attributes::S2AP_ACCESS_RW)
    .union(Stage2Attributes::XN);

/// Registers, read only. Device memory, as they are: an access that a device does not answer as one, and a walk of the
/// guest's own tables (HCR_EL2.PTW), does not become possible, and nothing is cached on the guest's side.
const REGISTERS: Stage2Attributes = Stage2Attributes::VALID
    .union(Stage2Attributes::ACCESS_FLAG)
    .union(Stage2Attributes::MEMATTR_DEVICE_nGnRE)
    .union(Stage2Attributes::S2AP_ACCESS_RO)
    .union(Stage2Attributes::XN);

/// The stage 2 tables of one VM.
pub struct Tables {
    root: RootTable<paging::Stage2, TableMemory>,
    /// How RAM is mapped.
    constraints: Constraints,
    /// What is watched of it.
    evidence: Option<Evidence>,
}

/// Where tables are: in RAM that was set aside for them, as far as there is some, and in the heap.
struct TableMemory {
    heap: LinearTranslation<Stage2Attributes>,
    own: Range,
    used: u64,
}

impl Translation<Stage2Attributes> for TableMemory {
    #[inline(never)]
    fn allocate_table(&mut self) -> (NonNull<PageTable<Stage2Attributes>>, PhysicalAddress) {
        if self.used + PAGE_SIZE > self.own.size {
            return self.heap.allocate_table();
        }
        let pa = PhysicalAddress((self.own.start + self.used) as usize);
        self.used += PAGE_SIZE;
        (self.physical_to_virtual(pa), pa)
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<Stage2Attributes>>) {
        if !self.has(table.addr().get()) {
            // SAFETY: the caller promises it: it is one of the heap's.
            unsafe { self.heap.deallocate_table(table) };
        }
    }

    #[inline(never)]
    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<Stage2Attributes>> {
        let own = core::ptr::with_exposed_provenance_mut(pa.0);
        match NonNull::new(own) {
            Some(own) if self.has(pa.0) => own,
            _ => self.heap.physical_to_virtual(pa),
        }
    }
}

impl TableMemory {
    fn has(&self, address: usize) -> bool {
        self.own.covers(Range::new(address as u64, 1))
    }
}

impl Tables {
    /// Tables that map nothing. If a crash kernel's memory is watched, those that `own` has room for are there, and each page of RAM has an
    /// entry, so that one can be changed while others are in use.
    pub fn new(own: Range, crash: Option<Range>) -> Self {
        let offset = (memory::image_pa() as isize).wrapping_sub(HV_BASE as isize);
        // Tables begin as zeros.
        guest_ram::own(own, 0, &[]);
        let memory = TableMemory {
            heap: LinearTranslation::new(offset),
            own,
            used: 0,
        };
        let mut constraints = Constraints::NO_CONTIGUOUS_HINT;
        constraints.set(Constraints::NO_BLOCK_MAPPINGS, !own.is_empty());
        Self {
            root: RootTable::new(memory, 1, paging::Stage2),
            constraints,
            evidence: crash.map(|range| Evidence::new(range.start..range.end())),
        }
    }

    /// Gives the guest a piece of RAM.
    pub fn map_ram(&mut self, piece: &Piece) {
        self.map(piece.ipa, piece.pa, piece.size, RAM);
    }

    /// Changes what the guest may do with memory: it has its own, or a capture kernel has `held` and sees the guest's. The tables below are there
    /// once each has been shown.
    fn show_ram(&mut self, ram: &[Piece], held: &Piece, kernel: Kernel) {
        let (own, other) = match kernel {
            Kernel::Guest => (RAM, Stage2Attributes::empty()),
            Kernel::Capture => (EVIDENCE, RAM),
        };
        for piece in ram {
            self.map(piece.ipa, piece.pa, piece.size, own);
        }
        self.map(held.ipa, held.pa, held.size, other);
    }

    /// Gives the guest the pages of a device.
    pub fn map_device(&mut self, start: u64, size: u64) {
        self.map(start, start, size, DEVICE);
    }

    /// Gives the guest the pages of a device at `pa`, at another address.
    pub fn map_device_at(&mut self, ipa: u64, pa: u64, size: u64) {
        self.map(ipa, pa, size, DEVICE);
    }

    /// Whether something is mapped in the page at `ipa`.
    fn is_mapped(&self, ipa: u64) -> bool {
        self.has(ipa, Stage2Attributes::VALID)
    }

    /// Whether the page at `ipa` is mapped with all of these attributes.
    #[inline(never)]
    fn has(&self, ipa: u64, attributes: Stage2Attributes) -> bool {
        let region = MemoryRegion::new(ipa as usize, (ipa + 1) as usize);
        let mut has = false;
        let _walked = self.root.walk_range(&region, &mut |_, descriptor, _| {
            has |= descriptor.flags().contains(attributes);
            Ok(())
        });
        has
    }

    /// Changes what the guest may do with its RAM in `part`.
    #[inline(never)]
    fn change(&mut self, backing: &Backing, part: Range, attributes: Stage2Attributes) {
        for (from, behind) in backing.parts(part.start, part.size) {
            self.map(part.start + from, behind.start, behind.size, attributes);
        }
    }

    #[inline(never)]
    fn map(&mut self, start: u64, pa: u64, size: u64, attributes: Stage2Attributes) {
        let first = start & !(PAGE_SIZE - 1);
        let end = (start + size).next_multiple_of(PAGE_SIZE);
        let region = MemoryRegion::new(first as usize, end as usize);
        self.root
            .map_range(
                &region,
                PhysicalAddress((pa & !(PAGE_SIZE - 1)) as usize),
                attributes,
                self.constraints,
            )
            .unwrap_or_else(|_| panic!("stage 2 map of {first:#x}..{end:#x}"));
    }

    /// Physical address of the level 1 table.
    pub fn root(&self) -> u64 {
        self.root.to_physical().0 as u64
    }
}

/// Stage 2 as it is once guests run: nothing changes but whether the guest sees the page of registers, which memory is whose while the
/// guest is dumped, and what of it is evidence ([`hv_core::evidence`]).
pub struct Stage2 {
    tables: Mutex<Tables>,
    registers: Option<RegisterPage>,
}

/// A page of ours that the guest may read and not write, in the place of registers of an emulated device. It holds
/// their values and zeros, and nothing else is ever in it.
struct RegisterPage {
    ipa: u64,
    words: &'static Words,
}

#[repr(C, align(4096))]
struct Words([AtomicU32; PAGE_SIZE as usize / 4]);

impl Stage2 {
    /// What `tables` map, and room for registers in the page `ipa`, not shown yet; none if a device is mapped there.
    pub fn new(mut tables: Tables, ipa: Option<u64>) -> Self {
        let registers = ipa.filter(|&ipa| !tables.is_mapped(ipa)).map(|ipa| {
            let page = Words([const { AtomicU32::new(0) }; PAGE_SIZE as usize / 4]);
            let page = RegisterPage {
                ipa,
                words: Box::leak(Box::new(page)),
            };
            // The tables below are allocated now, so that later changes allocate nothing.
            page.show_in(&mut tables, true);
            page.show_in(&mut tables, false);
            page
        });
        Self {
            tables: Mutex::new(tables),
            registers,
        }
    }

    /// Room for [`Self::show_ram`], which then allocates nothing.
    pub fn make_room(&self, ram: &[Piece], held: &Piece) {
        let mut tables = self.tables.lock();
        for kernel in [Kernel::Capture, Kernel::Guest] {
            tables.show_ram(ram, held, kernel);
        }
    }

    /// Has `kernel` have what is its own. No vCPU of the VM runs, and this pCPU has its VMID.
    pub fn show_ram(&self, ram: &[Piece], held: &Piece, kernel: Kernel) {
        self.tables.lock().show_ram(ram, held, kernel);
        sysregs::forget_guest();
    }

    /// Has the guest not execute what its crash kernel's memory holds, if that is watched. No vCPU of the VM runs, and this pCPU has its VMID.
    #[inline(never)]
    pub fn arm(&self, ram: &Backing) {
        let mut tables = self.tables.lock();
        if let Some(evidence) = &mut tables.evidence {
            evidence.arm();
            let crash = crash(evidence);
            for piece in ram.pieces() {
                tables.map_ram(piece);
            }
            tables.change(ram, crash, NEVER_EXECUTED);
            sysregs::forget_guest();
        }
    }

    /// What has the VM now has no crash kernel.
    pub fn disarm(&self) {
        if let Some(evidence) = &mut self.tables.lock().evidence {
            evidence.disarm();
        }
    }

    /// Stage 2 of the guest that this pCPU belongs to has refused an access to `ipa`: what becomes of that, and the tables then allow it.
    ///
    /// At the instant the guest may execute its crash kernel, and write to nothing else of its RAM: no vCPU's store reaches the rest any more
    /// after this returns. Each page has its own entry, which stays one: only what it allows changes, for which nothing need be unmapped
    /// first (DDI0487 D8.17, "break-before-make").
    #[inline(never)]
    pub fn resolve(&self, ram: &Backing, access: Access, ipa: u64) -> Decision {
        let mut tables = self.tables.lock();
        let Some(evidence) = &mut tables.evidence else {
            return Decision::Refused;
        };
        let crash = crash(evidence);
        let decision = evidence.decide(access, ipa, ram.at(ipa, 1).is_some());
        match decision {
            Decision::Instant => {
                for piece in ram.pieces() {
                    tables.map(piece.ipa, piece.pa, piece.size, READ_ONLY);
                }
                tables.change(ram, crash, RAM);
                sysregs::forget_guest();
                decision
            }
            Decision::FirstWrite => {
                let is_first = !tables.has(ipa, RAM);
                tables.change(ram, Range::new(ipa & !(PAGE_SIZE - 1), PAGE_SIZE), RAM);
                sysregs::forget_guest_page(ipa);
                match is_first {
                    true => decision,
                    false => Decision::Retry,
                }
            }
            _ => decision,
        }
    }

    /// Whether there is a page of registers.
    pub fn has_registers(&self) -> bool {
        self.registers.is_some()
    }

    /// Physical address of the level 1 table.
    pub fn root(&self) -> u64 {
        self.tables.lock().root()
    }

    /// Writes the page of registers from its first word on. A load of the guest's that begins afterwards finds that.
    pub fn write_registers(&self, values: impl Iterator<Item = u32>) {
        let Some(page) = &self.registers else {
            return;
        };
        let mut count = 0;
        for (word, value) in page.words.0.iter().zip(values) {
            word.store(value, Ordering::Relaxed);
            count += 4;
        }
        // The guest's accesses are to Device memory, ours cacheable: those that write with the cacheable attributes
        // clean to the point of coherency afterwards, and nobody else writes (DDI0487 B2.8, mismatched attributes).
        sysregs::clean_for_device_reads(page.address(), count);
    }

    /// Has the guest that this pCPU belongs to see the page of registers, or not. If not, no vCPU's load is answered by it
    /// any more after this returns.
    pub fn show_registers(&self, on: bool) {
        let Some(page) = &self.registers else {
            return;
        };
        page.show_in(&mut self.tables.lock(), on);
        if on {
            // From invalid to valid: no TLB holds an invalid descriptor (DDI0487 D8.17). A vCPU that does not see the
            // new one yet exits once more.
            sysregs::publish_tables();
        } else {
            sysregs::forget_guest_page(page.ipa);
        }
    }
}

impl RegisterPage {
    fn address(&self) -> u64 {
        core::ptr::from_ref(self.words).addr() as u64
    }

    fn show_in(&self, tables: &mut Tables, on: bool) {
        let attributes = if on {
            REGISTERS
        } else {
            Stage2Attributes::empty()
        };
        let pa = memory::window_pa(self.address());
        tables.map(self.ipa, pa, PAGE_SIZE, attributes);
    }
}

/// Where the addresses end that EL2 maps at their own place, and guests'.
pub fn limit() -> u64 {
    1 << ipa_bits()
}

/// Bits of guest physical address: one level 1 table's worth, or what the pCPU has if that is less.
pub fn ipa_bits() -> u32 {
    IDENTITY_END
        .trailing_zeros()
        .min(sysregs::physical_address_bits())
}

fn crash(evidence: &Evidence) -> Range {
    let crash = evidence.crash();
    Range::between(crash.start, crash.end)
}
