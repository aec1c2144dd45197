//! One vCPU from exit to entry, as the shell drives it, on the host.

use hv_abi::policy::Policy;
use hv_abi::sdei;
use hv_core::entry::Features;
use hv_core::exit;
use hv_core::gwdt;
use hv_core::id::{Mpidr, VcpuId, VcpuSet};
use hv_core::psci::{self, Start};
use hv_core::regs::{El1, El1Values, Exception, GuestRegs, pstate};
use hv_core::sdei::{Board, Config, Departure, SharedEvents};
use hv_core::time::Instant;
use hv_core::trace::Event;
use hv_core::trng;
use hv_core::vgic::affinity::Affinities;
use hv_core::vgic::interface::InterfaceState;
use hv_core::vgic::{self, Frame, Vgic};
use hv_core::vm::{
    Action, AtOnce, Deferred, GuestMap, IpaRange, OwnDevice, OwnDevices, Pcpu, REDISTRIBUTOR_SIZE,
    Saved, Syndrome, Vcpu, write_register,
};

/// A pCPU in memory.
struct Bench {
    el1: El1Values,
    id: u64,
    interface: InterfaceState,
}

impl El1 for Bench {
    fn vbar(&self) -> u64 {
        self.el1.vbar
    }
    fn sctlr(&self) -> u64 {
        self.el1.sctlr
    }
    fn stack_pointers(&self) -> [u64; 2] {
        self.el1.sp
    }
    fn exception(&self) -> Exception {
        self.el1.exception()
    }
    fn set_return(&mut self, elr: u64, spsr: u64) {
        self.el1.set_return(elr, spsr);
    }
    fn set_syndrome(&mut self, esr: u64, far: u64) {
        self.el1.set_syndrome(esr, far);
    }
}

impl Pcpu for Bench {
    fn id_register(&self, _: u32, _: u32) -> u64 {
        self.id
    }
    fn now(&self) -> Instant {
        Instant(7)
    }
    fn interface_state(&self) -> InterfaceState {
        self.interface
    }
    fn set_ich_vmcr(&mut self, value: u64) {
        self.interface.vmcr = value;
    }
}

struct Rig {
    vcpu: Vcpu,
    regs: GuestRegs,
    bench: Bench,
    map: GuestMap,
    /// Of the last exit that was settled at once.
    left: AtOnce,
}

const ENTRY: u64 = 0x4020_0000;
const VBAR: u64 = 0xffff_8000_0800_0000;

fn rig() -> Rig {
    let range = |start, size| IpaRange { start, size };
    let mpidrs: Vec<Mpidr> = (0..4).map(Mpidr::new).collect();
    let interrupts = hv_core::vgic::Config {
        model: hv_core::vgic::Model::V3,
        mpidrs: &mpidrs,
        last: VcpuSet::EMPTY,
        spis: 64,
        passed_through: &[],
        priority_bits: 5,
        list_regs: 4,
    };
    let map = GuestMap {
        policy: Policy::USUAL,
        affinities: Affinities::new(&mpidrs),
        ram: vec![range(0x4000_0000, 0x1000_0000)],
        held: IpaRange::default(),
        uart: range(0x0900_0000, 0x1000),
        distributor: range(0x0800_0000, 0x1_0000),
        gic: hv_core::vgic::Model::V3,
        deactivate: IpaRange::default(),
        nmi: hv_core::ladder::Config::USUAL,
        watchdog: None,
        published: Vgic::new(&interrupts).published().clone(),
        redistributors: vec![range(0x080a_0000, 0x00f6_0000)],
        board: Board::new(4),
        has_debug_calls: false,
        own: OwnDevices::default(),
        mediated: Vec::new(),
    };
    let mut rig = Rig {
        vcpu: Vcpu::new(VcpuId(1), Features::default(), &Config::default()),
        regs: GuestRegs::default(),
        bench: Bench {
            el1: El1Values {
                vbar: VBAR,
                sp: [0x1000, 0x2000],
                ..El1Values::default()
            },
            id: 0,
            interface: InterfaceState::default(),
        },
        map,
        left: AtOnce::Resume,
    };
    let start = Start {
        vcpu: VcpuId(1),
        entry: ENTRY,
        context: 0x4000_0000,
        x4: 0,
        endian: psci::Endian::Little,
    };
    rig.vcpu.start(&mut rig.regs, start, &rig.bench);
    rig
}

