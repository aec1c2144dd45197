//! One command of the QEMU Machine Protocol, and what is answered. Commands of our own begin with `x-halligan-`. Nothing here
//! reaches QEMU's own monitor, which can start programs.

use anyhow::{Context, Result, bail, ensure};
use hv_abi::operator::{Base64, Verb};
use serde_json::{Value, json};

use super::choice::nmi_target;
use super::connection::Files;
use super::{dump, linux, monitor};
use crate::operator::{Answers, Operator, Rung};

/// What a server says first.
pub fn greeting() -> Value {
    let version = json!({
        "qemu": { "major": 10, "minor": 0, "micro": 0 },
        "package": concat!("halligan ", env!("CARGO_PKG_VERSION")),
    });
    json!({ "QMP": { "version": version, "capabilities": [] } })
}

/// All commands.
const COMMANDS: [&str; 30] = [
    "qmp_capabilities",
    "query-commands",
    "query-version",
    "query-status",
    "query-target",
    "query-cpus-fast",
    "stop",
    "cont",
    "system_reset",
    "inject-nmi",
    "getfd",
    "closefd",
    "dump-guest-memory",
    "human-monitor-command",
    "quit",
    "x-halligan-guests",
    "x-halligan-guest",
    "x-halligan-status",
    "x-halligan-registers",
    "x-halligan-read",
    "x-halligan-dump",
    "x-halligan-vmcoreinfo",
    "x-halligan-console",
    "x-halligan-nmi",
    "x-halligan-rungs",
    "x-halligan-raise",
    "x-halligan-freeze",
    "x-halligan-off",
    "x-halligan-start",
    "x-halligan-capture",
];

/// Whether the connection is the guest's console after `line` has been answered.
pub fn opens_console(line: &str) -> bool {
    let command: Option<Value> = serde_json::from_str(line).ok();
    command.is_some_and(|command| command["execute"] == "x-halligan-console")
}

/// What is answered to `line`.
pub fn answer(line: &str, operator: &mut Operator, files: &mut Files) -> Value {
    let command: Value = match serde_json::from_str(line) {
        Ok(command) => command,
        Err(error) => return failed("GenericError", &format!("that is no JSON: {error}"), None),
    };
    let id = command.get("id").cloned();
    let Some(name) = command.get("execute").and_then(Value::as_str) else {
        return failed("GenericError", "QMP input lacks member 'execute'", id);
    };
    if !COMMANDS.contains(&name) {
        let text = format!("The command {name} has not been found");
        return failed("CommandNotFound", &text, id);
    }
    let arguments = command.get("arguments").unwrap_or(&Value::Null);
    match execute(name, arguments, operator, files) {
        Ok(value) => with_id(json!({ "return": value }), id),
        Err(error) => failed("GenericError", &format!("{error:#}"), id),
    }
}

fn failed(class: &str, text: &str, id: Option<Value>) -> Value {
    with_id(json!({ "error": { "class": class, "desc": text } }), id)
}

fn with_id(mut value: Value, id: Option<Value>) -> Value {
    if let Some(id) = id {
        value["id"] = id;
    }
    value
}

fn execute(
    name: &str,
    arguments: &Value,
    operator: &mut Operator,
    files: &mut Files,
) -> Result<Value> {
    let none = || json!({});
    Ok(match name {
        "query-commands" => COMMANDS
            .iter()
            .map(|name| json!({ "name": name }))
            .collect(),
        "query-version" => greeting()["QMP"]["version"].clone(),
        "query-target" => json!({ "arch": "aarch64" }),
        "query-status" => {
            let answers = operator.ask(Verb::Status, 0)?;
            let state = answers.vm.map(|vm| vm.state).unwrap_or_default();
            json!({ "running": state == "running", "status": state })
        }
        "query-cpus-fast" => {
            let answers = operator.ask(Verb::Status, 0)?;
            let count = answers.vm.map_or(0, |vm| vm.vcpus);
            let cpu = |n| {
                json!({ "cpu-index": n, "qom-path": format!("/machine/cpu[{n}]"), "thread-id": 0,
                        "target": "aarch64" })
            };
            (0..count).map(cpu).collect()
        }
        // As QEMU's own: the guest's clock stands still.
        "stop" => {
            let answers = operator.ask(Verb::FreezeClock, 0)?;
            all_answered(&answers)?;
            none()
        }
        "x-halligan-freeze" => {
            let answers = operator.ask(Verb::Freeze, 0)?;
            all_answered(&answers)?;
            none()
        }
        "cont" => {
            let answers = operator.ask(Verb::Thaw, 0)?;
            all_answered(&answers)?;
            none()
        }
        "system_reset" => {
            operator.ask(Verb::Reset, 0)?;
            none()
        }
        "quit" | "x-halligan-off" => {
            operator.ask(Verb::Off, 0)?;
            none()
        }
        "x-halligan-start" => {
            operator.ask(Verb::Start, 0)?;
            none()
        }
        "x-halligan-capture" => {
            operator.ask(Verb::Dump, 0)?;
            none()
        }
        "inject-nmi" => {
            nmi(None, operator)?;
            none()
        }
        "x-halligan-guests" => {
            let guests = operator.guests().into_iter();
            let one = |(vm, name): (u8, String)| json!({ "guest": vm, "name": name });
            guests.map(one).collect()
        }
        "x-halligan-guest" => {
            *operator = match arguments.get("guest") {
                Some(Value::String(name)) => operator.find(name)?,
                Some(Value::Number(number)) => operator.numbered(number.as_u64())?,
                _ => bail!("say which guest: {{\"guest\": \"main\"}}, or its number"),
            };
            json!({ "guest": operator.vm(), "name": operator.name() })
        }
        "x-halligan-nmi" => nmi(vcpu(arguments)?, operator)?,
        "x-halligan-rungs" => rungs(arguments, operator)?,
        "x-halligan-status" => told(&operator.ask(Verb::Status, 0)?)?,
        "x-halligan-registers" => {
            let vcpu = vcpu(arguments)?.context("say of which vCPU: {\"vcpu\": 0}")?;
            told(&operator.ask(Verb::Registers, vcpu)?)?
        }
        "x-halligan-raise" => raise(arguments, operator)?,
        "getfd" => {
            files.name(named(arguments, "fdname")?)?;
            none()
        }
        "closefd" => {
            drop(files.take(named(arguments, "fdname")?)?);
            none()
        }
        "dump-guest-memory" => {
            dump::dump(arguments, operator, files)?;
            none()
        }
        // The same, which says what it is.
        "x-halligan-dump" => dump::dump(arguments, operator, files)?,
        "human-monitor-command" => {
            let line = named(arguments, "command-line")?;
            monitor::Command::parse(line)?.execute(operator)?.into()
        }
        "x-halligan-read" => read(arguments, operator)?,
        "x-halligan-vmcoreinfo" => {
            let found = linux::vmcoreinfo(operator)?;
            json!({ "place": found.place, "release": found.release()?, "note": Base64(&found.note).to_string() })
        }
        // Its only capability, and the console, which comes after the answer.
        _ => none(),
    })
}

