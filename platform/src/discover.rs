//! From a devicetree blob to a [`Machine`]. A broken or incomplete blob is an [`Error`], never a panic.
//!
//! What runs once is kept out of its callers, which may be built for speed rather than size.

mod devices;
mod gic;
mod memory;

use alloc::string::String;
use alloc::vec::Vec;

use crate::devicetree::{Fdt, Node, Settled, Tree, strings};
use crate::{Conduit, Console, Cpu, Error, MAX_CPUS, Machine, Start, Timers};

/// The affinity fields of MPIDR_EL1 (DDI0487 D24.2.120).
const AFFINITY: u64 = 0xff_00ff_ffff;

const CORRECT: &str = "correct the devicetree";

impl Machine {
    /// Reads the machine from its devicetree. `dtb` may be longer than the blob; the rest is ignored.
    ///
    /// # Errors
    ///
    /// If the blob is damaged, or lacks something the hypervisor cannot do without.
    #[inline(never)]
    pub fn discover(dtb: &[u8]) -> Result<Self, Error> {
        let blob = Settled::new(dtb)?;
        let fdt = Fdt::open(&blob)?;
        let tree = Tree::new(&fdt);
        tree.check_whole(&blob)?;
        let psci = psci(&tree)?;
        let gic = gic::find(&tree)?;
        let chosen = tree.find("/chosen");
        let bootargs = match chosen {
            Some(chosen) => chosen.string("bootargs")?,
            None => None,
        };
        let console = devices::console(&tree, gic)?;
        let (devices, left_out) = devices::passable(&tree, gic)?;
        Ok(Self {
            model: model(&tree)?,
            ram: memory::ram(&tree)?,
            reserved: memory::reserved(&fdt, &tree)?,
            cpus: cpus(&tree, psci)?,
            psci,
            timers: timers(&tree, gic)?,
            shown: devices::shown(&tree, gic, &console)?,
            console,
            power: devices::power(&tree)?,
            bootargs: String::from(bootargs.unwrap_or_default()),
            seed: seed(chosen),
            initrd: memory::initrd(chosen)?,
            devices,
            left_out,
            messages: gic::messages(&tree, gic),
            gic: gic::read(gic)?,
        })
    }
}

impl Console {
    /// Finds only the console, so that a machine [`Machine::discover`] refuses can still be told why. One that cannot be
    /// written to, at `limit` or above or where RAM is, is passed over for the next UART: that is where it can be told.
    ///
    /// # Errors
    ///
    /// If the blob is damaged, or has no UART there is a driver for.
    #[inline(never)]
    pub fn locate(dtb: &[u8], limit: u64) -> Result<Self, Error> {
        let blob = Settled::new(dtb)?;
        let fdt = Fdt::open(&blob)?;
        let tree = Tree::only(&fdt, &devices::concerns_console);
        let ram = memory::ram(&tree).unwrap_or_default();
        let (node, kind, base) = devices::uart(&tree, &|kind, base| {
            let base = base.filter(|base| !base.is_empty() && base.end() <= limit);
            let base = base.filter(|base| !ram.iter().any(|bank| bank.overlaps(*base)));
            base.is_some_and(|base| kind.fits(base))
        })?;
        Ok(Self {
            model: model(&tree).unwrap_or_default(),
            kind,
            base,
            clock: devices::clock(&tree, node),
        })
    }
}

/// How many bytes of seeds are kept: 64 hold all that can be guessed of any.
const MOST_SEED: usize = 512;

fn seed(chosen: Option<Node<'_, '_>>) -> Vec<u8> {
    let value = |name| chosen.and_then(|chosen| chosen.property(name));
    let seeds = ["kaslr-seed", "rng-seed"].into_iter().filter_map(value);
    seeds.flatten().copied().take(MOST_SEED).collect()
}

fn model(tree: &Tree<'_, '_>) -> Result<String, Error> {
    let Some(root) = tree.find("/") else {
        return Ok(String::new());
    };
    if let Some(model) = root.string("model")? {
        return Ok(String::from(model));
    }
    let first = root
        .property("compatible")
        .and_then(|names| strings(names).next())
        .and_then(|name| core::str::from_utf8(name).ok());
    Ok(String::from(first.unwrap_or_default()))
}