impl Rig {
    fn exit(&mut self, esr: u64, far: u64, hpfar: u64) -> Action {
        let syndrome = Syndrome { esr, far, hpfar };
        let Self {
            vcpu,
            regs,
            bench,
            map,
            left,
        } = self;
        vcpu.move_to(bench);
        match vcpu.at_once(syndrome, Saved::All, regs, map) {
            Some(AtOnce::Signal) => match vcpu.signal(regs, bench, map) {
                Some(target) => Action::Signal(target),
                None => Action::Resume,
            },
            Some(done) => {
                *left = done;
                Action::Resume
            }
            None => {
                let exit = exit::decode(esr, far, hpfar);
                vcpu.handle_exit(exit, (esr, far), regs, bench, map)
            }
        }
    }

    /// What the short way does with the exit.
    fn short(&mut self, esr: u64, far: u64, hpfar: u64) -> Option<AtOnce> {
        let Self {
            vcpu, regs, map, ..
        } = self;
        vcpu.at_once(Syndrome { esr, far, hpfar }, Saved::Few, regs, map)
    }

    fn smc(&mut self, function: u32, args: [u64; 3]) -> Action {
        self.regs.x[0] = u64::from(function);
        self.regs.x[1..4].copy_from_slice(&args);
        self.exit(0x17 << 26 | 1 << 25, 0, 0)
    }

    fn sdei(&mut self, call: sdei::Call, args: [u64; 3]) -> u64 {
        let action = self.smc(call as u32, args);
        assert_eq!(action, Action::Resume);
        self.regs.x[0]
    }

    fn arm_event_0(&mut self, handler: u64) {
        assert_eq!(self.sdei(sdei::Call::EventRegister, [0, handler, 0xa4]), 0);
        assert_eq!(self.sdei(sdei::Call::EventEnable, [0; 3]), 0);
        assert_eq!(self.sdei(sdei::Call::PeUnmask, [0; 3]), 0);
    }

    fn dispatch(&mut self) {
        let is_shared = self
            .vcpu
            .dispatch_events(&mut self.regs, &self.bench, &self.map.board);
        assert!(!is_shared, "there is no shared event");
    }
}

#[test]
fn a_vcpu_starts_as_cpu_on_promises() {
    let rig = rig();
    assert_eq!(rig.regs.pc, ENTRY);
    assert_eq!(rig.regs.pstate, pstate::EL1H | pstate::DAIF | pstate::Z);
    assert_eq!(rig.regs.x[0], 0x4000_0000);
    assert!(rig.regs.x[1..].iter().all(|&x| x == 0));
}

#[test]
fn c009_a_trapped_smc_is_stepped_over_and_an_hvc_is_not_stepped_over_twice() {
    let mut rig = rig();
    rig.regs.x[0] = 0x8000_0000;
    assert_eq!(rig.exit(0x17 << 26, 0, 0), Action::Resume);
    assert_eq!((rig.regs.pc, rig.regs.x[0]), (ENTRY + 4, 0x1_0002));
    rig.regs.x[0] = 0x8000_0000;
    assert_eq!(rig.exit(0x16 << 26, 0, 0), Action::Resume);
    assert_eq!((rig.regs.pc, rig.regs.x[0]), (ENTRY + 4, 0x1_0002));
}

