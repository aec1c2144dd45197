//! `ctl dump`: what a core file has of a guest, and what becomes of the guest and of the file.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::boot::{Boot, spin, vcpu};
use super::code::{FILL, SPIN};
use hv_abi::operator::hashes::PAGE;
use hv_bundle::page_word;
use lab::vmcore::{self, ReadAt, Vmcore};
use machine::control::Client;
use machine::hashes::Hashes;
use machine::workshop::Workshop;

/// That `core` has in its memory what the guest has at `ipa`, at the same virtual address.
fn has_memory(core: &File, client: &mut Client, ipa: u64, length: usize) -> Result<()> {
    let loads = vmcore::loads(core)?;
    let load = loads
        .iter()
        .find(|load| ipa.wrapping_sub(load.physical) < load.size);
    let load = load.with_context(|| format!("{ipa:#x} is not in {loads:?}"))?;
    ensure!(load.linear == load.physical, "it is no Linux: {load:?}");
    let found = core.read_at(load.offset + (ipa - load.physical), length)?;
    ensure!(
        found == client.read(ipa, length)?,
        "at {ipa:#x} is something else"
    );
    Ok(())
}

/// That all of what `ctl` says is in the core is there, and nothing else is in its folder.
fn core(boot: &Boot, name: &str, arguments: &[&str]) -> Result<(File, Value)> {
    let path = boot.folder.file(name);
    let text = path.to_str().context("its name is no text")?;
    let said = boot.ctl(&[arguments, &["--json", "dump", text]].concat())?;
    let told: Value = serde_json::from_str(&said)?;
    let file = File::open(&path)?;
    let size: u64 = vmcore::loads(&file)?.iter().map(|load| load.size).sum();
    ensure!(
        told["memory"] == size && told["bytes"] == file.metadata()?.len(),
        "{told}"
    );
    for entry in fs::read_dir(path.parent().context("it is in a folder")?)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        ensure!(!name.starts_with(&format!("{text}.")), "{name} is left");
    }
    Ok((file, told))
}

/// A guest that runs has its registers and its memory in the core, and runs on; one that is paused stays so.
pub fn whole(workshop: &Workshop) -> Result<String> {
    let mut boot = Boot::start(workshop, "fill", &FILL, &[])?;
    let mut client = boot.client()?;
    let pc = spin(&mut client)?;
    let is_running = |client: &mut Client| -> Result<bool> {
        Ok(client.execute("query-status", json!({}))?["running"] == true)
    };
    let (file, told) = core(&boot, "core", &[])?;
    ensure!(is_running(&mut client)?, "it stands still afterwards");
    ensure!(
        told["consistent"] == true && told["release"].is_null(),
        "{told}"
    );
    ensure!(
        told["said"][0]
            .as_str()
            .is_some_and(|said| said.contains("nothing of a Linux: ")),
        "{told}"
    );
    ensure!(
        told["cpus"] == json!([{ "cpu": 0, "vcpu": 0, "pc": pc }]),
        "{told}"
    );
    // Most of its RAM has never been written.
    let blocks = file.metadata()?.blocks() * 512;
    ensure!(
        blocks < file.metadata()?.len() / 4,
        "{blocks} bytes on the disk"
    );

    let dump = Vmcore::read(&file)?;
    ensure!(
        dump.notes.len() == 1 && dump.notes[0].pid == 1,
        "{:?}",
        dump.notes
    );
    let registers = client.execute("x-halligan-registers", json!({ "vcpu": 0 }))?;
    let registers = vcpu(&registers, 0);
    for (name, value) in dump.notes[0].registers.named() {
        let expected = match &*name {
            "pc" | "pstate" => &registers[&*name],
            "sp" => &registers["registers"]["sp_el1"],
            name => &registers["registers"][name],
        };
        ensure!(*expected == value, "{name} is {value:#x}: {registers}");
    }
    has_memory(&file, &mut client, pc - 4, 8192)?;
    has_memory(&file, &mut client, 0x4000_0000, 4096)?;

    client.execute("stop", json!({}))?;
    let (file, told) = core(&boot, "core", &[])?;
    has_hashes(&boot, &file)?;
    ensure!(
        !is_running(&mut client)? && told["consistent"] == true,
        "{told}"
    );
    client.execute("cont", json!({}))?;

    // Where it cannot be written it is a sentence, and the guest goes on.
    client.hand_over("full", &File::options().write(true).open("/dev/full")?)?;
    let refused = client.execute(
        "dump-guest-memory",
        json!({ "paging": false, "protocol": "fd:full" }),
    );
    let refused = refused
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    ensure!(
        refused == "the dump cannot be written: No space left on device (os error 28)",
        "{refused}"
    );
    ensure!(
        is_running(&mut client)?,
        "it stands still after a full disk"
    );
    let said = boot
        .ctl(&["dump", "/dev/null"])
        .err()
        .map(|error| error.to_string());
    ensure!(
        said.as_ref()
            .is_some_and(|said| said.contains("/dev/null is no file")),
        "{said:?}"
    );
    // Nothing says which of its pages are a kernel's, and no file is left.
    let path = boot.folder.file("kernels");
    let text = path.to_str().context("its name is no text")?;
    let said = boot.ctl(&["dump", "--pages", "kernel", text]).err();
    let said = said.map(|error| error.to_string()).unwrap_or_default();
    ensure!(
        said.contains("which pages are the kernel's is not known") && !path.exists(),
        "{said}"
    );
    ensure!(is_running(&mut client)?, "it stands still after a refusal");
    boot.ctl(&["off"])?;
    boot.end()?;
    Ok(format!("{} KiB on the disk", blocks >> 10))
}

