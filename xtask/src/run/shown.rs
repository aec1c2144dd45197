//! Which of the hypervisor's lines people see. The log has them all.

use std::ops::Range;

use anyhow::Result;

use machine::console::{Line, Record};
use machine::operator::{Late, Rung};

/// Chooses among the lines of one boot.
#[derive(Default)]
pub struct Shown {
    /// There is more than one guest.
    are_several: bool,
    /// How often guests were reset.
    resets: u64,
    /// The lines of an orderly stop so far, which nobody sees unless it turns out to be none.
    stop: Option<Vec<Line>>,
    is_report: bool,
    /// A guest's first external abort has been told of; its other vCPUs' are for programs.
    has_abort: bool,
}

impl Shown {
    /// What is to be shown now that `line` has come: sentences, reports of what went wrong, and resets.
    pub fn next(&mut self, line: Line) -> Result<Vec<Line>> {
        let Some(record) = line.record().transpose()? else {
            return Ok(match &mut self.stop {
                Some(stop) => {
                    stop.push(line);
                    Vec::new()
                }
                None => vec![line],
            });
        };
        let whose = match record.word("vm") {
            Ok(vm) if self.are_several => format!("vm{vm}: "),
            _ => String::new(),
        };
        match record.name.as_str() {
            "ready" => {
                self.are_several = record.number("vms")? > 1;
                return Ok(Vec::new());
            }
            "hv-stop" if !self.is_report && is_orderly(&record)? => {
                self.stop = Some(vec![line]);
                return Ok(Vec::new());
            }
            "hv-stop-end" if self.stop.is_some() => {
                self.stop = None;
                return Ok(Vec::new());
            }
            "hv-pcpu" if self.stop.is_some() && !is_stopped(&record)? => {
                let mut lines = self.stop.take().unwrap_or_default();
                lines.push(line);
                return Ok(lines);
            }
            "hv-crash" => self.is_report = true,
            "vm-off" | "vm-reset" if record.word("then").is_ok() => {
                let text = whose + &then(&record)?;
                return Ok(vec![Line { text, ..line }]);
            }
            "vm-reset" => {
                self.resets += 1;
                let is_told = self.resets <= SOME || self.resets.is_power_of_two();
                let text = format!("{whose}guest reset ({})", self.resets);
                return Ok(is_told
                    .then_some(Line { text, ..line })
                    .into_iter()
                    .collect());
            }
            "vm-fault" | "vm-abort" if !self.is_report => {
                let is_first = record.name == "vm-abort";
                if is_first && core::mem::replace(&mut self.has_abort, true) {
                    return Ok(Vec::new());
                }
                let text = whose + &fault(&record, is_first)?;
                return Ok(vec![Line { text, ..line }]);
            }
            "vm-lost" => {
                let vm = record.number("vm")?;
                let text =
                    format!("the guest vm{vm} is given up: a CPU never leaves it; others go on");
                return Ok(vec![Line { text, ..line }]);
            }
            "vm-panic" => {
                let vcpu = record.index("vcpu")?;
                let said = match record.word("event")? {
                    "panicked" => "it has panicked",
                    "crash-loaded" => {
                        "it has panicked, and the kernel loaded for this case takes over"
                    }
                    _ => "it switches itself off",
                };
                let text = format!("{whose}vCPU {vcpu} says by pvpanic: {said}");
                return Ok(vec![Line { text, ..line }]);
            }
            "vm-nmi" => {
                let rung = Rung::read(&record)?;
                let text = whose + &rung.map_or_else(String::new, |rung| rung.to_string());
                return Ok(vec![Line { text, ..line }]);
            }
            "vm-gwdt" => {
                let text = whose + gwdt(&record)?;
                return Ok(vec![Line { text, ..line }]);
            }
            "vm-late" => {
                let text = whose + &late(&record)?;
                return Ok(vec![Line { text, ..line }]);
            }
            name if !name.starts_with("hv-") && !self.is_report => return Ok(Vec::new()),
            _ => {}
        }
        Ok(match &mut self.stop {
            Some(stop) => {
                stop.push(line);
                Vec::new()
            }
            None => vec![line],
        })
    }
}

