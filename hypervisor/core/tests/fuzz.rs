//! Whatever a guest puts into its registers before it calls, whichever firmware it meets: nothing panics, every code
//! is a legal one, no register but x0 changes, nobody gets above EL1, and a call that fails changes nothing.
//!
//! `FUZZ_SECONDS=n cargo test --release -p hv-core --test fuzz` goes on for n seconds, from `FUZZ_SEED` if that is
//! set; a failure says the seed of its case, and `FUZZ_SEED` has it again.

use std::cell::{RefCell, RefMut};
use std::time::{Duration, Instant as Clock};

use hv_abi::firmware::{Fault, Firmware};
use hv_abi::policy::Policy;
use hv_abi::sdei::{self, Call};
use hv_abi::vendor;
use hv_core::entry::Features;
use hv_core::exit::{self, Exit, Undescribed};
use hv_core::id::{IntId, Mpidr, VcpuId};
use hv_core::psci::Reclaim;
use hv_core::regs::{El1Values, GuestRegs, pstate};
use hv_core::sdei::{Board, Config, Definition, Priority, Scope};
use hv_core::time::Frequency;
use hv_core::trace::Event;
use hv_core::vgic::affinity::Affinities;
use hv_core::vgic::{self, Effects, Model, Vgic};
use hv_core::vm::{
    Action, AtOnce, Attempts, End, GuestMap, Interrupt, IpaRange, Kernel, Load, Next, Outcome,
    OwnDevices, Pcpu, Saved, Shared, SharedConfig, Syndrome, Vcpu, Verdict, last_redistributors,
};
use hv_testbed::{Built, Cpu, Interface, Machine, RAM, Site};

const VCPUS: u8 = 3;
/// Cases of a run without `FUZZ_SECONDS`, and exits in each.
const CASES: u64 = 600;
const EXITS: usize = 120;

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    fn is(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    /// What might mean something, with a bit flipped now and then; or anything.
    fn word(&mut self) -> u64 {
        const USEFUL: [u64; 24] = [
            0,
            1,
            2,
            3,
            4,
            17,
            18,
            27,
            40,
            96,
            0x100,
            0x101,
            0x200,
            0x201,
            1 << 30,
            1 << 30 | 0x100,
            1 << 31,
            1 << 32,
            0x4000_1000,
            0xffff_8000_0000_1000,
            0x800,
            0xffff,
            u32::MAX as u64,
            u64::MAX,
        ];
        match self.below(16) {
            0 => self.roll(),
            1 => USEFUL[self.below(24) as usize] ^ 1 << self.below(64),
            _ => USEFUL[self.below(24) as usize],
        }
    }

    fn firmware(&mut self) -> Firmware {
        let mut firmware = Firmware::default();
        if self.is(2) {
            for (fault, _) in Fault::ALL {
                if self.is(5) && (fault != Fault::Absent || self.is(8)) {
                    firmware = firmware.with(fault);
                }
            }
            firmware.lost_every = self.below(4) as u32;
            firmware.delay_us = self.below(3) as u32;
        }
        firmware
    }
}

/// The events of each case.
static EVENTS: [Definition; 4] = [
    event(0x100, Scope::Private, Priority::Normal),
    event(0x101, Scope::Private, Priority::Critical),
    event(0x200, Scope::Shared, Priority::Normal),
    event(0x201, Scope::Shared, Priority::Critical),
];

const fn event(number: u32, scope: Scope, priority: Priority) -> Definition {
    Definition {
        number,
        scope,
        priority,
    }
}

fn config(dice: &mut Dice) -> Config<'static> {
    Config {
        firmware: dice.firmware(),
        events: &EVENTS,
        rate: Frequency(1_000_000),
    }
}

const PASSED_THROUGH: [IntId; 2] = [IntId(27), IntId(40)];

