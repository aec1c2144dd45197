//! The machine of the simulation: each vCPU is a coroutine that runs the hypervisor's own loop
//! ([`hv_core::vm::VcpuLoop`]) and gives way wherever a sibling may come in between: before it takes the VM's lock, posts,
//! rings, takes its mail, sleeps or enters its guest. What is between two such points is one step.

use std::cell::{Cell, RefCell, RefMut};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, Yielder};
use hv_abi::operator::hashes::Word;
use hv_abi::operator::{Request, Verb};
use hv_abi::policy::{After, Policy};
use hv_abi::psci::AffinityState;
use hv_core::entry::Features;
use hv_core::id::{IntId, Mpidr, VcpuId, VmId};
use hv_core::mailbox::{Mailbox, Requests};
use hv_core::operator::{Asked, Came};
use hv_core::psci::Reclaim;
use hv_core::regs::{El1Values, GuestRegs};
use hv_core::sdei::{Board, Config};
use hv_core::time::Instant;
use hv_core::trace::Event;
use hv_core::vgic::affinity::Affinities;
use hv_core::vgic::{self, Effects, Model, Physical, Vgic};
use hv_core::vm::{
    self, End, Ending, GuestMap, Interrupt, IpaRange, Kernel, Life, Load, OwnDevices,
    REDISTRIBUTOR_SIZE, Shared, SharedConfig, Vcpu, VcpuLoop, last_redistributors,
};
use hv_testbed::{
    Cpu, DISTRIBUTOR, Ended, Exit, Interface, MAINTENANCE, RAM, REDISTRIBUTORS, Site,
};

use super::Broken;
use super::guest::{Dice, Guest};
use super::locks::{self, Held};
use super::spis::{self, Said, Spis};
use super::witness::Witness;
use crate::vcpu::*;

/// Nothing, or what is wrong.
pub type Verdict = Result<(), String>;

/// How many steps are told of a failure.
const STORY: usize = 60;
const LIST_REGS: usize = 4;
const STACK: usize = 256 << 10;
/// A passed-through PPI that no event is ever bound to: it wakes a vCPU that sleeps.
pub const WAKE: IntId = IntId(30);
/// The console's interrupt, which vCPU 0's pCPU takes.
const CONSOLE: u32 = 40;

/// Where a vCPU gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    Begin,
    Lock,
    Post(VcpuId, Requests),
    Ring(VcpuId),
    Take,
    Sleep,
    Guest,
    WaitForSiblings,
}

/// The physical interrupts that come to one vCPU, and its virtual CPU interface.
pub struct Pcpu {
    interface: Interface,
    /// A physical interrupt that waits to be acknowledged.
    waits: Option<IntId>,
    /// It was acknowledged; the lock that takes it further comes next.
    pub in_hand: Option<IntId>,
    /// When the VM's lock was held last: the vCPU was kept out of its guest by a pause.
    is_paused: bool,
    /// The pause is just over, and what came meanwhile has not been put back.
    is_thawed: bool,
    /// How far its virtual counter is behind.
    offset: u64,
}

/// What all vCPUs of the simulation reach.
pub struct World {
    pub dice: RefCell<Dice>,
    shared: RefCell<Shared>,
    pub distributor: RefCell<vgic::Distributor>,
    pub interrupts: Vec<RefCell<vgic::Private>>,
    /// The locks that each vCPU holds, a bit each.
    pub held: Vec<Cell<u8>>,
    pub map: GuestMap,
    pub mpidrs: Vec<u64>,
    mailboxes: Vec<Mailbox>,
    bells: Vec<Cell<bool>>,
    points: Vec<Cell<Point>>,
    pub pcpus: Vec<RefCell<Pcpu>>,
    /// Physical interrupts that are active, with the vCPU whose they are if they are private.
    active: RefCell<Vec<(IntId, usize)>>,
    guests: Vec<RefCell<Guest>>,
    pub witness: RefCell<Witness>,
    pub spis: RefCell<Spis>,
    pub said: RefCell<Said>,
    pub broken: Broken,
    /// Guests do nothing of their own.
    pub is_settling: Cell<bool>,
    /// The first thing that was wrong.
    wrong: RefCell<Option<String>>,
    story: RefCell<VecDeque<String>>,
    /// What the operator has asked, and nobody has taken in.
    asked: RefCell<VecDeque<Verb>>,
    requests: Cell<u32>,
    /// The system counter, and the most that a guest has read as its virtual one.
    now: Cell<u64>,
    shown: Cell<u64>,
    /// What is shared, as a broken machine remembers it.
    copy: RefCell<Option<hv_core::sdei::SharedEvents>>,
}

