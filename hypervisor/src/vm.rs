//! A virtual machine: what its vCPUs share and the lock on it, their mailboxes, and what is written into its memory.

mod evidence;
mod parts;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hv_abi::operator::hashes::Word;
use hv_abi::policy::After;
use hv_bundle::Backing;
use hv_core::id::{Mpidr, VcpuId, VmId};
use hv_core::mailbox::{Mailbox, Requests, Senders};
use hv_core::pl011::{Image, Pl011};
use hv_core::regs::GuestRegs;
use hv_core::vgic::{Distributor, Parts, Private, Published};
use hv_core::virtio::Mediator;
use hv_core::vm::{self, BOOT_VCPU, Ending, GuestMap, Kernel, Load, Shared, SharedConfig, Vcpu};
use spin::Once;

pub use parts::{GuestImage, Sdei, VmParts};

use crate::dump::Dump;
use crate::gic;
use crate::patience::{Mutex, MutexGuard};
use crate::percpu;
use crate::registers::RecordWords;
use crate::stage2::Stage2;
use crate::stop::{Cause, stop_machine};
use crate::{entropy, guest_ram, log, stage2, sysregs};

/// One virtual machine.
pub struct Vm {
    /// Its number.
    pub id: VmId,
    /// What its guest sees.
    pub map: GuestMap,
    /// The pCPU of each vCPU.
    pub pcpus: Vec<Mpidr>,
    /// The SDEI it is offered.
    pub sdei: Sdei,
    /// Where its RAM is.
    pub backing: Backing,
    /// What it boots.
    pub image: GuestImage,
    /// Passed-through virtio-mmio transports, reset with the VM.
    pub transports: Vec<u64>,
    /// What is in its flash: it stays when the guest is reset. Whoever touches it holds the lock on what vCPUs share.
    pub flash: &'static [AtomicU32],
    /// It has a device that can reach all memory.
    pub reaches_all: bool,
    /// What saves its memory, if anything does.
    dump: Option<Dump>,
    /// What its crash kernel and others do to its memory is watched.
    is_watched: bool,
    /// Some of its RAM may be read-only or execute-never.
    guards_ram: AtomicBool,
    /// How often it has been loaded.
    loads: AtomicU64,
    shared: Mutex<Shared>,
    /// Its mediated devices, in the order of the map.
    mediators: Vec<Mutex<Mediator>>,
    distributor: Mutex<Distributor>,
    /// What is each vCPU's own of the virtual GIC.
    interrupts: Vec<Mutex<Private>>,
    /// How each vCPU is asked.
    posts: Vec<Post>,
    /// Of each vCPU with a GICv2.
    senders: Vec<Senders>,
    stage2: Stage2,
}

/// How a vCPU is asked for something.
#[derive(Default)]
struct Post {
    mailbox: Mailbox,
    /// The [`gic::sgi`] that rings its pCPU; 0 before that has entered.
    doorbell: AtomicU64,
    /// What the operator asks of it ([`hv_core::operator::Question`]); 0 if nothing.
    question: AtomicU64,
}

/// The VMs, in the order of the bundle.
pub static VMS: Once<Vec<Vm>> = Once::new();

/// Offset of the Status register of a virtio-mmio transport; writing 0 resets the device (virtio 1.2,
/// 4.2.2).
const VIRTIO_MMIO_STATUS: u64 = 0x70;

impl Vm {
    /// Puts the parts together: a VM that was never loaded.
    pub fn new(parts: VmParts) -> Self {
        let VmParts {
            id,
            map,
            pcpus,
            uart_intid,
            image,
            sdei,
            reclaim,
            backing,
            transports,
            mediators,
            vgic,
            stage2,
            reaches_all,
            flash,
            flash_contents,
            is_watched,
            dump,
        } = parts;
        let vcpus = pcpus.len();
        // A store that a read-only page refuses does not say which page, so RAM and registers are not both read-only.
        let uart_page = map.uart_page().filter(|_| !is_watched);
        let stage2 = Stage2::new(stage2, uart_page);
        stage2.write_registers(Pl011::new().image().words());
        if let Some(dump) = &dump {
            dump.make_room(&stage2, &backing);
        }
        let shared = Shared::new(SharedConfig {
            vcpus,
            sdei: sdei.config(),
            reclaim,
            uart_intid,
            has_uart_page: stage2.has_registers(),
            flash: flash.size,
            gwdt: map.own.gwdt_config,
        });
        // What needs no lock is in the map.
        let (_, distributor, interrupts) = vgic.into_parts();
        Self {
            id,
            map,
            backing,
            image,
            transports,
            flash: guest_ram::own(flash, 0xff, flash_contents),
            reaches_all,
            dump,
            is_watched,
            guards_ram: AtomicBool::new(is_watched),
            loads: AtomicU64::new(0),
            shared: Mutex::new(shared),
            mediators: mediators.into_iter().map(Mutex::new).collect(),
            distributor: Mutex::new(distributor),
            interrupts: interrupts.into_iter().map(Mutex::new).collect(),
            posts: (0..vcpus).map(|_| Post::default()).collect(),
            senders: (0..vcpus).map(|_| Senders::new()).collect(),
            pcpus,
            sdei,
            stage2,
        }
    }

