//! The test guests, booted in QEMU on each CPU model, with few and many CPUs, and with a GICv2.

mod config;
mod counts;
mod coverage;
mod hypervisors;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::ledger::Ledger;
use crate::offer;
use config::config;
use coverage::Coverage;
use debian::tools;
use hypervisors::{Hypervisors, PROBE, is_probe};
use lab::symbolize::annotate_tail;
use machine::board::Board;
use machine::board::raspi4b as pi;
use machine::build::{self, Built, Program};
use machine::console::GuestLines;
use machine::el3::El3;
use machine::ending::{Ending, Watch};
use machine::firmware::Firmware;
use machine::payload::{Capture, Payload};
use machine::protocol::{Outcome, Results, Test};
use machine::qemu::{Event, Machine};
use machine::raspi4b;
use machine::workshop::Workshop;

/// The model on which every test runs.
const EVERY_TEST: &str = "max";

/// The others, each with a number of CPUs, on which the tests that share a boot run.
const SHARED_TESTS: [(&str, u32); 4] = [
    ("cortex-a53", 1),
    ("cortex-a72", 2),
    ("neoverse-n1", 8),
    ("max", 16),
];

/// How many CPUs the machine with a GICv2 has, beside the others.
const GICV2_CPUS: u32 = 4;

/// How much longer than on an idle host a test may take: other work on the host, many CPUs on two.
const PATIENCE: u32 = 6;

/// How long a machine may take to reach its first test.
const BOOT: Duration = Duration::from_secs(120);

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger, bare: bool) {
    // The filter may name a test, which only the test guest itself can list.
    let prepared = Bench::prepare(workshop, bare).and_then(|bench| {
        let tests = bench.list()?;
        Ok((bench, tests))
    });
    let (bench, tests) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let name = "guest/list";
            ledger.failed(name, Duration::ZERO, &format!("{error:#}"));
            return;
        }
    };
    let mut coverage = Coverage::default();
    let mut boots = plan(&tests, bare, workshop.board);
    if workshop.el3 != El3::None {
        // Firmware is built for the other GIC.
        boots.retain(|boot| boot.board == workshop.board);
    }
    let raspi4b = |boot: &Boot| boot.board == Board::Raspi4b;
    if boots.iter().any(raspi4b) && !raspi4b::is_known(&bench.qemu).unwrap_or_default() {
        boots.retain(|boot| !raspi4b(boot));
        ledger.skipped("guest/raspi4b", "this QEMU does not know raspi4b");
    }
    for boot in &mut boots {
        boot.cpus = boot.cpus.min(workshop.el3.most_cpus());
    }
    coverage.is_on_all = boots.iter().any(|boot| boot.board != workshop.board);
    for boot in boots {
        bench.enter(&boot, ledger, &mut coverage);
    }
    coverage.counts.enter(ledger);
    if !ledger.is_filtered() && !bare && workshop.el3 == El3::None {
        for (test, why) in coverage.gaps() {
            let details = format!("it skipped in every boot: {why}");
            ledger.failed(&format!("guest/coverage/{test}"), Duration::ZERO, &details);
        }
    }
}

/// One boot of the test guest.
#[derive(Clone, Debug)]
struct Boot {
    /// Stands before the names of its tests.
    label: String,
    board: Board,
    model: &'static str,
    cpus: u32,
    /// The guest's command line.
    words: String,
    sdei: bool,
    /// Whose firmware the guest meets, or `reclaim`, `ramdisk`, `disk`, `virtio`, `watchdog` or `probe`.
    config: String,
    icount: bool,
    tests: Vec<Test>,
}