/// The vCPUs of one VM.
pub struct Vm {
    pub world: Rc<World>,
    cpus: Vec<Coroutine<(), (), (), DefaultStack>>,
}

impl Vm {
    pub fn new(seed: u64, vcpus: usize, broken: Broken) -> Self {
        let sdei = Config {
            events: &EVENTS,
            ..Config::default()
        };
        let mpidrs: Vec<u64> = (0..vcpus as u64).collect();
        let affinities: Vec<Mpidr> = mpidrs.iter().copied().map(Mpidr::new).collect();
        let range = |start, size| IpaRange { start, size };
        let redistributors = vec![range(REDISTRIBUTORS, vcpus as u64 * REDISTRIBUTOR_SIZE)];
        let passed_through =
            [&[IntId(TIMER), IntId(SPI), WAKE][..], &spis::PASSED_THROUGH].concat();
        let interrupts = vgic::Config {
            model: Model::V3,
            mpidrs: &affinities,
            last: last_redistributors(&redistributors, vcpus),
            spis: 64,
            passed_through: &passed_through,
            priority_bits: 5,
            list_regs: LIST_REGS,
        };
        let vgic = Vgic::new(&interrupts);
        let map = GuestMap {
            policy: Policy::USUAL,
            affinities: Affinities::new(&affinities),
            ram: vec![RAM],
            held: IpaRange::default(),
            uart: range(0x0900_0000, 0x1000),
            distributor: range(DISTRIBUTOR, 0x1_0000),
            gic: Model::V3,
            deactivate: IpaRange::default(),
            nmi: hv_core::ladder::Config::USUAL,
            watchdog: None,
            published: vgic.published().clone(),
            redistributors,
            board: Board::new(vcpus),
            has_debug_calls: true,
            own: OwnDevices::default(),
            mediated: Vec::new(),
        };
        let shared = Shared::new(SharedConfig {
            vcpus,
            sdei,
            reclaim: Reclaim::Parked,
            uart_intid: IntId(LINE),
            has_uart_page: true,
            flash: 0,
            gwdt: None,
        });
        let (_, distributor, interrupts) = vgic.into_parts();
        let world = Rc::new(World {
            dice: RefCell::new(Dice(seed)),
            shared: RefCell::new(shared),
            distributor: RefCell::new(distributor),
            interrupts: interrupts.into_iter().map(RefCell::new).collect(),
            held: (0..vcpus).map(|_| Cell::new(0)).collect(),
            map,
            mailboxes: (0..vcpus).map(|_| Mailbox::new()).collect(),
            bells: (0..vcpus).map(|_| Cell::new(false)).collect(),
            points: (0..vcpus).map(|_| Cell::new(Point::Begin)).collect(),
            pcpus: (0..vcpus).map(|_| RefCell::new(Pcpu::new())).collect(),
            active: RefCell::default(),
            guests: (0..vcpus).map(|n| RefCell::new(Guest::new(n))).collect(),
            witness: RefCell::new(Witness::new(&mpidrs)),
            spis: RefCell::new(Spis::new()),
            said: RefCell::default(),
            mpidrs,
            broken,
            is_settling: Cell::new(false),
            wrong: RefCell::default(),
            story: RefCell::default(),
            asked: RefCell::default(),
            requests: Cell::new(0),
            now: Cell::new(1),
            shown: Cell::new(0),
            copy: RefCell::default(),
        });
        let cpus = (0..vcpus).map(|n| {
            let world = Rc::clone(&world);
            Coroutine::with_stack(
                DefaultStack::new(STACK).expect("a stack"),
                move |yielder: &Yielder<(), ()>, ()| {
                    let port = Port { world, yielder, n };
                    let cpu = Cpu::new(port.clone());
                    if n == 0 {
                        vm::load(&port, &mut Cpu::new(port.clone()), Kernel::Guest);
                    }
                    let config = Config {
                        events: &EVENTS,
                        ..Config::default()
                    };
                    let vcpu = Vcpu::new(VcpuId(n as u8), Features::default(), &config);
                    VcpuLoop::new(port, cpu, vcpu).run()
                },
            )
        });
        Self {
            cpus: cpus.collect(),
            world,
        }
    }

