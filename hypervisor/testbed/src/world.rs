//! What all vCPUs of a machine in memory reach, and the way in which one of them does.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use corosensei::Yielder;
use hv_abi::operator::hashes::Word;
use hv_abi::policy::After;
use hv_core::id::{IntId, VcpuId, VmId};
use hv_core::mailbox::{Mailbox, Requests, Senders};
use hv_core::operator::{Came, OperatorLine};
use hv_core::regs::{El1Values, GuestRegs};
use hv_core::time::Instant;
use hv_core::trace::Event;
use hv_core::vgic::{Distributor, Effects, LrSource, Parts, Private, Published};
use hv_core::virtio::Mediator;
use hv_core::vm::{
    self, Answer, End, Ending, GuestMap, Interrupt, Kernel, Load, Shared, TracedCall,
};

use crate::exits::{page_word, ram_byte};
use crate::told::Told;
use crate::{ALARM, CONSOLE, Exit, Interface, MAINTENANCE, Physical, RAM, Site};

/// Where a vCPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It has not begun to wait for its start.
    Nowhere,
    /// In its guest.
    Guest,
    /// Asleep, off or suspended.
    Asleep,
    /// It ends the VM, and waits for siblings.
    Waiting,
}

/// One vCPU and its pCPU.
#[derive(Debug)]
pub(crate) struct Seat {
    pub place: Cell<Place>,
    pub mailbox: Mailbox,
    /// Who has sent it SGIs, of a GICv2.
    pub senders: Senders,
    pub bell: Cell<bool>,
    pub interface: RefCell<Interface>,
    /// Its registers while it is in the guest.
    pub regs: RefCell<GuestRegs>,
    pub el1: RefCell<El1Values>,
    /// Why it leaves the guest next.
    pub exit: Cell<Option<Exit>>,
    /// How often it has entered its guest.
    pub entries: Cell<u64>,
    /// How often it has taken a lock of its VM's.
    pub locks: Cell<u64>,
    /// What the operator asks of it.
    pub question: Cell<u64>,
    /// How often it was sent the operator's virtual SError.
    pub nmis: Cell<u64>,
    /// It has not taken that.
    pub has_serror: Cell<bool>,
    /// When its alarm goes off.
    pub alarm: Cell<Option<Instant>>,
    /// How far its virtual counter is behind, and whether its virtual timer is masked.
    pub offset: Cell<u64>,
    pub is_timer_masked: Cell<bool>,
    /// The instruction that it stands at.
    pub instruction: Cell<Option<u32>>,
    /// What it has traced since somebody looked.
    pub events: RefCell<Vec<Event>>,
}

/// What all vCPUs reach.
#[derive(Debug)]
pub struct World {
    /// Which VM this is.
    pub(crate) id: Cell<VmId>,
    /// The machine's other VM, if it has one.
    pub(crate) other: RefCell<Weak<World>>,
    pub(crate) shared: RefCell<Shared>,
    /// Its mediated devices, in the order of the map.
    pub(crate) mediated: Vec<RefCell<Mediator>>,
    pub(crate) distributor: RefCell<Distributor>,
    /// What is each vCPU's own of the virtual GIC.
    pub(crate) interrupts: Vec<RefCell<Private>>,
    pub(crate) map: GuestMap,
    pub(crate) seats: Vec<Seat>,
    pub(crate) physical: RefCell<Physical>,
    /// What was to become of the machine each time that the VM was off.
    pub(crate) finished: RefCell<Vec<After>>,
    pub(crate) loaded: RefCell<Vec<Kernel>>,
    pub(crate) kept: RefCell<Vec<(VcpuId, u64)>>,
    /// Bytes that the machine's console has received.
    pub(crate) received: RefCell<VecDeque<u8>>,
    /// What has been taken in of them.
    pub(crate) line: RefCell<OperatorLine>,
    /// What the operator was told.
    pub(crate) answers: RefCell<Vec<Told>>,
    /// The calls that were told of since somebody looked.
    pub(crate) calls: RefCell<Vec<TracedCall>>,
    pub(crate) traces_calls: bool,
    /// Short ways past the general one are open.
    pub(crate) has_short_ways: bool,
    pub(crate) tells_lines: bool,
    /// Who waits for siblings goes on waiting.
    pub(crate) is_patient: Cell<bool>,
    pub(crate) now: Cell<u64>,
}

impl World {
    /// Whether something interrupts the pCPU of vCPU `n`, which takes it.
    pub(crate) fn is_interrupted(&self, n: u8) -> bool {
        let seat = &self.seats[usize::from(n)];
        if seat.place.get() == Place::Waiting {
            return false;
        }
        seat.bell.get()
            || self.physical.borrow().fires(n).is_some()
            || seat.interface.borrow().wants_maintenance()
            || seat.alarm.get().is_some_and(|at| at.0 <= self.now.get())
            || n == 0 && !self.received.borrow().is_empty()
    }

