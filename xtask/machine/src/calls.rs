//! The calls that a guest makes of its firmware, by their names: SDEI (DEN0054 5.1), PSCI (DEN0022 5.1), TRNG (DEN0098 2) and SMCCC
//! (DEN0028 7).

use std::fmt;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use crate::console::Record;

/// Of a JSON object that describes a call: raised when a key changes its meaning or goes.
const VERSION: u32 = 1;

/// A call and what it was answered: the record `@vm-call`.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    /// Which VM's, and which of its vCPUs called.
    pub vm: u8,
    vcpu: u32,
    is_smc: bool,
    function: u32,
    /// x1 to x5.
    x: [u64; 5],
    /// x0 afterwards; none if the call does not return.
    answer: Option<u64>,
    us: u64,
}

/// What an answer that is no error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    /// 0 is success.
    Done,
    /// A number.
    Number,
    /// Two halves of a version.
    Version16,
    /// The same of SDEI: 16 bits, 16 bits, and the vendor's 32.
    VersionSdei,
}

/// How a call is shown.
struct Known {
    /// Bit 30, which tells SMC64 from SMC32, is not looked at.
    function: u32,
    name: &'static str,
    arguments: &'static [&'static str],
    means: Means,
}

const fn known(
    function: u32,
    name: &'static str,
    arguments: &'static [&'static str],
    means: Means,
) -> Known {
    Known {
        function,
        name,
        arguments,
        means,
    }
}

const SMC64: u32 = 1 << 30;

#[rustfmt::skip]
const KNOWN: [Known; 49] = [
    known(0x8400_0020, "SDEI_VERSION", &[], Means::VersionSdei),
    known(0x8400_0021, "SDEI_EVENT_REGISTER", &["event", "entry", "argument", "flags", "affinity"], Means::Done),
    known(0x8400_0022, "SDEI_EVENT_ENABLE", &["event"], Means::Done),
    known(0x8400_0023, "SDEI_EVENT_DISABLE", &["event"], Means::Done),
    known(0x8400_0024, "SDEI_EVENT_CONTEXT", &["register"], Means::Number),
    known(0x8400_0025, "SDEI_EVENT_COMPLETE", &["status"], Means::Done),
    known(0x8400_0026, "SDEI_EVENT_COMPLETE_AND_RESUME", &["address"], Means::Done),
    known(0x8400_0027, "SDEI_EVENT_UNREGISTER", &["event"], Means::Done),
    known(0x8400_0028, "SDEI_EVENT_STATUS", &["event"], Means::Number),
    known(0x8400_0029, "SDEI_EVENT_GET_INFO", &["event", "info"], Means::Number),
    known(0x8400_002a, "SDEI_EVENT_ROUTING_SET", &["event", "mode", "affinity"], Means::Done),
    known(0x8400_002b, "SDEI_PE_MASK", &[], Means::Number),
    known(0x8400_002c, "SDEI_PE_UNMASK", &[], Means::Done),
    known(0x8400_002d, "SDEI_INTERRUPT_BIND", &["interrupt"], Means::Number),
    known(0x8400_002e, "SDEI_INTERRUPT_RELEASE", &["event"], Means::Done),
    known(0x8400_002f, "SDEI_EVENT_SIGNAL", &["event", "target"], Means::Done),
    known(0x8400_0030, "SDEI_FEATURES", &["feature"], Means::Number),
    known(0x8400_0031, "SDEI_PRIVATE_RESET", &[], Means::Done),
    known(0x8400_0032, "SDEI_SHARED_RESET", &[], Means::Done),
    known(0x8400_0000, "PSCI_VERSION", &[], Means::Version16),
    known(0x8400_0001, "CPU_SUSPEND", &["state", "entry", "context"], Means::Done),
    known(0x8400_0002, "CPU_OFF", &[], Means::Done),
    known(0x8400_0003, "CPU_ON", &["target", "entry", "context"], Means::Done),
    known(0x8400_0004, "AFFINITY_INFO", &["target", "level"], Means::Number),
    known(0x8400_0005, "MIGRATE", &["target"], Means::Done),
    known(0x8400_0006, "MIGRATE_INFO_TYPE", &[], Means::Number),
    known(0x8400_0007, "MIGRATE_INFO_UP_CPU", &[], Means::Number),
    known(0x8400_0008, "SYSTEM_OFF", &[], Means::Done),
    known(0x8400_0009, "SYSTEM_RESET", &[], Means::Done),
    known(0x8400_000a, "PSCI_FEATURES", &["function"], Means::Number),
    known(0x8400_000b, "CPU_FREEZE", &[], Means::Done),
    known(0x8400_000c, "CPU_DEFAULT_SUSPEND", &["entry", "context"], Means::Done),
    known(0x8400_000d, "NODE_HW_STATE", &["target", "level"], Means::Number),
    known(0x8400_000e, "SYSTEM_SUSPEND", &["entry", "context"], Means::Done),
    known(0x8400_000f, "PSCI_SET_SUSPEND_MODE", &["mode"], Means::Done),
    known(0x8400_0010, "PSCI_STAT_RESIDENCY", &["target", "state"], Means::Number),
    known(0x8400_0011, "PSCI_STAT_COUNT", &["target", "state"], Means::Number),
    known(0x8400_0012, "SYSTEM_RESET2", &["type", "cookie"], Means::Done),
    known(0x8400_0013, "MEM_PROTECT", &["enable"], Means::Number),
    known(0x8400_0014, "MEM_PROTECT_CHECK_RANGE", &["base", "length"], Means::Done),
    known(0x8400_0015, "SYSTEM_OFF2", &["type", "cookie"], Means::Done),
    known(0x8400_0050, "TRNG_VERSION", &[], Means::Version16),
    known(0x8400_0051, "TRNG_FEATURES", &["function"], Means::Number),
    known(0x8400_0052, "TRNG_GET_UUID", &[], Means::Number),
    known(0x8400_0053, "TRNG_RND", &["bits"], Means::Done),
    known(0x8000_0000, "SMCCC_VERSION", &[], Means::Version16),
    known(0x8000_0001, "SMCCC_ARCH_FEATURES", &["function"], Means::Number),
    known(0x8000_0002, "SMCCC_ARCH_SOC_ID", &["what"], Means::Number),
    known(0x8600_ff01, "VENDOR_HYP_UID", &[], Means::Number),
];