    pub fn vcpus(&self) -> usize {
        self.cpus.len()
    }

    /// The operator freezes the guest, or has it go on, as he likes.
    pub fn operate(&self) {
        let world = &self.world;
        let mut asked = world.asked.borrow_mut();
        let is_paused = world
            .shared
            .try_borrow()
            .is_ok_and(|shared| shared.is_paused);
        let mut dice = world.dice.borrow_mut();
        if asked.is_empty() && dice.below(if is_paused { 30 } else { 150 }) == 0 {
            let verbs = [Verb::Freeze, Verb::FreezeClock, Verb::Thaw, Verb::Thaw];
            asked.push_back(dice.pick(&verbs));
        }
    }

    /// One step of vCPU `n`.
    pub fn step(&mut self, n: usize) -> Verdict {
        self.world.now.set(self.world.now.get() + 1);
        if self.world.is_at_rest(n) && self.world.points[n].get() == Point::Sleep {
            return Ok(());
        }
        self.cpus[n].resume(());
        match self.world.wrong.borrow_mut().take() {
            Some(wrong) => Err(wrong),
            None => Ok(()),
        }
    }

    /// Nobody does anything of its own until all is quiet; then nothing may be left undone.
    pub fn settle(&mut self) -> Verdict {
        self.world.is_settling.set(true);
        for _ in 0..20_000 {
            self.world.wake_the_suspended();
            self.world.thaw_the_paused();
            let all = 0..self.vcpus();
            let busy: Vec<_> = all.filter(|&n| !self.world.is_at_rest(n)).collect();
            if busy.is_empty() {
                let verdict = self.world.judge();
                self.world.is_settling.set(false);
                return verdict;
            }
            let n = self.world.dice.borrow_mut().pick(&busy);
            self.step(n)?;
        }
        Err("it never comes to rest".into())
    }

    pub fn story(&self) -> String {
        let mut story = self.world.story.borrow_mut();
        story.make_contiguous().join("\n")
    }
}

impl World {
    fn vcpu(n: usize) -> VcpuId {
        VcpuId(n as u8)
    }

    fn tell(&self, line: String) {
        let mut story = self.story.borrow_mut();
        if story.len() == STORY {
            story.pop_front();
        }
        story.push_back(line);
    }

    fn expect(&self, verdict: Verdict) {
        if let Err(wrong) = verdict {
            self.wrong.borrow_mut().get_or_insert(wrong);
        }
    }

    /// Whether vCPU `n` has nothing to do but what its guest wants.
    fn is_at_rest(&self, n: usize) -> bool {
        let pcpu = self.pcpus[n].borrow();
        let is_quiet = !self.bells[n].get()
            && pcpu.waits.is_none()
            && !pcpu.interface.wants_maintenance()
            && !self.is_asked_by_operator(n);
        match self.points[n].get() {
            Point::Sleep => is_quiet,
            Point::Guest => is_quiet && (!self.is_settling.get() || !pcpu.interface.signals()),
            _ => false,
        }
    }

    /// A pause comes to its end. Where there is none nobody is rung, who may have been forgotten.
    fn thaw_the_paused(&self) {
        let mut asked = self.asked.borrow_mut();
        let is_paused = self
            .shared
            .try_borrow()
            .is_ok_and(|shared| shared.is_paused);
        if is_paused && asked.is_empty() {
            asked.push_back(Verb::Thaw);
        }
    }

    fn is_asked_by_operator(&self, n: usize) -> bool {
        n == 0 && !self.asked.borrow().is_empty()
    }

    /// A vCPU that sleeps in SYSTEM_SUSPEND is woken by a physical interrupt.
    fn wake_the_suspended(&self) {
        for n in 0..self.guests.len() {
            let is_asleep =
                self.guests[n].borrow().is_suspended && self.points[n].get() == Point::Sleep;
            if is_asleep && !self.active.borrow().contains(&key(WAKE, n)) {
                self.pcpus[n].borrow_mut().waits = Some(WAKE);
            }
        }
    }