    /// Whether another vCPU than `n` has an interrupt in a list register with HW = 1.
    pub(crate) fn is_elsewhere(&self, intid: IntId, n: u8) -> bool {
        (0..).zip(&self.seats).any(|(other, seat)| {
            if other == n {
                return false;
            }
            let lr = seat.interface.borrow().find(intid);
            lr.is_some_and(|lr| matches!(lr.source, LrSource::Hardware { .. }))
        })
    }
}

/// The world as one vCPU reaches it.
pub(crate) struct Port<'y> {
    pub world: Rc<World>,
    pub yielder: &'y Yielder<(), ()>,
    pub n: u8,
}

impl Clone for Port<'_> {
    fn clone(&self) -> Self {
        Self {
            world: Rc::clone(&self.world),
            ..*self
        }
    }
}

impl Port<'_> {
    fn seat(&self) -> &Seat {
        &self.world.seats[usize::from(self.n)]
    }

    fn count_lock(&self) {
        let locks = &self.seat().locks;
        locks.set(locks.get() + 1);
    }

    fn give_way(&self, place: Place) {
        self.seat().place.set(place);
        self.yielder.suspend(());
    }
}

impl Parts for Port<'_> {
    type Distributor<'a>
        = RefMut<'a, Distributor>
    where
        Self: 'a;
    type Private<'a>
        = RefMut<'a, Private>
    where
        Self: 'a;

    fn published(&self) -> &Published {
        &self.world.map.published
    }

    fn distributor(&self) -> RefMut<'_, Distributor> {
        self.count_lock();
        self.world.distributor.borrow_mut()
    }

    fn try_distributor(&self) -> Option<RefMut<'_, Distributor>> {
        let is_free = self.world.has_short_ways;
        is_free.then(|| self.world.distributor.try_borrow_mut().ok())?
    }

    fn private(&self, vcpu: VcpuId) -> Option<RefMut<'_, Private>> {
        self.count_lock();
        let part = self.world.interrupts.get(vcpu.index())?;
        Some(part.borrow_mut())
    }
}

impl vm::Vm for Port<'_> {
    type Guard<'a>
        = RefMut<'a, Shared>
    where
        Self: 'a;

    type Mediator<'a>
        = RefMut<'a, Mediator>
    where
        Self: 'a;

    fn mediator(&self, number: usize) -> Option<RefMut<'_, Mediator>> {
        self.count_lock();
        let mediator = self.world.mediated.get(number)?;
        Some(mediator.borrow_mut())
    }

    fn lock(&self) -> RefMut<'_, Shared> {
        self.count_lock();
        self.world.shared.borrow_mut()
    }

    fn id(&self) -> VmId {
        self.world.id.get()
    }

    fn peer(&self, id: VmId) -> Option<Self> {
        if id == self.world.id.get() {
            return Some(self.clone());
        }
        let other = self.world.other.borrow().upgrade();
        let world = other.filter(|other| other.id.get() == id)?;
        Some(Self {
            world,
            n: 0,
            ..*self
        })
    }

    fn map(&self) -> &GuestMap {
        &self.world.map
    }

    fn post_question(&self, vcpu: VcpuId, word: u64) {
        if let Some(seat) = self.world.seats.get(vcpu.index()) {
            seat.question.set(word);
        }
    }

    fn take_question(&self, me: VcpuId) -> u64 {
        self.world.seats[me.index()].question.take()
    }

    fn ask(&self, vcpu: VcpuId, requests: Requests) {
        if let Some(seat) = self.world.seats.get(vcpu.index()) {
            seat.mailbox.post(requests);
            seat.bell.set(true);
        }
    }

    fn post_sender(&self, vcpu: VcpuId, intid: u32, from: VcpuId) {
        if let Some(seat) = self.world.seats.get(vcpu.index()) {
            seat.senders.post(intid, from.0);
        }
    }

    fn take_senders(&self, me: VcpuId, group: usize) -> u32 {
        self.world.seats[me.index()].senders.take(group)
    }

    fn remind(&self, requests: Requests) {
        self.seat().mailbox.post(requests);
    }

    /// Without short ways somebody has always kicked: then all list registers are folded and chosen anew.
    fn is_asked(&self) -> bool {
        !self.world.has_short_ways || !self.seat().mailbox.is_empty()
    }

    fn take(&self, me: VcpuId) -> Requests {
        let requests = self.world.seats[me.index()].mailbox.take();
        if self.world.has_short_ways {
            requests
        } else {
            Requests(requests.0 | Requests::SYNC.0)
        }
    }

    fn read_ram(&self, ipa: u64, to: &mut [u8]) {
        for (at, byte) in (ipa..).zip(to) {
            *byte = ram_byte(at) ^ self.world.id.get().0;
        }
    }

    fn hash_page(&self, ipa: u64) -> Word {
        page_word(ipa)
    }

    fn announce(&self, _: Ending) {}
    fn report(&self, _: &vm::Vcpu) {}
    fn give_up(&self) {}
    fn conclude(&self) {}
    fn finish(&self, after: After) {
        self.world.finished.borrow_mut().push(after);
    }

    fn keep_registers(&self, vcpu: VcpuId, regs: &GuestRegs) {
        self.world.kept.borrow_mut().push((vcpu, regs.pc));
    }

    fn write_memory(&self, kernel: Kernel) -> Load {
        self.world.loaded.borrow_mut().push(kernel);
        Load {
            entry: RAM.start,
            context: 0,
        }
    }
}

