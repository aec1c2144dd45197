//! `ctl bt`: which functions each vCPU is in.

use std::path::Path;

use anyhow::{Result, ensure};
use introspection::linux::Kernel;
use introspection::memory::Cached;
use introspection::unwind::{End, Frame, Registers};
use serde_json::{Value, json};

use super::guest::{Clock, Guest, Vcpu};
use super::shown;
use crate::frames::{self, Sources};

/// The frames of one vCPU.
struct Stack {
    vcpu: Vcpu,
    frames: Vec<Frame>,
    end: Option<End>,
}

/// Backtraces of `which` vCPUs, or all, as JSON.
pub fn backtraces(guest: &mut Guest, which: Option<u8>, vmlinux: Option<&Path>) -> Result<Value> {
    let (count, is_paused) = guest.status()?;
    if let Some(vcpu) = which {
        ensure!(
            vcpu < count,
            "there is no vCPU {vcpu}; there are 0 to {}",
            count.saturating_sub(1)
        );
    }
    // What does not change is read while the guest runs.
    let kernel = guest.linux();
    let sources = match (&kernel, vmlinux) {
        (Ok(kernel), Some(vmlinux)) => Some(Sources::of(vmlinux, kernel)?),
        _ => None,
    };
    let mut kernel = kernel.map_err(|error| format!("{error:#}"));
    let held = if is_paused {
        None
    } else {
        guest.hold(Clock::Runs)?
    };
    let is_consistent = is_paused || held.is_some();
    let mut stacks = Vec::new();
    let mut missing = Vec::new();
    for number in which.map_or(0..count, |vcpu| vcpu..vcpu + 1) {
        match guest.vcpu(number)? {
            Some(vcpu) => stacks.push(stack(guest, kernel.as_ref().ok(), vcpu)?),
            None => missing.push(number),
        }
    }
    drop(held);
    let mut memory = guest.memory();
    let vcpus: Result<Vec<Value>> = stacks
        .into_iter()
        .map(|stack| told(&mut memory, kernel.as_mut().ok(), sources.as_ref(), &stack))
        .collect();
    let release = kernel.as_ref().ok();
    let release = release.and_then(|kernel| kernel.info.release().ok());
    Ok(json!({
        "release": release,
        "unnamed": kernel.as_ref().err(),
        "consistent": is_consistent,
        "vcpus": vcpus?,
        "missing": missing,
    }))
}

fn stack(guest: &mut Guest, kernel: Option<&Kernel>, vcpu: Vcpu) -> Result<Stack> {
    let register = |name: &str| vcpu.register(name);
    let (Some(pc), Some(sp), false) = (register("pc"), vcpu.sp(), vcpu.is_at_el0()) else {
        return Ok(Stack {
            vcpu,
            frames: Vec::new(),
            end: None,
        });
    };
    let registers = Registers {
        pc,
        sp,
        frame: register("x29").unwrap_or_default(),
        link: register("x30").unwrap_or_default(),
    };
    let regime = vcpu.regime()?;
    let mut memory = guest.memory();
    let (frames, end) = match kernel {
        Some(kernel) => kernel.unwind(&mut memory, &regime, &registers)?,
        // Anything may be code.
        None => introspection::unwind::unwind(&mut memory, &regime, &registers, |_, address| {
            Ok((address % 4 == 0 || address % 4 == 3).then_some(address))
        })?,
    };
    Ok(Stack {
        vcpu,
        frames,
        end: Some(end),
    })
}

fn told(
    memory: &mut Cached<&mut Guest>,
    kernel: Option<&mut Kernel>,
    sources: Option<&Sources>,
    stack: &Stack,
) -> Result<Value> {
    let mut value = stack.vcpu.told.clone();
    if let Some(object) = value.as_object_mut() {
        object.remove("registers");
    }
    let frames = match stack.frames.is_empty() {
        true => Vec::new(),
        false => {
            let regime = stack.vcpu.regime()?;
            frames::told(memory, &regime, kernel, sources, &stack.frames)?
        }
    };
    value["vcpu"] = stack.vcpu.number.into();
    value["frames"] = frames.into();
    value["end"] = stack.end.as_ref().map(frames::end).into();
    Ok(value)
}

/// Backtraces for people.
pub fn text(told: &Value) -> String {
    let mut text = String::new();
    match (told["release"].as_str(), told["unnamed"].as_str()) {
        (Some(release), _) => text.push_str(&format!("Linux {release}\n")),
        (None, why) => text.push_str(&format!(
            "addresses stay numbers: {}\n",
            why.unwrap_or("it is not known why")
        )),
    }
    if told["consistent"] == false {
        text.push_str("the guest runs on meanwhile, as the operator may only look: what is above may not fit what is below\n");
    }
    for vcpu in told["vcpus"].as_array().into_iter().flatten() {
        text.push_str(&format!("{}\n", shown::one(vcpu)));
        text.push_str(&frames::text(vcpu));
    }
    for vcpu in told["missing"].as_array().into_iter().flatten() {
        text.push_str(&format!("{}\n", shown::missing(vcpu)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_frame_is_a_line_and_what_is_wrong_is_said() {
        let told = json!({
            "release": "7.3.4", "consistent": true,
            "vcpus": [
                { "vcpu": 0, "state": "on", "pc": 0x40_0000, "pstate": 0, "frames": [], "end": null },
                { "vcpu": 1, "state": "on", "pc": 0x1000, "pstate": 0xc5, "end": frames::end(&End::NoCode(0x10)),
                  "frames": [
                    { "address": 0x1000, "by": "pc", "symbol": "spin", "offset": 4, "source": "a.c:3" },
                    { "address": 0x2000, "by": "exception", "module": null },
                    { "address": 0x2100, "by": "frame", "module": "virtio_blk", "symbol": "virtio_queue_rq", "offset": 8 },
                    { "address": 0x2200, "by": "frame", "module": "virtio_blk" },
                    { "address": 0x3000, "by": "other-stack" },
                ] },
            ],
            "missing": [2],
        });
        assert_eq!(
            text(&told),
            "Linux 7.3.4\n\
             vCPU 0   on    pc 0x0000000000400000 at EL0, nothing masked\n\
             vCPU 1   on    pc 0x0000000000001000 at EL1, IF masked\n  \
             spin+0x4 (a.c:3)\n  \
             interrupted: 0x2000 in a module, unknown\n  \
             virtio_queue_rq+0x8 [virtio_blk]\n  \
             0x2200 in the module virtio_blk, unknown\n  \
             on another stack: 0x3000\n  \
             its next frame returns to 0x10, where no function is\n\
             vCPU 2   does not answer: its pCPU may be stuck in the hypervisor\n"
        );
        let told =
            json!({ "release": null, "unnamed": "no note", "consistent": false, "vcpus": [] });
        assert!(text(&told).starts_with("addresses stay numbers: no note\nthe guest runs on"));
    }
}