    fn judge(&self) -> Verdict {
        let shared = self.shared.borrow();
        if shared.is_paused {
            return Err("all is quiet, and the VM is paused".into());
        }
        if shared.life != Life::Running {
            return Err(format!("all is quiet, and the VM is {:?}", shared.life));
        }
        for n in 0..self.guests.len() {
            let state = shared.power.state(Self::vcpu(n));
            let is_on = self.points[n].get() == Point::Guest;
            if (state == AffinityState::On) != is_on || state == AffinityState::OnPending {
                return Err(format!(
                    "vCPU {n} is lost: {state:?}, in the guest: {is_on}"
                ));
            }
            self.witness.borrow().at_rest(n, is_on)?;
            if is_on && let Some(lost) = self.guests[n].borrow().owed_sgis() {
                return Err(format!("vCPU {n} has lost SGIs {lost:#x}"));
            }
        }
        let is_ready = |n: usize| {
            let takes_interrupts = self.guests[n].borrow().takes_interrupts();
            shared.power.state(Self::vcpu(n)) == AffinityState::On && takes_interrupts
        };
        if let Some((intid, target)) = self.spis.borrow().lost(is_ready) {
            return Err(format!("vCPU {target} has lost SPI {intid}"));
        }
        Ok(())
    }
}

/// A physical interrupt, and whose it is if it is private.
fn key(intid: IntId, n: usize) -> (IntId, usize) {
    (intid, if intid.is_private() { n } else { 0 })
}

impl Pcpu {
    fn new() -> Self {
        Self {
            interface: Interface::new(Model::V3, LIST_REGS),
            waits: None,
            in_hand: None,
            is_paused: false,
            is_thawed: false,
            offset: 0,
        }
    }
}

/// The world as one vCPU reaches it.
#[derive(Clone)]
pub struct Port<'y> {
    pub world: Rc<World>,
    yielder: &'y Yielder<(), ()>,
    pub n: usize,
}

impl Port<'_> {
    pub fn give_way(&self, point: Point) {
        let (n, world) = (self.n, &self.world);
        world.points[n].set(point);
        self.yielder.suspend(());
        let published = &world.map.published;
        world.said.borrow_mut().goes_on(published, n);
        world.tell(format!("vCPU {n}: {point:?}"));
    }

    fn guest(&self) -> RefMut<'_, Guest> {
        self.world.guests[self.n].borrow_mut()
    }

    /// The call that the guest has just made has taken effect.
    pub fn settle_call(&self) {
        let made = self.guest().made.take();
        if let Some((call, args)) = made {
            let answer = self
                .world
                .witness
                .borrow_mut()
                .company
                .call(self.n, call, args);
            let mut guest = self.guest();
            guest.expected = answer.map(|answer| (call, answer));
        }
    }
}

/// The lock, while it is held.
pub struct Guard<'a> {
    port: &'a dyn Section,
    shared: Option<RefMut<'a, Shared>>,
    before: Before,
    _held: Held<'a>,
}

/// What the shared state was when the lock was taken.
struct Before {
    power: Vec<AffinityState>,
    /// What a broken machine hides.
    life: Option<Life>,
    /// How many vCPUs could read the guest's clock.
    inside: u8,
}

trait Section {
    fn leave(&self, shared: &mut Shared, before: &Before);
}

impl Deref for Guard<'_> {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        self.shared.as_deref().expect("it is held")
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Shared {
        self.shared.as_deref_mut().expect("it is held")
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(mut shared) = self.shared.take() {
            self.port.leave(&mut shared, &self.before);
        }
    }
}