/// The registers of a guest that is about to exit; and the exit's ESR_EL2.
fn make_up(dice: &mut Dice, regs: &mut GuestRegs) -> u64 {
    if dice.is(3) {
        regs.x = core::array::from_fn(|_| dice.roll());
        let modes = [pstate::EL0T, pstate::EL1T, pstate::EL1H, pstate::AARCH32];
        regs.pstate = dice.roll() & (pstate::NZCV | pstate::DAIF) | modes[dice.below(4) as usize];
        regs.pc = dice.roll() & !3;
    }
    for x in &mut regs.x[1..6] {
        *x = dice.word();
    }
    let call = Call::ALL[dice.below(Call::ALL.len() as u64) as usize];
    regs.x[0] = match dice.below(12) {
        0 => dice.roll(),
        1 => u64::from(vendor::EVENT_RAISE),
        2 => 0xc400_0000 + dice.below(0x60),
        3 => 0x8400_0000 + dice.below(0x60),
        _ => call as u64,
    };
    match dice.below(16) {
        0 => dice.roll() & 0xffff_ffff,
        1..8 => 0x16 << 26,
        _ => 0x17 << 26 | 1 << 25,
    }
}

/// The SDEI call that an exit is, if it is one.
fn call_of(exit: Exit, before: &GuestRegs) -> Option<Call> {
    let is_call = matches!(exit, Exit::Smc(0) | Exit::Hvc(0));
    Call::from_id(before.x[0] as u32).filter(|_| is_call)
}

/// A call that returned. True if it has failed, and must have changed nothing.
fn check_answer(call: Call, before: &GuestRegs, after: &GuestRegs) -> bool {
    let x0 = after.x[0] as i64;
    assert_eq!(after.x[1..], before.x[1..], "{call:?} changed a register");
    assert_eq!(after.pstate, before.pstate, "{call:?} changed PSTATE");
    // What CONTEXT reads may look like any code.
    if call == Call::EventContext || x0 >= 0 {
        return false;
    }
    assert!(
        matches!(x0, -1 | -2 | -3 | -5 | -10),
        "{call:?} answers {x0}"
    );
    let is_partial = match call {
        Call::PrivateReset | Call::SharedReset => x0 == sdei::Status::Denied as i64,
        Call::EventUnregister => x0 == sdei::Status::Pending as i64,
        _ => false,
    };
    !is_partial
}

fn check_level(regs: &GuestRegs) {
    let is_el0_32 = regs.pstate & pstate::MODE == pstate::AARCH32;
    let level = regs.pstate >> 2 & 3;
    assert!(
        is_el0_32 || regs.pstate & pstate::AARCH32 == 0 && level <= 1,
        "{:#x}",
        regs.pstate
    );
}

/// Where a pCPU stands that nobody runs on.
struct Still(RefCell<Interface>);

impl Site for Still {
    fn interface(&self) -> RefMut<'_, Interface> {
        self.0.borrow_mut()
    }
    fn enter(&self, _: &mut GuestRegs, _: &mut El1Values) -> hv_testbed::Exit {
        panic!("what is tested here is between two entries")
    }
    fn acknowledge(&self) -> Interrupt {
        Interrupt::None
    }
    fn deactivate(&self, _: IntId) {}
    fn perform(&self, _: &Effects) {}
    fn sleep(&self) {}
    fn wait_for_siblings(&self, _: End) -> bool {
        true
    }
}

/// What the vCPUs share, and each vCPU, without the loop: so that all that is known of SDEI can be compared.
struct Values {
    map: GuestMap,
    shared: Shared,
    gic: Vgic,
    vcpus: Vec<(Vcpu, GuestRegs, Cpu<Still>)>,
}

