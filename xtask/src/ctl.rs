//! `cargo xtask ctl`: asks the hypervisor of a running machine, and has it act.

mod bt;
mod console;
mod dump;
mod gdb;
mod guest;
mod nmi;
mod shown;
mod watch;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use hv_abi::operator::Base64;
use serde_json::{Value, json};

use debian::paths;
use guest::{Clock, Guest};
use lab::usage;
use machine::control::{Address, Client};
use watch::Pace;

/// Ask the hypervisor of a running machine how its guests are, and reach one from outside.
///
/// This works whatever the guest does: when all its CPUs are wedged with interrupts masked, its console's driver is dead, or
/// it writes without end. `cargo xtask run` and `kdump` open the socket that this speaks to.
///
/// Exit codes: 0 it was done, 1 it was not, which is said, 2 wrong usage.
#[derive(Args)]
pub struct Ctl {
    /// The machine's control socket [default: that of the only one running from this checkout].
    #[arg(long, global = true, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Which guest, by its name or number, where there are several [default: the first; `status` shows all].
    #[arg(long, global = true, value_name = "NAME")]
    guest: Option<String>,
    /// Print what the hypervisor says as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// How each guest is, and each of its vCPUs: on, idle or off, where it stands, at which exception level, what it masks.
    Status,
    /// The registers of a vCPU, which goes on afterwards.
    Regs {
        /// The vCPU's number.
        #[arg(default_value_t = 0)]
        vcpu: u8,
    },
    /// Which functions a vCPU is in, or each: names come out of the guest's own memory, if it runs Linux 6.0 or later.
    ///
    /// The guest stands still meanwhile, unless the operator may only look.
    Bt {
        /// The vCPU's number, or all [default: all].
        #[arg(value_parser = which)]
        vcpu: Option<Which>,
        /// The vmlinux of the kernel that runs, for files and lines.
        #[arg(long, value_name = "FILE")]
        vmlinux: Option<PathBuf>,
    },
    /// Serve debuggers on a TCP port of 127.0.0.1: gdb sees the vCPUs as threads, reads registers and memory, stops the guest and
    /// lets it go on. The guest stands still from when gdb comes until it continues or detaches.
    ///
    /// Whoever may connect to it, which is every user of this host, may do the same.
    Gdb {
        /// The port; with 0 any that is free.
        #[arg(default_value_t = 1234)]
        port: u16,
    },
    /// The guest's console, beside the terminal of the run: what it writes from now on, and what is typed here. Ctrl-A X leaves.
    Console,
    /// How the guest is, again and again, until the machine ends: on a terminal a table that is drawn anew, elsewhere a line for each
    /// change.
    Watch {
        /// So many seconds between two looks.
        #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        every: u64,
        /// Stop after so many looks.
        #[arg(long, value_name = "N")]
        looks: Option<u64>,
    },
    /// What is in the guest's RAM, which is read as it is at the moment: the guest runs on.
    Read {
        /// Where, as a guest physical address, with 0x in hexadecimal.
        #[arg(value_parser = number)]
        address: u64,
        /// It is a virtual address, as this vCPU translates those of EL1 and EL0 now.
        #[arg(long, value_name = "VCPU")]
        vcpu: Option<u8>,
        /// How many bytes.
        #[arg(value_parser = number, default_value = "256")]
        length: u64,
        /// Write the bytes there instead of showing them.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// A core file of the guest, as it is now: the registers of its CPUs and all its memory, for crash, drgn and gdb. A Linux need not
    /// do anything for it.
    ///
    /// The guest stands still meanwhile, unless the operator may only look: then the dump is of several moments, which is said.
    Dump(dump::Dump),
    /// Have a vCPU take an SError, whatever else it masks: Linux panics there, stops its other CPUs, and its crash kernel
    /// saves a dump.
    ///
    /// Without a vCPU, one that takes it at once and is not idle, if there is one. Where PSTATE.A is set, as in Linux's
    /// handler of an SDEI event, the SError waits. What each rung comes to is said as it comes.
    Nmi {
        /// The vCPU's number.
        vcpu: Option<u8>,
        /// Do not wait for what comes of it.
        #[arg(long)]
        no_wait: bool,
    },
    /// Raise an SDEI event that the guest file's `events` define: a private one on a vCPU, a shared one wherever the guest has
    /// routed it. The guest takes it whatever it masks, if it has registered and enabled it.
    Raise {
        /// The event's number, with 0x in hexadecimal.
        #[arg(value_parser = number)]
        event: u64,
        /// The vCPU's number.
        #[arg(default_value_t = 0)]
        vcpu: u8,
    },
    /// All vCPUs leave the guest, until `thaw`; nothing that comes meanwhile is lost. The guest's clock runs on, unless it is held.
    Freeze {
        /// Hold the guest's clock meanwhile: the virtual counter, and the timer that goes by it.
        #[arg(long)]
        clock: bool,
    },
    /// The vCPUs of a frozen guest go on.
    Thaw,
    /// Reset the guest, as its own SYSTEM_RESET would.
    Reset,
    /// Switch the guest off, as its own SYSTEM_OFF would.
    Off,
    /// Have the guest's capture kernel start beside its memory and save that; then the guest starts anew. `dump` of its guest file holds memory
    /// back for it.
    ///
    /// This works whatever the guest does, and needs nothing of it: no crashkernel=, no CPU that still runs.
    Capture,
    /// Start a guest that is off: it has switched itself off, was switched off, or its file says `start = "manual"`.
    Start,
}

/// One vCPU, or all.
type Which = Option<u8>;

fn which(text: &str) -> Result<Which, String> {
    if text == "all" {
        return Ok(None);
    }
    let number = text.parse();
    number
        .map(Some)
        .map_err(|_| format!("`{text}` is no vCPU; write a number, or all"))
}

/// A number in decimal, or with 0x in hexadecimal.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is no number; write 1024 or 0x400"))
}