impl Section for Port<'_> {
    /// Compares what the power table says now with what the witness thinks of it.
    fn leave(&self, shared: &mut Shared, before: &Before) {
        if let Some(life) = before.life
            && shared.life == Life::Running
        {
            shared.life = life;
        }
        let mut pcpu = self.pcpu();
        match shared.clock.inside().cmp(&before.inside) {
            Ordering::Less => pcpu.is_paused = self.guest().is_inside,
            Ordering::Greater => pcpu.is_thawed |= core::mem::take(&mut pcpu.is_paused),
            Ordering::Equal => {}
        }
        drop(pcpu);
        let asked = self.guest().turns_on.take();
        let mut witness = self.world.witness.borrow_mut();
        for (n, &was) in before.power.iter().enumerate() {
            let is = shared.power.state(World::vcpu(n));
            let is_granted = is == AffinityState::OnPending && was != is;
            if asked == Some(n) && !matches!(shared.life, Life::Stopping { .. }) {
                let verdict = witness.is_turned_on(self.n, n, is_granted);
                self.world.expect(verdict);
            }
            match (was, is) {
                (AffinityState::OnPending, AffinityState::On) => {
                    let dropped = witness.on(n);
                    if self.world.broken == Broken::StartKeepsRaised {
                        for event in dropped {
                            let board = &self.world.map.board;
                            let _ = shared.shared_events.raise(event, World::vcpu(n), board);
                        }
                    }
                }
                (AffinityState::On, AffinityState::Off) => witness.stopped(n),
                _ => {}
            }
        }
    }
}

