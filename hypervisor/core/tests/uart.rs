//! The emulated UART as the run loop composes it: the registers, the page that a guest reads instead of them, the line into
//! the virtual GIC, and the machine's console. What a guest sees is held against a UART without any of that.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::Rc;

use hv_abi::operator::Typed;
use hv_abi::policy::Policy;
use hv_core::entry::Features;
use hv_core::exit::MmioAccess;
use hv_core::id::{IntId, Mpidr, VcpuId};
use hv_core::operator::HELD;
use hv_core::pl011::{Image, Pl011};
use hv_core::psci::{Reclaim, Reset};
use hv_core::regs::{El1Values, GuestRegs};
use hv_core::sdei::{Board, Config};
use hv_core::vgic::affinity::Affinities;
use hv_core::vgic::{self, Effects, Model, Vgic};
use hv_core::vm::{
    Deferred, End, Ending, GuestMap, Interrupt, IpaRange, Kernel, Load, Next, OwnDevices,
    REDISTRIBUTOR_SIZE, Shared, SharedConfig, Vcpu, last_redistributors,
};
use hv_testbed::{Cpu, Interface, Site};
use proptest::prelude::*;

const LINE: u32 = 33;
const DR: u64 = 0x00;
const FR: u64 = 0x18;
const LCR_H: u64 = 0x2c;
const IMSC: u64 = 0x38;

/// What a pCPU was asked to do, in order.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Done {
    Hidden,
    Shown,
    /// Something of the interrupt controller, of which others learn.
    Interrupt,
}

/// A machine with the page.
#[derive(Debug)]
struct Machine {
    page: Vec<u32>,
    is_shown: bool,
    done: Vec<Done>,
}

/// Where the only pCPU stands. Its guest is this test.
struct Desk {
    machine: Rc<RefCell<Machine>>,
    interface: RefCell<Interface>,
}

impl Site for Desk {
    fn interface(&self) -> RefMut<'_, Interface> {
        self.interface.borrow_mut()
    }
    fn enter(&self, _: &mut GuestRegs, _: &mut El1Values) -> hv_testbed::Exit {
        hv_testbed::Exit::Interrupt
    }
    fn acknowledge(&self) -> Interrupt {
        Interrupt::None
    }
    fn deactivate(&self, _: IntId) {}
    fn perform(&self, _: &Effects) {
        self.machine.borrow_mut().done.push(Done::Interrupt);
    }
    fn sleep(&self) {}
    fn wait_for_siblings(&self, _: End) -> bool {
        true
    }
    fn write_uart_page(&self, image: &Image) {
        let mut machine = self.machine.borrow_mut();
        for (word, value) in machine.page.iter_mut().zip(image.changing()) {
            *word = value;
        }
    }
    fn show_uart_page(&self, on: bool) {
        let mut machine = self.machine.borrow_mut();
        assert_ne!(machine.is_shown, on);
        machine.is_shown = on;
        let done = if on { Done::Shown } else { Done::Hidden };
        machine.done.push(done);
    }
}

struct Rig {
    shared: Shared,
    gic: Vgic,
    vcpu: Vcpu,
    regs: GuestRegs,
    cpu: Cpu<Desk>,
    machine: Rc<RefCell<Machine>>,
    map: GuestMap,
    /// What the guest is to see.
    model: Pl011,
    model_console: VecDeque<u8>,
}

