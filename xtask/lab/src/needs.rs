//! What a kernel must have been configured with for a run, and what can be done with one that was not.

use std::fmt;

use debian::kernel::config::{Config, Found};
use machine::board::Board;

use crate::cpulist::CpuList;
use crate::place::Place;
use crate::plan::{Fate, Plan, Scenario};

/// What a configuration must say of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Must {
    /// One of these is built in: our initramfs has nobody's modules.
    Have(&'static [&'static str]),
    /// It is not set.
    Lack(&'static str),
    /// It is a number, and so large at least.
    Reach(&'static str, u32),
}

/// An option that a run needs, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    must: Must,
    purpose: &'static str,
}

const fn built_in(names: &'static [&'static str], purpose: &'static str) -> Need {
    let must = Must::Have(names);
    Need { must, purpose }
}

/// What every run needs.
const ALWAYS: [Need; 10] = [
    Need {
        must: Must::Lack("CMDLINE_FORCE"),
        purpose: "the job stands on the command line that the kernel is given",
    },
    built_in(&["BLK_DEV_INITRD"], "our init is in an initial ramdisk"),
    built_in(&["RD_GZIP"], "that is packed by gzip"),
    built_in(&["BINFMT_ELF"], "our init's programs"),
    built_in(&["BINFMT_SCRIPT"], "our init is a script"),
    built_in(&["PROC_FS"], "our init reads its job in /proc/cmdline"),
    built_in(&["SYSFS"], "our init looks after CPUs in /sys"),
    built_in(
        &["DEVTMPFS"],
        "our init finds the console and the disk in /dev",
    ),
    built_in(&["PRINTK"], "the stop is told in the kernel's log"),
    built_in(
        &["SERIAL_AMBA_PL011_CONSOLE"],
        "the console, by which the run is followed",
    ),
];

/// What loads a crash kernel.
const KEXEC: Need = built_in(
    &["KEXEC_FILE", "KEXEC"],
    "the crash kernel is loaded by kexec",
);

/// What a dump needs, wherever it goes.
const DUMP: [Need; 2] = [
    built_in(
        &["CRASH_DUMP"],
        "memory is reserved for a crash kernel, and it can be one",
    ),
    built_in(&["PROC_VMCORE"], "the crash kernel reads the dump there"),
];

/// The disk that takes the dump, on QEMU's virt.
const VIRTIO: [Need; 2] = [
    built_in(&["VIRTIO_MMIO"], "how the machine has its disk"),
    built_in(&["VIRTIO_BLK"], "the disk that takes the dump"),
];

/// The card that takes the dump, on a Raspberry Pi 4.
const CARD: [Need; 5] = [
    built_in(&["ARCH_BCM2835"], "the board"),
    built_in(&["MMC_BLOCK"], "the SD card that takes the dump"),
    built_in(
        &["MMC_SDHCI_IPROC", "MMC_BCM2835"],
        "the controller of that card",
    ),
    built_in(
        &["BCM2835_MBOX"],
        "the board's firmware is asked through it",
    ),
    built_in(
        &["RASPBERRYPI_FIRMWARE"],
        "the board's firmware gives clocks and power",
    ),
];

/// What wedges a CPU from within.
const WEDGE: [Need; 2] = [
    built_in(&["DEBUG_FS"], "LKDTM is reached there"),
    built_in(&["LKDTM"], "it wedges a CPU: a loop with interrupts masked"),
];

/// What reaches a CPU that is wedged.
const SDEI: [Need; 2] = [
    built_in(
        &["ARM_SDE_INTERFACE"],
        "the kernel's client of SDEI, by which a wedged CPU is reached",
    ),
    built_in(
        &["ARM_SDEI_NMI"],
        "it stops a wedged CPU by SDEI (Linux 7.3 and later have it)",
    ),
];

/// What takes a CPU off.
const HOTPLUG: Need = built_in(&["HOTPLUG_CPU"], "CPUs go off and on");

/// What tells a hard lockup.
const LOCKUP: [Need; 3] = [
    built_in(&["HARDLOCKUP_DETECTOR"], "it is to find the wedged CPU"),
    built_in(
        &["HARDLOCKUP_DETECTOR_BUDDY"],
        "another CPU's timer looks after the wedged one (Linux 6.5 and later have it)",
    ),
    built_in(&["SYSCTL"], "it is told there to panic"),
];

