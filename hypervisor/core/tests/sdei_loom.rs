//! Mailboxes and the board under every order that a weakly ordered machine may show them in. A doorbell is a word
//! that is set after what it is rung for: an SGI after a DSB (DDI0487 B2.3.12).

use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};

use hv_abi::sdei::Call;
use hv_core::entry::Features;
use hv_core::id::{Mpidr, VcpuId, VcpuSet};
use hv_core::mailbox::{Mailbox, Requests, Senders};
use hv_core::regs::{El1Values, GuestRegs};
use hv_core::sdei::{
    Board, Config, Definition, Due, Effect, Pe, Priority, Scope, SdeiEffects, SharedEvents,
    WithBoard,
};
use hv_core::siblings::Siblings;
use hv_core::vgic::{self, Vgic};
use hv_core::word::Word;
use loom::sync::atomic::AtomicU32;
use loom::sync::{Arc, Mutex};
use loom::thread;

#[derive(Debug)]
struct Shared(AtomicU32);

/// The vCPUs of the VM, in whose calls nothing of the board counts.
struct Family([Mpidr; 2]);

static EMPTY: Board = Board::EMPTY;

impl Siblings for Family {
    fn resolve(&self, mpidr: Mpidr) -> Option<VcpuId> {
        self.0.resolve(mpidr)
    }

    fn affinity(&self, vcpu: VcpuId) -> Option<Mpidr> {
        self.0.affinity(vcpu)
    }
}

impl WithBoard for Family {
    fn board(&self) -> &Board {
        &EMPTY
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self(AtomicU32::new(0))
    }
}

impl Word for Shared {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.0.store(value, order);
    }

    fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.0.swap(value, order)
    }

    fn fetch_or(&self, bits: u32, order: Ordering) -> u32 {
        self.0.fetch_or(bits, order)
    }

    fn compare_exchange(&self, old: u32, new: u32) -> Result<u32, u32> {
        self.0
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
    }
}

#[test]
fn what_two_post_is_taken_once_each_and_brings_what_they_wrote() {
    loom::model(|| {
        let mailbox = Arc::new(Mailbox::<Shared>::default());
        let written = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let requests = [Requests::SDEI_SIGNAL, Requests::SDEI_LOOK];
        let posters: Vec<_> = (0..2)
            .map(|n| {
                let (mailbox, written) = (mailbox.clone(), written.clone());
                thread::spawn(move || {
                    written[n].store(7, Relaxed);
                    mailbox.post(requests[n]);
                })
            })
            .collect();
        let early = mailbox.take();
        for (n, request) in requests.into_iter().enumerate() {
            if early.has(request) {
                assert_eq!(written[n].load(Relaxed), 7);
            }
        }
        for poster in posters {
            poster.join().unwrap();
        }
        let late = mailbox.take();
        assert_eq!(early.0 & late.0, 0, "taken twice");
        assert_eq!(early.and(late), requests[0].and(requests[1]), "lost");
    });
}

#[test]
fn an_sgi_has_all_its_senders_when_the_last_of_it_is_taken() {
    loom::model(|| {
        let mail = Arc::new((Mailbox::<Shared>::default(), Senders::<Shared>::default()));
        let senders: Vec<_> = (0..2)
            .map(|from| {
                let mail = mail.clone();
                thread::spawn(move || {
                    mail.1.post(5, from);
                    mail.0.post(Requests::sgi(5));
                })
            })
            .collect();
        let mut seen = 0;
        if mail.0.take().sgis() != 0 {
            seen = mail.1.take(1);
            assert_ne!(seen, 0, "an SGI without a sender");
        }
        for sender in senders {
            sender.join().unwrap();
        }
        if mail.0.take().sgis() != 0 {
            let late = mail.1.take(1);
            assert_eq!(seen & late, 0, "taken twice");
            seen |= late;
        }
        assert_eq!(seen, 0b11 << 8, "lost");
    });
}

#[test]
fn who_hears_the_doorbell_finds_the_mail() {
    loom::model(|| {
        let mailbox = Arc::new(Mailbox::<Shared>::default());
        let bell = Arc::new(AtomicU32::new(0));
        let poster = {
            let (mailbox, bell) = (mailbox.clone(), bell.clone());
            thread::spawn(move || {
                mailbox.post(Requests::SDEI_SIGNAL);
                bell.fetch_or(1, Release);
            })
        };
        // On the way into the guest, and again when the bell makes it leave.
        let mut taken = Requests::NONE;
        if !mailbox.is_empty() {
            taken = mailbox.take();
        }
        if bell.swap(0, Acquire) == 1 {
            if !mailbox.is_empty() {
                taken = taken.and(mailbox.take());
            }
            assert!(
                taken.has(Requests::SDEI_SIGNAL),
                "the bell was rung for nothing"
            );
        }
        poster.join().unwrap();
    });
}