/// How to call PSCI. Version 0.1, which has no fixed function ids, does not count.
fn psci(tree: &Tree<'_, '_>) -> Result<Option<Conduit>, Error> {
    let known = ["arm,psci-1.0", "arm,psci-0.2"];
    let Some(node) = known.iter().find_map(|name| tree.compatible(name)) else {
        return Ok(None);
    };
    match node.string("method")? {
        Some("smc") => Ok(Some(Conduit::Smc)),
        Some("hvc") => Ok(Some(Conduit::Hvc)),
        _ => Err(node.fault("method", "is neither \"smc\" nor \"hvc\"")),
    }
}

fn cpus(tree: &Tree<'_, '_>, psci: Option<Conduit>) -> Result<Vec<Cpu>, Error> {
    let Some(parent) = tree.find("/cpus") else {
        return Err(Error::new("/cpus", "is missing", CORRECT));
    };
    let mut cpus: Vec<Cpu> = Vec::new();
    let mut stuck = None;
    for node in parent.children().filter(|node| is_cpu(*node)) {
        let mpidr = node.unit_address()?;
        if mpidr & !AFFINITY != 0 {
            return Err(node.fault("reg", "has bits that MPIDR_EL1's affinity has not"));
        }
        if cpus.iter().any(|cpu| cpu.mpidr == mpidr) {
            return Err(node.fault("reg", "is another CPU's too"));
        }
        if cpus.len() == MAX_CPUS {
            return Err(Error::new(
                "/cpus",
                "has more than 128 CPUs",
                "start the machine with 128 or fewer",
            ));
        }
        let start = start(node, psci)?;
        if start == Start::Running {
            stuck = Some(node);
        }
        cpus.push(Cpu { mpidr, start });
    }
    match stuck {
        _ if cpus.is_empty() => Err(Error::new("/cpus", "has no CPU", CORRECT)),
        Some(node) if cpus.len() > 1 => Err(node.error(
            "enable-method",
            "is missing, so that this CPU cannot be started",
            "use firmware with PSCI or a spin table",
        )),
        _ => Ok(cpus),
    }
}

/// Whether a child of `/cpus` is a CPU that works. `status = "disabled"` is one that waits to be
/// started (Devicetree Specification 3.8.1), `"fail"` is one that never will.
fn is_cpu(node: Node<'_, '_>) -> bool {
    let named = node.base_name() == "cpu" || node.property("device_type") == Some(b"cpu\0");
    named
        && !node
            .property("status")
            .is_some_and(|status| status.starts_with(b"fail"))
}

fn start(node: Node<'_, '_>, psci: Option<Conduit>) -> Result<Start, Error> {
    match (node.string("enable-method")?, psci) {
        (Some("psci") | None, Some(_)) => Ok(Start::Psci),
        (None, None) => Ok(Start::Running),
        (Some("spin-table"), _) => match node.number("cpu-release-addr")? {
            Some(release_pa) => Ok(Start::SpinTable { release_pa }),
            None => Err(node.fault("cpu-release-addr", "is missing")),
        },
        (Some("psci"), None) => Err(node.error(
            "enable-method",
            "is \"psci\", but there is no PSCI 0.2 or later",
            "start QEMU with virtualization=on, or use firmware with PSCI",
        )),
        (Some(_), _) => Err(node.error(
            "enable-method",
            "is neither \"psci\" nor \"spin-table\"",
            "use firmware with PSCI or a spin table",
        )),
    }
}

/// The generic timer's interrupts, by name or else in the binding's order.
fn timers(tree: &Tree<'_, '_>, gic: Node<'_, '_>) -> Result<Timers, Error> {
    let Some(node) = tree.compatible("arm,armv8-timer") else {
        return Err(Error::new(
            "/timer",
            "is missing (compatible \"arm,armv8-timer\")",
            CORRECT,
        ));
    };
    let found = node.interrupts(gic)?.unwrap_or_default();
    let names = node.property("interrupt-names");
    let intid = |name: &'static str, place: usize| {
        let index = match names {
            Some(names) => strings(names).position(|own| own == name.as_bytes()),
            None => Some(place),
        };
        match index.and_then(|index| found.get(index)) {
            Some(interrupt) => Ok(interrupt.intid),
            None => Err(node.fault(
                "interrupts",
                "lacks one of the physical, virtual and hypervisor timers",
            )),
        }
    };
    Ok(Timers {
        physical: intid("phys", 1)?,
        virt: intid("virt", 2)?,
        hyp_physical: intid("hyp-phys", 3)?,
    })
}