/// What becomes of a guest that its end is not called for.
fn then(record: &Record) -> Result<String> {
    let how = match record.name.as_str() {
        "vm-off" => "has switched itself off",
        // Whoever has ordered it.
        _ if record.word("then")? == "dump" => "is reset",
        _ => "has reset itself",
    };
    let then = match record.word("then")? {
        "restart" => "and is started again",
        "machine-off" => "and the machine goes off with it",
        "dump" => "and its capture kernel is next",
        _ => "and stays off",
    };
    Ok(format!("the guest {how}, {then}"))
}

/// The guest has not refreshed its own watchdog.
fn gwdt(record: &Record) -> Result<&'static str> {
    Ok(match record.word("do")? {
        "nmi" => "the guest has not refreshed its sbsa-gwdt; an NMI is sent",
        "freeze" => "the guest has not refreshed its sbsa-gwdt; it is paused",
        "reset" => "the guest has not refreshed its sbsa-gwdt; it is reset",
        "off" => "the guest has not refreshed its sbsa-gwdt; it is switched off",
        _ => "the guest has not refreshed its sbsa-gwdt",
    })
}

/// What the guest's watchdog has found.
fn late(record: &Record) -> Result<String> {
    let (vcpu, pc) = (record.index("vcpu")?, record.number("pc")?);
    let Some(late) = Late::read(record)? else {
        return Ok(format!("vCPU {vcpu} takes interrupts again"));
    };
    let by = match late.masked.as_str() {
        "priority" => "its priority mask",
        "running" => "what it handles",
        _ => "PSTATE",
    };
    let Late {
        state, intid, ms, ..
    } = &late;
    let (seconds, tenths) = (ms / 1000, ms % 1000 / 100);
    let what = format!(
        "vCPU {vcpu} is {state} at pc {pc:#x}: interrupt {intid} has been waiting for {seconds}.{tenths} s, kept off by {by}"
    );
    let is_all = record.number("all")? != 0;
    let all = if is_all {
        "; so are all that are on"
    } else {
        ""
    };
    let act = match record.word("do")? {
        "nmi" => "; an NMI is sent",
        "freeze" => "; the guest is paused",
        "reset" => "; the guest is reset",
        "off" => "; the guest is switched off",
        _ => "",
    };
    Ok(format!("{what}{all}{act}"))
}

/// So many resets are told of one by one, and then fewer and fewer: a guest may reset itself for ever.
const SOME: u64 = 10;

/// A vCPU that does nothing but fault, or its first external abort, and what is probably missing.
fn fault(record: &Record, is_first: bool) -> Result<String> {
    let (vcpu, pc) = (record.index("vcpu")?, record.number("pc")?);
    let address = record.number("address")?;
    let does = if is_first {
        "takes an external abort"
    } else {
        "faults for ever"
    };
    let esr = record.number("esr")?;
    Ok(format!(
        "vCPU {vcpu} {does} at pc {pc:#x}, address {address:#x}: {}",
        missing(pc, address, esr)
    ))
}

/// Where the machines have their flash, and what firmware has its variables in: QEMU's `virt`.
const FLASH: Range<u64> = 0..0x800_0000;

/// What is probably missing where an access to `address` by the instruction at `pc` fails, as `esr` says: EL2's, or EL1's of a
/// vector that faults (DDI0487 D24.2, ESR_ELx, "ISS encoding for an exception from a Data Abort").
fn missing(pc: u64, address: u64, esr: u64) -> &'static str {
    /// Aborts that EL1 takes from itself.
    const OWN: [u64; 2] = [0x21, 0x25];
    const S1PTW: u64 = 1 << 7;
    let (class, kind) = (esr >> 26 & 0x3f, esr >> 2 & 0xf);
    let is_own = OWN.contains(&class);
    if !is_own && esr & S1PTW != 0 {
        "its translation tables lead to where it has no memory; firmware that is linked to a flash at 0, UEFI's EDK2 for one, \
         has them there, and a guest has no such flash"
    } else if is_own && kind == 1 {
        "its translation tables have nothing there"
    } else if is_own && kind == 3 {
        "its translation tables do not allow that"
    } else if pc == address {
        "there is no memory for instructions; VBAR_EL1 or a branch leads nowhere"
    } else if FLASH.contains(&address) {
        "if it wants a flash, `flash` in a guest file gives it one (docs/guest-file.md)"
    } else {
        "there is neither memory nor a device of this guest's"
    }
}