impl Values {
    fn new(dice: &mut Dice) -> Self {
        let config = config(dice);
        let mpidrs: Vec<Mpidr> = (0..u64::from(VCPUS)).map(Mpidr::new).collect();
        let range = |start, size| IpaRange { start, size };
        let redistributors = vec![range(0x080a_0000, 0x00f6_0000)];
        let vgic = Vgic::new(&vgic::Config {
            mpidrs: &mpidrs,
            last: last_redistributors(&redistributors, VCPUS.into()),
            spis: 64,
            passed_through: &PASSED_THROUGH,
            priority_bits: 5,
            list_regs: 4,
            model: Model::V3,
        });
        let map = GuestMap {
            policy: Policy::USUAL,
            affinities: Affinities::new(&mpidrs),
            ram: vec![RAM],
            held: IpaRange::default(),
            uart: range(0x0900_0000, 0x1000),
            distributor: range(0x0800_0000, 0x1_0000),
            gic: Model::V3,
            deactivate: IpaRange::default(),
            nmi: hv_core::ladder::Config::USUAL,
            watchdog: None,
            published: vgic.published().clone(),
            redistributors,
            board: Board::new(VCPUS.into()),
            has_debug_calls: true,
            own: OwnDevices::default(),
            mediated: Vec::new(),
        };
        let mut shared = Shared::new(SharedConfig {
            vcpus: VCPUS.into(),
            sdei: config,
            reclaim: Reclaim::Parked,
            uart_intid: IntId(33),
            has_uart_page: false,
            flash: 0,
            gwdt: None,
        });
        let mut vcpus: Vec<_> = (0..VCPUS)
            .map(|n| {
                let interface = Interface::new(Model::V3, 4);
                let cpu = Cpu::new(Still(RefCell::new(interface)));
                let vcpu = Vcpu::new(VcpuId(n), Features::default(), &config);
                (vcpu, GuestRegs::default(), cpu)
            })
            .collect();
        let (_, _, cpu) = &mut vcpus[0];
        assert!(shared.begin_load(Kernel::Guest, cpu, (&map.board, &vgic)));
        let load = Load {
            entry: RAM.start,
            context: 0,
        };
        shared.end_load(load, Kernel::Guest);
        assert!(shared.start(VcpuId(0)).is_some());
        Self {
            map,
            shared,
            gic: vgic,
            vcpus,
        }
    }

    /// All that is known of SDEI, but for "look again", which any call may say.
    fn knowledge(&self, n: usize) -> String {
        let sdei = format!("{:?}", self.vcpus[n].0.sdei);
        let shared_events = format!("{:?}", self.shared.shared_events);
        sdei.replace("is_alert: true", "is_alert: false") + &shared_events
    }

    /// One exit of vCPU `n`, and the way back into the guest.
    fn exit(&mut self, dice: &mut Dice, n: usize) {
        let (_, regs, _) = &mut self.vcpus[n];
        let esr = make_up(dice, regs);
        let (far, hpfar) = (dice.roll(), dice.roll());
        self.take(dice, n, Syndrome { esr, far, hpfar });
        self.enter(n);
    }

    fn take(&mut self, dice: &mut Dice, n: usize, syndrome: Syndrome) {
        let Syndrome { esr, far, hpfar } = syndrome;
        let exit = exit::decode(esr, far, hpfar);
        let knowledge = self.knowledge(n);
        let (vcpu, regs, cpu) = &mut self.vcpus[n];
        let before = regs.clone();
        let was_running = vcpu.sdei.running();
        let saved = if dice.below(2) == 0 {
            Saved::All
        } else {
            Saved::Few
        };
        let action = match vcpu.at_once(syndrome, saved, regs, &self.map) {
            Some(AtOnce::Signal) => match vcpu.signal(regs, cpu, &self.map) {
                Some(target) => Action::Signal(target),
                None => Action::Resume,
            },
            Some(_) => Action::Resume,
            None => vcpu.handle_exit(exit, (esr, far), regs, cpu, &self.map),
        };
        match action {
            Action::Locked(deferred) => {
                let outcome = self
                    .shared
                    .finish(deferred, vcpu, regs, cpu, (&self.map, &self.gic));
                self.follow(n, outcome);
            }
            Action::Signal(target) => {
                let now = cpu.now();
                let _ = self.vcpus[target.index()].0.sdei.post_signal(now);
            }
            _ => {}
        }
        if let Some(call) = call_of(exit, &before) {
            let (vcpu, after, _) = &self.vcpus[n];
            let has_ended = matches!(call, Call::EventComplete | Call::EventCompleteAndResume)
                && was_running.is_some()
                && vcpu.sdei.running() != was_running;
            if !has_ended && check_answer(call, &before, after) {
                assert_eq!(
                    self.knowledge(n),
                    knowledge,
                    "{call:?} failed with {} and changed something",
                    after.x[0] as i64
                );
            }
        }
    }