#[test]
fn c005_the_upper_half_of_x0_is_ignored() {
    let mut rig = rig();
    rig.regs.x[0] = 0xdead_beef_8000_0000;
    assert_eq!(rig.exit(0x17 << 26, 0, 0), Action::Resume);
    assert_eq!(rig.regs.x[0], 0x1_0002);
}

#[test]
fn psci_goes_to_the_vm() {
    assert_eq!(
        rig().smc(0x8400_0002, [0; 3]),
        Action::Locked(Deferred::Psci(psci::Call::CpuOff))
    );
}

#[test]
fn psci_version_needs_no_vm() {
    let mut rig = rig();
    assert_eq!(rig.smc(0x8400_0000, [0; 3]), Action::Resume);
    assert_eq!(rig.regs.x[0], 0x1_0003);
}

#[test]
fn random_numbers_are_the_pcpus_affair() {
    assert_eq!(
        rig().smc(0xC400_0053, [128, 0, 0]),
        Action::Trng(trng::Call::Rnd64(128))
    );
}

#[test]
fn the_hypervisors_uuid_is_in_x0_to_x3_and_nothing_else_changes() {
    let mut rig = rig();
    rig.regs.x = [u64::MAX; 31];
    assert_eq!(rig.smc(0x8600_FF01, [u64::MAX; 3]), Action::Resume);
    let uuid = [0x6c37_e9ab, 0xee42_22c8, 0xe8dc_45b2, 0xf042_becd];
    assert_eq!(rig.regs.x[..4], uuid);
    assert!(rig.regs.x[4..].iter().all(|&x| x == u64::MAX));
}

#[test]
fn signalling_a_sibling_is_an_action_and_signalling_oneself_is_not() {
    let mut rig = rig();
    rig.arm_event_0(0x4030_0000);
    let signal = sdei::Call::EventSignal as u32;
    assert_eq!(rig.smc(signal, [0, 3, 0]), Action::Signal(VcpuId(3)));
    assert_eq!(rig.regs.x[0], 0);
    assert_eq!(rig.smc(signal, [0, 9, 0]), Action::Resume);
    assert_eq!(rig.regs.x[0] as i64, -2);
    assert_eq!(rig.smc(signal, [0, 1, 0]), Action::Resume);
    rig.dispatch();
    assert_eq!(rig.regs.pc, 0x4030_0000, "before the next instruction");
}

#[test]
fn c180_event_0_enters_a_wedged_vcpu_and_its_registers_are_on_record() {
    let mut rig = rig();
    rig.arm_event_0(0x4030_0000);
    for (n, x) in rig.regs.x.iter_mut().enumerate() {
        *x = 0x1111 * n as u64;
    }
    rig.regs.pc = 0x4040_0000;
    rig.regs.pstate = pstate::EL1H | pstate::DAIF | 1 << 29;
    let wedged = rig.regs.clone();

    rig.dispatch();
    assert_eq!(rig.regs, wedged, "nothing is due");
    let _ = rig.vcpu.sdei.post_signal(Instant(0));
    rig.dispatch();

    assert_eq!(rig.regs.pc, 0x4030_0000);
    assert_eq!(rig.regs.x[..4], [0, 0xa4, wedged.pc, wedged.pstate]);
    assert_eq!(rig.regs.x[4..], wedged.x[4..]);
    let record = rig.vcpu.records().last().expect("a record");
    assert_eq!(record.interrupted.x, wedged.x);
    assert_eq!(record.interrupted.pc, wedged.pc);
    assert_eq!(record.interrupted.pstate, wedged.pstate);
    assert_eq!(record.interrupted.sp, [0x1000, 0x2000]);
    assert!(!record.is_complete);

    assert_eq!(
        rig.smc(sdei::Call::EventComplete as u32, [0; 3]),
        Action::Resume
    );
    assert_eq!(rig.regs, wedged);
    assert!(rig.vcpu.records().all(|record| record.is_complete));
    let events: Vec<Event> = rig.vcpu.trace().map(|(_, event)| event).collect();
    assert_eq!(
        events,
        [
            Event::Started { entry: ENTRY },
            Event::PeUnmask,
            Event::SdeiDispatch {
                event: 0,
                pc: wedged.pc
            },
            Event::SdeiComplete
        ]
    );
}

