//! `ctl gdb`: a server for GDB's remote protocol, whose threads are the guest's vCPUs. It looks, stops and continues; it writes
//! nothing into the guest.

mod packet;

use std::fmt::Write;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context, Result, bail};
use introspection::memory::Cached;
use introspection::translation::Regime;
use machine::control::Address;
use supervisor::AtEnd;

use super::guest::{BLOCK, Clock, Guest, Vcpu};
use packet::{Input, LONGEST, Packets, hex};

/// How many registers the description names: x0 to x30, sp, pc, cpsr.
const REGISTERS: usize = 34;
/// The last of them, of 32 bits.
const CPSR: usize = 33;

/// Serves debuggers of this host, one after the other, until a signal ends us.
pub fn serve(address: &Address, port: u16) -> Result<()> {
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(listener) => listener,
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            bail!("port {port} is in use; choose another: `cargo xtask ctl gdb PORT`")
        }
        Err(error) => return Err(error).context("cannot listen for a debugger"),
    };
    let port = listener.local_addr()?.port();
    // Somebody has to be there; and what takes long is done before gdb waits for it, which it does for some seconds.
    let mut guest = Guest::of(address.clone())?;
    guest.status()?;
    if let Err(error) = guest.vmcoreinfo() {
        eprintln!("xtask: where the guest's kernel is stays unknown: {error:#}");
    }
    println!("gdb vmlinux -ex 'set remotetimeout 30' -ex 'target remote 127.0.0.1:{port}'");
    for stream in listener.incoming() {
        let stream = stream.context("no debugger can come any more")?;
        stream.set_nodelay(true)?;
        let guest = Guest::of(address.clone())?;
        // Whoever hangs up in the middle leaves the guest running, too.
        if let Err(error) = Server::of(guest)?.talk(stream) {
            eprintln!("xtask: the debugger is gone: {error:#}");
        }
    }
    Ok(())
}

/// What one debugger sees.
struct Server {
    guest: Cached<Guest>,
    /// The vCPUs that are on, as they were when they were stopped.
    vcpus: Vec<Vcpu>,
    /// Whose registers and addresses are asked for.
    current: u8,
    /// They stand still on our account.
    held: Option<AtEnd>,
    /// What `qOffsets` is answered: how far the kernel has moved from where it was linked, if it is a Linux.
    offsets: String,
}

/// What to do after a packet.
enum Next {
    Answer(String),
    /// Run until there is Ctrl-C.
    Continue,
    /// The same, and the debugger has had enough.
    Leave,
}

impl Server {
    fn of(guest: Guest) -> Result<Self> {
        let mut server = Self {
            guest: Cached::new(guest, BLOCK),
            vcpus: Vec::new(),
            current: 0,
            held: None,
            offsets: String::new(),
        };
        server.stop()?;
        server.offsets = server.guest.below().offsets();
        Ok(server)
    }

    /// Has the guest stand still, and looks where each vCPU is.
    fn stop(&mut self) -> Result<()> {
        self.guest.clear();
        let guest = self.guest.below();
        let (count, is_paused) = guest.status()?;
        if !is_paused {
            // Who looks for an hour does not have a Linux find an hour's lockup.
            let held = guest.hold(Clock::Held)?;
            self.held = Some(held.context(
                "the guest cannot be stopped for a debugger: the hypervisor's command line says operator=read",
            )?);
        }
        self.vcpus.clear();
        for number in 0..count {
            let vcpu = guest.vcpu(number)?;
            self.vcpus
                .extend(vcpu.filter(|vcpu| vcpu.register("pc").is_some()));
        }
        if self.vcpu().is_none() {
            self.current = self.vcpus.first().map_or(0, |vcpu| vcpu.number);
        }
        Ok(())
    }

    fn vcpu(&self) -> Option<&Vcpu> {
        self.vcpus.iter().find(|vcpu| vcpu.number == self.current)
    }