/// A text that a command needs.
fn named<'a>(arguments: &'a Value, name: &str) -> Result<&'a str> {
    let value = arguments.get(name).and_then(Value::as_str);
    value.with_context(|| format!("Parameter '{name}' is missing"))
}

/// The vCPU that `arguments` name, if they do.
fn vcpu(arguments: &Value) -> Result<Option<u8>> {
    match arguments.get("vcpu") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let number = value.as_u64().and_then(|number| u8::try_from(number).ok());
            Ok(Some(number.with_context(|| {
                format!("{value} is no number of a vCPU")
            })?))
        }
    }
}

/// More takes longer than a client waits, over a line of 115200 baud.
const LONGEST_READ: u64 = 1 << 20;

fn read(arguments: &Value, operator: &Operator) -> Result<Value> {
    let number = |name: &str| {
        let value = arguments.get(name).and_then(Value::as_u64);
        value.context("say where and how many bytes: {\"ipa\": 1073741824, \"length\": 64}")
    };
    let (ipa, length) = (number("ipa")?, number("length")?);
    ensure!(
        length <= LONGEST_READ,
        "{length} bytes are too many at a time; read {LONGEST_READ} at most"
    );
    let data = operator.read(ipa, length as usize)?;
    Ok(json!({ "data": Base64(&data).to_string() }))
}

fn raise(arguments: &Value, operator: &Operator) -> Result<Value> {
    let event = arguments.get("event").and_then(Value::as_u64);
    let event = event.and_then(|event| u32::try_from(event).ok());
    let event = event.context("say which event: {\"event\": 256, \"vcpu\": 0}")?;
    let vcpu = vcpu(arguments)?.unwrap_or(0);
    let answers = operator.raise(event, vcpu)?;
    all_answered(&answers)?;
    if let Some(answer) = answers.vcpus.get(&vcpu)
        && answer.pstate.is_none()
    {
        bail!("vCPU {vcpu} is {}, and takes no event", answer.state);
    }
    told(&answers)
}

fn nmi(vcpu: Option<u8>, operator: &Operator) -> Result<Value> {
    let vcpu = match vcpu {
        Some(vcpu) => vcpu,
        None => nmi_target(&operator.ask(Verb::Status, 0)?)?,
    };
    let known = operator.known_rungs();
    let answers = operator.ask(Verb::Nmi, vcpu)?;
    all_answered(&answers)?;
    if let Some(answer) = answers.vcpus.get(&vcpu)
        && answer.pstate.is_none()
    {
        bail!("vCPU {vcpu} is {}, and takes no NMI", answer.state);
    }
    let mut told = told(&answers)?;
    told["vcpu"] = vcpu.into();
    told["known"] = known.into();
    Ok(told)
}

/// What the rungs behind the first `known` have come to, and how the vCPUs were before.
fn rungs(arguments: &Value, operator: &Operator) -> Result<Value> {
    let known = arguments.get("known").and_then(Value::as_u64);
    let known = known.context("say how many you know: {\"known\": 0}")?;
    let (rungs, is_over) = operator.rungs(usize::try_from(known)?);
    let vm = u64::from(operator.vm());
    let told = |rung: &Rung| {
        json!({ "vm": rung.vm, "own": rung.vm == vm, "vcpu": rung.vcpu, "rung": rung.rung, "answer": rung.answer,
                "text": rung.to_string(), "last": rung.is_last() })
    };
    let rungs: Vec<Value> = rungs.iter().map(told).collect();
    Ok(json!({ "rungs": rungs, "over": is_over, "recorded": operator.recorded(vm) }))
}

/// That nobody is missing.
fn all_answered(answers: &Answers) -> Result<()> {
    let missing = answers.missing();
    if let Some(first) = missing.first() {
        bail!(
            "the pCPU of vCPU {first} does not answer ({} of them): it may be stuck in the hypervisor",
            missing.len()
        );
    }
    Ok(())
}

/// As programs read it.
fn told(answers: &Answers) -> Result<Value> {
    let vcpus: Vec<Value> = answers
        .vcpus
        .iter()
        .map(|(n, answer)| {
            let mut value = serde_json::to_value(answer)?;
            value["vcpu"] = (*n).into();
            Ok(value)
        })
        .collect::<Result<_>>()?;
    Ok(json!({ "vm": answers.vm, "vcpus": vcpus, "missing": answers.missing() }))
}