#[test]
fn c090_an_event_that_comes_with_an_access_enters_behind_it() {
    let mut rig = rig();
    rig.arm_event_0(0x4030_0000);
    rig.regs.pc = 0x4040_0000;
    let _ = rig.vcpu.sdei.post_signal(Instant(0));
    let (esr, far, hpfar) = load(0x0900_0018);
    let Action::Locked(Deferred::Uart { access, .. }) = rig.exit(esr, far, hpfar) else {
        panic!("no access");
    };
    assert_eq!(rig.regs.pc, 0x4040_0000, "the access comes first");
    // What the shell does, once.
    write_register(&mut rig.regs, access.rt, 0x90);
    rig.regs.pc += 4;
    rig.dispatch();
    assert_eq!((rig.regs.pc, rig.regs.x[2]), (0x4030_0000, 0x4040_0004));
    let complete = sdei::Call::EventComplete as u32;
    assert_eq!(rig.smc(complete, [0; 3]), Action::Resume);
    assert_eq!((rig.regs.pc, rig.regs.x[3]), (0x4040_0004, 0x90));
}

#[test]
fn c091_an_event_that_comes_with_an_exception_enters_on_top_of_it() {
    let mut rig = rig();
    rig.arm_event_0(0x4030_0000);
    rig.regs.pc = 0x4040_0000;
    let _ = rig.vcpu.sdei.post_signal(Instant(0));
    // An instruction that is undefined to a guest, and an access to nothing.
    let (esr, far, hpfar) = load(0x1000);
    for (esr, far, hpfar, class) in [(0x19 << 26 | 1 << 25, 0, 0, 0), (esr, far, hpfar, 0x25)] {
        rig.regs.pc = 0x4040_0000;
        assert_eq!(rig.exit(esr, far, hpfar), Action::Resume);
        let _ = rig.vcpu.sdei.post_signal(Instant(0));
        rig.dispatch();
        let vector = VBAR + 0x200;
        assert_eq!((rig.regs.pc, rig.regs.x[2]), (0x4030_0000, vector));
        let complete = sdei::Call::EventComplete as u32;
        assert_eq!(rig.smc(complete, [0; 3]), Action::Resume);
        assert_eq!(rig.regs.pc, vector);
        let el1 = &rig.bench.el1;
        assert_eq!((el1.esr >> 26, el1.elr), (class, 0x4040_0000));
    }
}

/// What CPU_OFF does of SDEI.
fn turn_off(rig: &mut Rig) {
    let config = Config::default();
    let mut shared_events = SharedEvents::new(4, &config);
    let vgic = Vgic::new(&vgic::Config {
        mpidrs: &[0, 1, 2, 3].map(Mpidr::new),
        last: VcpuSet::EMPTY,
        spis: 32,
        passed_through: &[],
        priority_bits: 5,
        list_regs: 4,
        model: hv_core::vgic::Model::V3,
    });
    let (departure, _) = rig.vcpu.sdei.turn_off(&mut shared_events, &vgic, &rig.map);
    assert_eq!(departure, Departure::Off);
}

#[test]
fn c202_switching_off_in_a_handler_ends_it() {
    let mut rig = rig();
    rig.arm_event_0(0x4030_0000);
    let _ = rig.vcpu.sdei.post_signal(Instant(0));
    rig.dispatch();
    turn_off(&mut rig);
    assert_eq!(rig.vcpu.sdei.running(), None);
    assert!(rig.vcpu.sdei.is_masked());
    assert!(rig.vcpu.records().all(|record| record.is_complete));
}

