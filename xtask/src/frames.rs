//! Who called whom on a CPU of Linux, with names, for people and for programs: of a guest that runs and of a dump.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use introspection::linux::{Kernel, Name};
use introspection::memory::Memory;
use introspection::translation::Regime;
use introspection::unwind::{By, End, Frame};
use serde_json::{Value, json};

use debian::paths;
use lab::build_id;
use lab::lines::Lines;

/// What explains addresses further: a vmlinux.
pub struct Sources {
    lines: Lines,
    /// How far the kernel has moved from where it was linked.
    moved: u64,
}

impl Sources {
    /// `vmlinux`, if it is of this kernel.
    pub fn of(vmlinux: &Path, kernel: &Kernel) -> Result<Self> {
        if let (Ok(own), Some(id)) = (kernel.info.word("BUILD-ID"), build_id::of_elf(vmlinux)?) {
            let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            ensure!(
                id == own,
                "{} is of another build than the guest's kernel (build ids {id} and {own})",
                vmlinux.display()
            );
        }
        let digits = kernel.info.word("KERNELOFFSET")?;
        Ok(Self {
            lines: Lines::of(vmlinux, paths::root()),
            moved: u64::from_str_radix(digits, 16).context("KERNELOFFSET is no number")?,
        })
    }
}

/// Each frame as an object, innermost first. Without a kernel it has no name.
pub fn told(
    memory: &mut impl Memory,
    regime: &Regime,
    mut kernel: Option<&mut Kernel>,
    sources: Option<&Sources>,
    frames: &[Frame],
) -> Result<Vec<Value>> {
    let mut told = Vec::new();
    for frame in frames {
        let mut value = json!({ "address": frame.address, "by": by(frame.by) });
        let name = match &mut kernel {
            Some(kernel) => kernel.name(memory, regime, frame.inside())?,
            None => Name::Unknown,
        };
        match name {
            Name::Symbol { name, offset } => {
                value["symbol"] = name.into();
                // Of where it goes on, not of the call.
                value["offset"] = (offset + (frame.address - frame.inside())).into();
            }
            Name::Module(None) => value["module"] = Value::Null,
            Name::Module(Some(found)) => {
                value["module"] = found.module.into();
                if let Some((name, offset)) = found.symbol {
                    value["symbol"] = name.into();
                    value["offset"] = (offset + (frame.address - frame.inside())).into();
                }
            }
            Name::Unknown => {}
        }
        if let Some(sources) = sources {
            let linked = frame.inside().wrapping_sub(sources.moved);
            value["source"] = sources.lines.place(linked).into();
        }
        told.push(value);
    }
    Ok(told)
}

const fn by(by: By) -> &'static str {
    match by {
        By::Pc => "pc",
        By::Link => "x30",
        By::Record => "frame",
        By::OtherStack => "other-stack",
        By::Exception => "exception",
    }
}

/// Why there is no more, if there should be.
pub fn end(end: &End) -> Option<String> {
    Some(match end {
        End::Whole => return None,
        End::Sp(why) => format!("its stack pointer leads nowhere: {why}"),
        End::Unreadable(why) => format!("its next frame cannot be read: {why}"),
        End::Wrong(at) => format!("its next frame is said to be at {at:#x}, where none can be"),
        End::NoCode(address) => {
            format!("its next frame returns to {address:#x}, where no function is")
        }
        End::TooMany => "there are more, or they go in a circle".to_owned(),
    })
}

/// A line for each of `frames` of an object, and one for its `end`.
pub fn text(told: &Value) -> String {
    let frames = told["frames"].as_array().into_iter().flatten();
    let end = told["end"].as_str().map(str::to_owned);
    let lines = frames.map(line).chain(end);
    lines.map(|line| format!("  {line}\n")).collect()
}

fn line(frame: &Value) -> String {
    let address = frame["address"].as_u64().unwrap_or_default();
    let offset = frame["offset"].as_u64().unwrap_or_default();
    let module = frame.get("module").map(Value::as_str);
    let name = match (frame["symbol"].as_str(), module) {
        (Some(name), Some(Some(module))) => format!("{name}+{offset:#x} [{module}]"),
        (Some(name), _) => format!("{name}+{offset:#x}"),
        (None, Some(Some(module))) => format!("{address:#x} in the module {module}, unknown"),
        (None, Some(None)) => format!("{address:#x} in a module, unknown"),
        (None, None) => format!("{address:#x}"),
    };
    let before = match frame["by"].as_str() {
        Some("exception") => "interrupted: ",
        Some("other-stack") => "on another stack: ",
        _ => "",
    };
    let source = frame["source"].as_str();
    let source = source
        .map(|place| format!(" ({place})"))
        .unwrap_or_default();
    format!("{before}{name}{source}")
}