    /// Confines the guest on this pCPU to what is this VM's.
    pub fn enter_pcpu(&self, vcpu: VcpuId) {
        let pcpu = self.pcpus[vcpu.index()];
        let doorbell = gic::sgi(gic::DOORBELL, pcpu);
        // Who rings has seen that all pCPUs are ready.
        self.posts[vcpu.index()]
            .doorbell
            .store(doorbell, Ordering::Relaxed);
        let own = self.map.affinities.mpidr(vcpu);
        sysregs::confine_el1(own.unwrap_or(pcpu));
        sysregs::set_stage2(self.stage2.root(), self.id.0 + 1, stage2::ipa_bits());
    }

    /// The RAM of what runs in it: the guest's, or that of its capture kernel.
    pub fn memory(&self) -> &Backing {
        match &self.dump {
            Some(dump) if dump.is_on() => &dump.backing,
            _ => &self.backing,
        }
    }

    /// Whether some of its RAM may be read-only or execute-never.
    #[inline]
    pub fn guards_ram(&self) -> bool {
        self.guards_ram.load(Ordering::Relaxed)
    }

    /// Resets passed-through virtio devices, so that no transfer that one has begun ends in what is written next.
    fn reset_transports(&self) {
        for &transport in &self.transports {
            let status = core::ptr::with_exposed_provenance_mut::<u32>(
                (transport + VIRTIO_MMIO_STATUS) as usize,
            );
            // SAFETY: a virtio-mmio transport of this machine, in the identity map as device memory; no
            // vCPU runs that could be using it.
            unsafe { status.write_volatile(0) };
        }
    }

    /// Writes the page that stands in for the emulated UART's registers.
    pub fn write_uart_page(&self, image: &Image) {
        self.stage2.write_registers(image.changing());
    }

    /// Whether all other VMs are off, and none is about to start.
    pub fn is_last(&self) -> bool {
        let mut all = VMS.get().into_iter().flatten();
        all.all(|vm| vm.id == self.id || vm.shared.lock().is_idle())
    }

    /// It is loaded soon.
    pub fn expect_start(&self) {
        self.shared.lock().is_start_asked = true;
    }

    /// How many of its vCPUs are on. Waits for the VM's lock.
    pub fn vcpus_on(&self) -> usize {
        self.shared.lock().power.count()
    }

    /// Has the guest, whose vCPU is on this pCPU, see that page, or not.
    pub fn show_uart_page(&self, on: bool) {
        self.stage2.show_registers(on);
    }
}

/// A VM as the pCPU of one of its vCPUs reaches it.
pub struct Seat {
    vm: &'static Vm,
    /// How that vCPU is asked.
    own: &'static Post,
    gic: gic::Interface,
}

impl Seat {
    /// That of `vcpu`, which is one of the VM's.
    pub fn of(vm: &'static Vm, vcpu: VcpuId) -> Self {
        let own = &vm.posts[vcpu.index()];
        let gic = gic::Interface::of_machine();
        Self { vm, own, gic }
    }
}

impl Parts for Seat {
    type Distributor<'a> = MutexGuard<'static, Distributor>;
    type Private<'a> = MutexGuard<'static, Private>;

    #[inline]
    fn published(&self) -> &Published {
        &self.vm.map.published
    }

    #[inline]
    fn distributor(&self) -> MutexGuard<'static, Distributor> {
        self.vm.distributor.lock()
    }

    #[inline]
    fn try_distributor(&self) -> Option<MutexGuard<'static, Distributor>> {
        self.vm.distributor.try_lock()
    }

    #[inline]
    fn private(&self, vcpu: VcpuId) -> Option<MutexGuard<'static, Private>> {
        let interrupts = &self.vm.interrupts;
        interrupts.get(vcpu.index()).map(Mutex::lock)
    }
}

impl vm::Vm for Seat {
    type Guard<'a> = MutexGuard<'static, Shared>;
    type Mediator<'a> = MutexGuard<'static, Mediator>;

