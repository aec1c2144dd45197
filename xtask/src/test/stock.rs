//! Debian's own kernels, unchanged, as a user runs them: each boots to a shell, which is told to switch
//! the machine off; and each dumps itself.

use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{own, screen};
use crate::ledger::Ledger;
use debian::initramfs::{self, Guest};
use debian::stock::{self, Release};
use machine::control::{self, Client};
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// Each release by the name of its test, which boots it to a shell. Those with pages of 16 KiB are run when they are named.
const RELEASES: [(&str, Release); 5] = [
    ("stock/debian-12", Release::Debian12),
    ("stock/debian-13", Release::Debian13),
    ("stock/debian-13-16k", Release::Debian13Pages16k),
    ("stock/debian-13-backports", Release::Backports),
    ("stock/debian-13-backports-16k", Release::BackportsPages16k),
];
const USUAL: [Release; 3] = [Release::Debian12, Release::Debian13, Release::Backports];

/// The same, of the tests that dump. One is in every run; the others are run when they are named.
const DUMPS: [(&str, Release); 5] = [
    ("stock/debian-12/kdump", Release::Debian12),
    ("stock/debian-13/kdump", Release::Debian13),
    ("stock/debian-13-16k/kdump", Release::Debian13Pages16k),
    ("stock/debian-13-backports/kdump", Release::Backports),
    (
        "stock/debian-13-backports-16k/kdump",
        Release::BackportsPages16k,
    ),
];
const ALWAYS: &str = "stock/debian-13/kdump";

/// The same, of the tests that wedge all CPUs, look at each from outside, and have one take an NMI.
const NMIS: [(&str, Release); 3] = [
    ("stock/debian-12/nmi", Release::Debian12),
    ("stock/debian-13/nmi", Release::Debian13),
    ("stock/debian-13-backports/nmi", Release::Backports),
];

/// The same, of the tests that wedge all CPUs and have the hypervisor start the same kernel beside their memory, which saves the dump.
const ASSISTED: [(&str, Release); 5] = [
    ("stock/debian-12/assisted", Release::Debian12),
    ("stock/debian-13/assisted", Release::Debian13),
    ("stock/debian-13-16k/assisted", Release::Debian13Pages16k),
    ("stock/debian-13-backports/assisted", Release::Backports),
    (
        "stock/debian-13-backports-16k/assisted",
        Release::BackportsPages16k,
    ),
];

/// The same with another kernel than the guest's own to save the dump, also of other pages; run when they are named.
const CROSSED: [(&str, (Release, &str)); 5] = [
    (
        "stock/debian-12/captured-by-backports",
        (Release::Debian12, "backports"),
    ),
    (
        "stock/debian-13/captured-by-ours",
        (Release::Debian13, "ours"),
    ),
    (
        "stock/debian-13/captured-by-16k",
        (Release::Debian13, "debian-13-16k"),
    ),
    (
        "stock/debian-13-16k/captured-by-debian-13",
        (Release::Debian13Pages16k, "debian-13"),
    ),
    (
        "stock/debian-13-backports/captured-by-debian-12",
        (Release::Backports, "debian-12"),
    ),
];

/// The backtrace of a CPU in a module, of a kernel that has its drivers as modules; run when it is named.
const MODULES: &str = "stock/debian-13/modules";

/// What a new user's first dump costs, whose cache is empty; run when it is named.
const COLD: &str = "stock/debian-13/cold-cache";
/// Megabytes that are fetched for it from Debian's archive, at most: 45 of lists, the kernel, its tools, and a compiler's libraries as
/// source where the compiler has none for the target.
const MOST_FETCHED: f64 = 200.0;