/// The boots that run `tests`, each once on one model, the shared ones on the others as well, and if `board` is virt,
/// on the other machines.
fn plan(tests: &[Test], bare: bool, board: Board) -> Vec<Boot> {
    let shared: Vec<Test> = tests
        .iter()
        .filter(|test| !test.own_boot && !test.icount)
        .cloned()
        .collect();
    let counted: Vec<Test> = tests
        .iter()
        .filter(|test| !test.own_boot && test.icount)
        .cloned()
        .collect();
    let most = |tests: &[Test]| tests.iter().map(|test| test.cpus).max().unwrap_or(1);
    let boot = |label: &str, cpus: u32, words: &str, tests: &[Test]| Boot {
        label: format!("guest/{label}"),
        board,
        model: EVERY_TEST,
        cpus,
        words: words.to_owned(),
        sdei: true,
        config: String::new(),
        icount: false,
        tests: tests.to_vec(),
    };
    // A board has one model; the others are for virt.
    let every_test = board.model().map_or(EVERY_TEST, |_| board.name());
    let own = |label: &str| -> Vec<Boot> {
        let tests = tests.iter().filter(|test| test.own_boot);
        tests
            .map(|test| Boot {
                icount: test.icount,
                config: test.config.clone(),
                ..boot(
                    label,
                    test.cpus,
                    &format!("test={}", test.name),
                    std::slice::from_ref(test),
                )
            })
            .collect()
    };
    let mut boots = vec![boot(every_test, most(&shared), "test=shared", &shared)];
    boots.extend(own(every_test));
    if !counted.is_empty() {
        let mut boot = boot("icount", most(&counted), "test=metrics", &counted);
        boot.icount = true;
        boots.push(boot);
    }
    let models = SHARED_TESTS.iter().filter(|_| board.model().is_none());
    for &(model, cpus) in models {
        let mut boot = boot(&format!("{model}-x{cpus}"), cpus, "test=shared", &shared);
        boot.model = model;
        boots.push(boot);
    }
    if !bare {
        let mut boot = boot("no-sdei", most(&shared), "test=shared nosdei", &shared);
        boot.sdei = false;
        boots.push(boot);
    }
    if !bare && board == Board::Virt {
        let gicv2 = |label: &str, words: &str, tests: &[Test]| Boot {
            board: Board::VirtGicv2,
            ..boot(label, GICV2_CPUS, words, tests)
        };
        boots.push(gicv2("virt-gicv2", "test=shared", &shared));
        boots.extend(own("virt-gicv2").into_iter().map(|boot| Boot {
            board: Board::VirtGicv2,
            ..boot
        }));
        let mut counts = gicv2("virt-gicv2-icount", "test=metrics", &counted);
        counts.icount = true;
        boots.push(counts);
        boots.push(Boot {
            board: Board::Raspi4b,
            ..boot(Board::Raspi4b.name(), pi::CPUS, "test=shared", &shared)
        });
    }
    // A test that needs more CPUs than there are says so itself.
    for boot in &mut boots {
        boot.cpus = boot.board.cpus(boot.cpus);
        if boot.icount {
            boot.words.push_str(" icount");
        }
        if bare {
            boot.words.push_str(" bare");
        } else if offer::devices(&boot.config).is_some() {
            boot.words.push_str(" mediated");
        }
    }
    // The firmware that interrupts EL3 is virt's, and made for its GIC. A board has no virtio devices.
    boots.retain(|boot| {
        !boot.tests.is_empty()
            && (boot.board == Board::Virt || !is_probe(&boot.config))
            && (boot.board != Board::Raspi4b || offer::devices(&boot.config).is_none())
    });
    boots
}

/// What the boots have in common.
struct Bench<'a> {
    workshop: &'a Workshop,
    qemu: PathBuf,
    /// None if the test guest runs on the bare machine.
    hypervisor: Option<Hypervisors>,
    guest: Built,
}

/// What came of one boot.
struct Booted {
    lines: Vec<String>,
    results: Results,
    ending: String,
    tail: Vec<String>,
    command: String,
}

impl<'a> Bench<'a> {
    fn prepare(workshop: &'a Workshop, bare: bool) -> Result<Self> {
        Ok(Self {
            workshop,
            qemu: tools::qemu(&workshop.cache, &workshop.progress)?,
            hypervisor: if bare {
                None
            } else {
                Some(Hypervisors::build(workshop)?)
            },
            guest: build::build(workshop, Program::GuestTests)?,
        })
    }

    /// The tests that there are, as the test guest itself lists them.
    fn list(&self) -> Result<Vec<Test>> {
        let boot = Boot {
            label: "guest/list".into(),
            board: self.workshop.board,
            model: EVERY_TEST,
            cpus: 1,
            words: if self.hypervisor.is_some() {
                "list".into()
            } else {
                "list bare".into()
            },
            sdei: true,
            config: String::new(),
            icount: false,
            tests: Vec::new(),
        };
        let booted = self.boot(&boot)?;
        ensure!(
            booted.results.done,
            "the test guest did not list its tests: {}\n{}",
            booted.ending,
            booted.evidence()
        );
        let lines = booted.lines.iter();
        let tests: Vec<Test> = lines
            .filter_map(|line| Test::parse(line))
            .collect::<Result<_>>()?;
        if tests.is_empty() {
            bail!("the test guest lists no tests\n{}", booted.evidence());
        }
        Ok(tests)
    }