/// What `plan` needs of a kernel on `board`.
pub fn of(plan: &Plan, board: Board) -> Vec<Need> {
    let mut needs = ALWAYS.to_vec();
    if plan.cpus > 1 {
        needs.push(built_in(&["SMP"], "there are several CPUs"));
        needs.push(Need {
            must: Must::Reach("NR_CPUS", plan.cpus),
            purpose: "so many CPUs are asked for",
        });
    }
    // After sysrq-l a panic is the way out, for which a crash kernel is loaded, too.
    let scenario = plan.scenario;
    if scenario.dumps() || scenario.loads_crash_kernel() {
        needs.extend(DUMP);
    }
    // Where the hypervisor starts the capture kernel nobody has to load it, and no CPU stops another.
    if scenario.loads_crash_kernel() {
        needs.push(KEXEC);
    }
    // What a restart is to remember is on the disk.
    if scenario.dumps() || scenario == Scenario::Reboot {
        match board {
            Board::Virt | Board::VirtGicv2 => needs.extend(VIRTIO),
            Board::Raspi4b => needs.extend(CARD),
        }
    }
    if plan.pseudo_nmi {
        needs.push(built_in(
            &["ARM64_PSEUDO_NMI"],
            "interrupts are masked by their priority",
        ));
    }
    needs.extend(of_scenario(scenario));
    if !plan.wedge.is_empty() && !plan.is_masked() {
        needs.extend(WEDGE);
        if plan.offers_sdei() && scenario != Scenario::Assisted {
            needs.extend(SDEI);
        }
    }
    // Whom nothing wedges takes event 0 all the same.
    let takes_events = matches!(
        scenario,
        Scenario::Kexec | Scenario::Hotplug | Scenario::Suspend
    );
    if takes_events && plan.offers_sdei() {
        needs.extend(SDEI);
    }
    let is_told = matches!(
        scenario,
        Scenario::SysrqL | Scenario::Nmi | Scenario::Watchdog | Scenario::Reboot
    );
    if is_told && !plan.is_masked() {
        needs.push(built_in(
            &["KALLSYMS"],
            "the kernel names the function that a CPU is wedged in",
        ));
    }
    needs
}

/// What each scenario needs of its own.
fn of_scenario(scenario: Scenario) -> Vec<Need> {
    const BACKTRACES: Need = built_in(
        &["MAGIC_SYSRQ"],
        "all CPUs are asked for their backtraces by it",
    );
    match scenario {
        Scenario::Kdump
        | Scenario::Panic
        | Scenario::SysrqL
        | Scenario::PostNotifiers
        | Scenario::NestedPanic => {
            vec![built_in(&["MAGIC_SYSRQ"], "a CPU is made to panic by it")]
        }
        Scenario::TwoPanics => vec![
            built_in(&["MAGIC_SYSRQ"], "two CPUs are made to panic by it"),
            built_in(&["DEBUG_BUGVERBOSE"], "a panic names its CPU"),
            built_in(
                &["HOTPLUG_CPU"],
                "a CPU that another stops goes off, which tells it from one that stops itself",
            ),
        ],
        Scenario::PanicInHandler => vec![built_in(&["DEBUG_BUGVERBOSE"], "a panic names its CPU")],
        Scenario::Hardlockup => LOCKUP.to_vec(),
        Scenario::Reboot => vec![built_in(
            &["MAGIC_SYSRQ"],
            "it restarts the machine while a CPU is wedged",
        )],
        Scenario::Kexec => vec![
            built_in(&["KEXEC_FILE", "KEXEC"], "Linux starts another by kexec"),
            HOTPLUG,
            BACKTRACES,
        ],
        Scenario::Hotplug => vec![
            HOTPLUG,
            built_in(&["PERF_EVENTS"], "all CPUs are sampled meanwhile"),
            BACKTRACES,
        ],
        Scenario::Suspend => vec![
            built_in(&["SUSPEND"], "Linux sleeps"),
            HOTPLUG,
            built_in(&["RTC_DRV_PL031"], "the clock that wakes it"),
            BACKTRACES,
        ],
        Scenario::Nmi | Scenario::Watchdog | Scenario::Assisted => Vec::new(),
    }
}