impl Rig {
    fn new(uart_size: u64) -> Self {
        let range = |start, size| IpaRange { start, size };
        let mpidrs = [Mpidr::new(0)];
        let redistributors = vec![range(0x080a_0000, REDISTRIBUTOR_SIZE)];
        let vgic = Vgic::new(&vgic::Config {
            model: Model::V3,
            mpidrs: &mpidrs,
            last: last_redistributors(&redistributors, 1),
            spis: 64,
            passed_through: &[],
            priority_bits: 5,
            list_regs: 4,
        });
        let map = GuestMap {
            policy: Policy::USUAL,
            affinities: Affinities::new(&mpidrs),
            ram: vec![range(0x4000_0000, 0x1000_0000)],
            held: IpaRange::default(),
            uart: range(0x0900_0000, uart_size),
            distributor: range(0x0800_0000, 0x1_0000),
            gic: Model::V3,
            deactivate: IpaRange::default(),
            nmi: hv_core::ladder::Config::USUAL,
            watchdog: None,
            published: vgic.published().clone(),
            redistributors,
            board: Board::new(1),
            has_debug_calls: false,
            own: OwnDevices::default(),
            mediated: Vec::new(),
        };
        let shared = Shared::new(SharedConfig {
            vcpus: 1,
            sdei: Config::default(),
            reclaim: Reclaim::Off,
            uart_intid: IntId(LINE),
            has_uart_page: map.uart_page().is_some(),
            flash: 0,
            gwdt: None,
        });
        let machine = Rc::new(RefCell::new(Machine {
            page: Pl011::new().image().words().collect(),
            is_shown: false,
            done: Vec::new(),
        }));
        let mut rig = Self {
            shared,
            gic: vgic,
            vcpu: Vcpu::new(VcpuId(0), Features::default(), &Config::default()),
            regs: GuestRegs::default(),
            cpu: Cpu::new(Desk {
                machine: Rc::clone(&machine),
                interface: RefCell::new(Interface::new(Model::V3, 4)),
            }),
            machine,
            map,
            model: Pl011::new(),
            model_console: VecDeque::new(),
        };
        rig.load();
        rig
    }

    fn load(&mut self) {
        assert!(
            self.shared
                .begin_load(Kernel::Guest, &mut self.cpu, (&self.map.board, &self.gic))
        );
        let load = Load {
            entry: 0x4000_0000,
            context: 0,
        };
        self.shared.end_load(load, Kernel::Guest);
        self.model.reset();
        self.interrupt();
        self.feed_model();
    }

    fn reset(&mut self) {
        let ending = Ending::usual(End::Reset(Reset::Cold));
        assert_eq!(self.shared.stop(VcpuId(0), ending), Some(ending));
        self.load();
    }

    /// The model's console gives what there is room for.
    fn feed_model(&mut self) {
        while self.model.can_receive()
            && let Some(byte) = self.model_console.pop_front()
        {
            let _ = self.model.receive(byte);
        }
    }

    /// The machine's console interrupts, if it has received something.
    fn interrupt(&mut self) {
        if self.shared.typed.room() == HELD {
            return;
        }
        self.machine.borrow_mut().done.clear();
        let (vcpu, board) = (&mut self.vcpu, &self.map.board);
        let _ = self.shared.receive(vcpu, &mut self.cpu, (board, &self.gic));
        self.check_order();
    }

    fn receive(&mut self, byte: u8) {
        self.shared.typed.hold(&Typed::of(&[byte]));
        self.model_console.push_back(byte);
        self.interrupt();
        self.feed_model();
    }

    /// The page is hidden before anybody learns why.
    fn check_order(&self) {
        let done = &self.machine.borrow().done;
        let first = |wanted| done.iter().position(|done| *done == wanted);
        if let (Some(hidden), Some(interrupt)) = (first(Done::Hidden), first(Done::Interrupt)) {
            assert!(hidden < interrupt, "{done:?}");
        }
    }

    /// An access that exits.
    fn exit(&mut self, offset: u64, size: u8, is_write: bool, value: u64) -> (u64, Next) {
        let access = MmioAccess {
            ipa: self.map.uart.start + offset,
            size,
            rt: 1,
            is_write,
            sign_extend: false,
            is_64bit: true,
        };
        self.machine.borrow_mut().done.clear();
        self.regs.x[1] = value;
        let pc = self.regs.pc;
        let outcome = self.shared.finish(
            Deferred::Uart { offset, access },
            &mut self.vcpu,
            &mut self.regs,
            &mut self.cpu,
            (&self.map, &self.gic),
        );
        assert_eq!(self.regs.pc, pc + 4);
        self.check_order();
        (self.regs.x[1], outcome.next)
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        let (_, next) = self.exit(offset, size, true, value);
        let expected = self.model.write(offset, size, value as u32);
        let next_expected = expected.transmit.map_or(Next::Continue, Next::Transmit);
        assert_eq!(next, next_expected);
        self.interrupt();
        self.feed_model();
    }

