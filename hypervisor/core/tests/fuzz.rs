//! Whatever a guest puts into its registers before it calls, whichever firmware it meets: nothing panics, every code
//! is a legal one, no register but x0 changes, nobody gets above EL1, and a call that fails changes nothing.
//!
//! `FUZZ_SECONDS=n cargo test --release -p hv-core --test fuzz` goes on for n seconds, from `FUZZ_SEED` if that is
//! set; a failure says the seed of its case, and `FUZZ_SEED` has it again.

use std::time::{Duration, Instant as Clock};

use hv_abi::firmware::{Fault, Firmware};
use hv_abi::sdei::{self, Call};
use hv_abi::vendor;
use hv_core::entry::Features;
use hv_core::exit::{self, Exit, Undescribed};
use hv_core::id::{IntId, Mpidr, VcpuId, VcpuSet};
use hv_core::psci::{Decision, Endian, Power, Reclaim, Start};
use hv_core::regs::{El1, El1Values, GuestRegs, pstate};
use hv_core::sdei::{Board, Config, Definition, Priority, Scope, SdeiEffects, SharedEvents};
use hv_core::time::{Frequency, Instant};
use hv_core::vgic::affinity::Affinities;
use hv_core::vgic::{self, Vgic};
use hv_core::vm::{Action, Attempts, Deferred, GuestMap, IpaRange, Pcpu, Vcpu, Verdict};

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

#[derive(Clone)]
struct Bench(El1Values);

impl El1 for Bench {
    fn vbar(&self) -> u64 {
        self.0.vbar
    }
    fn sctlr(&self) -> u64 {
        self.0.sctlr
    }
    fn stack_pointers(&self) -> [u64; 2] {
        self.0.sp
    }
    fn set_return(&mut self, elr: u64, spsr: u64) {
        self.0.set_return(elr, spsr);
    }
    fn set_syndrome(&mut self, esr: u64, far: u64) {
        self.0.set_syndrome(esr, far);
    }
}

impl Pcpu for Bench {
    fn id_register(&self, _: u32, _: u32) -> u64 {
        u64::MAX
    }
    fn now(&self) -> Instant {
        Instant(7)
    }
}

struct Vm {
    dice: Dice,
    map: GuestMap,
    shared_events: SharedEvents,
    vgic: Vgic,
    power: Power,
    vcpus: Vec<(Vcpu, GuestRegs, Bench)>,
}