    /// What the loop does when the lock has been released.
    fn follow(&mut self, n: usize, outcome: Outcome) {
        for target in outcome.look.iter() {
            let (vcpu, _, _) = &mut self.vcpus[target.index()];
            vcpu.sdei.look();
            self.shared.take_raised(vcpu);
        }
        match outcome.next {
            Next::Start(target) => {
                let (vcpu, regs, cpu) = &mut self.vcpus[target.index()];
                if let Some(start) = self.shared.start(target) {
                    vcpu.start(regs, start, cpu);
                }
            }
            // It goes on all the same: another guest's calls come from it.
            Next::Off => {
                let (vcpu, _, cpu) = &mut self.vcpus[n];
                let (_, outcome) = self.shared.turn_off(vcpu, cpu, (&self.map, &self.gic));
                assert_eq!(outcome.next, Next::Continue);
            }
            _ => {}
        }
    }

    fn enter(&mut self, n: usize) {
        let (vcpu, regs, cpu) = &mut self.vcpus[n];
        let board = &self.map.board;
        // A private and a shared event of each priority is the most that one entry takes.
        for _ in 0..4 {
            if !vcpu.dispatch_events(regs, cpu, board) {
                break;
            }
            self.shared.dispatch(vcpu, regs, cpu, board);
        }
        assert!(
            !vcpu.dispatch_events(regs, cpu, board),
            "it never gets into its guest"
        );
        check_level(regs);
    }
}

/// One exit of a vCPU that is on, of a machine whose vCPUs run their loops.
fn exit(machine: &mut Machine, dice: &mut Dice, n: u8) {
    let esr = make_up(dice, &mut machine.regs(n));
    let before = machine.regs(n).clone();
    let (far, hpfar) = (dice.roll(), dice.roll());
    let call = call_of(exit::decode(esr, far, hpfar), &before);
    let _ = machine.events(n);
    machine.exit(n, hv_testbed::Exit::Synchronous { esr, far, hpfar });
    if !machine.is_on(n) {
        return;
    }
    let after = machine.regs(n).clone();
    check_level(&after);
    let is_elsewhere = machine.events(n).iter().any(|event| {
        matches!(
            event,
            Event::SdeiDispatch { .. }
                | Event::SdeiComplete
                | Event::SdeiResume { .. }
                | Event::Started { .. }
        )
    });
    if is_elsewhere {
        return;
    }
    if let Some(call) = call {
        let _ = check_answer(call, &before, &after);
    }
    let is_smccc = matches!(exit::decode(esr, far, hpfar), Exit::Smc(0) | Exit::Hvc(0));
    // PSCI's functions, SMC32 and SMC64.
    if is_smccc && matches!(before.x[0] as u32 & !(1 << 30), 0x8400_0000..0x8400_0020) {
        let value = after.x[0] as i64;
        assert!(value >= -10, "{:#x} answers {value}", before.x[0]);
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number")),
    )
}

/// Says which case it was if it panics.
struct Case(u64);

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("FUZZ_SEED={} cargo test -p hv-core --test fuzz", self.0);
        }
    }
}

/// Runs `case` with one seed after the other.
fn for_each_seed(mut run: impl FnMut(u64)) {
    let first = number("FUZZ_SEED").unwrap_or(0);
    let time = number("FUZZ_SECONDS").map(Duration::from_secs);
    let start = Clock::now();
    for seed in first.. {
        let is_enough = match time {
            Some(time) => start.elapsed() >= time,
            None => seed - first == CASES,
        };
        if is_enough {
            println!("{} cases of {EXITS} exits", seed - first);
            break;
        }
        let case = Case(seed);
        run(seed);
        drop(case);
    }
}

