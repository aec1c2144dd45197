//! What an operator sees of a Linux all of whose CPUs are wedged.

use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::drgn::Drgn;
use super::super::own;
use super::{Run, TIMEOUT};
use lab::kdump::Lab;
use lab::verdict::WEDGE_FUNCTION;
use machine::control::{self, Client};
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

const BACKTRACES: &str = "linux/operator/bt";
const DEBUGGER: &str = "linux/operator/drgn";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [BACKTRACES, DEBUGGER].into_iter()
}

/// What is run for them.
pub fn runs<'a>(workshop: &'a Workshop, lab: &'a Lab) -> impl Iterator<Item = Run<'a>> {
    let bt: Run<'a> = (BACKTRACES.to_owned(), Box::new(|| backtraces(lab)));
    let drgn: Run<'a> = (DEBUGGER.to_owned(), Box::new(|| debug(workshop, lab)));
    [bt, drgn].into_iter()
}

/// drgn opens a guest that does nothing for itself any more.
fn debug(workshop: &Workshop, lab: &Lab) -> Result<String> {
    let drgn = Drgn::ensure(workshop).context("drgn cannot be had")?;
    let mut guest = Wedged::start()?;
    guest.wait()?;
    drgn.check_live(&guest.socket, lab.vmlinux(), 4)
}

/// PSTATE.I, as an SPSR has it.
const MASKED: u64 = 1 << 7;
/// LKDTM's loop is shorter, in bytes.
const LOOP: u64 = 64;

/// A Linux whose four CPUs are wedged, or about to be.
struct Wedged {
    run: Child,
    socket: std::path::PathBuf,
    _folder: RunDir,
}

impl Drop for Wedged {
    fn drop(&mut self) {
        // It ends what it has started.
        let _ = self.run.kill();
        let _ = self.run.wait();
    }
}

impl Wedged {
    fn start() -> Result<Self> {
        let folder = RunDir::create(None)?;
        let socket = folder.file(control::NAME);
        let words = "crashkernel=192M lab.do=nmi lab.wedge=0,1,2,3 lab.panic=0 lab.maxcpus=1";
        let mut command = own::xtask()?;
        command
            .args(["run", "--cpus", "4", "--memory", "512M"])
            .arg(format!("--timeout={}", TIMEOUT.as_secs()))
            .arg(format!("--append={words}"))
            .arg("--control")
            .arg(&socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let run = command.spawn().context("cannot run xtask")?;
        Ok(Self {
            run,
            socket,
            _folder: folder,
        })
    }

    /// Waits until all stand in one loop with interrupts masked; where.
    fn wait(&mut self) -> Result<Client> {
        let until = Instant::now() + TIMEOUT;
        loop {
            ensure!(Instant::now() < until, "its CPUs are never wedged");
            ensure!(self.run.try_wait()?.is_none(), "the run has ended");
            if let Ok(mut client) = Client::connect(&self.socket)
                && let Ok(status) = client.execute("x-halligan-status", json!({}))
                && are_wedged(&status)
            {
                return Ok(client);
            }
            std::thread::yield_now();
        }
    }

    fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = own::xtask()?;
        command.args(["ctl", "--control"]).arg(&self.socket);
        own::succeed(command.args(arguments))
    }
}

fn are_wedged(status: &Value) -> bool {
    let vcpus = status["vcpus"].as_array().cloned().unwrap_or_default();
    let wedged = |vcpu: &Value| {
        let pstate = vcpu["pstate"].as_u64()?;
        (vcpu["state"] == "on" && pstate & MASKED != 0).then_some(vcpu["pc"].as_u64()?)
    };
    let places: Vec<u64> = vcpus.iter().filter_map(wedged).collect();
    let (first, last) = (places.iter().min(), places.iter().max());
    places.len() == 4
        && first
            .zip(last)
            .is_some_and(|(first, last)| last - first < LOOP)
}

/// Each wedged CPU is named where it is, and who called it, without vmlinux and with it; the guest is as before.
fn backtraces(lab: &Lab) -> Result<String> {
    let mut guest = Wedged::start()?;
    let mut client = guest.wait()?;
    let told: Value = serde_json::from_str(&guest.ctl(&["--json", "bt", "all"])?)?;
    ensure!(told["consistent"] == true, "{told}");
    for vcpu in 0..4 {
        let own = &told["vcpus"][vcpu];
        let frames = own["frames"].as_array().cloned().unwrap_or_default();
        let names: Vec<&str> = frames
            .iter()
            .filter_map(|frame| frame["symbol"].as_str())
            .collect();
        ensure!(
            names.first() == Some(&WEDGE_FUNCTION)
                && names.get(1) == Some(&"lkdtm_do_action")
                && names.last() == Some(&"el0t_64_sync")
                && own["end"].is_null(),
            "vCPU {vcpu}: {own}"
        );
    }
    let vmlinux = lab.vmlinux().display().to_string();
    let said = guest.ctl(&["bt", "2", "--vmlinux", &vmlinux])?;
    // What is inlined into the wedge has its line in a header.
    let has_place =
        |line: &str| line.contains("lkdtm_do_action+") && line.contains("lkdtm/core.c:");
    ensure!(said.lines().any(has_place), "{said}");
    // By a virtual address, the vectors; and what is not mapped says so.
    let registers = client.execute("x-halligan-registers", json!({ "vcpu": 2 }))?;
    let vbar = registers["vcpus"][0]["registers"]["vbar_el1"].as_u64();
    let vbar = format!("{:#x}", vbar.context("it has no VBAR_EL1")?);
    let shown = guest.ctl(&["--json", "read", "--vcpu", "2", &vbar, "4"])?;
    ensure!(shown.contains("\"data\""), "{shown}");
    let error = guest.ctl(&["read", "--vcpu", "2", "0xffffffffffff0000", "4"]);
    let error = error
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    ensure!(
        error.contains("is not mapped: its entry of level"),
        "{error}"
    );
    // One that the operator has paused stays so.
    guest.ctl(&["freeze"])?;
    guest.ctl(&["bt", "1"])?;
    let status = client.execute("query-status", json!({}))?;
    ensure!(status["running"] == false, "{status}");
    guest.ctl(&["thaw"])?;
    guest.ctl(&["bt", "1"])?;
    let status = client.execute("query-status", json!({}))?;
    ensure!(status["running"] == true, "{status}");
    Ok(format!("each of 4 in {WEDGE_FUNCTION}"))
}