impl vm::Vm for Port<'_> {
    type Guard<'a>
        = Guard<'a>
    where
        Self: 'a;
    type Mediator<'a>
        = RefMut<'a, hv_core::virtio::Mediator>
    where
        Self: 'a;

    /// There is no device.
    fn mediator(&self, _: usize) -> Option<RefMut<'_, hv_core::virtio::Mediator>> {
        None
    }

    fn lock(&self) -> Guard<'_> {
        let (n, world) = (self.n, &self.world);
        let (mut shared, held) = self.take_lock(locks::VM, &world.shared);
        self.settle_call();
        let guest = self.guest();
        let (raises, is_leaving, looks) = (guest.raises, guest.is_leaving, guest.looks);
        drop(guest);
        let mut witness = world.witness.borrow_mut();
        if let Some((event, target)) = raises {
            witness.is_raised(target, event);
        }
        if is_leaving {
            witness.company.turn_off(n);
        }
        if looks {
            witness.raised_arrive(n);
        }
        if let Some(intid) = world.pcpus[n].borrow_mut().in_hand.take()
            && let Some(event) = super::guest::bound_event(intid)
        {
            let is_taken = witness.company.interrupt(n, event);
            assert!(is_taken, "{intid:?} fires where the model says it cannot");
        }
        drop(witness);
        let mut guest = self.guest();
        (guest.raises, guest.is_leaving, guest.looks) = (None, false, false);
        let waits_for_start = !guest.is_inside && guest.has_start;
        if let Some(requests) = guest.decides.take() {
            let mut witness = world.witness.borrow_mut();
            if shared.is_to_start(World::vcpu(n)) {
                // A sibling takes the vCPU back: it ends what it runs.
                witness.hand_is_emptied(n);
                guest.is_leaving = true;
            } else {
                witness.signal_arrives(n);
                guest.looks = requests.has(Requests::SDEI_LOOK);
            }
        }
        drop(guest);
        let power = (0..world.guests.len())
            .map(|n| shared.power.state(World::vcpu(n)))
            .collect();
        let mut life = None;
        match world.broken {
            Broken::StartsWhileStopping if waits_for_start => {
                if let Life::Stopping { .. } = shared.life {
                    life = Some(core::mem::replace(&mut shared.life, Life::Running));
                }
            }
            Broken::DoesNotWait => {
                if let Life::Stopping { by, end, .. } = shared.life
                    && by == World::vcpu(n)
                {
                    shared.life = Life::Frozen { by, end };
                }
            }
            Broken::ClaimsWithoutLock => {
                let now = shared.shared_events.clone();
                if let Some(copy) = world.copy.replace(Some(now)) {
                    shared.shared_events = copy;
                }
            }
            _ => {}
        }
        let inside = shared.clock.inside();
        Guard {
            port: self,
            shared: Some(shared),
            before: Before {
                power,
                life,
                inside,
            },
            _held: held,
        }
    }

    fn id(&self) -> VmId {
        VmId(0)
    }

    fn peer(&self, _: VmId) -> Option<Self> {
        Some(self.clone())
    }

    fn map(&self) -> &GuestMap {
        &self.world.map
    }

    // Nobody types.
    fn post_question(&self, _: VcpuId, _: u64) {}
    fn take_question(&self, _: VcpuId) -> u64 {
        0
    }

    fn ask(&self, vcpu: VcpuId, requests: Requests) {
        self.settle_call();
        let world = &self.world;
        let post = || {
            self.give_way(Point::Post(vcpu, requests));
            if world.broken == Broken::PostOverwrites {
                let _ = world.mailboxes[vcpu.index()].take();
            }
            world.mailboxes[vcpu.index()].post(requests);
            world.witness.borrow_mut().is_posted(vcpu.index(), requests);
            if requests.sgis() != 0 {
                world.guests[vcpu.index()]
                    .borrow_mut()
                    .owes(requests.sgis());
            }
        };
        let ring = || {
            self.give_way(Point::Ring(vcpu));
            let is_mute = match world.broken {
                Broken::SignalNotRung => requests == Requests::SDEI_SIGNAL,
                Broken::LookNotRung => requests == Requests::SDEI_LOOK,
                Broken::StopNotRung => requests == Requests::STOP,
                Broken::SgiNotRung => requests.sgis() != 0,
                Broken::ThawNotRung => requests.has(Requests::PAUSE.and(Requests::START)),
                _ => false,
            };
            if !is_mute {
                world.bells[vcpu.index()].set(true);
            }
        };
        if world.broken == Broken::RingsFirst {
            ring();
            post();
        } else {
            post();
            ring();
        }
        let published = &world.map.published;
        let mut said = world.said.borrow_mut();
        said.has_asked(published, self.n, vcpu, requests);
    }

    fn post_sender(&self, _: VcpuId, _: u32, _: VcpuId) {
        unreachable!("a GICv3's SGIs have no sender")
    }

    fn take_senders(&self, _: VcpuId, _: usize) -> u32 {
        unreachable!("a GICv3's SGIs have no sender")
    }

    fn remind(&self, requests: Requests) {
        self.settle_call();
        let is_thawed = core::mem::take(&mut self.pcpu().is_thawed);
        if is_thawed && self.world.broken == Broken::PauseForgets {
            return;
        }
        self.world.mailboxes[self.n].post(requests);
        self.world.witness.borrow_mut().is_posted(self.n, requests);
        if requests.sgis() != 0 {
            self.guest().owes(requests.sgis());
        }
    }

    fn is_asked(&self) -> bool {
        self.settle_call();
        !self.world.mailboxes[self.n].is_empty()
    }

    fn take(&self, me: VcpuId) -> Requests {
        self.settle_call();
        self.give_way(Point::Take);
        let (world, n) = (&self.world, self.n);
        let requests = world.mailboxes[me.index()].take();
        if world.broken == Broken::TakeInTwoSteps {
            world.mailboxes[me.index()].post(requests);
            self.give_way(Point::Take);
            let _ = world.mailboxes[me.index()].take();
        }
        let mut witness = world.witness.borrow_mut();
        if me.index() != n {
            // The VM is loaded anew.
            witness.mail_is_dropped(me.index());
            return requests;
        }
        let mut guest = self.guest();
        guest.has_start = requests.has(Requests::START);
        if !guest.is_inside || requests.has(Requests::STOP) {
            witness.mail_is_dropped(n);
            return requests;
        }
        if self.pcpu().is_paused {
            // It is put back when the pause is over.
            return requests;
        }
        witness.mail_is_taken(n);
        if requests.has(Requests::START) {
            guest.decides = Some(requests);
            return requests;
        }
        witness.signal_arrives(n);
        guest.looks = requests.has(Requests::SDEI_LOOK);
        requests
    }

    fn read_ram(&self, _: u64, _: &mut [u8]) {}
    fn hash_page(&self, _: u64) -> Word {
        Word::Zeros(1)
    }

    fn announce(&self, _: Ending) {}

    fn report(&self, _: &Vcpu) {
        self.guest().is_leaving = true;
    }

    fn give_up(&self) {}
    fn conclude(&self) {}

    fn finish(&self, _: After) {}

    fn keep_registers(&self, _: VcpuId, _: &GuestRegs) {}

    fn write_memory(&self, _: Kernel) -> Load {
        let world = &self.world;
        for n in 0..world.guests.len() {
            let mut guest = world.guests[n].borrow_mut();
            if guest.is_inside {
                world.expect(Err(format!(
                    "vCPU {n} is in the guest that is written anew"
                )));
            }
            guest.reset();
        }
        // It has a new clock.
        world.shown.set(0);
        *world.witness.borrow_mut() = Witness::new(&world.mpidrs);
        *world.spis.borrow_mut() = Spis::new();
        Load {
            entry: RAM.start,
            context: RAM.start,
        }
    }
}

