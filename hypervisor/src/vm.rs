//! A virtual machine: what its vCPUs share, and how it is made, loaded, stopped and started again.

use alloc::vec::Vec;

use hv_abi::firmware::Firmware;
use hv_bundle::Layout;
use hv_core::id::{IntId, Mpidr, VcpuId, VcpuSet, VmId};
use hv_core::mailbox::{Mailbox, Requests};
use hv_core::pl011::Pl011;
use hv_core::psci::{Endian, Power, Reclaim, Reset, Start};
use hv_core::sdei::{self, Commons, Definition};
use hv_core::vgic::{Effects, Physical, Vgic};
use hv_core::vm::GuestMap;
use spin::Once;

use crate::gic;
use crate::patience::{Mutex, MutexGuard};
use crate::{console, log, memory, stage2, sysregs};

/// How a VM ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SYSTEM_OFF.
    Off,
    /// SYSTEM_RESET and SYSTEM_RESET2.
    Reset(Reset),
}

/// What the vCPUs of a VM share, under its one lock.
pub struct Shared {
    /// Which vCPUs are on.
    pub power: Power,
    /// The virtual interrupt controller.
    pub vgic: Vgic,
    /// What its vCPUs have in common of SDEI.
    pub commons: Commons,
    /// The emulated UART.
    pub uart: Pl011,
    /// The UART's interrupt line as the virtual GIC knows it.
    pub uart_line: bool,
    /// The emulated UART is full, so the real one does not interrupt until the guest has read.
    pub is_receive_held: bool,
    /// Where vCPUs that were switched on begin.
    pub starts: Vec<Option<Start>>,
    /// The VM is ending, by whom and how.
    pub ending: Option<(VcpuId, End)>,
    /// The vCPUs that have left the guest since.
    pub stopped: VcpuSet,
}

/// What is loaded into the guest's RAM at each start.
pub struct GuestImage {
    /// Kernel, as in the bundle.
    pub kernel: &'static [u8],
    /// Ramdisk, as in the bundle.
    pub ramdisk: Option<&'static [u8]>,
    /// The guest's devicetree.
    pub dtb: Vec<u8>,
    /// Where each goes.
    pub layout: Layout,
}

/// The SDEI of a VM, as its configuration has it.
pub struct Sdei {
    /// Whose behaviour it is.
    pub firmware: Firmware,
    /// The events besides event 0.
    pub events: Vec<Definition>,
}

impl Sdei {
    /// As hv-core takes it.
    pub fn config(&self) -> sdei::Config<'_> {
        sdei::Config {
            firmware: self.firmware,
            events: &self.events,
            rate: sysregs::counter_frequency(),
        }
    }
}

/// One virtual machine.
pub struct Vm {
    /// Its number.
    pub id: VmId,
    /// What its guest sees.
    pub map: GuestMap,
    /// The pCPU of each vCPU.
    pub pcpus: Vec<Mpidr>,
    /// The emulated UART's interrupt.
    pub uart_intid: u32,
    /// The physical UART's, which is the same unless that is no PL011.
    pub console_intid: u32,
    /// The SDEI it is offered.
    pub sdei: Sdei,
    /// What it boots.
    pub image: GuestImage,
    /// Passed-through virtio-mmio transports, reset with the VM.
    pub transports: Vec<u64>,
    shared: Mutex<Shared>,
    mailboxes: Vec<Mailbox>,
    stage2: stage2::Tables,
}

/// The VMs, in the order of the bundle.
pub static VMS: Once<Vec<Vm>> = Once::new();

/// Offset of the Status register of a virtio-mmio transport; writing 0 resets the device (virtio 1.2,
/// 4.2.2).
const VIRTIO_MMIO_STATUS: u64 = 0x70;

impl Vm {
    /// Puts the parts together; `shared` describes a VM whose boot vCPU has not started.
    pub fn new(
        id: VmId,
        (map, pcpus, [uart_intid, console_intid]): (GuestMap, Vec<Mpidr>, [u32; 2]),
        (image, sdei, reclaim): (GuestImage, Sdei, Reclaim),
        transports: Vec<u64>,
        vgic: Vgic,
        stage2: stage2::Tables,
    ) -> Self {
        let vcpus = pcpus.len();
        Self {
            id,
            map,
            uart_intid,
            console_intid,
            image,
            transports,
            shared: Mutex::new(Shared {
                power: Power::new(BOOT_VCPU).with_reclaim(reclaim),
                vgic,
                commons: Commons::new(vcpus, &sdei.config()),
                uart: Pl011::new(),
                uart_line: false,
                is_receive_held: false,
                starts: (0..vcpus).map(|_| None).collect(),
                ending: None,
                stopped: VcpuSet::EMPTY,
            }),
            mailboxes: (0..vcpus).map(|_| Mailbox::new()).collect(),
            pcpus,
            sdei,
            stage2,
        }
    }

