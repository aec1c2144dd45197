//! A guest's memory is saved: its registers are kept when its vCPUs leave it for the last time, and a capture kernel starts beside its memory, in
//! memory that it never had.

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use hv_bundle::{
    Backing, CapturePlan, Cpus, Layout, Piece, Registers, Vmcore, VmcoreInfo, find_info,
};
use hv_core::id::VcpuId;
use hv_core::regs::{GuestRegs, pstate};
use hv_core::vm::{Kernel, Load};
use platform::Range;

use crate::guest_ram;
use crate::patience::Mutex;
use crate::stage2::Stage2;
use crate::{log, percpu, sysregs};

/// What a VM has for it.
pub struct Dump {
    /// The memory of the capture kernel.
    held: Piece,
    /// The same, for what reads and writes in it.
    pub backing: Backing,
    kernel: &'static [u8],
    ramdisk: Option<&'static [u8]>,
    dtb: Vec<u8>,
    layout: Layout,
    header: Range,
    not_reset: String,
    /// Of each vCPU that was on when the guest ended.
    kept: Mutex<Vec<Option<Registers>>>,
    /// The capture kernel has the VM.
    is_on: AtomicBool,
}

impl Dump {
    /// As it was planned for a VM with so many vCPUs.
    pub fn new(plan: CapturePlan<'static>, vcpus: usize) -> Self {
        let CapturePlan {
            memory,
            kernel,
            ramdisk,
            layout,
            dtb,
            header,
            not_reset,
        } = plan;
        let [shown, behind] = [memory.ipa, memory.pa].map(|start| Range::new(start, memory.size));
        Self {
            held: memory,
            backing: Backing::of(&[shown], &[behind]),
            kernel,
            ramdisk,
            dtb,
            layout,
            header,
            not_reset,
            kept: Mutex::new((0..vcpus).map(|_| None).collect()),
            is_on: AtomicBool::new(false),
        }
    }

    /// Makes room in the tables of the guest, whose RAM is `ram`.
    pub fn make_room(&self, stage2: &Stage2, ram: &Backing) {
        stage2.make_room(ram.pieces(), &self.held);
    }

    /// Whether the capture kernel has the VM.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Keeps the registers of a vCPU that has left the guest on this pCPU.
    pub fn keep(&self, vcpu: VcpuId, regs: &GuestRegs) {
        let registers = registers(regs);
        if let Some(slot) = self.kept.lock().get_mut(vcpu.index()) {
            *slot = Some(registers);
        }
    }

    /// `kernel` has the VM from now on, none of whose vCPUs runs. `ram` is the guest's.
    pub fn hand_over(&self, kernel: Kernel, stage2: &Stage2, ram: &Backing) {
        let is_capture = kernel == Kernel::Capture;
        if self.is_on.swap(is_capture, Ordering::Relaxed) != is_capture {
            stage2.show_ram(ram.pieces(), &self.held, kernel);
        }
        if !is_capture {
            self.kept.lock().fill(None);
        }
    }

    /// Writes the capture kernel and what describes the guest, which is VM `vm`, into its memory.
    pub fn write(&self, vm: u8, ram: &Backing) -> Load {
        let put = |ipa: u64, bytes: &[u8]| guest_ram::write(&self.backing, ipa, bytes);
        put(self.layout.kernel.start, self.kernel);
        put(self.layout.dtb.start, &self.dtb);
        if let (Some(ramdisk), Some(place)) = (self.ramdisk, self.layout.ramdisk) {
            put(place.start, ramdisk);
        }
        let kept = self.kept.lock();
        let read = |ipa: u64, to: &mut [u8]| {
            // There are many looks at a large guest.
            percpu::beat();
            guest_ram::read_parts(ram, ipa, to);
        };
        let pieces = ram.pieces().iter();
        let ranges = pieces.map(|piece| Range::new(piece.ipa, piece.size));
        let info = find_info(ranges, || kept.iter().flatten(), read);
        let vmcore = Vmcore {
            place: self.header,
            ram: ram.pieces(),
            info,
        };
        let cpus = Cpus::of(info.as_ref(), &kept, ram.pieces(), read);
        let copy = |at: u64, note: Range| {
            let mut bytes = [0; 256];
            let mut done = 0;
            while done < note.size {
                let size = (note.size - done).min(bytes.len() as u64);
                let bytes = &mut bytes[..size as usize];
                read(note.start + done, bytes);
                put(self.header.start + at + done, bytes);
                done += size;
            }
        };
        let written = vmcore.write(
            cpus.numbered(&kept),
            |at, bytes| put(self.header.start + at, bytes),
            copy,
        );
        drop(kept);
        let count = written.unwrap_or_else(|error| {
            // The capture kernel finds no header, and says so.
            log!("vm{vm}: {error}");
            0
        });
        if !self.not_reset.is_empty() {
            log!(
                "vm{vm}: not reset, may finish writes to memory:{}",
                self.not_reset
            );
        }
        let (header, entry, dtb) = (self.header.start, self.layout.entry, self.layout.dtb.start);
        let (by, info) = (cpus.by, Found(info));
        log!(
            "@vm-dump vm={vm} vcpus={count} by={by} vmcoreinfo={info} header={header:#x} kernel={entry:#x} dtb={dtb:#x}"
        );
        Load {
            entry,
            context: dtb,
        }
    }
}

/// Where VMCOREINFO is.
struct Found(Option<VmcoreInfo>);

impl core::fmt::Display for Found {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Some(info) => write!(f, "{:#x}", info.note.start),
            None => f.write_str("none"),
        }
    }
}

/// The registers of the vCPU that has left its guest on this pCPU.
#[inline(never)]
fn registers(regs: &GuestRegs) -> Registers {
    let [sp_el0, sp_el1, .., vbar, _, _, ttbr1] = sysregs::el1_state();
    let (v, fp_status) = sysregs::vectors();
    // PSTATE.M says which stack pointer is used: SP_EL1 of EL1h alone (DDI0487 C5.2.18, SPSR_EL1.M).
    let is_el1h = regs.pstate & 0xf == pstate::EL1H & 0xf;
    Registers {
        x: regs.x,
        sp: if is_el1h { sp_el1 } else { sp_el0 },
        pc: regs.pc,
        pstate: regs.pstate,
        v,
        fp_status,
        kernel: [ttbr1, vbar],
        affinity: sysregs::guest_affinity(),
    }
}
