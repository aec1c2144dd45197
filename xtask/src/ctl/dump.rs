//! `ctl dump`: a core file of a guest.

use std::fs::{self, File, OpenOptions};
use std::io::Seek;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use debian::paths;
use debian::progress::Progress;
use debian::tools;
use machine::control::Address;
use supervisor::AtEnd;

/// What makes the smaller format.
const MAKEDUMPFILE: &str = "makedumpfile";
/// How often it is said how far it has come.
const LOOK: Duration = Duration::from_millis(500);

/// What is dumped, and how.
#[derive(Args)]
pub struct Dump {
    /// Where to. What is there is replaced once the dump is whole.
    file: PathBuf,
    /// Which of its memory: with `kernel` no free pages, and none of programs and files, as far as a Linux says which those are. With
    /// `hashes` none, but a hash of each page, for `cargo xtask oracle`: little enough for a serial line, see docs/oracle.md.
    #[arg(long, value_enum, value_name = "PAGES", default_value = "all")]
    pages: Pages,
    /// How it is written.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "elf")]
    format: Format,
    /// With --format kdump, the program that makes it of ELF; on a host that is no arm64, one for arm64 in a script with an emulator.
    #[arg(long, value_name = "PROGRAM", default_value = MAKEDUMPFILE)]
    makedumpfile: PathBuf,
}

/// Which pages are dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pages {
    /// All.
    All,
    /// Those of the kernel, and some between them.
    Kernel,
    /// A hash of each instead of the pages.
    Hashes,
}

/// How a dump is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// An ELF core; pages of zeros take no room.
    Elf,
    /// As makedumpfile writes it, compressed, with all pages.
    Kdump,
}

/// A file beside the one that it will be once it is whole. Removed when dropped, or when a signal ends us.
struct Part {
    path: PathBuf,
    guard: Option<AtEnd>,
}

impl Part {
    fn create(of: &Path, what: &str) -> Result<(Self, File)> {
        let mut path = of.as_os_str().to_owned();
        path.push(format!(".{what}-{}", std::process::id()));
        let path = PathBuf::from(path);
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let removed = path.clone();
        let guard = supervisor::at_end(move || {
            // Renamed, it is not there any more.
            let _ = fs::remove_file(removed);
        });
        let guard = Some(guard);
        Ok((Self { path, guard }, file))
    }

    fn become_whole(mut self, path: &Path) -> Result<()> {
        fs::rename(&self.path, path).with_context(|| format!("cannot write {}", path.display()))?;
        if let Some(guard) = self.guard.take() {
            guard.cancel();
        }
        Ok(())
    }
}

impl Dump {
    /// That it can be written, and as it is asked for.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.pages != Pages::Hashes || self.format == Format::Elf,
            "--pages hashes has no pages that makedumpfile could read; leave out --format kdump"
        );
        paths::check_output(&self.file, "FILE")?;
        let shown = self.file.display();
        if let Ok(found) = fs::metadata(&self.file) {
            ensure!(
                found.is_file(),
                "{shown} is no file; name one, or one that is to be"
            );
        }
        if self.format == Format::Kdump {
            let program = self.makedumpfile.to_string_lossy();
            ensure!(
                tools::find(&program).is_some(),
                "--format kdump needs {program}, which this host does not have; install it, name one with --makedumpfile, or leave --format elf"
            );
        }
        Ok(())
    }

    /// Dumps the guest at `place`.
    pub fn execute(&self, place: &Address, json: bool) -> Result<()> {
        let (part, file) = Part::create(&self.file, "part")?;
        let mut told = take(place, file, self.pages)?;
        if self.format == Format::Kdump {
            ensure!(
                told["release"].is_string(),
                "makedumpfile reads dumps of Linux alone, and this guest is none; leave --format elf"
            );
            let (smaller, _) = Part::create(&self.file, "kdump")?;
            self.compress(&part.path, &smaller.path)?;
            smaller.become_whole(&self.file)?;
        } else {
            part.become_whole(&self.file)?;
        }
        let on_disk = fs::metadata(&self.file)?;
        told["file"] = self.file.to_string_lossy().into();
        told["on_disk"] = (std::os::unix::fs::MetadataExt::blocks(&on_disk) * 512).into();
        match json {
            true => println!("{told}"),
            false => print!("{}", text(&told)),
        }
        Ok(())
    }

    fn compress(&self, elf: &Path, to: &Path) -> Result<()> {
        let program = self.makedumpfile.display();
        let step = Progress::new().lazily("makedumpfile");
        let output = supervisor::command(&self.makedumpfile)
            // What is there may be overwritten; compressed by zlib; every page.
            .args(["-f", "-c", "-d", "0"])
            .args([elf, to])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {program}"))?;
        drop(step);
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            let mut lines = said.lines().map(str::trim);
            let last = lines.rfind(|line| !line.is_empty() && !line.contains("Failed"));
            bail!(
                "{program} does not read the dump, which --format elf would keep: {}",
                last.unwrap_or("it says nothing")
            );
        }
        Ok(())
    }
}