impl Ctl {
    /// Does it and says what came of it.
    pub fn execute(self) -> Result<ExitCode> {
        self.command.check().map_err(usage::wrong)?;
        let path = match &self.control {
            Some(path) => path.clone(),
            None => Client::find(&paths::output("runs")?)?,
        };
        let place = Address {
            path,
            guest: self.guest.clone(),
        };
        if let Command::Bt { vcpu, vmlinux } = &self.command {
            let told = bt::backtraces(&mut Guest::of(place)?, vcpu.flatten(), vmlinux.as_deref())?;
            match self.json {
                true => println!("{told}"),
                false => print!("{}", bt::text(&told)),
            }
            return Ok(ExitCode::SUCCESS);
        }
        match self.command {
            Command::Gdb { port } => {
                gdb::serve(&place, port)?;
                return Ok(ExitCode::SUCCESS);
            }
            Command::Dump(dump) => {
                dump.execute(&place, self.json)?;
                return Ok(ExitCode::SUCCESS);
            }
            Command::Console => {
                console::show(&place)?;
                return Ok(ExitCode::SUCCESS);
            }
            Command::Watch { every, looks } => {
                let every = Duration::from_secs(every);
                watch::watch(&place, &Pace { every, looks }, self.json)?;
                return Ok(ExitCode::SUCCESS);
            }
            _ => {}
        }
        let mut client = place.connect()?;
        if let Command::Nmi { vcpu, no_wait } = self.command {
            nmi::nmi(&mut client, vcpu, no_wait, self.json)?;
            return Ok(ExitCode::SUCCESS);
        }
        if let (Command::Status, None) = (&self.command, &self.guest) {
            let guests = client.guests()?;
            if guests.len() > 1 {
                status_of_all(&mut client, &guests, self.json)?;
                return Ok(ExitCode::SUCCESS);
            }
        }
        let (command, arguments) = match &self.command {
            Command::Read {
                address,
                vcpu,
                length,
                out,
            } => {
                let length = usize::try_from(*length)?;
                let bytes = match vcpu {
                    None => client.read(*address, length)?,
                    Some(vcpu) => Guest::of(place)?.read(*vcpu, *address, length)?,
                };
                if let Some(path) = out {
                    fs::write(path, &bytes)
                        .with_context(|| format!("cannot write {}", path.display()))?;
                }
                let place = if vcpu.is_some() { "va" } else { "ipa" };
                match (self.json, out) {
                    (true, None) => {
                        let data = Base64(&bytes).to_string();
                        println!("{}", json!({ place: address, "data": data }));
                    }
                    (true, Some(_)) => println!("{}", json!({ place: address, "bytes": length })),
                    (false, None) => print!("{}", shown::memory(*address, &bytes)),
                    (false, Some(path)) => {
                        println!("{} has {length} bytes from {address:#x}", path.display())
                    }
                }
                return Ok(ExitCode::SUCCESS);
            }
            // Done above.
            Command::Bt { .. }
            | Command::Gdb { .. }
            | Command::Watch { .. }
            | Command::Nmi { .. }
            | Command::Dump(_)
            | Command::Console => return Ok(ExitCode::SUCCESS),
            Command::Status => ("x-halligan-status", json!({})),
            Command::Regs { vcpu } => ("x-halligan-registers", json!({ "vcpu": vcpu })),
            Command::Raise { event, vcpu } => {
                ("x-halligan-raise", json!({ "event": event, "vcpu": vcpu }))
            }
            Command::Freeze { clock } => {
                let clock = if *clock { Clock::Held } else { Clock::Runs };
                (clock.order(), json!({}))
            }
            Command::Thaw => ("cont", json!({})),
            Command::Reset => ("system_reset", json!({})),
            Command::Off => ("x-halligan-off", json!({})),
            Command::Start => ("x-halligan-start", json!({})),
            Command::Capture => ("x-halligan-capture", json!({})),
        };
        let told: Value = client.execute(command, arguments)?;
        if self.json {
            println!("{told}");
            return Ok(ExitCode::SUCCESS);
        }
        match self.command {
            Command::Read { .. }
            | Command::Bt { .. }
            | Command::Gdb { .. }
            | Command::Watch { .. }
            | Command::Nmi { .. }
            | Command::Dump(_)
            | Command::Console => {}
            Command::Status => print!("{}", shown::status(&told)),
            Command::Regs { vcpu } => print!("{}", shown::registers(&told, vcpu)),
            Command::Raise { event, .. } => println!(
                "event {event:#x} is raised; the guest takes it if it has registered and enabled it"
            ),
            Command::Freeze { clock } => {
                let held = if clock {
                    ", and its clock stands still"
                } else {
                    ""
                };
                println!("the guest is paused{held}; `cargo xtask ctl thaw` has it go on")
            }
            Command::Thaw => println!("the guest goes on"),
            Command::Reset => println!("the guest is reset"),
            Command::Off => println!("the guest is switched off"),
            Command::Start => println!("the guest is started"),
            Command::Capture => println!(
                "the guest is no more; its capture kernel starts beside its memory, and says the rest on the console"
            ),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Command {
    /// That the files that it names can be read or written, before a machine is looked for.
    fn check(&self) -> Result<()> {
        match self {
            Self::Bt {
                vmlinux: Some(path),
                ..
            } => paths::check_input(path, "--vmlinux"),
            Self::Read {
                out: Some(path), ..
            } => paths::check_output(path, "--out"),
            Self::Dump(dump) => dump.check(),
            _ => Ok(()),
        }
    }
}

/// How all guests are, one after the other.
fn status_of_all(client: &mut Client, guests: &[String], json: bool) -> Result<()> {
    let mut all = Vec::new();
    for (number, name) in guests.iter().enumerate() {
        client.choose_number(number)?;
        let mut told = client.execute("x-halligan-status", json!({}))?;
        told["guest"] = number.into();
        told["name"] = name.as_str().into();
        if !json {
            print!("{}", shown::status_of(name, &told));
        }
        all.push(told);
    }
    if json {
        println!("{}", json!({ "guests": all }));
    }
    Ok(())
}