    fn talk(&mut self, stream: TcpStream) -> Result<()> {
        let mut packets = Packets::over(stream);
        let mut runs = false;
        loop {
            let packet = match packets.next()? {
                Input::End => return Ok(()),
                Input::Interrupt if runs => {
                    runs = false;
                    self.stop()?;
                    packets.send(&self.stopped("02"))?;
                    continue;
                }
                Input::Interrupt => continue,
                Input::Packet(packet) => packet,
            };
            match self.answer(&packet)? {
                Next::Answer(text) => packets.send(&text)?,
                Next::Continue => {
                    // Also if the operator had paused it.
                    if self.held.take().is_none() {
                        self.guest.below().thaw()?;
                    }
                    runs = true;
                }
                Next::Leave => {
                    self.held = None;
                    packets.send("OK")?;
                    return Ok(());
                }
            }
            if packet == "QStartNoAckMode" {
                packets.acknowledges = false;
            }
        }
    }

    fn stopped(&self, signal: &str) -> String {
        format!("T{signal}thread:{:x};", u32::from(self.current) + 1)
    }

    /// What a packet is answered. What is not understood is answered with nothing, as the protocol wants it.
    fn answer(&mut self, packet: &str) -> Result<Next> {
        let text = match packet {
            "?" => self.stopped("05"),
            "c" => return Ok(Next::Continue),
            "D" | "D;1" | "k" | "vKill;1" => return Ok(Next::Leave),
            "QStartNoAckMode" => "OK".into(),
            "g" => (0..REGISTERS).map(|number| self.register(number)).collect(),
            "qC" => format!("QC{:x}", u32::from(self.current) + 1),
            "qAttached" => "1".into(),
            "qfThreadInfo" => {
                let numbers = self.vcpus.iter().map(|vcpu| u32::from(vcpu.number) + 1);
                let numbers: Vec<String> = numbers.map(|number| format!("{number:x}")).collect();
                format!("m{}", numbers.join(","))
            }
            "qsThreadInfo" => "l".into(),
            "qOffsets" => self.offsets.clone(),
            _ => self.answer_with_arguments(packet),
        };
        Ok(Next::Answer(text))
    }

    fn answer_with_arguments(&mut self, packet: &str) -> String {
        const REFUSED: &str = "E01";
        if packet.starts_with("qSupported") {
            return format!("PacketSize={LONGEST:x};qXfer:features:read+;QStartNoAckMode+");
        }
        if let Some(range) = packet.strip_prefix("qXfer:features:read:target.xml:") {
            return part(&description(), range).unwrap_or_else(|| REFUSED.into());
        }
        if let Some(id) = packet.strip_prefix("qThreadExtraInfo,") {
            let vcpu =
                thread(id).and_then(|number| self.vcpus.iter().find(|it| it.number == number));
            return vcpu.map_or(REFUSED.into(), |vcpu| {
                hex(super::shown::one(&vcpu.told).as_bytes())
            });
        }
        if let Some(id) = packet
            .strip_prefix("Hg")
            .or_else(|| packet.strip_prefix("Hc"))
        {
            return match thread(id) {
                // Any.
                None => "OK".into(),
                Some(number) if self.vcpus.iter().any(|vcpu| vcpu.number == number) => {
                    if packet.starts_with("Hg") {
                        self.current = number;
                    }
                    "OK".into()
                }
                Some(_) => REFUSED.into(),
            };
        }
        match packet.split_at_checked(1) {
            Some(("T", id)) => {
                let is_on = |number| self.vcpus.iter().any(|vcpu| vcpu.number == number);
                if thread(id).is_some_and(is_on) {
                    "OK"
                } else {
                    REFUSED
                }
                .into()
            }
            Some(("p", number)) => match usize::from_str_radix(number, 16) {
                Ok(number) if number < REGISTERS => self.register(number),
                _ => REFUSED.into(),
            },
            Some(("m", range)) => self.memory(range).unwrap_or_else(|| "E14".into()),
            // Nothing of the guest is changed, and no single instruction is executed.
            Some(("G" | "P" | "M" | "X" | "s" | "S" | "C", _)) => REFUSED.into(),
            _ => String::new(),
        }
    }