#[test]
fn a_stop_stays_on_record_in_the_next_life() {
    let mut rig = rig();
    let start = psci::Start {
        vcpu: rig.vcpu.id,
        entry: ENTRY,
        context: 0,
        x4: 0,
        endian: psci::Endian::Little,
    };
    let take_event_at = |rig: &mut Rig, pc| {
        rig.arm_event_0(0x4030_0000);
        rig.regs.pc = pc;
        assert_eq!(rig.vcpu.sdei.post_signal(Instant(0)), None);
        rig.dispatch();
    };
    let pcs = |rig: &Rig| -> Vec<u64> {
        let records = rig.vcpu.records();
        records.map(|record| record.interrupted.pc).collect()
    };
    take_event_at(&mut rig, 0x4040_0000);
    turn_off(&mut rig);
    rig.vcpu.start(&mut rig.regs, start, &rig.bench);
    assert_eq!(pcs(&rig), [0x4040_0000]);
    take_event_at(&mut rig, 0x4050_0000);
    assert_eq!(pcs(&rig), [0x4040_0000, 0x4050_0000]);
    let open: Vec<bool> = rig
        .vcpu
        .records()
        .map(|record| !record.is_complete)
        .collect();
    assert_eq!(open, [false, true]);
    rig.vcpu.forget();
    assert_eq!(pcs(&rig), [0; 0]);
}

#[test]
fn what_a_guest_was_not_given_is_undefined_to_it() {
    let mut rig = rig();
    // MSR of an EL2 register, an unknown class, a write of an ID register.
    for esr in [
        0x18 << 26 | 3 << 20 | 4 << 14 | 1 << 10,
        0x19 << 26,
        0x18 << 26 | 3 << 20 | 4 << 1,
    ] {
        rig.regs.pc = ENTRY;
        assert_eq!(rig.exit(esr | 1 << 25, 0, 0), Action::Resume);
        assert_eq!(rig.regs.pc, VBAR + 0x200);
        assert_eq!((rig.bench.el1.esr >> 26, rig.bench.el1.elr), (0, ENTRY));
    }
}

#[test]
fn id_registers_are_read_through_the_filter() {
    let mut rig = rig();
    rig.bench.id = u64::MAX >> 4;
    // MRS x5, ID_AA64PFR0_EL1.
    let esr = 0x18 << 26 | 1 << 25 | 3 << 20 | 5 << 5 | 4 << 1 | 1;
    assert_eq!(rig.exit(esr, 0, 0), Action::Resume);
    assert_eq!(rig.regs.x[5] >> 32 & 0xf, 0, "SVE");
    assert_eq!(rig.regs.pc, ENTRY + 4);
}

#[test]
fn registers_that_trap_beside_icc_dir_are_what_the_interface_holds() {
    let mut rig = rig();
    let sysreg = |crn: u64, crm: u64, op2: u64, is_read: u64| {
        0x18 << 26 | 1 << 25 | 3 << 20 | op2 << 17 | crn << 10 | 5 << 5 | crm << 1 | is_read
    };
    // ICC_CTLR_EL1.EOImode, ICC_PMR_EL1.
    for (crn, crm, op2, value, vmcr) in [(12, 12, 4, 0b10, 1 << 9), (4, 6, 0, 0x80, 0x80 << 24)] {
        rig.bench.interface.vmcr = 0;
        rig.regs.pc = ENTRY;
        rig.regs.x[5] = value;
        assert_eq!(rig.exit(sysreg(crn, crm, op2, 0), 0, 0), Action::Resume);
        assert_eq!(rig.bench.interface.vmcr, vmcr);
        rig.regs.x[5] = 0;
        assert_eq!(rig.exit(sysreg(crn, crm, op2, 1), 0, 0), Action::Resume);
        assert_eq!((rig.regs.x[5], rig.regs.pc), (value, ENTRY + 8));
    }
    // ICC_RPR_EL1 can be read, and not be written.
    assert_eq!(rig.exit(sysreg(12, 11, 3, 1), 0, 0), Action::Resume);
    assert_eq!(rig.regs.x[5], 0xff);
    assert_eq!(rig.exit(sysreg(12, 11, 3, 0), 0, 0), Action::Resume);
    assert_eq!(rig.regs.pc, VBAR + 0x200);
}