impl Need {
    /// What `config` lacks of it, in words.
    fn lack(&self, config: &Config) -> Option<String> {
        let what = match self.must {
            Must::Have(names) => {
                if names.iter().any(|name| config.is_built_in(name)) {
                    return None;
                }
                let module = names.iter().find(|name| config.value(name) == Some("m"));
                match (module, names) {
                    (Some(name), _) => {
                        format!("CONFIG_{name}=m is a module, and has to be built in (=y)")
                    }
                    (None, [name]) => format!("CONFIG_{name} is not set"),
                    (None, names) => {
                        let all: Vec<String> =
                            names.iter().map(|name| format!("CONFIG_{name}")).collect();
                        format!("none of {} is set", all.join(", "))
                    }
                }
            }
            Must::Lack(name) => {
                config.is_built_in(name).then_some(())?;
                format!("CONFIG_{name}=y must not be set")
            }
            Must::Reach(name, least) => {
                // A kernel for one CPU has no such number; that is said by another option.
                let value = config.value(name)?;
                if value.parse().is_ok_and(|has: u32| has >= least) {
                    return None;
                }
                format!("CONFIG_{name}={value} is less than {least}")
            }
        };
        Some(format!("{what}: {}", self.purpose))
    }
}

/// What `config` lacks for `plan`, one sentence each.
pub fn lacking(plan: &Plan, board: Board, config: &Config) -> Vec<String> {
    let needs = of(plan, board);
    needs.iter().filter_map(|need| need.lack(config)).collect()
}

/// A kernel that cannot do what is asked.
#[derive(Debug)]
pub struct Unfit {
    place: String,
    lacks: Vec<String>,
    offers: Vec<&'static str>,
}

/// What can be done instead, by options of `kdump`: one CPU's panic, which needs nothing that wedges or reaches one; and CPUs
/// that the hypervisor wedges, with an NMI that needs no client of SDEI.
fn others(plan: &Plan) -> [(Plan, &'static str); 2] {
    let usual = Plan::new(Scenario::Panic, plan.cpus);
    let all: CpuList = (0..plan.cpus).collect();
    let nmi = Plan {
        scenario: Scenario::Nmi,
        place: Place::El0,
        wedge: all,
        ..usual.clone()
    };
    [
        (
            nmi,
            "--scenario nmi --place el0: the hypervisor's test image wedges all CPUs, and one panics by the NMI; without CONFIG_ARM_SDEI_NMI the others are judged from outside",
        ),
        (
            usual,
            "--scenario panic: no CPU is wedged, one panics, and the dump is judged",
        ),
    ]
}

/// That the kernel with this configuration can do what `plan` asks.
///
/// # Errors
///
/// If it cannot: what is missing and what for, and what it can do.
pub fn check(plan: &Plan, board: Board, found: &Found) -> Result<(), Unfit> {
    let lacks = lacking(plan, board, &found.config);
    if lacks.is_empty() {
        return Ok(());
    }
    let fit = |(other, _): &(Plan, &str)| lacking(other, board, &found.config).is_empty();
    let offers = others(plan).into_iter().filter(fit);
    Err(Unfit {
        place: found.place.clone(),
        lacks,
        offers: offers.map(|(_, offer)| offer).collect(),
    })
}

/// That an Image can end a CPU as `plan` asks: the patch's word on the command line stands in it.
pub fn knows_ending(plan: &Plan, image: &[u8]) -> bool {
    const WORD: &[u8] = b"sdei_ending\0";
    let is_plain = matches!(plan.fate, None | Some(Fate::Park));
    is_plain || image.windows(WORD.len()).any(|window| window == WORD)
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this kernel cannot do this job; {} says:", self.place)?;
        for lack in &self.lacks {
            write!(f, "\n  {lack}")?;
        }
        if !self.offers.is_empty() {
            f.write_str("\nwhat it can do as it is:")?;
            for offer in &self.offers {
                write!(f, "\n  {offer}")?;
            }
        }
        f.write_str(
            "\nguest-tests/linux/kernel.config has all options; set these in the kernel's configuration and build it again",
        )
    }
}

impl std::error::Error for Unfit {}

#[cfg(test)]
mod tests;