/// How long a kernel may take to its shell and back, in seconds, with other work on the host.
const TIMEOUT: &str = "900";
/// How long to look for a vCPU in a module.
const LOOKS: Duration = Duration::from_secs(600);

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    let all = RELEASES.iter().chain(&DUMPS);
    let all = all.chain(&NMIS).chain(&ASSISTED);
    let all = all.map(|(name, _)| *name);
    let crossed = CROSSED.iter().map(|(name, _)| *name);
    all.chain(crossed).chain([MODULES, COLD])
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let cases = RELEASES.map(|(name, release)| (name.to_owned(), release));
    let cases = cases
        .into_iter()
        .filter(|(name, release)| USUAL.contains(release) || ledger.names(name));
    ledger.check_each(&cases.collect::<Vec<_>>(), |_, release| {
        let kernel = stock::ensure(&workshop.cache, *release, &workshop.progress)?;
        use_shell(workshop, &kernel)?;
        Ok(kernel.release)
    });
    let dumps = DUMPS.map(|(name, release)| (name.to_owned(), release));
    let dumps = dumps
        .into_iter()
        .filter(|(name, _)| name == ALWAYS || ledger.names(name));
    ledger.check_each(&dumps.collect::<Vec<_>>(), |_, release| dump(*release));
    let nmis = NMIS.map(|(name, release)| (name.to_owned(), release));
    let nmis = nmis.into_iter().filter(|(name, _)| ledger.names(name));
    ledger.check_each(&nmis.collect::<Vec<_>>(), |_, release| nmi(*release));
    let assisted = ASSISTED.map(|(name, release)| (name.to_owned(), release));
    let assisted = assisted.into_iter();
    let assisted = assisted.filter(|(name, _)| ledger.names(name));
    ledger.check_each(&assisted.collect::<Vec<_>>(), |_, release| {
        assist(*release, &[])
    });
    let crossed = CROSSED.map(|(name, kernels)| (name.to_owned(), kernels));
    let crossed = crossed.into_iter();
    let crossed = crossed.filter(|(name, _)| ledger.names(name));
    ledger.check_each(&crossed.collect::<Vec<_>>(), |_, (release, other)| {
        assist(*release, &["--capture-kernel", other])
    });
    if ledger.names(MODULES) {
        ledger.check(MODULES, || name_modules(workshop, Release::Debian13));
    }
    if ledger.names(COLD) {
        ledger.check(COLD, || start_cold(Release::Debian13));
    }
}

/// Has `kdump` do `scenario` to the kernel of `release`, which has a disk of its own besides, and judge its dump. On that disk nothing
/// changes.
fn kdump(release: Release, scenario: &str, options: &[&str]) -> Result<String> {
    let folder = RunDir::create(None)?;
    let disk = folder.file("own.img");
    let content = vec![0xa5; 4 << 20];
    fs::write(&disk, &content)?;
    let mut kdump = own::xtask()?;
    kdump.args(["kdump", "--stock", release.name(), "--timeout", TIMEOUT]);
    kdump.args(["--scenario", scenario]).args(options);
    kdump.arg("--disk").arg(&disk);
    let said = own::succeed(&mut kdump)?;
    ensure!(
        fs::read(&disk)? == content,
        "somebody has written to the guest's own disk"
    );
    Ok(said)
}

/// It panics by itself. Where is said by its own table of symbols.
fn dump(release: Release) -> Result<String> {
    let said = kdump(release, "panic", &[])?;
    ensure!(
        said.contains(" panicked             __crash_kexec+0x"),
        "{said}"
    );
    vmcore(&said)
}

/// All its CPUs are wedged, and it panics by an NMI. Of three CPUs it has nothing, and the hypervisor has all.
fn nmi(release: Release) -> Result<String> {
    let said = kdump(release, "nmi", &[])?;
    let count = |words: &str| said.matches(words).count();
    ensure!(
        count("not stopped          nothing in the vmcore") == 3
            && count("the hypervisor alone has: EL0 at 0x") == 3
            && count("the hypervisor alone has: EL1 in ") == 1
            && count(" < el0t_64_sync+0x") == 1
            && count(" panicked             __crash_kexec+0x") == 1
            && count("The image hypervisor-fault-injection.img has run") == 1,
        "{said}"
    );
    vmcore(&said)
}

/// All its CPUs are wedged, it has no crash kernel, and the dump has each CPU as the hypervisor saw it.
fn assist(release: Release, options: &[&str]) -> Result<String> {
    let folder = RunDir::create(None)?;
    let kept = folder.file("kept");
    let keep = format!("--keep={}", kept.display());
    let said = kdump(release, "assisted", &[options, &[keep.as_str()]].concat())?;
    let count = |words: &str| said.matches(words).count();
    ensure!(
        count(" wedged by the hypervisor ") == 4
            && count("34 of 34 registers as recorded") == 4
            && count("seen from below: EL0 at 0x") == 3
            && count("seen from below: EL1 in ") == 1,
        "{said}"
    );
    name_frames(&kept.join("vmcore"), &said)?;
    vmcore(&said)
}