impl Vm {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let event = |number, scope, priority| Definition {
            number,
            scope,
            priority,
        };
        let events = [
            event(0x100, Scope::Private, Priority::Normal),
            event(0x101, Scope::Private, Priority::Critical),
            event(0x200, Scope::Shared, Priority::Normal),
            event(0x201, Scope::Shared, Priority::Critical),
        ];
        let config = Config {
            firmware: dice.firmware(),
            events: &events,
            rate: Frequency(1_000_000),
        };
        let mpidrs: Vec<Mpidr> = (0..u64::from(VCPUS)).map(Mpidr::new).collect();
        let range = |start, size| IpaRange { start, size };
        let vcpu = |n| {
            let el1 = El1Values {
                vbar: dice.roll(),
                sctlr: dice.roll(),
                ..El1Values::default()
            };
            let features = Features::default();
            (
                Vcpu::new(VcpuId(n), features, &config),
                GuestRegs::default(),
                Bench(el1),
            )
        };
        Self {
            shared_events: SharedEvents::new(VCPUS.into(), &config),
            vgic: Vgic::new(&vgic::Config {
                mpidrs: &mpidrs,
                last: VcpuSet::EMPTY,
                spis: 64,
                passed_through: &[IntId(27), IntId(40)],
                priority_bits: 5,
                list_regs: 4,
                model: hv_core::vgic::Model::V3,
            }),
            power: Power::new(VcpuId(0)).with_reclaim(Reclaim::Parked),
            vcpus: (0..VCPUS).map(vcpu).collect(),
            map: GuestMap {
                affinities: Affinities::new(&mpidrs),
                ram: vec![range(0x4000_0000, 0x1000_0000)],
                uart: range(0x0900_0000, 0x1000),
                distributor: range(0x0800_0000, 0x1_0000),
                gic: hv_core::vgic::Model::V3,
                deactivate: IpaRange::default(),
                redistributors: vec![range(0x080a_0000, 0x00f6_0000)],
                board: Board::new(VCPUS.into()),
                has_debug_calls: true,
            },
            dice,
        }
    }

    /// All that is known of SDEI, but for "look again", which any call may say.
    fn knowledge(&self, n: usize) -> String {
        let sdei = format!("{:?}", self.vcpus[n].0.sdei);
        sdei.replace("is_alert: true", "is_alert: false") + &format!("{:?}", self.shared_events)
    }

    /// One exit of vCPU `n`, and the way back into the guest.
    fn exit(&mut self, n: usize) {
        let dice = &mut self.dice;
        let (_, regs, _) = &mut self.vcpus[n];
        if dice.is(3) {
            regs.x = core::array::from_fn(|_| dice.roll());
            let modes = [pstate::EL0T, pstate::EL1T, pstate::EL1H, pstate::AARCH32];
            regs.pstate =
                dice.roll() & (pstate::NZCV | pstate::DAIF) | modes[dice.below(4) as usize];
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
        let (exit, esr) = match dice.below(16) {
            0 => {
                let esr = dice.roll() & 0xffff_ffff;
                (exit::decode(esr, dice.roll(), dice.roll()), esr)
            }
            1..8 => (Exit::Hvc(0), 0x16 << 26),
            _ => (Exit::Smc(0), 0x17 << 26 | 1 << 25),
        };
        self.take(n, exit, esr);
        self.enter(n);
    }

    fn take(&mut self, n: usize, exit: Exit, esr: u64) {
        let knowledge = self.knowledge(n);
        let (vcpu, regs, bench) = &mut self.vcpus[n];
        let before = regs.clone();
        let was_running = vcpu.sdei.running();
        let far = self.dice.roll();
        let action = vcpu.handle_exit(exit, (esr, far), regs, bench, &self.map);
        match action {
            Action::Locked(Deferred::Sdei(call)) => {
                let common = (&mut self.shared_events, &mut self.vgic);
                let _: SdeiEffects = vcpu.call_shared(call, regs, bench, &self.map, common);
            }
            Action::Signal(target) => {
                let _ = self.vcpus[target.index()].0.sdei.post_signal(Instant(7));
            }
            Action::Locked(Deferred::Raise { event, target }) => {
                let look = self.shared_events.raise(event, target, &self.map.board);
                for vcpu in look.unwrap_or_default().iter() {
                    let raised = self.shared_events.take_raised(vcpu);
                    let sdei = &mut self.vcpus[vcpu.index()].0.sdei;
                    sdei.look();
                    raised.for_each(|place| sdei.post(place));
                }
                return;
            }
            Action::Locked(Deferred::Psci(call)) => return self.psci(n, call),
            _ => {}
        }
        let id = before.x[0] as u32;
        let is_call = matches!(exit, Exit::Smc(0) | Exit::Hvc(0));
        if let Some(call) = Call::from_id(id).filter(|_| is_call) {
            let has_ended = matches!(call, Call::EventComplete | Call::EventCompleteAndResume)
                && was_running.is_some()
                && self.vcpus[n].0.sdei.running() != was_running;
            if !has_ended {
                self.check_answer(n, call, &before, &knowledge);
            }
        }
    }

    /// A call that returned.
    fn check_answer(&self, n: usize, call: Call, before: &GuestRegs, knowledge: &str) {
        let (_, after, _) = &self.vcpus[n];
        let x0 = after.x[0] as i64;
        assert_eq!(after.x[1..], before.x[1..], "{call:?} changed a register");
        assert_eq!(after.pstate, before.pstate, "{call:?} changed PSTATE");
        // What CONTEXT reads may look like any code.
        if call == Call::EventContext || x0 >= 0 {
            return;
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
        if !is_partial {
            assert_eq!(
                self.knowledge(n),
                knowledge,
                "{call:?} failed with {x0} and changed something"
            );
        }
    }

    fn psci(&mut self, n: usize, call: hv_core::psci::Call) {
        let map = &self.map;
        let (vcpu, regs, _) = &mut self.vcpus[n];
        match self.power.call(
            VcpuId(n as u8),
            call,
            || Endian::Little,
            map,
            |ipa| map.is_ram(ipa),
            |vcpu| map.board.is_parked(vcpu),
        ) {
            Decision::Answer(value) => {
                let value = value as i64;
                assert!(value >= -10, "{call:?} answers {value}");
                regs.x[0] = value as u64;
            }
            Decision::Start(Start { vcpu: target, .. }) => self.power.started(target),
            Decision::Off => {
                let (shared_events, vgic) = (&mut self.shared_events, &mut self.vgic);
                let _ = vcpu.sdei.turn_off(shared_events, vgic, map);
            }
            _ => {}
        }
    }

    fn enter(&mut self, n: usize) {
        let (vcpu, regs, bench) = &mut self.vcpus[n];
        let board = &self.map.board;
        // A private and a shared event of each priority is the most that one entry takes.
        for _ in 0..4 {
            if !vcpu.dispatch_events(regs, bench, board) {
                break;
            }
            vcpu.dispatch_shared(&mut self.shared_events, regs, bench, board);
        }
        assert!(
            !vcpu.dispatch_events(regs, bench, board),
            "it never gets into its guest"
        );
        let is_el0_32 = regs.pstate & pstate::MODE == pstate::AARCH32;
        let level = regs.pstate >> 2 & 3;
        assert!(
            is_el0_32 || regs.pstate & pstate::AARCH32 == 0 && level <= 1,
            "{:#x}",
            regs.pstate
        );
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

#[test]
fn no_call_of_a_guest_panics_or_goes_beyond_what_it_may() {
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
        let mut vm = Vm::new(seed);
        for _ in 0..EXITS {
            let n = vm.dice.below(u64::from(VCPUS)) as usize;
            vm.exit(n);
        }
        drop(case);
    }
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