    /// Runs a boot if the ledger wants one of its tests, and enters what came of each.
    fn enter(&self, boot: &Boot, ledger: &mut Ledger, coverage: &mut Coverage) {
        let name = |test: &str| format!("{}/{test}", boot.label);
        let wanted: Vec<Test> = boot
            .tests
            .iter()
            .filter(|test| ledger.wants(&name(&test.name)))
            .cloned()
            .collect();
        let mut boot = boot.clone();
        match &wanted[..] {
            [] => return,
            [test] if ledger.is_filtered() => {
                let rest = boot.words.split_once(' ').map_or("", |(_, rest)| rest);
                boot.words = format!("test={} {rest}", test.name);
                boot.tests = wanted;
            }
            _ => {}
        }
        let started = Instant::now();
        let booted = match self.boot(&boot) {
            Ok(booted) => booted,
            Err(error) => {
                ledger.failed(&name("boot"), started.elapsed(), &format!("{error:#}"));
                return;
            }
        };
        let share = started.elapsed() / u32::try_from(boot.tests.len()).unwrap_or(1);
        let mut shown = false;
        for (test, outcome) in &booted.results.outcomes {
            coverage.note(test, outcome);
            let name = name(test);
            if !ledger.wants(&name) {
                continue;
            }
            match outcome {
                Outcome::Passed(metrics) => {
                    if boot.icount {
                        coverage.counts.note(boot.board, metrics);
                    }
                    ledger.passed(&name, share, metrics);
                }
                Outcome::Skipped(why) => ledger.skipped(&name, why),
                Outcome::Failed(why) => {
                    let mut details = why.clone();
                    if !std::mem::replace(&mut shown, true) {
                        details.push('\n');
                        details.push_str(&booted.evidence());
                    }
                    ledger.failed(&name, share, &details);
                }
            }
        }
    }

    /// Boots the test guest and collects what it says.
    fn boot(&self, boot: &Boot) -> Result<Booted> {
        let _step = self.workshop.progress.lazily(&*boot.label);
        let machine = self.machine(boot)?;
        let command = machine.command_line();
        let mut session = machine.start(Some(BOOT))?;
        let mut watch = Watch::default();
        let mut guest = GuestLines::default();
        let mut lines = Vec::new();
        let mut results = Results::default();
        let timeout = |name: Option<&str>| {
            let mut tests = boot.tests.iter();
            let test = tests.find(|test| Some(test.name.as_str()) == name);
            test.map_or(BOOT, |test| test.timeout * PATIENCE)
        };
        let timed_out = loop {
            match session.next_event()? {
                Event::Guest { bytes, .. } => {
                    for line in guest.push(&bytes) {
                        if results.note(&line) {
                            session.allow(timeout(results.running.as_deref()));
                        }
                        lines.push(line);
                    }
                }
                Event::Line(line) => watch.follow(&line, &mut session)?,
                Event::Complaint(_) => {}
                Event::Ended(_) | Event::Left => break false,
                Event::TimedOut => break true,
            }
        };
        let ending = match watch.ending(timed_out) {
            // Without the hypervisor nobody records the power-off; DONE stands for it.
            Ending::Gone if self.hypervisor.is_none() && results.done => Ending::PowerOff,
            ending => ending,
        };
        if ending != Ending::PowerOff && results.running.is_none() && results.done {
            // All tests are through, but the machine did not end as it must.
            let outcome = Outcome::Failed(ending.to_string());
            results.outcomes.push(("power_off".into(), outcome));
        }
        let ending = ending.to_string();
        let expected: Vec<String> = boot.tests.iter().map(|test| test.name.clone()).collect();
        results.close(&expected, &ending);
        Ok(Booted {
            lines,
            results,
            ending,
            tail: match &self.hypervisor {
                Some(hypervisors) => {
                    let elf = &hypervisors.of(&boot.config).elf;
                    annotate_tail(&session.tail(), elf, Some(&self.guest.elf))
                }
                None => session.tail(),
            },
            command,
        })
    }

