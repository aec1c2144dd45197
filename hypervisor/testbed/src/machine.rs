//! A machine whose vCPUs run [`VcpuLoop`], each as a coroutine that gives way when it enters its guest or sleeps.
//! Nothing happens unless a test says so: a kick that was posted is not taken before [`Machine::interrupt`].

mod steps;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, Yielder};
use hv_abi::firmware::Fault;
use hv_abi::policy::{After, Policy};
use hv_abi::watchdog::Last;
use hv_core::entry::Features;
use hv_core::id::{IntId, Mpidr, VcpuId, VcpuSet, VmId};
use hv_core::ladder;
use hv_core::mailbox::{Mailbox, Senders};
use hv_core::operator::OperatorLine;
use hv_core::psci::Reclaim;
use hv_core::regs::{El1Values, GuestRegs};
use hv_core::sdei::{self, Board};
use hv_core::trace::Event;
use hv_core::vgic::{self, Affinities, Leftovers, Model, Vgic};
use hv_core::virtio::Mediator;
use hv_core::vm::{
    self, GuestMap, GwdtConfig, IpaRange, Kernel, OwnDevices, REDISTRIBUTOR_SIZE, Shared,
    SharedConfig, TracedCall, Transport, Vcpu, VcpuLoop, last_redistributors,
};
use hv_core::watch;

use crate::exits::{DISTRIBUTOR, GICC_DIR, GWDT, PVPANIC, RAM, REDISTRIBUTORS, UART};
use crate::told::Told;
use crate::world::{Place, Port, Seat, World};
use crate::{Cpu, Interface, Physical};

/// What a machine is made from.
#[derive(Clone, Debug)]
pub struct Built {
    /// Which GIC it has.
    pub model: Model,
    /// vCPU `i` has affinity `mpidrs[i]`.
    pub mpidrs: Vec<Mpidr>,
    /// How many list registers.
    pub list_regs: usize,
    /// How many SPIs.
    pub spis: u32,
    /// PPIs and SPIs that are the guest's.
    pub passed_through: Vec<IntId>,
    /// SPIs that the machine has besides, and no guest.
    pub others: Vec<IntId>,
    /// The emulated UART's interrupt.
    pub uart: IntId,
    /// The SDEI that guests have.
    pub sdei: sdei::Config<'static>,
    /// What CPU_OFF leaves of pending interrupts.
    pub leftovers: Leftovers,
    /// The guest's calls are traced ([`Machine::take_calls`]).
    pub traces_calls: bool,
    /// The short ways that an interrupt may take are open. If not, list registers are folded and chosen anew before every
    /// entry.
    pub has_short_ways: bool,
    /// A GICv3's ICC_DIR_EL1 can be trapped alone (ICH_VTR_EL2.TDS).
    pub has_tdir: bool,
    /// EOIcount counts ends that only drop the priority, too, as in QEMU.
    pub counts_drops: bool,
    /// GICD_ISPENDR says of a level-sensitive SPI whether its line is up; in QEMU's GICv3 it does not.
    pub tells_lines: bool,
    /// What an NMI does.
    pub nmi: ladder::Config,
    /// What becomes of the guest when it ends.
    pub policy: Policy,
    /// The watchdog over the guest.
    pub watchdog: Option<watch::Config>,
    /// The guest's own watchdog.
    pub gwdt: Option<GwdtConfig>,
    /// What is held back for a capture kernel.
    pub held: IpaRange,
    /// It has a pvpanic.
    pub has_pvpanic: bool,
}

impl Built {
    /// A GICv3 with `vcpus` vCPUs of affinity 0.0.0.n and 4 list registers.
    pub fn new(vcpus: u8) -> Self {
        Self {
            model: Model::V3,
            mpidrs: (0..vcpus.into()).map(Mpidr::new).collect(),
            list_regs: 4,
            spis: 64,
            passed_through: Vec::new(),
            others: Vec::new(),
            uart: IntId(33),
            sdei: sdei::Config::default(),
            leftovers: Leftovers::Dropped,
            traces_calls: false,
            has_short_ways: true,
            has_tdir: true,
            counts_drops: false,
            tells_lines: true,
            nmi: ladder::Config {
                event: 0,
                limit: 80,
                last: Last::Report,
            },
            policy: Policy::USUAL,
            watchdog: None,
            gwdt: None,
            held: IpaRange::default(),
            has_pvpanic: false,
        }
    }

    /// The machine, with its boot vCPU in the guest and the others off.
    pub fn start(self) -> Machine {
        self.start_with(Vec::new())
    }