/// Names of errors; a gap where the document has none (DEN0054 5.1; DEN0022 5.2.2).
const SDEI_ERRORS: [&str; 10] = [
    "NOT_SUPPORTED",
    "INVALID_PARAMETERS",
    "DENIED",
    "",
    "PENDING",
    "",
    "",
    "",
    "",
    "OUT_OF_RESOURCE",
];
const PSCI_ERRORS: [&str; 9] = [
    "NOT_SUPPORTED",
    "INVALID_PARAMETERS",
    "DENIED",
    "ALREADY_ON",
    "ON_PENDING",
    "INTERNAL_FAILURE",
    "NOT_PRESENT",
    "DISABLED",
    "INVALID_ADDRESS",
];
/// DEN0098 2.1; SMCCC has the first.
const TRNG_ERRORS: [&str; 3] = ["NOT_SUPPORTED", "INVALID_PARAMETERS", "NO_ENTROPY"];

impl Call {
    /// That of a record, if it is of a call.
    pub fn of(record: &Record) -> Option<Result<Self>> {
        (record.name == "vm-call").then(|| Self::read(record))
    }

    fn read(record: &Record) -> Result<Self> {
        let is_smc = match record.word("conduit")? {
            "SMC" => true,
            "HVC" => false,
            other => bail!("the conduit {other} is unknown"),
        };
        let function = record.number("function")?;
        let mut x = [0; 5];
        for (at, x) in (1..).zip(&mut x) {
            *x = record.number(&format!("x{at}"))?;
        }
        Ok(Self {
            vm: u8::try_from(record.index("vm")?)?,
            vcpu: record.index("vcpu")?,
            is_smc,
            function: u32::try_from(function)?,
            x,
            answer: match record.word("x0")? {
                "none" => None,
                _ => Some(record.number("x0")?),
            },
            us: record.number("us")?,
        })
    }