/// The dump itself says of each CPU what the hypervisor saw, without a vmlinux.
fn name_frames(dump: &Path, said: &str) -> Result<()> {
    let seen = said.split_once("seen from below: EL1 in ");
    let seen = seen.and_then(|(_, rest)| rest.split_once(", 34 registers"));
    let (seen, _) = seen.context("no frames of the CPU that was in the kernel")?;
    let told = own::succeed(own::xtask()?.arg("bt").arg(dump).arg("--json"))?;
    let told: Value = serde_json::from_str(&told)?;
    let cpus = told["cpus"].as_array().context("no CPUs")?;
    ensure!(cpus.len() == 4, "{told}");
    let mut stacks = Vec::new();
    for cpu in cpus {
        let frames = cpu["frames"].as_array().into_iter().flatten();
        let named = frames.map(|frame| {
            let (symbol, offset) = (frame["symbol"].as_str(), frame["offset"].as_u64());
            format!(
                "{}+{:#x}",
                symbol.unwrap_or("?"),
                offset.unwrap_or_default()
            )
        });
        stacks.push(named.collect::<Vec<_>>().join(" < "));
    }
    let in_kernel: Vec<&String> = stacks.iter().filter(|stack| !stack.is_empty()).collect();
    ensure!(
        in_kernel == [seen],
        "the hypervisor saw {seen}; the dump says {stacks:?}"
    );
    Ok(())
}

/// It panics and dumps itself, with nothing in the cache: what is fetched is little, and nothing is compiled but what is ours and, where
/// the compiler has none for the target, its libraries with that.
fn start_cold(release: Release) -> Result<String> {
    let folder = RunDir::create(None)?;
    let mut kdump = own::xtask()?;
    kdump.args(["kdump", "--stock", release.name(), "--timeout", TIMEOUT]);
    let output = kdump.env("XDG_CACHE_HOME", folder.file("cache")).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let steps = || said.lines().filter_map(|line| line.strip_prefix("xtask: "));
    let foreign = steps().find(|step| {
        let mut words = step.split([' ', ',', ':']);
        match words.next() {
            Some("build" | "install") => true,
            Some("compile") => words.next() != Some("hypervisor"),
            _ => false,
        }
    });
    ensure!(
        output.status.success() && foreign.is_none(),
        "{}, {foreign:?}\n{said}",
        output.status
    );
    let fetched = steps().find_map(|step| {
        let rest = step.strip_prefix("fetched ")?;
        rest.split_once(" MB from Debian's archive")?
            .0
            .parse::<f64>()
            .ok()
    });
    let fetched = fetched.context("it says nothing of what it has fetched")?;
    ensure!(
        0.0 < fetched && fetched <= MOST_FETCHED,
        "{fetched} MB are fetched, of {MOST_FETCHED} at most"
    );
    Ok(format!("{fetched} MB fetched"))
}

fn vmcore(said: &str) -> Result<String> {
    let dump = said.lines().find(|line| line.starts_with("vmcore of "));
    Ok(dump.context("it says nothing of a vmcore")?.to_owned())
}

/// Boots `kernel` with `run`, and uses its shell.
fn use_shell(workshop: &Workshop, kernel: &stock::Kernel) -> Result<()> {
    let initramfs = initramfs::ensure(&workshop.cache, Guest::Any, &workshop.progress)?;
    let folder = RunDir::create(None)?;
    let socket = folder.file(control::NAME);
    let mut command = own::xtask()?;
    command
        .arg("run")
        .arg("--kernel")
        .arg(&kernel.vmlinuz)
        .arg("--initrd")
        .arg(initramfs)
        .args(["--append", "console=ttyAMA0 lab.do=shell"])
        .args(["--timeout", TIMEOUT])
        .arg("--control")
        .arg(&socket);
    screen::converse(&mut command, |input, screen| {
        screen.wait_for(" # ")?;
        input.write_all(b"uname -r\n")?;
        screen.wait_for(&format!("\n{}\r\n", kernel.release))?;
        screen.wait_for(" # ")?;
        name_functions(&socket, &kernel.release)?;
        input.write_all(b"poweroff -f\n")?;
        Ok(())
    })
}