#[test]
fn an_sgi_goes_to_whom_it_names() {
    let mut rig = rig();
    rig.regs.x[7] = 2 << 24 | 0b1101;
    let esr = 0x18 << 26 | 1 << 25 | 3 << 20 | 5 << 17 | 12 << 10 | 7 << 5 | 11 << 1;
    assert_eq!(rig.exit(esr, 0, 0), Action::Resume);
    let AtOnce::Sgi(value) = rig.left else {
        panic!("not an SGI");
    };
    let sgi = rig.map.affinities.sgi(VcpuId(1), value);
    assert_eq!(sgi.intid.0, 2);
    assert_eq!(sgi.targets, VcpuSet(0b1101));
}

#[test]
fn the_words_that_are_loaded_most_are_what_any_load_of_them_is() {
    use hv_core::exit::{MmioAccess, word_load};

    // Each bit of a syndrome alone turns a word load into none, or into another load that is decoded alike.
    let (esr, far, hpfar) = load(0x0800_0104);
    for bit in (0..=24).filter(|bit| ![0, 1].contains(bit)) {
        let esr = esr ^ 1 << bit;
        let access = MmioAccess::decode(esr, far, hpfar);
        let is_word =
            |access: &MmioAccess| !access.is_write && access.size == 4 && !access.sign_extend;
        let expected = access.filter(is_word).map(|it| (it.ipa, it.rt));
        assert_eq!(word_load(esr, far, hpfar), expected, "bit {bit}");
    }
    let mpidrs = [0, 1].map(Mpidr::new);
    let gic = |model| hv_core::vgic::Config {
        model,
        mpidrs: &mpidrs,
        last: VcpuSet::EMPTY,
        spis: 64,
        passed_through: &[],
        priority_bits: 5,
        list_regs: 4,
    };
    let v2 = hv_core::vgic::Model::V2 { resamples: true };
    let frames = [
        (hv_core::vgic::Model::V3, Frame::Distributor),
        (v2, Frame::Banked(VcpuId(1))),
    ];
    for (model, frame) in frames {
        let vgic = Vgic::new(&gic(model));
        let bits = 0x8421_0f0f;
        for offset in [0x84, 0x88, 0x104, 0x108] {
            let mut effects = hv_core::vgic::Effects::none();
            hv_core::vgic::write(&vgic, (frame, offset, 4), bits, &mut effects, |_| ());
        }
        let published = vgic.published();
        let known: Vec<u64> = (0..0x1_0000)
            .filter(|&offset| published.word(offset).is_some())
            .collect();
        let expected = [4, 8, 0x84, 0x88, 0x104, 0x108, 0x184, 0x188];
        assert_eq!(known, expected);
        for offset in expected {
            let word = published.word(offset).map(u64::from);
            assert_eq!(word, published.read(frame, offset, 4), "{offset:#x}");
            assert_eq!(offset < 0x80, word != Some(bits), "{offset:#x}");
        }
        let words = [4, 8, 12].map(|offset| {
            let word = published.redistributor_word(VcpuId(1), offset);
            let read = published.read(Frame::Redistributor(VcpuId(1)), offset, 4);
            assert_eq!(word.map(u64::from), read, "{offset:#x}");
            word
        });
        assert_eq!(words, [Some(0x43b), Some(0x100), Some(1)]);
        assert_eq!(published.redistributor_word(VcpuId(2), 8), None);
    }
}

/// LDR w3 that faults on translation at `ipa`.
fn load(ipa: u64) -> (u64, u64, u64) {
    (
        0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 3 << 16 | 7,
        ipa & 0xfff,
        ipa >> 12 << 4,
    )
}