#[test]
fn no_call_of_a_guest_panics_or_goes_beyond_what_it_may() {
    let mut exits = 0;
    for_each_seed(|seed| {
        let mut dice = Dice(seed);
        let built = Built {
            sdei: config(&mut dice),
            passed_through: PASSED_THROUGH.to_vec(),
            ..Built::new(VCPUS)
        };
        let mut machine = built.start();
        for n in 0..VCPUS {
            if n > 0 {
                machine.turn_on(0, n);
            }
            let mut el1 = machine.el1(n);
            (el1.vbar, el1.sctlr) = (dice.roll(), dice.roll());
        }
        for _ in 0..EXITS {
            let on: Vec<u8> = (0..VCPUS).filter(|&n| machine.is_on(n)).collect();
            if on.is_empty() {
                break;
            }
            let n = on[dice.below(on.len() as u64) as usize];
            exit(&mut machine, &mut dice, n);
            exits += 1;
            machine.finish_end();
            if dice.is(2) {
                machine.settle();
            }
        }
    });
    // Most guests live for a while.
    assert!(
        exits > CASES * EXITS as u64 / 8 || number("FUZZ_SECONDS").is_some(),
        "{exits}"
    );
}

#[test]
fn a_call_that_fails_changes_nothing() {
    for_each_seed(|seed| {
        let mut dice = Dice(seed);
        let mut values = Values::new(&mut dice);
        for _ in 0..EXITS {
            let n = dice.below(u64::from(VCPUS)) as usize;
            values.exit(&mut dice, n);
        }
    });
}

/// Any word may stand where an access was made that no syndrome describes, and any registers: what is performed is in
/// the page and the direction of the access, and a guest never tries for ever.
#[test]
fn no_instruction_performs_another_access_than_the_one_that_was_made() {
    const PAGE: u64 = 4096;
    /// Bits that make a word a single load or store with write-back, or a pair, when the others are anything.
    const SHAPES: [(u32, u32); 2] = [(0x3f20_0000, 0x3800_0000), (0x3e00_0000, 0x2800_0000)];
    let mut dice = Dice(11);
    let (mut performed, mut in_a_row) = (0, 0);
    let mut attempts = Attempts::default();
    for _ in 0..200_000 {
        let mut regs = GuestRegs {
            pstate: [pstate::EL0T, pstate::EL1T, pstate::EL1H][dice.below(3) as usize],
            ..GuestRegs::default()
        };
        let far = dice.roll();
        // Near enough to be met by an offset now and then.
        regs.x = core::array::from_fn(|_| far.wrapping_add(dice.below(64)).wrapping_sub(32));
        let sp = [far, far.wrapping_sub(16)];
        let el1 = El1Values {
            sp,
            ..El1Values::default()
        };
        let (mask, value) = SHAPES[dice.below(2) as usize];
        let word = match dice.is(8) {
            true => dice.roll() as u32,
            false => dice.roll() as u32 & !mask | value,
        };
        let exit = Undescribed {
            ipa: 0x0900_0000 | (far % PAGE),
            is_write: dice.is(2),
        };
        let word = (!dice.is(16)).then_some(word);
        match attempts.judge((exit, far), &regs, &el1, word) {
            Verdict::Perform(transfer) => {
                performed += 1;
                in_a_row = 0;
                assert_eq!(transfer.is_write, exit.is_write);
                let accesses: Vec<_> = transfer.accesses(exit.ipa).collect();
                assert!(matches!(accesses.len(), 1 | 2));
                assert_eq!(accesses[0].ipa, exit.ipa);
                for access in &accesses {
                    assert_eq!(access.is_write, exit.is_write);
                    assert!(access.rt <= 31 && matches!(access.size, 1 | 2 | 4 | 8));
                    let end = access.ipa + u64::from(access.size);
                    assert!(access.ipa / PAGE == (end - 1) / PAGE, "{access:x?}");
                    if let Some((register, _)) = transfer.write_back {
                        assert!(register == 31 || access.rt != register, "{transfer:x?}");
                    }
                }
            }
            Verdict::Retry => {
                in_a_row += 1;
                assert!(in_a_row <= Attempts::MOST);
            }
            Verdict::Refuse => in_a_row = 0,
        }
    }
    assert!(performed > 300, "only {performed} were performed");
}