/// CPUs that read a disk are often in its driver, which is a module: its function is named, and so is the module.
fn name_modules(workshop: &Workshop, release: Release) -> Result<String> {
    let kernel = stock::ensure(&workshop.cache, release, &workshop.progress)?;
    let guest = Guest::Shipped {
        image: &kernel.vmlinuz,
        modules: &kernel.modules,
        suite: kernel.suite,
    };
    let initramfs = initramfs::ensure(&workshop.cache, guest, &workshop.progress)?;
    let folder = RunDir::create(None)?;
    let (socket, disk) = (folder.file(control::NAME), folder.file("disk.img"));
    lab::plan::create_disk(&disk, 512)?;
    let mut command = own::xtask()?;
    command
        .arg("run")
        .arg("--kernel")
        .arg(&kernel.vmlinuz)
        .arg("--initrd")
        .arg(initramfs)
        .arg("--disk")
        .arg(&disk)
        .args(["--append", "console=ttyAMA0 lab.do=shell"])
        .args(["--timeout", TIMEOUT])
        .arg("--control")
        .arg(&socket);
    let mut named = String::new();
    screen::converse(&mut command, |input, screen| {
        screen.wait_for(" # ")?;
        // Name, size, users, who, state, address.
        input.write_all(b"cat /proc/modules\n")?;
        let mut ranges = Vec::new();
        let is_virtio = |module: &&PathBuf| {
            let name = module.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with("virtio_")
        };
        for _ in kernel.modules.iter().filter(is_virtio) {
            let size: u64 = screen
                .between("\nvirtio_", " 0")?
                .rsplit(' ')
                .next()
                .context("no size")?
                .parse()?;
            let start = screen.between("Live 0x", "\r")?;
            let start = u64::from_str_radix(start.split(' ').next().unwrap_or_default(), 16)?;
            ranges.push(start..start + size);
        }
        // Each turn reads the disk; where dd cannot read past what is kept, that is given up first.
        let turn = "while :; do dd if=/dev/vda of=/dev/null bs=4k count=9999 iflag=direct 2> /dev/null || \
                    { cat /dev/vda > /dev/null; echo 1 > /proc/sys/vm/drop_caches; }; done &\n";
        input.write_all(turn.as_bytes())?;
        input.write_all(turn.as_bytes())?;
        named = find_module(&socket, &ranges)?;
        input.write_all(b"\npoweroff -f\n")?;
        Ok(())
    })?;
    Ok(named)
}

/// Has the guest stand still until a vCPU is in one of the modules' `ranges`, and looks at it.
fn find_module(socket: &Path, ranges: &[Range<u64>]) -> Result<String> {
    let until = Instant::now() + LOOKS;
    let mut client = Client::connect(socket)?;
    let own = |vcpu: &Value| {
        let pc = vcpu["pc"].as_u64();
        pc.is_some_and(|pc| ranges.iter().any(|range| range.contains(&pc)))
    };
    let number = loop {
        ensure!(Instant::now() < until, "no vCPU is ever in {ranges:x?}");
        client.execute("stop", json!({}))?;
        let status = client.execute("x-halligan-status", json!({}))?;
        let vcpus = status["vcpus"].as_array().cloned().unwrap_or_default();
        if let Some(vcpu) = vcpus.iter().find(|vcpu| own(vcpu)) {
            break vcpu["vcpu"].to_string();
        }
        client.execute("cont", json!({}))?;
    };
    let mut command = own::xtask()?;
    command.args(["ctl", "--json", "--control"]).arg(socket);
    let told = own::succeed(command.args(["bt", &number]))?;
    client.execute("cont", json!({}))?;
    let told: Value = serde_json::from_str(&told)?;
    let vcpu = &told["vcpus"][0];
    let frame = &vcpu["frames"][0];
    let (module, name) = (frame["module"].as_str(), frame["symbol"].as_str());
    // drivers/block/virtio_blk.c and drivers/virtio/virtio_mmio.c.
    let is_its_own = match (module, name) {
        (Some("virtio_blk"), Some(name)) => name.starts_with("virt"),
        (Some("virtio_mmio"), Some(name)) => name.starts_with("vm_"),
        _ => false,
    };
    ensure!(is_its_own && vcpu["end"].is_null(), "{vcpu}");
    Ok(format!(
        "{} [{}]",
        name.unwrap_or_default(),
        module.unwrap_or_default()
    ))
}

/// The hypervisor finds the functions of each vCPU by the kernel's own table, out of the guest's memory.
fn name_functions(socket: &Path, release: &str) -> Result<()> {
    let mut command = own::xtask()?;
    command.args(["ctl", "--json", "--control"]).arg(socket);
    let told = own::succeed(command.arg("bt"))?;
    let told: Value = serde_json::from_str(&told)?;
    let vcpus = told["vcpus"].as_array().context("it has no vCPUs")?;
    ensure!(told["release"] == release, "{told}");
    let mut idle = 0;
    for vcpu in vcpus {
        let frames = vcpu["frames"].as_array().context("it has no frames")?;
        let is_in = |name: &str| frames.iter().any(|frame| frame["symbol"] == name);
        let outermost = frames.last().map(|frame| &frame["symbol"]);
        let expected = [
            "__primary_switched",
            "__secondary_switched",
            "ret_from_fork",
        ];
        let is_user = vcpu["pstate"]
            .as_u64()
            .is_some_and(|pstate| pstate & 0xc == 0);
        let is_whole = outermost.is_some_and(|name| expected.iter().any(|whole| name == whole))
            || is_in("el0t_64_sync")
            || is_in("el0t_64_irq");
        ensure!(is_user || is_whole && vcpu["end"].is_null(), "{vcpu}");
        idle += u32::from(is_in("do_idle"));
    }
    ensure!(idle > 0, "nobody is idle: {told}");
    Ok(())
}