    /// The same with mediated devices, whose interrupts are among [`Self::others`].
    pub fn start_with(self, devices: Vec<(Transport, Mediator)>) -> Machine {
        let (transports, mediators): (Vec<_>, Vec<_>) = devices.into_iter().unzip();
        let vcpus = self.mpidrs.len();
        let range = |start, size| IpaRange { start, size };
        let is_v3 = self.model == Model::V3;
        let redistributors = if is_v3 {
            vec![range(REDISTRIBUTORS, vcpus as u64 * REDISTRIBUTOR_SIZE)]
        } else {
            Vec::new()
        };
        let gic = Vgic::new(&vgic::Config {
            model: self.model,
            mpidrs: &self.mpidrs,
            last: last_redistributors(&redistributors, vcpus),
            spis: self.spis,
            passed_through: &self.passed_through,
            priority_bits: 5,
            list_regs: self.list_regs,
        });
        let map = GuestMap {
            policy: self.policy,
            affinities: Affinities::new(&self.mpidrs),
            ram: vec![RAM],
            held: self.held,
            uart: range(UART, 0x1000),
            distributor: range(DISTRIBUTOR, 0x1_0000),
            gic: self.model,
            deactivate: range(GICC_DIR, if is_v3 { 0 } else { 0x1000 }),
            nmi: self.nmi,
            watchdog: self.watchdog,
            published: gic.published().clone(),
            redistributors,
            board: Board::new(vcpus),
            has_debug_calls: true,
            own: OwnDevices {
                gwdt: self.gwdt.map_or(Default::default(), |_| GWDT),
                gwdt_config: self.gwdt,
                pvpanic: range(PVPANIC, if self.has_pvpanic { 2 } else { 0 }),
                ..OwnDevices::default()
            },
            mediated: transports,
        };
        let firmware = match self.leftovers {
            Leftovers::Dropped => self.sdei.firmware,
            Leftovers::Kept => self.sdei.firmware.with(Fault::OffKeepsPending),
        };
        let sdei = sdei::Config {
            firmware,
            ..self.sdei
        };
        let (_, distributor, interrupts) = gic.into_parts();
        let shared = Shared::new(SharedConfig {
            vcpus,
            sdei,
            reclaim: Reclaim::Parked,
            uart_intid: self.uart,
            has_uart_page: false,
            flash: 0,
            gwdt: self.gwdt,
        });
        let mut interface = Interface::new(self.model, self.list_regs);
        interface.counts_drops = self.counts_drops;
        interface.has_tdir = self.has_tdir;
        let seat = || Seat {
            place: Cell::new(Place::Nowhere),
            mailbox: Mailbox::new(),
            senders: Senders::new(),
            bell: Cell::new(false),
            interface: RefCell::new(interface.clone()),
            regs: RefCell::default(),
            el1: RefCell::default(),
            exit: Cell::new(None),
            entries: Cell::new(0),
            locks: Cell::new(0),
            question: Cell::new(0),
            nmis: Cell::new(0),
            has_serror: Cell::new(false),
            alarm: Cell::new(None),
            offset: Cell::new(0),
            is_timer_masked: Cell::new(false),
            instruction: Cell::new(None),
            events: RefCell::default(),
        };
        let world = Rc::new(World {
            id: Cell::new(VmId(0)),
            other: RefCell::new(Weak::new()),
            shared: RefCell::new(shared),
            mediated: mediators.into_iter().map(RefCell::new).collect(),
            distributor: RefCell::new(distributor),
            interrupts: interrupts.into_iter().map(RefCell::new).collect(),
            map,
            seats: (0..vcpus).map(|_| seat()).collect(),
            physical: RefCell::new(Physical::new(
                &[&self.passed_through[..], &self.others].concat(),
                vcpus as u8,
            )),
            finished: RefCell::default(),
            loaded: RefCell::default(),
            kept: RefCell::default(),
            received: RefCell::new(VecDeque::new()),
            line: RefCell::new(OperatorLine::new()),
            answers: RefCell::new(Vec::new()),
            calls: RefCell::default(),
            traces_calls: self.traces_calls,
            has_short_ways: self.has_short_ways,
            tells_lines: self.tells_lines,
            is_patient: Cell::new(true),
            now: Cell::new(7),
        });
        let cpus = (0..vcpus as u8)
            .map(|n| coroutine(Rc::clone(&world), n, sdei))
            .collect();
        let mut machine = Machine { world, cpus };
        machine.run(0);
        machine.interrupt(0);
        assert_eq!(machine.place(0), Place::Guest);
        for n in 1..vcpus as u8 {
            machine.run(n);
        }
        machine
    }
}

/// What a coroutine needs at most; assertions that fail in it need most of that.
const STACK: usize = 256 << 10;

type Vcpus = Coroutine<(), (), (), DefaultStack>;

fn coroutine(world: Rc<World>, n: u8, sdei: sdei::Config<'static>) -> Vcpus {
    Coroutine::with_stack(
        DefaultStack::new(STACK).expect("a stack"),
        move |yielder: &Yielder<(), ()>, ()| {
            let seat = &world.seats[usize::from(n)];
            seat.interface.borrow_mut().leave_unknown();
            let port = Port { world, yielder, n };
            if n == 0 {
                vm::load(&port, &mut Cpu::new(port.clone()), Kernel::Guest);
            }
            let cpu = Cpu::new(port.clone());
            let vcpu = Vcpu::new(VcpuId(n), Features::default(), &sdei);
            VcpuLoop::new(port, cpu, vcpu).run()
        },
    )
}