#[test]
fn devices_are_found_by_address() {
    let mut rig = rig();
    let (esr, far, hpfar) = load(0x0900_0018);
    assert!(matches!(
        rig.exit(esr, far, hpfar),
        Action::Locked(Deferred::Uart { offset: 0x18, .. })
    ));
    let (esr, far, hpfar) = load(0x0800_0204);
    let action = rig.exit(esr, far, hpfar);
    assert!(matches!(
        action,
        Action::Locked(Deferred::Gic {
            frame: Frame::Distributor,
            offset: 0x204,
            ..
        })
    ));
    let (esr, far, hpfar) = load(0x080a_0000 + 3 * REDISTRIBUTOR_SIZE + 0x1_0200);
    let action = rig.exit(esr, far, hpfar);
    let Action::Locked(Deferred::Gic { frame, offset, .. }) = action else {
        panic!("{action:?}");
    };
    assert_eq!((frame, offset), (Frame::Redistributor(VcpuId(3)), 0x1_0200));
    assert_eq!(rig.regs.pc, ENTRY, "the access has not happened yet");
}

#[test]
fn registers_that_never_change_are_read_without_the_lock() {
    let mut rig = rig();
    for (offset, expected) in [
        (0x8, 0x43b),
        (0x4, 0x0748_0002),
        (0xffe8, 0x3b),
        // Nothing is there.
        (0xc, 0),
    ] {
        rig.regs.pc = ENTRY;
        rig.regs.x[3] = u64::MAX;
        let (esr, far, hpfar) = load(0x0800_0000 + offset);
        assert_eq!(rig.exit(esr, far, hpfar), Action::Resume);
        assert_eq!(rig.regs.x[3], expected, "{offset:#x}");
        assert_eq!(rig.regs.pc, ENTRY + 4);
    }
    // GICR_TYPER of vCPU 2, its upper half: its affinity.
    let (esr, far, hpfar) = load(0x080a_0000 + 2 * REDISTRIBUTOR_SIZE + 0xc);
    assert_eq!(rig.exit(esr, far, hpfar), Action::Resume);
    assert_eq!(rig.regs.x[3], 2);
    // A store is the virtual GIC's to ignore.
    let action = rig.exit(esr | 1 << 6, far, hpfar);
    assert!(matches!(action, Action::Locked(Deferred::Gic { .. })));
}

#[test]
fn a_gicv2_has_gicc_dir_in_a_page_that_traps() {
    let mut rig = rig();
    rig.map.gic = hv_core::vgic::Model::V2 { resamples: true };
    rig.map.deactivate = IpaRange {
        start: 0x0801_1000,
        size: 0x1000,
    };
    for (ipa, expected) in [
        (0x0800_0f10, (Frame::Banked(VcpuId(1)), 0xf10)),
        (0x0801_1000, (Frame::Deactivate(VcpuId(1)), 0)),
        (0x0801_1ffc, (Frame::Deactivate(VcpuId(1)), 0xffc)),
    ] {
        let (esr, far, hpfar) = load(ipa);
        let esr = esr | 1 << 6;
        let action = rig.exit(esr, far, hpfar);
        let Action::Locked(Deferred::Gic { frame, offset, .. }) = action else {
            panic!("{action:?}");
        };
        assert_eq!((frame, offset), expected);
    }
}