    fn known(&self) -> Option<&'static Known> {
        let mut all = KNOWN.iter();
        all.find(|known| known.function == self.function & !SMC64)
    }

    /// Its name, or its number if it has none.
    fn name(&self) -> String {
        match self.known() {
            Some(known) => known.name.to_owned(),
            None => format!("{:#x}", self.function),
        }
    }

    /// Each argument with its name: those that the call has, or all if it is not known.
    fn arguments(&self) -> impl Iterator<Item = (&'static str, u64)> {
        const NAMELESS: &[&str] = &["x1", "x2", "x3", "x4", "x5"];
        let names = self.known().map_or(NAMELESS, |known| known.arguments);
        names.iter().copied().zip(self.x)
    }

    /// What the answer says: an error's name, or what a number means.
    fn meaning(&self) -> Option<String> {
        let answer = self.answer?;
        // The caller of an SMC32 reads w0.
        let value = match self.function & SMC64 {
            0 => i64::from(answer as u32 as i32),
            _ => answer as i64,
        };
        let owner = self.known().map(|known| known.name);
        let errors: &[&str] = match owner {
            Some(name) if name.starts_with("SDEI_") => &SDEI_ERRORS,
            Some(name) if name.starts_with("TRNG_") || name.starts_with("SMCCC_") => &TRNG_ERRORS,
            Some(_) => &PSCI_ERRORS,
            None => &TRNG_ERRORS[..1],
        };
        if value < 0
            && let Some(at) = usize::try_from(-1 - value).ok()
            && let Some(name) = errors.get(at).filter(|name| !name.is_empty())
        {
            return Some((*name).to_owned());
        }
        Some(match self.known().map(|known| known.means) {
            Some(Means::Done) if answer == 0 => "SUCCESS".to_owned(),
            Some(Means::Version16) => format!("{}.{}", answer >> 16 & 0xffff, answer & 0xffff),
            Some(Means::VersionSdei) => format!(
                "{}.{} of vendor {:#x}",
                answer >> 48,
                answer >> 32 & 0xffff,
                answer as u32
            ),
            _ => number(answer),
        })
    }

    /// As a line of JSON.
    pub fn json(&self) -> Value {
        let hex = |value: u64| format!("{value:#x}");
        let arguments: Map<String, Value> = self
            .arguments()
            .map(|(name, value)| (name.to_owned(), hex(value).into()))
            .collect();
        json!({
            "version": VERSION,
            "vm": self.vm,
            "vcpu": self.vcpu,
            "conduit": if self.is_smc { "smc" } else { "hvc" },
            "function": hex(self.function.into()),
            "name": self.known().map(|known| known.name),
            "arguments": arguments,
            "x0": self.answer.map(hex),
            "answer": self.meaning(),
            "us": self.us,
        })
    }
}