impl Port<'_> {
    fn pcpu(&self) -> RefMut<'_, Pcpu> {
        self.world.pcpus[self.n].borrow_mut()
    }

    fn deactivate_physical(&self, intid: IntId, n: usize) {
        let mut active = self.world.active.borrow_mut();
        active.retain(|&active| active != key(intid, n));
    }

    /// The guest takes an interrupt from its list registers, and ends it.
    fn serve(&self) {
        let taken = self.pcpu().interface.acknowledge();
        let ended = self.pcpu().interface.end();
        if let Some((_, Ended::Physical(intid))) = ended {
            self.deactivate_physical(intid, self.n);
        }
        if let Some(taken) = taken {
            self.guest().takes(taken.intid);
            self.world.spis.borrow_mut().is_taken(taken.intid);
        }
    }
}

impl Site for Port<'_> {
    fn interface(&self) -> RefMut<'_, Interface> {
        RefMut::map(self.pcpu(), |pcpu| &mut pcpu.interface)
    }

    fn enter(&self, regs: &mut GuestRegs, _: &mut El1Values) -> Exit {
        // What the short way has answered, with nobody having given way.
        self.settle_call();
        let world = Rc::clone(&self.world);
        let n = self.n;
        {
            let mut guest = self.guest();
            if let Some((call, expected)) = guest.expected.take() {
                let answer = regs.x[0] as i64;
                if answer != expected {
                    world.expect(Err(format!(
                        "vCPU {n}: {call:?} answers {answer}, not {expected}"
                    )));
                }
            }
            drop(guest);
            let is_told = !world.mailboxes[n].is_empty()
                || world.points.iter().enumerate().any(|(other, point)| {
                    other != n && !matches!(point.get(), Point::Guest | Point::Sleep)
                });
            let verdict = world.witness.borrow().enters_guest(n, is_told);
            world.expect(verdict);
        }
        loop {
            self.give_way(Point::Guest);
            let is_settling = world.is_settling.get();
            let pcpu = self.pcpu();
            let is_interrupted = world.bells[n].get()
                || pcpu.waits.is_some()
                || pcpu.interface.wants_maintenance()
                || world.is_asked_by_operator(n);
            let shown = world.now.get() - pcpu.offset;
            drop(pcpu);
            if shown < world.shown.replace(shown) {
                world.expect(Err(format!("the clock goes back to {shown} on vCPU {n}")));
            }
            if is_interrupted && (is_settling || world.dice.borrow_mut().below(2) == 0) {
                return Exit::Interrupt;
            }
            if is_settling || world.dice.borrow_mut().below(4) == 0 {
                self.serve();
            }
            if !is_settling && let Some(exit) = self.act(regs) {
                return exit;
            }
        }
    }

    fn acknowledge(&self) -> Interrupt {
        self.settle_call();
        let mut pcpu = self.pcpu();
        match pcpu.waits.take() {
            None if pcpu.interface.wants_maintenance() => Interrupt::Maintenance(MAINTENANCE),
            None if self.world.is_asked_by_operator(self.n) => Interrupt::Console(CONSOLE),
            None => {
                self.world.bells[self.n].set(false);
                Interrupt::None
            }
            Some(intid) => {
                pcpu.in_hand = Some(intid);
                self.world.active.borrow_mut().push(key(intid, self.n));
                Interrupt::Guest(intid)
            }
        }
    }

    fn deactivate(&self, intid: IntId) {
        self.deactivate_physical(intid, self.n);
    }

    fn perform(&self, effects: &Effects) {
        let owner = effects.deactivate.owner().index();
        for intid in effects.deactivate.iter() {
            self.deactivate_physical(intid, owner);
        }
        if let Some(Physical::Reset(mask)) = effects.phys {
            let is_reset = |IntId(intid): IntId| {
                intid / 32 == mask.block && mask.bits >> (intid % 32) & 1 != 0
            };
            let mut active = self.world.active.borrow_mut();
            active.retain(|&(intid, _)| !is_reset(intid));
            for pcpu in &self.world.pcpus {
                let waits = &mut pcpu.borrow_mut().waits;
                *waits = waits.filter(|&intid| !is_reset(intid));
            }
        }
    }

    fn sleep(&self) {
        self.settle_call();
        self.give_way(Point::Sleep);
    }

    fn receive(&self) -> Option<Came> {
        let verb = self.world.asked.borrow_mut().pop_front()?;
        let id = self.world.requests.get() + 1;
        self.world.requests.set(id);
        Some(Came::Request(Asked {
            request: Request::new(id, verb, 0, 0),
            is_again: false,
            is_refused: false,
        }))
    }

    fn set_counter_offset(&self, offset: u64) {
        self.pcpu().offset = offset;
    }

    fn now(&self) -> Instant {
        Instant(self.world.now.get())
    }

    fn wait_for_siblings(&self, _: End) -> bool {
        self.give_way(Point::WaitForSiblings);
        true
    }

    fn show_guest(&self, is_on: bool) {
        self.guest().is_inside = is_on;
    }

    fn observe(&self, event: Event) {
        self.settle_call();
        let mut witness = self.world.witness.borrow_mut();
        match event {
            Event::SdeiDispatch { event, .. } => {
                let verdict = witness.enters(self.n, Some(event));
                self.world.expect(verdict);
                self.guest().expected = None;
            }
            Event::CpuOff => self.guest().is_leaving = true,
            Event::SystemSuspend => self.guest().is_suspended = true,
            Event::Started { .. } => {
                let was_suspended = core::mem::take(&mut self.guest().is_suspended);
                if was_suspended {
                    witness.company.mask(self.n);
                } else {
                    witness.started(self.n);
                }
                self.guest().start(was_suspended);
            }
            _ => {}
        }
    }
}