    fn read(&mut self, offset: u64, size: u8) -> u64 {
        let is_shown = self.machine.borrow().is_shown;
        let value = if is_shown {
            let bytes: Vec<u8> = self
                .machine
                .borrow()
                .page
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect();
            let bytes = bytes[offset as usize..].iter().take(size.into());
            bytes
                .rev()
                .fold(0, |value, &byte| value << 8 | u64::from(byte))
        } else {
            self.exit(offset, size, false, 0).0
        };
        let (expected, _) = self.model.read(offset, size);
        assert_eq!(value, expected, "{size} bytes at {offset:#x}");
        self.interrupt();
        self.feed_model();
        value
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u8, u64),
    Read(u64, u8),
    Receive(u8),
    Drain,
    Reset,
}

fn steps() -> impl Strategy<Value = Step> {
    let place = || {
        let size = prop_oneof![Just(1u8), Just(2), Just(4), Just(8)];
        (0u64..0x14, size)
            .prop_map(|(index, size)| (index * 4 / u64::from(size) * u64::from(size), size))
    };
    prop_oneof![
        8 => (place(), any::<u64>()).prop_map(|((offset, size), value)| Step::Write(offset, size, value)),
        12 => place().prop_map(|(offset, size)| Step::Read(offset, size)),
        4 => any::<u8>().prop_map(Step::Receive),
        2 => Just(Step::Drain),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    /// Whatever the guest does and whatever comes in, each load finds what a UART without a page would answer.
    #[test]
    fn a_guest_sees_a_uart(script in proptest::collection::vec(steps(), 0..200), is_small: bool) {
        let mut rig = Rig::new(if is_small { 0x200 } else { 0x1000 });
        for step in script {
            match step {
                Step::Write(offset, size, value) => rig.write(offset, size, value),
                Step::Read(offset, size) => {
                    rig.read(offset, size);
                }
                Step::Receive(byte) => rig.receive(byte),
                Step::Drain => for _ in 0..40 {
                    rig.read(DR, 4);
                },
                Step::Reset => rig.reset(),
            }
            prop_assert!(!is_small || !rig.machine.borrow().is_shown, "a page hides what is beside the registers");
        }
    }
}

#[test]
fn output_is_one_exit_a_character_and_moves_nothing() {
    let mut rig = Rig::new(0x1000);
    rig.write(DR, 1, b'a'.into());
    for byte in b"bcdef" {
        assert!(rig.machine.borrow().is_shown);
        assert_eq!(rig.read(FR, 4), 0x90);
        rig.write(DR, 1, (*byte).into());
        assert_eq!(rig.machine.borrow().done, []);
    }
}

#[test]
fn a_byte_hides_the_page_before_its_interrupt() {
    let mut rig = Rig::new(0x1000);
    rig.write(LCR_H, 4, 0x10);
    rig.write(IMSC, 4, 0x10);
    rig.receive(b'x');
    assert_eq!(rig.machine.borrow().done, [Done::Hidden, Done::Interrupt]);
    rig.receive(b'y');
    assert_eq!(rig.read(DR, 4), u64::from(b'x'));
    assert_eq!(rig.read(DR, 4), u64::from(b'y'));
    assert!(!rig.machine.borrow().is_shown);
    for _ in 0..20 {
        assert_eq!(rig.read(FR, 4), 0x90);
    }
    assert!(rig.machine.borrow().is_shown);
}

#[test]
fn the_page_exists_where_the_registers_fill_it() {
    let range = |start, size| IpaRange { start, size };
    let mut map = Rig::new(0x1000).map;
    for (uart, page) in [
        (range(0x0900_0000, 0x1000), Some(0x0900_0000)),
        (range(0x0900_0000, 0x1_0000), Some(0x0900_0000)),
        (range(0xfe20_1000, 0x200), None),
        (range(0xfe20_1400, 0x1000), None),
    ] {
        map.uart = uart;
        assert_eq!(map.uart_page(), page);
    }
}