    /// The shared state, locked. Lock order: this, then the console, then the physical GIC.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock()
    }

    /// The mailbox of one of its vCPUs.
    #[inline]
    pub fn mailbox(&self, vcpu: VcpuId) -> &Mailbox {
        &self.mailboxes[vcpu.index()]
    }

    /// All of its vCPUs.
    pub fn vcpus(&self) -> impl Iterator<Item = VcpuId> {
        (0..self.pcpus.len() as u8).map(VcpuId)
    }

    /// Confines the guest on this pCPU to what is this VM's.
    pub fn enter_pcpu(&self, vcpu: VcpuId) {
        sysregs::confine_el1(self.pcpus[vcpu.index()]);
        sysregs::set_stage2(self.stage2.root(), self.id.0 + 1, stage2::ipa_bits());
    }

    /// Posts requests to a vCPU and rings its pCPU.
    #[inline]
    pub fn ask(&self, vcpu: VcpuId, requests: Requests) {
        if let (Some(mailbox), Some(&pcpu)) = (
            self.mailboxes.get(vcpu.index()),
            self.pcpus.get(vcpu.index()),
        ) {
            mailbox.post(requests);
            sysregs::order_before_doorbell();
            gic::send_sgi(gic::DOORBELL, pcpu);
        }
    }

    /// Performs what the virtual GIC decided, with the VM's lock still held, and says whom to kick.
    #[must_use]
    pub fn perform(&self, effects: &Effects) -> VcpuSet {
        if effects.is_empty() {
            return effects.kick;
        }
        let gic = gic::get();
        match effects.phys {
            None => {}
            Some(Physical::Enable(mask)) => gic.enable(mask),
            Some(Physical::Disable(mask)) => gic.disable(mask),
            Some(Physical::ClearPending(mask)) => gic.clear_pending(mask),
            Some(Physical::Trigger { block, edge, level }) => gic.set_trigger(block, edge, level),
            Some(Physical::Route { spi, to }) => {
                if let Some(&pcpu) = self.pcpus.get(to.index()) {
                    gic.route(spi, pcpu);
                }
            }
            Some(Physical::Targets { first, to }) => {
                for (spi, to) in (first.0..).map(IntId).zip(to) {
                    if let Some(&pcpu) = to.and_then(|to| self.pcpus.get(to.index())) {
                        gic.route(spi, pcpu);
                    }
                }
            }
            Some(Physical::Reset(mask)) => {
                gic.disable(mask);
                gic.clear_pending(mask);
                gic.clear_active(mask);
                gic.set_trigger(mask.block, 0, mask.bits);
                for bit in (0..32).filter(|bit| mask.bits >> bit & 1 != 0) {
                    gic.route(IntId(mask.block * 32 + bit), self.pcpus[0]);
                }
            }
        }
        let owner = self.pcpus.get(effects.deactivate.owner().index());
        for intid in effects.deactivate.iter() {
            match owner {
                // Of an SPI, or of a PPI that is active on this pCPU.
                Some(&pcpu) if intid.is_private() && pcpu != sysregs::mpidr() => {
                    gic.clear_active_ppi(pcpu, intid);
                }
                _ => gic::deactivate(intid),
            }
        }
        effects.kick
    }

    /// Has everybody in `set` but `me` look at the virtual GIC; says whether `me` must, too.
    #[inline]
    pub fn kick(&self, me: VcpuId, mut set: VcpuSet) -> bool {
        let myself = set.contains(me);
        set.remove(me);
        for vcpu in set.iter() {
            self.ask(vcpu, Requests::SYNC);
        }
        myself
    }

    /// Loads the guest and makes its boot vCPU start. Nobody runs in it.
    pub fn load(&self) {
        let GuestImage {
            kernel,
            ramdisk,
            dtb,
            layout,
        } = &self.image;
        write_guest(layout.kernel.start, kernel);
        // What is behind the file in the kernel's footprint is its bss, which it clears itself.
        write_guest(layout.dtb.start, dtb);
        if let (Some(ramdisk), Some(place)) = (ramdisk, layout.ramdisk) {
            write_guest(place.start, ramdisk);
        }
        for &transport in &self.transports {
            let status = core::ptr::with_exposed_provenance_mut::<u32>(
                (transport + VIRTIO_MMIO_STATUS) as usize,
            );
            // SAFETY: a virtio-mmio transport of this machine, in the identity map as device memory; no
            // vCPU runs that could be using it.
            unsafe { status.write_volatile(0) };
        }
        {
            let mut shared = self.lock();
            shared.power.reset(BOOT_VCPU);
            if let Some(start) = shared.starts.first_mut() {
                *start = Some(Start {
                    vcpu: BOOT_VCPU,
                    entry: layout.entry,
                    context: layout.dtb.start,
                    endian: Endian::Little,
                });
            }
            shared.ending = None;
            shared.stopped = VcpuSet::EMPTY;
        }
        log!(
            "@vm-start vm={} vcpus={} kernel={:#x} dtb={:#x}",
            self.id.0,
            self.pcpus.len(),
            layout.entry,
            layout.dtb.start
        );
        self.ask(BOOT_VCPU, Requests::START);
    }

    /// The VM is stopped: everything but its vCPUs' own state as it was at power-on.
    pub fn reset(&self) {
        let mut shared = self.lock();
        shared.uart.reset();
        shared.uart_line = false;
        if core::mem::take(&mut shared.is_receive_held) {
            console::set_receive(true);
        }
        for block in shared.vgic.spi_blocks() {
            let effects = shared.vgic.reset_spis(block);
            // Nobody runs whom a kick could concern.
            let _ = self.perform(&effects);
        }
        let Shared { commons, vgic, .. } = &mut *shared;
        for intid in commons.reset(&self.map.board) {
            vgic.unbind(intid);
        }
        shared.starts.fill(None);
        drop(shared);
        for mailbox in &self.mailboxes {
            let _ = mailbox.take();
        }
    }
}

/// The vCPU that starts with the VM.
pub const BOOT_VCPU: VcpuId = VcpuId(0);

/// Copies into guest RAM and makes it visible to a reader with its caches off.
fn write_guest(pa: u64, bytes: &[u8]) {
    assert!(
        pa + bytes.len() as u64 <= memory::IDENTITY_END,
        "guest memory at {pa:#x}"
    );
    let to = core::ptr::with_exposed_provenance_mut::<u8>(pa as usize);
    // SAFETY: `Layout::place` put the range into the guest's RAM, which the identity map shows read-write
    // and which holds neither `bytes` (home region or bundle) nor anything else of ours; no vCPU runs.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    sysregs::clean_to_poc(pa, bytes.len() as u64);
}
