//! What the hypervisor says, for people.

use std::fmt::Write;

use serde_json::Value;

use lab::registers::Pstate;

/// A line for the VM and one for each vCPU.
pub fn status(told: &Value) -> String {
    lines("the guest", told)
}

/// The same of one of several guests.
pub fn status_of(name: &str, told: &Value) -> String {
    lines(&format!("the guest {name}"), told)
}

fn lines(whose: &str, told: &Value) -> String {
    let vm = &told["vm"];
    let mut text = format!(
        "{whose} is {}{}, with {} vCPUs\n",
        vm["state"].as_str().unwrap_or("?"),
        if vm["is_clock_held"] == true {
            " and its clock held"
        } else {
            ""
        },
        vm["vcpus"]
    );
    if vm["reaches_all"] == true {
        text += "  its devices can reach all memory, the hypervisor's and other guests' (docs/guests.md)\n";
    }
    for vcpu in told["vcpus"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "  {}", one(vcpu));
    }
    for vcpu in told["missing"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "  {}", missing(vcpu));
    }
    text
}

/// That a vCPU has not answered.
pub fn missing(vcpu: &Value) -> String {
    let vcpu = vcpu.as_u64().unwrap_or_default();
    format!("vCPU {vcpu:<3} does not answer: its pCPU may be stuck in the hypervisor")
}

/// What a vCPU does, in a line.
pub fn one(vcpu: &Value) -> String {
    let number = vcpu["vcpu"].as_u64().unwrap_or_default();
    let state = vcpu["state"].as_str().unwrap_or("?");
    let (Some(pc), Some(pstate)) = (vcpu["pc"].as_u64(), vcpu["pstate"].as_u64()) else {
        return format!("vCPU {number:<3} {state}");
    };
    let waits = match vcpu["has_serror"].as_bool() {
        Some(true) => ", an SError waits",
        _ => "",
    };
    format!(
        "vCPU {number:<3} {state:<5} pc {pc:#018x} {}{waits}{}",
        Pstate(pstate),
        late(&vcpu["late"])
    )
}

/// What the guest's watchdog says.
fn late(late: &Value) -> String {
    let (Some(state), Some(ms)) = (late["state"].as_str(), late["ms"].as_u64()) else {
        return String::new();
    };
    let by = match late["masked"].as_str() {
        Some("priority") => "its priority mask",
        Some("running") => "what it handles",
        _ => "PSTATE",
    };
    let (seconds, tenths) = (ms / 1000, ms % 1000 / 100);
    let intid = &late["intid"];
    format!(", {state}: interrupt {intid} waits for {seconds}.{tenths} s, kept off by {by}")
}

/// Registers in lines of four, those of EL1 behind them.
pub fn registers(told: &Value, vcpu: u8) -> String {
    let Some(answer) = told["vcpus"].as_array().and_then(|all| all.first()) else {
        return format!("vCPU {vcpu} does not answer: its pCPU may be stuck in the hypervisor\n");
    };
    let mut text = format!("{}\n", one(answer));
    let Some(registers) = answer["registers"].as_object() else {
        return text;
    };
    let value = |name: &str| registers.get(name).and_then(Value::as_u64);
    let general = (0..31).map(|n| format!("x{n}"));
    let general: Vec<String> = general.filter(|name| value(name).is_some()).collect();
    let mut rest: Vec<String> = registers.keys().cloned().collect();
    rest.retain(|name| !general.contains(name));
    for names in [general, rest] {
        for line in names.chunks(4) {
            for name in line {
                let value = value(name).unwrap_or_default();
                let _ = write!(text, "  {name:>9} {value:016x}");
            }
            text.push('\n');
        }
    }
    text
}