impl Port<'_> {
    /// The guest does something: its exit, if that is one.
    fn act(&self, regs: &mut GuestRegs) -> Option<Exit> {
        let world = &self.world;
        let again = self.guest().repeats(regs);
        if let Some(again) = again {
            return self.guest().perform(again, regs, &world.mpidrs);
        }
        let is_inside_handler = world.witness.borrow().company.is_running(self.n);
        let others_are_on = world.witness.borrow().others_are_on(self.n);
        let mut dice = world.dice.borrow_mut();
        let act = self
            .guest()
            .act(&mut dice, is_inside_handler, others_are_on, &world.mpidrs);
        drop(dice);
        if let super::guest::Act::Interrupt(event) = act {
            let (intid, may) = {
                let witness = world.witness.borrow();
                let intid = IntId(if event == crate::company::BOUND_PPI {
                    TIMER
                } else {
                    SPI
                });
                (intid, witness.company.may_interrupt(self.n, event))
            };
            if !may {
                return None;
            }
            // Taken at once: whether it is bound must not change in between. So nobody may be in its way.
            if world.held.iter().any(|held| held.get() != 0) {
                return None;
            }
            world.pcpus[self.n].borrow_mut().waits = Some(intid);
            return Some(Exit::Interrupt);
        }
        match act {
            super::guest::Act::Fire(intid) => return self.fire(intid),
            super::guest::Act::Spi(access) => world.spis.borrow_mut().stores(self.n, access),
            _ => {}
        }
        self.guest().perform(act, regs, &world.mpidrs)
    }

    /// The machine raises an SPI that is no event's, unless it is on its way already.
    fn fire(&self, intid: IntId) -> Option<Exit> {
        let world = &self.world;
        let is_active = world.active.borrow().contains(&key(intid, self.n));
        let waits = |pcpu: &RefCell<Pcpu>| pcpu.borrow().waits == Some(intid);
        let may = world.spis.borrow().may_fire(intid);
        if !may || is_active || world.pcpus.iter().any(waits) {
            return None;
        }
        self.pcpu().waits.get_or_insert(intid);
        Some(Exit::Interrupt)
    }
}