/// Whether the machine is stopped because its guests are done.
fn is_orderly(stop: &Record) -> Result<bool> {
    Ok(matches!(stop.word("cause")?, "shutdown" | "reboot"))
}

/// Whether a pCPU stands still, by means that all is well for.
fn is_stopped(pcpu: &Record) -> Result<bool> {
    let fate = pcpu.word("fate")?;
    Ok(matches!(fate, "stopper" | "ipi" | "itself" | "offline"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(lines: &[&str]) -> Vec<String> {
        let mut shown = Shown::default();
        let next = |line: &&str| shown.next(Line::parse(line)).unwrap();
        let lines = lines.iter().flat_map(next);
        lines.map(|line| line.text).collect()
    }

    #[test]
    fn the_end_of_a_guest_is_for_programs() {
        let lines = [
            "@ready vms=1",
            "heap: 217 of 1636 KiB used",
            "@vm-off vm=0",
            "@trace vm=0 vcpu=0 t=1 event=cpu-off a=0x0 b=0x0",
            "@end vm=0",
            "@hv-stop pcpu=0 cause=shutdown us=863",
            "@hv-pcpu pcpu=0 fate=stopper",
            "@hv-pcpu pcpu=1 fate=ipi us=517 level=el2 pc=0x8 pstate=0x3c9",
            "@hv-stop-end",
        ];
        assert_eq!(shown(&lines), ["heap: 217 of 1636 KiB used"]);
    }

    #[test]
    fn a_stop_that_somebody_does_not_follow_is_shown() {
        let lines = [
            "@hv-stop pcpu=0 cause=shutdown us=863",
            "@hv-pcpu pcpu=0 fate=stopper",
            "@hv-pcpu pcpu=1 fate=lost",
            "  last known:",
            "@hv-stop-end",
        ];
        assert_eq!(shown(&lines), lines);
    }

    #[test]
    fn a_report_is_shown_whole() {
        let crash = [
            "@hv-crash pcpu=0 cause=panic",
            "EL2 panicked",
            "@hv-stop pcpu=0 cause=panic us=863",
            "@hv-pcpu pcpu=1 fate=ipi us=517 level=el2 pc=0x8 pstate=0x3c9",
            "@hv-crash-end",
        ];
        assert_eq!(shown(&crash), crash);
        let stuck = [
            "@hv-stuck pcpu=1 fate=deaf",
            "  last known:",
            "@hv-stuck-end",
        ];
        assert_eq!(shown(&stuck), stuck);
    }

    #[test]
    fn an_endless_fault_is_a_sentence() {
        let text = |pc: &str| {
            shown(&[&format!(
                "@vm-fault vm=0 vcpu=2 on=4 pc={pc} address=0x200 esr=0x82000006"
            )])
        };
        assert_eq!(
            text("0x200"),
            [
                "vCPU 2 faults for ever at pc 0x200, address 0x200: there is no memory for instructions; \
              VBAR_EL1 or a branch leads nowhere"
            ]
        );
        assert!(text("0x40080000")[0].contains("wants a flash"));
    }

    #[test]
    fn the_kind_of_an_abort_is_in_words() {
        let text = |esr: &str| {
            let told = shown(&[&format!(
                "@vm-abort vm=0 vcpu=0 on=1 pc=0x8 address=0x8 esr={esr}"
            )]);
            told.into_iter().next().unwrap_or_default()
        };
        // A fetch and a load: EL2's syndromes, on a walk and not.
        for esr in ["0x82000086", "0x92000087"] {
            let walk = text(esr);
            assert!(
                walk.contains("tables lead to where it has no memory"),
                "{walk}"
            );
        }
        for esr in ["0x82000006", "0x92000007"] {
            assert!(text(esr).contains("there is no memory for instructions"));
        }
        // A vector's own, translation and permission.
        assert!(text("0x86000007").ends_with("its translation tables have nothing there"));
        assert!(text("0x8600000f").ends_with("its translation tables do not allow that"));
    }

    #[test]
    fn what_each_rung_of_an_nmi_comes_to_is_a_sentence() {
        let told = shown(&[
            "@vm-nmi vm=0 vcpu=3 rung=event answer=unregistered",
            "@vm-nmi vm=0 vcpu=3 rung=serror answer=pending",
            "@vm-nmi vm=0 vcpu=3 rung=serror answer=works",
            "@vm-nmi vm=0 vcpu=3 rung=last answer=frozen",
            "@vm-nmi vm=0 vcpu=3 rung=last answer=reported",
        ]);
        let sentences = [
            "NMI on vCPU 3: the SDEI event, which the guest has not registered and enabled",
            "NMI on vCPU 3: the SError waits: PSTATE.A is set",
            "NMI on vCPU 3: the SError works: the guest panics, starts another kernel or stops its CPUs",
            "NMI on vCPU 3: nothing has helped: the guest is paused",
            "NMI on vCPU 3: nothing has helped",
        ];
        assert_eq!(told, sentences);
    }

    #[test]
    fn what_the_watchdog_finds_is_a_sentence() {
        let told = shown(&[
            "@vm-late vm=0 vcpu=3 pc=0x40 pstate=0x3c5 do=report all=0 late=wedged intid=27 masked=pstate ms=10020",
            "@vm-late vm=0 vcpu=1 pc=0x44 pstate=0x3c5 do=nmi all=1 late=wedged intid=1 masked=running ms=12990",
            "@vm-late vm=0 vcpu=1 pc=0x44 pstate=0x3c5 do=none all=0 late=stopped intid=1 masked=priority ms=500",
            "@vm-late vm=0 vcpu=1 pc=0x44 pstate=0x3c5 do=none all=0",
        ]);
        let sentences = [
            "vCPU 3 is wedged at pc 0x40: interrupt 27 has been waiting for 10.0 s, kept off by PSTATE",
            "vCPU 1 is wedged at pc 0x44: interrupt 1 has been waiting for 12.9 s, kept off by what it handles; \
             so are all that are on; an NMI is sent",
            "vCPU 1 is stopped at pc 0x44: interrupt 1 has been waiting for 0.5 s, kept off by its priority mask",
            "vCPU 1 takes interrupts again",
        ];
        assert_eq!(told, sentences);
    }

    #[test]
    fn what_is_done_about_a_guest_that_does_not_refresh_its_watchdog_is_a_sentence() {
        let told = shown(&[
            "@vm-gwdt vm=0 vcpu=3 do=report",
            "@vm-gwdt vm=0 vcpu=0 do=reset",
        ]);
        let sentences = [
            "the guest has not refreshed its sbsa-gwdt",
            "the guest has not refreshed its sbsa-gwdt; it is reset",
        ];
        assert_eq!(told, sentences);
    }

    #[test]
    fn what_is_said_by_pvpanic_is_a_sentence() {
        let told = shown(&[
            "@vm-panic vm=0 vcpu=3 event=panicked",
            "@vm-panic vm=0 vcpu=0 event=shutdown",
        ]);
        let sentences = [
            "vCPU 3 says by pvpanic: it has panicked",
            "vCPU 0 says by pvpanic: it switches itself off",
        ];
        assert_eq!(told, sentences);
    }

    #[test]
    fn the_first_external_abort_is_a_sentence() {
        let abort = "@vm-abort vm=0 vcpu=2 on=4 pc=0x40080000 address=0x50000000 esr=0x92000006";
        let told = "vCPU 2 takes an external abort at pc 0x40080000, address 0x50000000: \
                    there is neither memory nor a device of this guest's";
        assert_eq!(shown(&[abort, abort]), [told]);
    }

    #[test]
    fn of_several_guests_each_line_says_whose_it_is() {
        let lines = [
            "@ready vms=2",
            "@vm-nmi vm=1 vcpu=0 rung=serror answer=pending",
            "@vm-off vm=1 then=restart",
            "@vm-reset vm=0 then=machine-off",
        ];
        let told = [
            "vm1: NMI on vCPU 0: the SError waits: PSTATE.A is set",
            "vm1: the guest has switched itself off, and is started again",
            "vm0: the guest has reset itself, and the machine goes off with it",
        ];
        assert_eq!(shown(&lines), told);
    }

    #[test]
    fn resets_are_counted_and_many_are_told_of_seldom() {
        let told = shown(&["@vm-reset vm=0"; 40]);
        assert_eq!(told[2], "guest reset (3)");
        let last: Vec<&str> = told[9..].iter().map(String::as_str).collect();
        assert_eq!(
            last,
            ["guest reset (10)", "guest reset (16)", "guest reset (32)"]
        );
    }
}