/// Lines of sixteen bytes, as hexadecimal numbers and as what of them is ASCII.
pub fn memory(address: u64, bytes: &[u8]) -> String {
    let mut text = String::new();
    for (n, line) in (0..).zip(bytes.chunks(16)) {
        let at = address.wrapping_add(16 * n);
        let _ = write!(text, "{at:016x} ");
        for n in 0..16 {
            if n == 8 {
                text.push(' ');
            }
            let _ = match line.get(n) {
                Some(byte) => write!(text, " {byte:02x}"),
                None => write!(text, "   "),
            };
        }
        let shown = |&byte: &u8| match byte {
            b' '..=b'~' => char::from(byte),
            _ => '.',
        };
        let ascii: String = line.iter().map(shown).collect();
        let _ = writeln!(text, "  |{ascii}|");
    }
    text
}

/// Whether it has been taken.
pub fn nmi(told: &Value) -> String {
    let vcpu = &told["vcpu"];
    let answer = told["vcpus"].as_array().and_then(|all| all.first());
    let pstate = answer.and_then(|answer| answer["pstate"].as_u64());
    match pstate.map(Pstate) {
        Some(pstate) if pstate.masks_serror() => {
            format!(
                "an SError waits for vCPU {vcpu}: PSTATE.A is set ({pstate}), so it is taken once that is clear"
            )
        }
        _ => format!("vCPU {vcpu} takes an SError"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_has_a_line_for_each_vcpu() {
        let told = json!({
            "vm": { "vcpus": 4, "state": "running" },
            "vcpus": [
                { "vcpu": 0, "state": "idle", "pc": 0xffff_8000_8101_0000_u64, "pstate": 0x6000_00c5, "has_serror": false },
                { "vcpu": 1, "state": "on", "pc": 0x40_0000, "pstate": 0, "has_serror": false },
                { "vcpu": 2, "state": "off", "has_serror": false },
            ],
            "missing": [3],
        });
        assert_eq!(
            status(&told),
            "the guest is running, with 4 vCPUs\n  \
             vCPU 0   idle  pc 0xffff800081010000 at EL1, IF masked\n  \
             vCPU 1   on    pc 0x0000000000400000 at EL0, nothing masked\n  \
             vCPU 2   off\n  \
             vCPU 3   does not answer: its pCPU may be stuck in the hypervisor\n"
        );
        let trusted = json!({ "vm": { "vcpus": 1, "state": "paused", "reaches_all": true } });
        assert!(status(&trusted).ends_with("\n  its devices can reach all memory, the hypervisor's and other guests' (docs/guests.md)\n"));
    }

    #[test]
    fn an_nmi_says_whether_it_waits() {
        let told = |pstate: u64| json!({ "vcpu": 2, "vcpus": [{ "vcpu": 2, "state": "on", "pc": 0, "pstate": pstate, "has_serror": true }] });
        assert_eq!(nmi(&told(0xc5)), "vCPU 2 takes an SError");
        assert!(nmi(&told(0x1c5)).contains("PSTATE.A is set (at EL1, AIF masked)"));
    }

    #[test]
    fn memory_stands_in_lines_of_sixteen() {
        let text = memory(0x4000_0008, b"halligan\x00\xffsixteen+");
        assert_eq!(
            text,
            "0000000040000008  68 61 6c 6c 69 67 61 6e  00 ff 73 69 78 74 65 65  |halligan..sixtee|\n\
             0000000040000018  6e 2b                                             |n+|\n"
        );
        assert_eq!(memory(0, &[]), "");
    }

    #[test]
    fn registers_stand_in_lines_of_four() {
        let told = json!({ "vcpus": [{ "vcpu": 0, "state": "on", "pc": 0, "pstate": 5, "has_serror": false,
            "registers": { "x0": 1, "x1": 2, "x10": 3, "x2": 4, "x3": 5, "sp_el0": 6 } }] });
        let text = registers(&told, 0);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].ends_with("x3 0000000000000005"), "{text}");
        assert!(lines[1].trim_start().starts_with("x10 "), "{text}");
        assert!(lines[2].trim_start().starts_with("sp_el0 "), "{text}");
    }
}
