//! What the chainloader leaves in memory that a guest gets: nothing, neither of itself nor of what was sent before.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::emulated::Emulated;
use super::{Tale, Troubled, load, until_half};
use crate::bringup::load::Cargo;
use crate::test::operator::code::{self, SPIN};
use machine::build::{self, Program};
use machine::qemu::Machine;
use machine::run_dir::RunDir;
use machine::serial::Line as _;
use machine::workshop::Workshop;

/// Its name in the ledger.
pub const NAME: &str = "bringup/nothing-left";

/// How long the board may take for what it does once.
const LIMIT: Duration = Duration::from_secs(60);

/// Where the chainloader runs (linker/chainloader.ld) and where it puts the bundle.
const HOME: u64 = 0x1000_0000;
const BUNDLE: u64 = 0x1800_0000;

/// Bytes of a bundle of which a part is sent before another one is.
const LONGER: usize = 600_000;

/// The chainloader at `loader` is sent half of something longer, then the hypervisor and a guest; where it was, and where
/// the longer bundle was, is nothing once the guest runs.
pub fn check(workshop: &Workshop, machine: &Machine, loader: &Path) -> Result<String> {
    let folder = RunDir::create(None)?;
    let mut board = Emulated::start(machine)?;
    let mut line = Troubled::new(board.port()?, super::Trouble::None);
    let mut tale = Tale::default();
    let image = fs::read(build::build(workshop, Program::Hypervisor)?.image)?;
    let longer = Cargo {
        image: image.clone(),
        bundle: vec![0xa5; LONGER],
        bootargs: String::new(),
    };
    let half = until_half(&mut line, &longer, &mut tale);
    ensure!(half.is_err(), "nothing was left to send");
    let sent = saved(&mut board, &folder, BUNDLE, LONGER)?;
    ensure!(
        sent.contains(&0xa5),
        "nothing of the longer bundle has come to where it is looked for"
    );
    let cargo = Cargo {
        image,
        bundle: fs::read(code::bundle(&folder, &SPIN)?)?,
        bootargs: String::new(),
    };
    let mut said = load(&mut line, &cargo, &mut tale)?;
    let until = Instant::now() + LIMIT;
    while !said.windows(6).any(|bytes| bytes == b"@ready") {
        let text = String::from_utf8_lossy(&said);
        ensure!(Instant::now() < until, "the guest does not start:\n{text}");
        let nothing = &mut std::collections::VecDeque::new();
        said.extend(line.exchange(nothing, Duration::from_millis(20))?);
    }
    let header = fs::read(loader)?;
    let size = header.get(0x10..).and_then(|rest| rest.first_chunk());
    let size = u64::from_le_bytes(*size.context("the chainloader has no header")?) as usize;
    for (what, start, size) in [
        ("the chainloader", HOME, size),
        ("a bundle", BUNDLE, LONGER),
    ] {
        let left = saved(&mut board, &folder, start, size)?;
        let first = left.iter().position(|&byte| byte != 0);
        let count = left.iter().filter(|&&byte| byte != 0).count();
        if let Some(first) = first {
            let at = start + first as u64;
            anyhow::bail!("{count} bytes of {what} are left, the first at {at:#x}");
        }
    }
    Ok(format!("of {} KiB", size >> 10))
}

/// `size` bytes of the board's memory from `start` on.
fn saved(board: &mut Emulated, folder: &RunDir, start: u64, size: usize) -> Result<Vec<u8>> {
    let path = folder.file(&format!("memory-{start:x}"));
    // One of that name is an earlier one.
    if path.exists() {
        fs::remove_file(&path)?;
    }
    board.tell(&format!("pmemsave {start} {size} \"{}\"", path.display()))?;
    let until = Instant::now() + LIMIT;
    loop {
        let bytes = fs::read(&path).unwrap_or_default();
        if bytes.len() == size {
            return Ok(bytes);
        }
        ensure!(Instant::now() < until, "QEMU saves no memory");
        std::thread::yield_now();
    }
}
