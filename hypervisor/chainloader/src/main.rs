//! The chainloader: what is on a Raspberry Pi 4's card as kernel8.img, written once. It receives the
//! hypervisor and its guests over the serial line and starts them as the firmware would have. The rules are
//! in `chainload`; here is the board.
#![no_std]
#![no_main]

#[expect(
    unsafe_code,
    reason = "entry, registers of devices, the memory that is loaded into, the jump"
)]
mod board;
mod uart;

use core::fmt::Write as _;
use core::panic::PanicInfo;

use board::{Pi, Tree};
use chainload::BASE_RATE;
use chainload::fdt;
use chainload::loader::{Action, Loader};
use uart::Uart;

/// First Rust: the MMU off, a stack, at exception level `level`.
extern "C" fn enter(dtb: u64, level: u64) -> ! {
    let tree = Tree::keep(dtb);
    let mut uart = Uart::open(tree.as_ref().map_or(&[], Tree::bytes));
    uart.say(format_args!("halligan chainloader, entered at EL{level}"));
    if level != 2 {
        uart.say(format_args!(
            "it must be entered at EL2: leave armstub= out of config.txt, or use a bl31.bin of TF-A, and load kernel8.img, not the ELF file"
        ));
        board::stop();
    }
    let Some(tree) = tree else {
        uart.say(format_args!(
            "x0 is {dtb:#x}, where there is no devicetree: put bcm2711-rpi-4-b.dtb on the card"
        ));
        board::stop();
    };
    if !fdt::is_machine(tree.bytes(), "brcm,bcm2711") {
        uart.say(format_args!(
            "the devicetree is not that of a Raspberry Pi 4; this loader knows no other board"
        ));
        board::stop();
    }
    uart.say(format_args!(
        "waiting for `cargo xtask bringup rpi4` at {BASE_RATE} baud"
    ));
    serve(&mut uart, tree)
}

fn serve(uart: &mut Uart, tree: Tree) -> ! {
    // A number that the last reset did not have: the counter's, whose low bits no two starts share.
    let life = board::ticks() as u32;
    let mut loader = Loader::new(Pi::new(tree), life, uart.fastest(), board::millis());
    let mut incoming = [0; uart::DEPTH];
    let mut outgoing = None;
    loop {
        // The receiver is emptied before anything is made of what it had, and fills again meanwhile.
        let count = uart.read(&mut incoming);
        let now = board::millis();
        for &byte in &incoming[..count] {
            loader.receive(now, byte);
        }
        outgoing = outgoing.or_else(|| loader.transmit());
        while let Some(byte) = outgoing
            && uart.can_write()
        {
            uart.write(byte);
            outgoing = loader.transmit();
        }
        match loader.poll(board::millis()) {
            Action::None => {}
            Action::Rate(rate) => {
                uart.drain();
                uart.set_rate(rate);
            }
            Action::Start => {
                uart.drain();
                loader.board().start();
            }
        }
        if count == 0 && outgoing.is_none() {
            board::rest();
        }
    }
}

/// An exception, which nothing here causes on purpose.
extern "C" fn fault(syndrome: u64, pc: u64, address: u64) -> ! {
    Uart::as_it_is().say(format_args!(
        "chainloader: exception at {pc:#x}, ESR_EL2 {syndrome:#x}, FAR_EL2 {address:#x}; reset the board"
    ));
    board::stop()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut uart = Uart::as_it_is();
    // Nobody is left to hear that it cannot be written.
    let _ = write!(uart, "chainloader: {}\r\n", info.message());
    board::stop()
}