/// Has the machine write a core file into `file`; what it says of it.
fn take(place: &Address, mut file: File, pages: Pages) -> Result<Value> {
    let mut client = place.connect()?;
    client.hand_over("dump", &file)?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let pages = match pages {
            Pages::All => "all",
            Pages::Kernel => "kernel",
            Pages::Hashes => "hashes",
        };
        let arguments = json!({ "protocol": "fd:dump", "pages": pages });
        // Whoever asked may have ended.
        let _ = sender.send(client.execute("x-halligan-dump", arguments));
    });
    let mut step = Progress::new().lazily("dump the guest");
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(told) => return told,
            Err(RecvTimeoutError::Disconnected) => bail!("the machine has ended"),
            Err(RecvTimeoutError::Timeout) => {
                // Whoever writes shares it with us.
                let done = file.stream_position()?;
                step.show(&match pages {
                    Pages::Hashes => format!("{} KiB of hashes", done >> 10),
                    Pages::All | Pages::Kernel => format!("{} MiB", done >> 20),
                });
            }
        }
    }
}

/// For people.
fn text(told: &Value) -> String {
    let mib = |value: &Value| value.as_u64().unwrap_or_default() as f64 / f64::from(1 << 20);
    let whose = match told["release"].as_str() {
        Some(release) => format!("Linux {release}"),
        None => "a guest that is not known to be Linux".to_owned(),
    };
    let what = match (told["pages"].as_u64(), told["zeros"].as_u64()) {
        (Some(pages), Some(zeros)) => {
            format!("; hashes of {pages} pages, {zeros} of them zeros")
        }
        _ => String::new(),
    };
    let mut text = format!(
        "{} has {whose}, {:.0} MiB of memory{what}; {:.1} MiB on disk\n",
        told["file"].as_str().unwrap_or_default(),
        mib(&told["memory"]),
        mib(&told["on_disk"])
    );
    for cpu in told["cpus"].as_array().into_iter().flatten() {
        let [number, vcpu, pc] =
            ["cpu", "vcpu", "pc"].map(|name| cpu[name].as_u64().unwrap_or_default());
        text += &format!("  CPU {number:<3} vCPU {vcpu:<3} pc {pc:#018x}\n");
    }
    for said in told["said"].as_array().into_iter().flatten() {
        text += &format!("  {}\n", said.as_str().unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_whole_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = folder.path().join("core");
        fs::write(&wanted, "old").unwrap();
        let (part, _) = Part::create(&wanted, "part").unwrap();
        fs::write(&part.path, "half").unwrap();
        drop(part);
        assert_eq!(fs::read(&wanted).unwrap(), b"old");
        let (part, _) = Part::create(&wanted, "part").unwrap();
        fs::write(&part.path, "new").unwrap();
        part.become_whole(&wanted).unwrap();
        assert_eq!(fs::read(&wanted).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn it_is_told_what_the_dump_is_of() {
        let told = json!({
            "release": "7.3.4", "memory": 512 << 20, "on_disk": 3 << 19, "file": "core", "said": ["the guest runs on"],
            "cpus": [{ "cpu": 1, "vcpu": 2, "pc": 0x4000_0000 }],
        });
        assert_eq!(
            text(&told),
            "core has Linux 7.3.4, 512 MiB of memory; 1.5 MiB on disk\n  CPU 1   vCPU 2   pc 0x0000000040000000\n  the guest runs on\n"
        );
    }
}