    fn machine(&self, boot: &Boot) -> Result<Machine> {
        const MEMORY_MIB: u64 = 256;
        let mut machine = match &self.hypervisor {
            Some(hypervisors) => {
                let bundle = self.workshop.output("guest-tests.itb")?;
                Payload {
                    kernel: &self.guest.image,
                    initrd: offer::ramdisk(self.workshop, &boot.config)?.as_deref(),
                    flash: None,
                    capture: Capture::default(),
                    config: config(boot),
                }
                .write(&bundle)?;
                let mut machine = Machine::new(&self.qemu, &hypervisors.of(&boot.config).image);
                machine.initrd = Some(bundle);
                machine.firmware = Firmware::prepare(self.workshop, boot.board, self.workshop.el3)?;
                let mut probes = PROBE.iter();
                if let Some((name, words)) = probes.find(|(name, _)| *name == boot.config) {
                    machine.append = (*words).to_owned();
                    machine.firmware = Firmware::prepare(self.workshop, Board::Virt, El3::Tfa)?;
                    machine.steps = *name == PROBE[1].0;
                }
                machine
            }
            None => {
                let mut machine = Machine::new(&self.qemu, &self.guest.image);
                machine.el2 = false;
                machine.append = boot.words.clone();
                machine
            }
        };
        machine.board = boot.board;
        machine.cpu = boot.model.to_owned();
        machine.cpus = boot.cpus;
        machine.memory_mib = MEMORY_MIB;
        machine.icount = boot.icount;
        offer::attach(self.workshop, &boot.config, &mut machine)?;
        Ok(machine)
    }
}

impl Booted {
    /// What somebody who looks for the cause needs.
    fn evidence(&self) -> String {
        let mut lines: Vec<String> = self.tail.iter().map(|line| format!("| {line}")).collect();
        lines.push(format!("QEMU was: {}", self.command));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(name: &str, cpus: u32, own_boot: bool, icount: bool) -> Test {
        Test {
            name: name.into(),
            cpus,
            own_boot,
            icount,
            config: String::new(),
            timeout: Duration::from_secs(10),
        }
    }

    #[test]
    fn a_board_runs_every_test_on_its_own_cpus() {
        let mut probed = test("c", 1, true, false);
        probed.config = "probe".into();
        let tests = [
            test("a", 1, false, false),
            test("b", 64, true, false),
            probed,
        ];
        let boots = plan(&tests, false, Board::Raspi4b);
        let words: Vec<_> = boots.iter().map(|boot| (&*boot.words, boot.cpus)).collect();
        let shared = ("test=shared", 4);
        assert_eq!(words, [shared, ("test=b", 4), ("test=shared nosdei", 4)]);
    }

    #[test]
    fn every_test_has_a_boot_with_the_cpus_it_needs() {
        let tests = [
            test("a", 1, false, false),
            test("b", 4, false, false),
            test("c", 2, true, false),
            test("d", 2, false, true),
        ];
        let boots = plan(&tests, false, Board::Virt);
        let words: Vec<&str> = boots.iter().map(|boot| boot.words.as_str()).collect();
        assert_eq!(words[..3], ["test=shared", "test=c", "test=metrics icount"]);
        assert_eq!(boots[0].cpus, 4);
        assert_eq!(boots[1].cpus, 2);
        for test in &tests {
            let fits = |boot: &&Boot| {
                boot.tests.contains(test) && boot.cpus >= test.cpus && boot.icount == test.icount
            };
            assert!(boots.iter().any(|boot| fits(&boot)), "{}", test.name);
        }
        for model in ["cortex-a53", "cortex-a72", "neoverse-n1", "max"] {
            assert!(boots.iter().any(|boot| boot.model == model), "{model}");
        }
        let raspi4b = boots.iter().filter(|boot| boot.board == Board::Raspi4b);
        let words: Vec<_> = raspi4b.map(|boot| (&*boot.words, boot.cpus)).collect();
        assert_eq!(words, [("test=shared", 4)]);
        let gicv2 = boots.iter().filter(|boot| boot.board == Board::VirtGicv2);
        let words: Vec<&str> = gicv2.map(|boot| boot.words.as_str()).collect();
        assert_eq!(words, ["test=shared", "test=c", "test=metrics icount"]);
        assert!(
            boots
                .iter()
                .any(|boot| !boot.sdei && boot.words.ends_with("nosdei"))
        );
    }
}