impl Site for Port<'_> {
    fn interface(&self) -> RefMut<'_, Interface> {
        self.seat().interface.borrow_mut()
    }

    fn enter(&self, regs: &mut GuestRegs, el1: &mut El1Values) -> Exit {
        let seat = self.seat();
        seat.regs.replace(regs.clone());
        seat.el1.replace(el1.clone());
        seat.entries.set(seat.entries.get() + 1);
        self.give_way(Place::Guest);
        regs.clone_from(&seat.regs.borrow());
        el1.clone_from(&seat.el1.borrow());
        seat.exit
            .take()
            .expect("a vCPU leaves its guest for a reason")
    }

    fn traces_calls(&self) -> bool {
        self.world.traces_calls
    }

    fn tell_of_call(&self, call: &TracedCall) {
        self.world.calls.borrow_mut().push(*call);
    }

    fn acknowledge(&self) -> Interrupt {
        let (world, n) = (&self.world, self.n);
        let fires = world.physical.borrow().fires(n);
        if let Some(intid) = fires {
            world.physical.borrow_mut().acknowledge(intid, n);
            let mut mediated = world.map.mediated.iter();
            if mediated.any(|transport| transport.intid == intid) {
                return Interrupt::Device(intid);
            }
            Interrupt::Guest(intid)
        } else if self.interface().wants_maintenance() {
            Interrupt::Maintenance(MAINTENANCE)
        } else if self.seat().alarm.get().is_some_and(|at| at <= self.now()) {
            Interrupt::Alarm(ALARM)
        } else if n == 0 && !world.received.borrow().is_empty() {
            Interrupt::Console(CONSOLE)
        } else {
            self.seat().bell.set(false);
            Interrupt::None
        }
    }

    fn deactivate(&self, intid: IntId) {
        self.world.physical.borrow_mut().deactivate(intid, self.n);
    }

    fn perform(&self, effects: &Effects) {
        for intid in effects.deactivate.iter() {
            assert!(
                intid.is_private() || !self.world.is_elsewhere(intid, self.n),
                "{intid:?} is deactivated under a list register"
            );
        }
        self.world.physical.borrow_mut().perform(effects);
    }

    fn lines(&self, owner: VcpuId, block: u32) -> Option<u32> {
        let (physical, VcpuId(owner)) = (self.world.physical.borrow(), owner);
        (block == 0 || self.world.tells_lines).then(|| physical.pending(block, owner))
    }

    fn sleep(&self) {
        self.give_way(Place::Asleep);
    }

    fn wait_for_siblings(&self, _: End) -> bool {
        self.give_way(Place::Waiting);
        self.world.is_patient.get()
    }

    fn observe(&self, event: Event) {
        self.seat().events.borrow_mut().push(event);
    }

    fn receive(&self) -> Option<Came> {
        let byte = self.world.received.borrow_mut().pop_front()?;
        Some(self.world.line.borrow_mut().push(byte))
    }

    fn answer(&self, answer: Answer<'_>) {
        self.world.answers.borrow_mut().push(Told::of(answer));
    }

    fn set_counter_offset(&self, offset: u64) {
        self.seat().offset.set(offset);
    }

    fn mask_virtual_timer(&self, is_masked: bool) {
        self.seat().is_timer_masked.set(is_masked);
    }

    fn set_alarm(&self, at: Option<Instant>) {
        self.seat().alarm.set(at);
    }

    fn instruction(&self, _: u64) -> Option<u32> {
        self.seat().instruction.get()
    }

    fn is_serror_pending(&self) -> bool {
        self.seat().has_serror.get()
    }

    fn send_nmi(&self) {
        self.seat().has_serror.set(true);
        let nmis = &self.seat().nmis;
        nmis.set(nmis.get() + 1);
    }

    fn now(&self) -> Instant {
        Instant(self.world.now.get())
    }
}