const EVENT: Definition = Definition {
    number: 0x200,
    scope: Scope::Shared,
    priority: Priority::Normal,
};

/// A vCPU that may take the shared event.
struct Vcpu {
    pe: Pe,
    regs: GuestRegs,
    el1: El1Values,
}

impl Vcpu {
    /// Goes into its guest; whether it takes the event on the way.
    fn enter(&mut self, shared_events: &Mutex<SharedEvents>, board: &Board<Shared>) -> bool {
        if !self.pe.is_alert() || self.pe.due(board) != Some(Due::Shared) {
            return false;
        }
        let mut shared_events = shared_events.lock().unwrap();
        let regs = &mut self.regs;
        self.pe
            .dispatch_shared(&mut shared_events, board, regs, &self.el1)
            .is_some()
    }
}

/// Two vCPUs, unmasked and asleep, and a shared event that both may take.
fn company() -> ([Vcpu; 2], SharedEvents) {
    let config = Config {
        events: &[EVENT],
        ..Config::default()
    };
    let mpidrs = [0, 1].map(Mpidr::new);
    let vgic = Vgic::new(&vgic::Config {
        mpidrs: &mpidrs,
        last: VcpuSet::EMPTY,
        spis: 32,
        passed_through: &[],
        priority_bits: 5,
        list_regs: 4,
        model: vgic::Model::V3,
    });
    let mut shared_events = SharedEvents::new(2, &config);
    let mut vcpus = [0, 1].map(|n| Vcpu {
        pe: Pe::new(VcpuId(n), Features::default(), &config),
        regs: GuestRegs::default(),
        el1: El1Values::default(),
    });
    let blank = Board::<Shared>::new(2);
    for (n, vcpu) in vcpus.iter_mut().enumerate() {
        let Vcpu { pe, regs, el1 } = vcpu;
        if n == 0 {
            for call in [Call::EventRegister, Call::EventEnable] {
                regs.x[..4].copy_from_slice(&[0, EVENT.number.into(), 0x1000, 0]);
                let common = (&mut shared_events, &vgic);
                let _: SdeiEffects = pe.call_shared(call, regs, el1, &Family(mpidrs), common);
                assert_eq!(regs.x[0], 0);
            }
        }
        assert_eq!(
            pe.call(Call::PeUnmask, regs, el1, &Family(mpidrs)),
            Effect::None
        );
        assert_eq!(pe.due(&blank), None);
    }
    (vcpus, shared_events)
}

#[test]
fn a_shared_event_is_seen_at_once_or_when_the_bell_rings_and_taken_by_one() {
    // Three threads with every preemption would take hours; two preemptions are where races are.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let (vcpus, shared_events) = company();
        let shared_events = Arc::new(Mutex::new(shared_events));
        let board = Arc::new(Board::<Shared>::new(2));
        let bells = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let [first, second] = (0..)
            .zip(vcpus)
            .map(|(n, mut vcpu)| {
                let (shared_events, board, bells) =
                    (shared_events.clone(), board.clone(), bells.clone());
                move || {
                    // Something unrelated makes it look; later, or never in this test, its bell does.
                    vcpu.pe.look();
                    let mut took = vcpu.enter(&shared_events, &board);
                    let bell: &AtomicU32 = &bells[n];
                    if bell.swap(0, Acquire) == 1 {
                        vcpu.pe.look();
                        took |= vcpu.enter(&shared_events, &board);
                    }
                    (vcpu, took)
                }
            })
            .collect::<Vec<_>>()
            .try_into()
            .ok()
            .unwrap();
        let sibling = thread::spawn(second);
        let platform = {
            let (shared_events, board, bells) =
                (shared_events.clone(), board.clone(), bells.clone());
            thread::spawn(move || {
                let raise = |mut shared_events: loom::sync::MutexGuard<'_, SharedEvents>| {
                    shared_events.raise(EVENT.number, VcpuId(0), &board)
                };
                let look = raise(shared_events.lock().unwrap()).expect("it is defined");
                for vcpu in look.iter() {
                    bells[vcpu.index()].fetch_or(1, Release);
                }
            })
        };
        let mine = first();
        let theirs = sibling.join().unwrap();
        platform.join().unwrap();
        let mut count = 0;
        for (n, (mut vcpu, mut took)) in [mine, theirs].into_iter().enumerate() {
            if bells[n].swap(0, Acquire) == 1 {
                vcpu.pe.look();
                took |= vcpu.enter(&shared_events, &board);
            }
            count += u32::from(took);
        }
        assert_eq!(count, 1, "who take it");
    });
}