    /// A register as its bytes, or that it is not known.
    fn register(&self, number: usize) -> String {
        let vcpu = self.vcpu();
        let value = |name: &str| vcpu.and_then(|vcpu| vcpu.register(name));
        let value = match number {
            31 => vcpu.and_then(Vcpu::sp),
            32 => value("pc"),
            CPSR => value("pstate"),
            number => value(&format!("x{number}")),
        };
        let size = if number == CPSR { 4 } else { 8 };
        match value {
            Some(value) => hex(&value.to_le_bytes()[..size]),
            None => "x".repeat(2 * size),
        }
    }

    /// Memory by virtual address: as this vCPU translates it, or, of the kernel's half, as any other does; one at EL0 may not have it.
    fn memory(&mut self, range: &str) -> Option<String> {
        let (address, length) = numbers(range)?;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= LONGEST / 2)?;
        let own = self.vcpu().into_iter();
        let others = self.vcpus.iter().filter(|_| Regime::is_upper(address));
        let regimes: Vec<Regime> = own
            .chain(others)
            .filter_map(|vcpu| vcpu.regime().ok())
            .collect();
        let mut bytes = vec![0; length];
        let guest = &mut self.guest;
        let mut tries = regimes
            .iter()
            .map(|regime| regime.read(guest, address, &mut bytes));
        tries.find(Result::is_ok)?.ok()?;
        Some(hex(&bytes))
    }
}

impl Guest {
    /// How far its kernel has moved, as `qOffsets` has it; nothing of what is no Linux.
    fn offsets(&mut self) -> String {
        let info = self.vmcoreinfo();
        let moved = info.and_then(|info| Ok(u64::from_str_radix(info.word("KERNELOFFSET")?, 16)?));
        match moved {
            Ok(moved) => format!("Text={moved:x};Data={moved:x};Bss={moved:x}"),
            Err(_) => String::new(),
        }
    }
}

/// The vCPU that a thread's number names; none for any or all.
fn thread(id: &str) -> Option<u8> {
    let number = u32::from_str_radix(id, 16).ok()?;
    u8::try_from(number.checked_sub(1)?).ok()
}

/// Two hexadecimal numbers with a comma between them.
fn numbers(text: &str) -> Option<(u64, u64)> {
    let (first, second) = text.split_once(',')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    Some((number(first)?, number(second)?))
}

/// The part of a document that is asked for by offset and length.
fn part(document: &str, range: &str) -> Option<String> {
    let (start, length) = numbers(range)?;
    let start = usize::try_from(start).ok()?;
    let rest = document.get(start..)?;
    let length = usize::try_from(length).ok()?;
    Some(match rest.get(..length) {
        Some(part) if length < rest.len() => format!("m{part}"),
        _ => format!("l{rest}"),
    })
}

/// Which registers there are (GDB manual, G.5.1).
fn description() -> String {
    let mut text = "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">\
                    <architecture>aarch64</architecture><feature name=\"org.gnu.gdb.aarch64.core\">"
        .to_owned();
    for number in 0..31 {
        let _ = write!(text, "<reg name=\"x{number}\" bitsize=\"64\"/>");
    }
    text.push_str(
        "<reg name=\"sp\" bitsize=\"64\" type=\"data_ptr\"/><reg name=\"pc\" bitsize=\"64\" type=\"code_ptr\"/>\
         <reg name=\"cpsr\" bitsize=\"32\"/></feature></target>",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_comes_in_parts() {
        assert_eq!(part("abcdef", "0,4").unwrap(), "mabcd");
        assert_eq!(part("abcdef", "4,4").unwrap(), "lef");
        assert_eq!(part("abcdef", "6,4").unwrap(), "l");
        assert_eq!(part("abcdef", "2,4").unwrap(), "lcdef");
        assert_eq!(part("abcdef", "7,4"), None);
        assert_eq!(part("abcdef", "0"), None);
        assert_eq!(description().matches("<reg ").count(), REGISTERS);
    }

    #[test]
    fn threads_are_vcpus_from_1_on() {
        assert_eq!(
            [thread("1"), thread("10"), thread("0"), thread("-1")],
            [Some(0), Some(15), None, None]
        );
    }
}