#[test]
fn an_address_nobody_answers_gives_an_external_abort() {
    let mut rig = rig();
    // A hole, RAM that is not the guest's, and the redistributor of a vCPU that does not exist.
    for ipa in [0x1000, 0x5000_0000, 0x080a_0000 + 4 * REDISTRIBUTOR_SIZE] {
        rig.regs.pc = ENTRY;
        rig.regs.pstate = pstate::EL1H;
        let (esr, far, hpfar) = load(ipa);
        assert_eq!(rig.exit(esr, far, hpfar), Action::Resume);
        assert_eq!(rig.bench.el1.esr >> 26, 0x25, "data abort from EL1");
        assert_eq!(rig.bench.el1.esr & 0x3f, 0x10, "synchronous external abort");
        assert_eq!(rig.bench.el1.elr, ENTRY);
        assert_eq!(rig.regs.pc, VBAR + 0x200);
    }
    rig.regs.pc = 0x1000;
    let fetch = 0x20 << 26 | 1 << 25 | 7;
    assert_eq!(rig.exit(fetch, 0, 0x10), Action::Resume);
    assert_eq!(rig.bench.el1.esr >> 26, 0x21, "instruction abort from EL1");
}

#[test]
fn devices_of_the_guests_own_are_reached_where_they_are_and_nowhere_else() {
    let mut rig = rig();
    let (flash, pvpanic) = (0x400_0000, 0xb00_0000);
    let (control, refresh) = (0xb01_0000, 0xb02_0000);
    let range = |start, size| IpaRange { start, size };
    // Without any, nobody answers there.
    let (esr, far, hpfar) = load(flash);
    assert_eq!(rig.exit(esr, far, hpfar), Action::Resume);
    rig.map.own = OwnDevices {
        flash: range(flash, 0x4_0000),
        pvpanic: range(pvpanic, 2),
        gwdt: [range(control, 0x1000), range(refresh, 0x1000)],
        gwdt_config: None,
    };
    let places = [
        (flash, Some((OwnDevice::Flash, 0))),
        (flash + 0x3_fffc, Some((OwnDevice::Flash, 0x3_fffc))),
        (flash + 0x4_0000, None),
        (pvpanic, Some((OwnDevice::Pvpanic, 0))),
        (pvpanic + 4, None),
        (
            control + 8,
            Some((OwnDevice::Gwdt(gwdt::Frame::Control), 8)),
        ),
        (control + 0x1000, None),
        (refresh, Some((OwnDevice::Gwdt(gwdt::Frame::Refresh), 0))),
    ];
    for (ipa, expected) in places {
        let (esr, far, hpfar) = load(ipa);
        let met = match rig.exit(esr, far, hpfar) {
            Action::Locked(Deferred::Own(own)) => Some((own.device, own.offset)),
            Action::Resume => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(met, expected, "{ipa:#x}");
    }
}

#[test]
fn the_short_way_leaves_alone_what_it_has_not_got() {
    let mut rig = rig();
    for rt in 0..32u64 {
        let is_there = !(20..=28).contains(&rt);
        // MRS of ID_AA64PFR0_EL1, a load of GICD_IIDR, and a write of ICC_SGI1R_EL1.
        let mrs = 0x18 << 26 | 1 << 25 | 3 << 20 | 4 << 1 | rt << 5 | 1;
        let load = 0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | rt << 16 | 0b00_0111;
        let msr = 0x18 << 26 | 1 << 25 | 3 << 20 | 5 << 17 | 12 << 10 | 11 << 1 | rt << 5;
        for (esr, far, hpfar) in [(mrs, 0, 0), (load, 8, 0x08_0000), (msr, 0, 0)] {
            let before = rig.regs.clone();
            assert_eq!(rig.short(esr, far, hpfar).is_some(), is_there, "{esr:#x}");
            let has_advanced = rig.regs.pc == before.pc.wrapping_add(4);
            assert_eq!(has_advanced, is_there);
            assert!(is_there || rig.regs == before);
        }
    }
    // Calls have their arguments and results in x0 to x17 (DEN0028 2.6).
    rig.regs.x[0] = 0x8400_0000;
    let smc = 0x17 << 26 | 1 << 25;
    assert_eq!(rig.short(smc, 0, 0), Some(AtOnce::Resume));
    assert_eq!(rig.regs.x[0], 0x1_0003);
}