/// Small ones as they are, others in hexadecimal.
fn number(value: u64) -> String {
    match value {
        0..10 => value.to_string(),
        _ => format!("{value:#x}"),
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu {}: {}(", self.vcpu, self.name())?;
        for (at, (name, value)) in self.arguments().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {}", number(value))?;
        }
        match self.meaning() {
            Some(meaning) => write!(f, ") = {meaning}, {} us", self.us),
            None => write!(f, ") does not return"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::Line;
    use hv_abi::{psci, sdei};

    fn call(text: &str) -> Call {
        let line = Line::parse(&format!(
            "[    0.000001 p0] @vm-call vm=0 vcpu=1 {text} us=3"
        ));
        let record = line.record().unwrap().unwrap();
        Call::of(&record).unwrap().unwrap()
    }

    #[test]
    fn a_call_is_shown_by_name_with_its_arguments_and_answer() {
        for (text, shown) in [
            (
                "conduit=SMC function=0xc4000021 x1=0x0 x2=0x40080024 x3=0x5de1 x4=0x0 x5=0x0 x0=0x0",
                "cpu 1: SDEI_EVENT_REGISTER(event 0, entry 0x40080024, argument 0x5de1, flags 0, affinity 0) = SUCCESS, 3 us",
            ),
            (
                "conduit=SMC function=0xc4000022 x1=0x324 x2=0x0 x3=0x0 x4=0x0 x5=0x0 x0=0xfffffffffffffffd",
                "cpu 1: SDEI_EVENT_ENABLE(event 0x324) = DENIED, 3 us",
            ),
            (
                "conduit=HVC function=0xc4000020 x1=0x0 x2=0x0 x3=0x0 x4=0x0 x5=0x0 x0=0x10001484c474e",
                "cpu 1: SDEI_VERSION() = 1.1 of vendor 0x484c474e, 3 us",
            ),
            (
                "conduit=SMC function=0x84000000 x1=0x0 x2=0x0 x3=0x0 x4=0x0 x5=0x0 x0=0x10003",
                "cpu 1: PSCI_VERSION() = 1.3, 3 us",
            ),
            (
                "conduit=SMC function=0x84000003 x1=0x2 x2=0x40000000 x3=0x0 x4=0x0 x5=0x0 x0=0xfffffffc",
                "cpu 1: CPU_ON(target 2, entry 0x40000000, context 0) = ALREADY_ON, 3 us",
            ),
            (
                "conduit=SMC function=0xc4000025 x1=0x0 x2=0x1 x3=0x0 x4=0x0 x5=0x0 x0=none",
                "cpu 1: SDEI_EVENT_COMPLETE(status 0) does not return",
            ),
            (
                "conduit=SMC function=0xc2000001 x1=0x1 x2=0x2 x3=0x3 x4=0x4 x5=0x5 x0=0xffffffffffffffff",
                "cpu 1: 0xc2000001(x1 1, x2 2, x3 3, x4 4, x5 5) = NOT_SUPPORTED, 3 us",
            ),
            // There is no -4 in DEN0054.
            (
                "conduit=SMC function=0xc400002c x1=0x0 x2=0x0 x3=0x0 x4=0x0 x5=0x0 x0=0xfffffffffffffffc",
                "cpu 1: SDEI_PE_UNMASK() = 0xfffffffffffffffc, 3 us",
            ),
        ] {
            assert_eq!(call(text).to_string(), shown);
        }
    }

    #[test]
    fn a_call_is_an_object_for_programs() {
        let text = "conduit=SMC function=0xc400002f x1=0x0 x2=0x2 x3=0x9 x4=0x9 x5=0x9 x0=0x0";
        assert_eq!(
            call(text).json(),
            json!({
                "version": 1,
                "vm": 0,
                "vcpu": 1,
                "conduit": "smc",
                "function": "0xc400002f",
                "name": "SDEI_EVENT_SIGNAL",
                "arguments": { "event": "0x0", "target": "0x2" },
                "x0": "0x0",
                "answer": "SUCCESS",
                "us": 3,
            })
        );
        let off =
            call("conduit=HVC function=0x84000002 x1=0x0 x2=0x0 x3=0x0 x4=0x0 x5=0x0 x0=none")
                .json();
        assert_eq!(off["x0"], Value::Null);
        assert_eq!(off["answer"], Value::Null);
        assert_eq!(off["conduit"], "hvc");
    }

    #[test]
    fn what_the_hypervisor_answers_has_a_name() {
        let names = |function: u32| {
            let mut all = KNOWN.iter();
            all.find(|known| known.function == function & !SMC64)
                .map(|known| known.name)
        };
        for call in sdei::Call::ALL {
            let name = names(call as u32).unwrap();
            let words = name.trim_start_matches("SDEI_").replace('_', "");
            assert_eq!(words.to_lowercase(), format!("{call:?}").to_lowercase());
        }
        for function in [psci::CPU_ON, psci::CPU_SUSPEND, psci::SYSTEM_RESET2] {
            assert_eq!(names(function[0]), names(function[1]));
            assert!(names(function[0]).is_some());
        }
        let mut functions: Vec<u32> = KNOWN.iter().map(|known| known.function).collect();
        functions.sort_unstable();
        functions.dedup();
        assert_eq!(functions.len(), KNOWN.len(), "two have one number");
    }

    #[test]
    fn a_record_that_is_broken_is_an_error_and_another_is_none() {
        let record = |text: &str| Line::parse(text).record().unwrap().unwrap();
        assert!(Call::of(&record("@vm-off vm=0")).is_none());
        for text in [
            "@vm-call vm=0 vcpu=0",
            "@vm-call vm=0 vcpu=0 conduit=SMC function=0x1 x1=0x0 x0=none us=1",
            "@vm-call vm=0 vcpu=0 conduit=SMD function=0x1 x1=0x0 x2=0x0 x3=0x0 x4=0x0 x5=0x0 x0=none us=1",
        ] {
            assert!(Call::of(&record(text)).unwrap().is_err(), "{text}");
        }
    }
}