/// A machine and its guest.
pub struct Machine {
    pub(crate) world: Rc<World>,
    cpus: Vec<Vcpus>,
}

impl Machine {
    /// How many vCPUs.
    pub fn vcpus(&self) -> u8 {
        self.cpus.len() as u8
    }

    fn seat(&self, n: u8) -> &Seat {
        &self.world.seats[usize::from(n)]
    }

    /// Where a vCPU is.
    pub fn place(&self, n: u8) -> Place {
        self.seat(n).place.get()
    }

    /// Whether a vCPU is in its guest.
    pub fn is_on(&self, n: u8) -> bool {
        self.place(n) == Place::Guest
    }

    /// The virtual CPU interface of a vCPU.
    pub fn interface(&self, n: u8) -> RefMut<'_, Interface> {
        self.seat(n).interface.borrow_mut()
    }

    /// The physical GIC.
    pub fn physical(&self) -> RefMut<'_, Physical> {
        self.world.physical.borrow_mut()
    }

    /// What a vCPU in the guest has in its registers.
    pub fn regs(&self, n: u8) -> RefMut<'_, GuestRegs> {
        self.seat(n).regs.borrow_mut()
    }

    /// Its registers of EL1.
    pub fn el1(&self, n: u8) -> RefMut<'_, El1Values> {
        self.seat(n).el1.borrow_mut()
    }

    /// How often a vCPU has entered its guest.
    pub fn entries(&self, n: u8) -> u64 {
        self.seat(n).entries.get()
    }

    /// How often a vCPU has taken a lock of its VM's.
    pub fn locks(&self, n: u8) -> u64 {
        self.seat(n).locks.get()
    }

    /// What a vCPU has traced since this was asked last.
    pub fn events(&self, n: u8) -> Vec<Event> {
        self.seat(n).events.take()
    }

    /// Whom a kick has been posted to, and who has not taken it.
    pub fn rung(&self) -> VcpuSet {
        let mut rung = VcpuSet::EMPTY;
        for n in (0..self.vcpus()).filter(|&n| !self.seat(n).mailbox.is_empty()) {
            rung.insert(VcpuId(n));
        }
        rung
    }

    /// `other` is VM 1 of the machine whose VM 0 this is.
    pub fn stand_beside(&self, other: &Self) {
        other.world.id.set(VmId(1));
        self.world.other.replace(Rc::downgrade(&other.world));
        other.world.other.replace(Rc::downgrade(&self.world));
    }

    /// The machine's console receives a byte.
    pub fn receive(&mut self, byte: u8) {
        self.world.received.borrow_mut().push_back(byte);
    }

    /// What was loaded into the VM, each time that something was.
    pub fn loaded(&self) -> Vec<Kernel> {
        self.world.loaded.borrow().clone()
    }

    /// The vCPUs whose registers were kept since this was last asked, each with its pc.
    pub fn take_kept(&self) -> Vec<(VcpuId, u64)> {
        self.world.kept.take()
    }

    /// What was to become of the machine each time that the VM was off.
    pub fn finished(&self) -> Vec<After> {
        self.world.finished.borrow().clone()
    }

    /// The calls that were told of since this was last asked.
    pub fn take_calls(&self) -> Vec<TracedCall> {
        self.world.calls.take()
    }

    /// What the operator was told since this was asked last.
    pub fn answers(&self) -> Vec<Told> {
        self.world.answers.take()
    }

    /// How often a vCPU was sent the operator's virtual SError.
    pub fn nmis(&self, n: u8) -> u64 {
        self.seat(n).nmis.get()
    }

    /// vCPU `n` takes the operator's SError.
    pub fn take_serror(&mut self, n: u8) {
        self.seat(n).has_serror.set(false);
    }

    /// Time passes.
    pub fn wait(&mut self, ticks: u64) {
        let now = &self.world.now;
        now.set(now.get() + ticks);
    }

    /// The time.
    pub fn now(&self) -> u64 {
        self.world.now.get()
    }

    /// When the alarm of vCPU `n`'s pCPU goes off.
    pub fn alarm(&self, n: u8) -> Option<u64> {
        self.seat(n).alarm.get().map(|at| at.0)
    }

    /// What the virtual counter of a vCPU says.
    pub fn virtual_counter(&self, n: u8) -> u64 {
        self.now() - self.seat(n).offset.get()
    }

    /// Whether the virtual timer of a vCPU is kept from interrupting.
    pub fn is_timer_masked(&self, n: u8) -> bool {
        self.seat(n).is_timer_masked.get()
    }
}