    /// Lock order: this, a mediated device, the virtual GIC's distributor, one vCPU's part of it; then the physical GIC, the
    /// console or stage 2.
    #[inline]
    fn lock(&self) -> MutexGuard<'static, Shared> {
        self.vm.shared.lock()
    }

    fn mediator(&self, number: usize) -> Option<MutexGuard<'static, Mediator>> {
        self.vm.mediators.get(number).map(Mutex::lock)
    }

    fn id(&self) -> VmId {
        self.vm.id
    }

    fn peer(&self, id: VmId) -> Option<Self> {
        let vm = VMS.get()?.get(usize::from(id.0))?;
        Some(Self::of(vm, BOOT_VCPU))
    }

    #[inline]
    fn map(&self) -> &GuestMap {
        &self.vm.map
    }

    fn post_question(&self, vcpu: VcpuId, word: u64) {
        if let Some(post) = self.vm.posts.get(vcpu.index()) {
            post.question.store(word, Ordering::Relaxed);
        }
    }

    fn take_question(&self, me: VcpuId) -> u64 {
        let post = self.vm.posts.get(me.index());
        post.map_or(0, |post| post.question.swap(0, Ordering::Relaxed))
    }

    #[inline]
    fn ask(&self, vcpu: VcpuId, requests: Requests) {
        if let Some(post) = self.vm.posts.get(vcpu.index()) {
            post.mailbox.post(requests);
            sysregs::order_before_doorbell();
            self.gic.send_sgi(post.doorbell.load(Ordering::Relaxed));
        }
    }

    #[inline]
    fn post_sender(&self, vcpu: VcpuId, intid: u32, from: VcpuId) {
        if let Some(senders) = self.vm.senders.get(vcpu.index()) {
            senders.post(intid, from.0);
        }
    }

    #[inline]
    fn take_senders(&self, me: VcpuId, group: usize) -> u32 {
        let senders = self.vm.senders.get(me.index());
        senders.map_or(0, |senders| senders.take(group))
    }

    #[inline]
    fn remind(&self, requests: Requests) {
        self.own.mailbox.post(requests);
    }

    #[inline]
    fn is_asked(&self) -> bool {
        !self.own.mailbox.is_empty()
    }

    #[inline]
    fn take(&self, me: VcpuId) -> Requests {
        let post = self.vm.posts.get(me.index());
        post.map_or(Requests::NONE, |post| post.mailbox.take())
    }

    fn read_ram(&self, ipa: u64, to: &mut [u8]) {
        guest_ram::read_parts(&self.vm.backing, ipa, to);
    }

    fn hash_page(&self, ipa: u64) -> Word {
        // Many are hashed for one request.
        percpu::beat();
        guest_ram::hash_page(&self.vm.backing, ipa)
    }

    fn announce(&self, ending: Ending) {
        let id = self.vm.id.0;
        let name = ending.end.name();
        if ending == Ending::usual(ending.end) {
            log!("@vm-{name} vm={id}");
        } else {
            log!("@vm-{name} vm={id} then={}", ending.after.name());
        }
    }

    fn report(&self, vcpu: &Vcpu) {
        let rate = sysregs::counter_frequency();
        let (vm, id) = (self.vm.id.0, vcpu.id.0);
        for (at, event) in vcpu.trace() {
            let (name, a, b) = event.words();
            let t = at.as_us(rate);
            log!("@trace vm={vm} vcpu={id} t={t} event={name} a={a:#x} b={b:#x}");
        }
        for record in vcpu.records() {
            let t = record.at.as_us(rate);
            log!("@frame vm={vm} vcpu={id} t={t} {}", RecordWords(&record));
        }
    }

    fn conclude(&self) {
        log!("@end vm={}", self.vm.id.0);
    }

    fn give_up(&self) {
        log!("@vm-lost vm={}", self.vm.id.0);
    }

    fn finish(&self, after: After) {
        if after == After::MachineOff || self.vm.is_last() {
            stop_machine(Cause::Shutdown, &|| ());
        }
    }

    fn keep_registers(&self, vcpu: VcpuId, regs: &GuestRegs) {
        if let Some(dump) = &self.vm.dump {
            dump.keep(vcpu, regs);
        }
    }

    fn write_memory(&self, kernel: Kernel) -> Load {
        self.vm.reset_transports();
        if let Some(dump) = &self.vm.dump {
            let ram = &self.vm.backing;
            dump.hand_over(kernel, &self.vm.stage2, ram);
            if kernel == Kernel::Capture {
                self.vm.disarm();
                return dump.write(self.vm.id.0, ram);
            }
        }
        self.vm.arm();
        let GuestImage {
            kernel,
            ramdisk,
            dtb,
            seeding,
            layout,
        } = &self.vm.image;
        let write = |ipa: u64, bytes: &[u8]| guest_ram::write(&self.vm.backing, ipa, bytes);
        write(layout.kernel.start, kernel);
        // What is behind the file in the kernel's footprint is its bss, which it clears itself.
        write(layout.dtb.start, dtb);
        if let Some(seeding) = seeding {
            let load = self.vm.loads.fetch_add(1, Ordering::Relaxed);
            let seeds = seeding.secret.seeds(load, &entropy::fresh());
            write(layout.dtb.start + seeding.kaslr as u64, &seeds.kaslr);
            write(layout.dtb.start + seeding.rng as u64, &seeds.rng);
        }
        if let (Some(ramdisk), Some(place)) = (ramdisk, layout.ramdisk) {
            write(place.start, ramdisk);
        }
        log!(
            "@vm-start vm={} vcpus={} kernel={:#x} dtb={:#x}",
            self.vm.id.0,
            self.vm.pcpus.len(),
            layout.entry,
            layout.dtb.start
        );
        Load {
            entry: layout.entry,
            context: layout.dtb.start,
        }
    }
}