/// That a file of hashes has each page as the core has it.
fn has_hashes(boot: &Boot, core: &File) -> Result<()> {
    let path = boot.folder.file("hashes");
    let text = path.to_str().context("its name is no text")?;
    let said = boot.ctl(&["--json", "dump", "--pages", "hashes", text])?;
    let told: Value = serde_json::from_str(&said)?;
    let hashes = Hashes::parse(&fs::read(&path)?)?;
    let loads = vmcore::loads(core)?;
    let mut pages = 0;
    for (start, length) in hashes.ranges() {
        let load = loads.iter().find(|load| load.physical == start);
        let load = load.with_context(|| format!("{start:#x} is not in {loads:?}"))?;
        ensure!(load.size == length, "{length:#x} bytes: {load:?}");
        for at in (0..length).step_by(PAGE as usize) {
            let page = core.read_at(load.offset + at, PAGE as usize)?;
            let word = page_word(&mut |from| {
                let words = page[from as usize..].chunks_exact(8);
                let mut words = words.map(|word| word.iter().rev());
                std::array::from_fn(|_| {
                    let word = words.next().into_iter().flatten();
                    word.fold(0, |word, byte| word << 8 | u64::from(*byte))
                })
            });
            ensure!(hashes.at(start + at) == Some(word), "{:#x}", start + at);
            pages += 1;
        }
    }
    ensure!(
        pages > 0 && told["pages"] == pages && told["consistent"] == true,
        "{told}"
    );
    Ok(())
}

/// Each of several guests has its own memory in its core, wherever that is in the machine's.
pub fn each(workshop: &Workshop) -> Result<()> {
    let guests = [
        ("one", "cpus = 1", &FILL[..]),
        ("two", "cpus = 1", &FILL[..]),
        ("three", "cpus = 1", &SPIN[..]),
    ];
    let mut boot = Boot::of_guests(workshop, &guests, (None, &[]))?;
    for (name, _, code) in guests {
        let mut client = boot.client_of(name)?;
        let pc = spin(&mut client)?;
        let (file, told) = core(&boot, name, &["--guest", name])?;
        ensure!(
            told["cpus"] == json!([{ "cpu": 0, "vcpu": 0, "pc": pc }]),
            "{told}"
        );
        has_memory(&file, &mut client, pc - 4 * (code.len() as u64 - 1), 8192)?;
        for at in (0..64 << 20).step_by(8 << 20) {
            has_memory(&file, &mut client, 0x4000_0000 + at, 4096)?;
        }
    }
    boot.ctl(&["--guest", "three", "off"])?;
    let said = boot.ctl(&["--guest", "three", "dump", "/tmp/none"]).err();
    let said = said.map(|error| error.to_string()).unwrap_or_default();
    ensure!(
        said.contains("the guest is off, and there is nothing to dump"),
        "{said}"
    );
    Ok(())
}

/// Where the operator may only look the guest runs on, and that is said.
pub fn running(workshop: &Workshop) -> Result<()> {
    let mut boot = Boot::start(workshop, "fill", &FILL, &["--hv-append", "operator=read"])?;
    let mut client = boot.client()?;
    let pc = spin(&mut client)?;
    let (file, told) = core(&boot, "core", &[])?;
    let said = told["said"].to_string();
    ensure!(
        told["consistent"] == false && said.contains("is of several moments"),
        "{told}"
    );
    has_memory(&file, &mut client, pc - 28, 8192)
}
