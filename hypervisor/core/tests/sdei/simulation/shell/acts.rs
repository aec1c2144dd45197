//! What a guest's acts come to in the shell.

use std::collections::VecDeque;

use hv_abi::sdei::Call;
use hv_core::id::{IntId, VcpuId};
use hv_core::mailbox::Requests;
use hv_core::psci::{self, Decision, Endian};
use hv_core::sdei::Effect;

use super::super::Broken;
use super::super::guest::{Act, act};
use super::{Cpu, Stage, Verdict, Vm};
use crate::company::BOUND_PPI;
use crate::vcpu::*;

impl Vm {
    pub(super) fn act(&mut self, n: usize) -> Verdict {
        let cpu = &mut self.cpus[n];
        let is_inside = cpu.pe.running().is_some();
        let act = act(&mut self.dice, cpu.age, is_inside, &self.mpidrs);
        cpu.age += 1;
        self.cpus[n].stage = match act {
            Act::Call(call, args) => self.call(n, call, args)?,
            Act::Raise(event, target) => {
                let board = &self.world.family.board;
                let look = self.world.commons.raise(event, VcpuId(target as u8), board);
                self.witness.is_raised(target, event);
                self.tell(n, look.unwrap_or_default(), Stage::Top)
            }
            Act::Interrupt(event) if self.witness.company.interrupt(n, event) => {
                let intid = IntId(if event == BOUND_PPI { TIMER } else { SPI });
                let World {
                    commons,
                    vgic,
                    family,
                } = &mut self.world;
                let _ = vgic.forward(VcpuId(n as u8), intid);
                let pe = &mut self.cpus[n].pe;
                let ripple = pe.take_bound(intid, commons, vgic, &family.board);
                self.tell(n, ripple.look, Stage::Top)
            }
            Act::Interrupt(_) => Stage::Top,
            Act::Off if self.witness.others_are_on(n) => self.leave(n, Stage::Stopped),
            Act::Off => Stage::Top,
            Act::On(target) => self.turn_on(n, target)?,
        };
        Ok(())
    }

    pub(super) fn call(&mut self, n: usize, call: Call, args: [u64; 5]) -> Result<Stage, String> {
        let Cpu { pe, regs, el1, .. } = &mut self.cpus[n];
        regs.x[0] = u64::from(call as u32);
        regs.x[1..6].copy_from_slice(&args);
        let World {
            commons,
            vgic,
            family,
        } = &mut self.world;
        let mut posts = VecDeque::new();
        if pe.needs_commons(call, regs) {
            let ripple = pe.call_common(call, regs, el1, family, (commons, vgic));
            posts.extend(ripple.look.iter().map(|vcpu| (vcpu, Requests::SDEI_LOOK)));
        } else if let Effect::Signal(target) = pe.call(call, regs, el1, family) {
            posts.push_back((target, Requests::SDEI_SIGNAL));
        }
        if self.broken != Broken::CompletionNotShown || call != Call::EventComplete {
            pe.show(&family.board);
        }
        let answer = regs.x[0] as i64;
        match self.witness.company.call(n, call, args) {
            Some(expected) if expected != answer => {
                return Err(format!(
                    "vCPU {n}: {call:?} answers {answer}, not {expected}"
                ));
            }
            _ => {}
        }
        Ok(self.post_all(n, posts, Stage::Top))
    }

    fn turn_on(&mut self, n: usize, target: usize) -> Result<Stage, String> {
        let call = psci::Call::CpuOn {
            target: self.mpidrs[target],
            entry: 0,
            context: 0,
        };
        let decision = self.power.call(
            VcpuId(n as u8),
            call,
            || Endian::Little,
            &self.world.family,
            |_| true,
        );
        let start = match decision {
            Decision::Start(start) => Some(start),
            _ => None,
        };
        self.witness.is_turned_on(n, target, start.is_some())?;
        let Some(start) = start else {
            return Ok(Stage::Top);
        };
        self.starts[target] = Some(start);
        Ok(self.post_all(n, [(start.vcpu, Requests::START)].into(), Stage::Top))
    }
}
