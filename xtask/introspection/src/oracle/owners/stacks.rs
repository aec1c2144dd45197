//! Whose stacks are where: of tasks, by the list of them, and of CPUs. Where members of a task are is found by what is in those of the
//! first one.

use std::collections::BTreeMap;
use std::ops::Range as Span;

use anyhow::{Context, Result, bail};

use super::{Virtual, place, text};
use crate::linux::Kernel;
use crate::memory::{Memory, Words};
use crate::translation::Regime;

/// A list that is longer is none.
const MOST_TASKS: usize = 1 << 16;
/// A task that is larger is none.
const LARGEST: usize = 16 << 10;
/// TASK_COMM_LEN.
const COMM: usize = 16;

/// The stacks that are known.
pub(super) struct Stacks<'a> {
    pub(super) regime: Regime,
    /// How large each is.
    pub(super) size: u64,
    /// Whose each page of 4 KiB is, by its physical address.
    pub(super) pages: &'a mut BTreeMap<u64, String>,
}

impl Stacks<'_> {
    /// Those of all tasks but of threads that are not the first of theirs.
    pub(super) fn add_tasks(
        &mut self,
        memory: &mut impl Memory,
        kernel: &mut Kernel,
    ) -> Result<()> {
        let (init, layout) = Layout::find(memory, kernel, &self.regime)?;
        let regime = self.regime;
        let mut memory = Virtual { memory, regime };
        let mut task = init;
        for _ in 0..MOST_TASKS {
            let name = layout.name(&mut memory, task)?;
            let stack = memory.u64(task.wrapping_add(layout.stack))?;
            self.add(&mut memory, stack, &format!("the stack of {name}"));
            task = memory
                .u64(task.wrapping_add(layout.tasks))?
                .wrapping_sub(layout.tasks);
            if task == init {
                break;
            }
        }
        Ok(())
    }

    /// Those of each CPU: its idle task's, and the one for interrupts.
    pub(super) fn add_cpus(
        &mut self,
        memory: &mut impl Memory,
        kernel: &mut Kernel,
        percpu: &[(Span<u64>, u32)],
    ) -> Result<()> {
        let start = place(memory, kernel, "__per_cpu_start")?;
        let idle = place(memory, kernel, "idle_threads")?;
        let interrupts = place(memory, kernel, "irq_stack_ptr")?;
        let (_, layout) = Layout::find(memory, kernel, &self.regime)?;
        let regime = self.regime;
        let mut memory = Virtual { memory, regime };
        for (span, cpu) in percpu {
            let mut own = |variable: u64| {
                let at = span.start.wrapping_add(variable.wrapping_sub(start));
                memory.u64(at)
            };
            let (idle, interrupts) = (own(idle), own(interrupts));
            if let Ok(stack) = interrupts {
                self.add(
                    &mut memory,
                    stack,
                    &format!("CPU {cpu}'s stack for interrupts"),
                );
            }
            if let Ok(task) = idle
                && let Ok(stack) = memory.u64(task.wrapping_add(layout.stack))
            {
                self.add(&mut memory, stack, &format!("the stack of swapper/{cpu}"));
            }
        }
        Ok(())
    }

    fn add<M: Memory>(&mut self, memory: &mut Virtual<'_, M>, stack: u64, name: &str) {
        for page in (0..self.size).step_by(4096) {
            let mapped = self
                .regime
                .translate(memory.memory, stack.wrapping_add(page));
            if let Ok(mapped) = mapped {
                self.pages.insert(mapped.physical & !0xfff, name.to_owned());
            }
        }
    }
}

/// Where members of a task are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    stack: u64,
    comm: u64,
    tasks: u64,
    pid: Option<u64>,
}

impl Layout {
    /// Of a kernel; and where its first task is.
    fn find(memory: &mut impl Memory, kernel: &mut Kernel, regime: &Regime) -> Result<(u64, Self)> {
        let init = place(memory, kernel, "init_task")?;
        let mut names = ["init_stack", "init_thread_union"].into_iter();
        let stack = names.find_map(|name| kernel.find(memory, name).ok().flatten());
        let stack = stack.context("the first task has no stack of its own")?;
        let regime = *regime;
        let layout = Self::of(&mut Virtual { memory, regime }, init, stack)?;
        Ok((init, layout))
    }

    /// By the first task, whose name and whose stack are known: the second one has number 1, the third number 2.
    fn of(memory: &mut impl Memory, init: u64, stack: u64) -> Result<Self> {
        let mut bytes = Vec::new();
        // As much as is mapped.
        while bytes.len() < LARGEST
            && let Ok(more) = memory.bytes(init.wrapping_add(bytes.len() as u64), 512)
        {
            bytes.extend(more);
        }
        let word = |at: usize| {
            let chunk = bytes.get(at..).and_then(|rest| rest.first_chunk());
            chunk.map_or(0, |word| u64::from_le_bytes(*word))
        };
        let places = || (0..bytes.len()).step_by(8);
        let own = places().find(|at| word(*at) == stack);
        let own = own.context("the first task has no stack")? as u64;
        let comm = bytes
            .windows(COMM)
            .position(|name| name.starts_with(b"swapper"));
        let comm = comm.context("the first task has no name")? as u64;
        let is_task = |memory: &mut _, task: u64| -> Result<bool> {
            let name = Words::bytes(memory, task.wrapping_add(comm), COMM)?;
            let is_named = matches!(name.first(), Some(b'!'..=b'~')) && name.contains(&0);
            let stack = Words::u64(memory, task.wrapping_add(own))?;
            Ok(is_named && stack != 0 && stack % 4096 == 0)
        };
        for at in places() {
            let distance = at as u64;
            let list = init.wrapping_add(distance);
            let next = word(at);
            let task = next.wrapping_sub(distance);
            let is_back = |memory: &mut _| {
                Ok::<bool, anyhow::Error>(Words::u64(memory, next.wrapping_add(8))? == list)
            };
            if next == list || next % 8 != 0 || !is_back(memory).unwrap_or(false) {
                continue;
            }
            if !is_task(memory, task).unwrap_or(false) {
                continue;
            }
            let third = memory.u64(next)?.wrapping_sub(distance);
            if third != init && !is_task(memory, third).unwrap_or(false) {
                continue;
            }
            // The number, and that of the first of its threads.
            let mut numbers = (0..bytes.len() as u64).step_by(4);
            let pid = numbers.find(|at| {
                let mut pair = |task: u64| memory.u64(task.wrapping_add(*at)).ok();
                let twice = |number: u64| Some(number << 32 | number);
                pair(init) == twice(0) && pair(task) == twice(1) && pair(third) == twice(2)
            });
            return Ok(Self {
                stack: own,
                comm,
                tasks: distance,
                pid,
            });
        }
        bail!("the list of tasks is not found")
    }

    fn name(&self, memory: &mut impl Memory, task: u64) -> Result<String> {
        let name = text(&memory.bytes(task.wrapping_add(self.comm), COMM)?);
        Ok(match self.pid {
            Some(pid) => format!("{name} ({})", memory.u32(task.wrapping_add(pid))?),
            None => name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::Pieces;

    const INIT: u64 = 0xffff_8000_8100_0000;
    const FIRST: u64 = 0xffff_0000_0010_0000;
    const SECOND: u64 = 0xffff_0000_0020_0000;
    const STACK: u64 = 0xffff_8000_8200_0000;

    /// Three tasks, which are of one form.
    fn tasks() -> Pieces {
        let mut memory = Pieces::default();
        for (task, stack, name, pid) in [
            (INIT, STACK, "swapper/0", 0u64),
            (FIRST, 0xffff_8000_8000_0000, "init", 1),
            (SECOND, 0xffff_8000_8000_8000, "kthreadd", 2),
        ] {
            let mut bytes = vec![0; 4096];
            bytes[0x400..0x400 + name.len()].copy_from_slice(name.as_bytes());
            memory.put(task, &bytes);
            memory.put_u64(task + 0x20, stack);
            memory.put_u64(task + 0x2f8, pid << 32 | pid);
            // A list of its own, and that of all tasks.
            memory.put_u64(task + 0x100, task + 0x100);
            memory.put_u64(task + 0x108, task + 0x100);
        }
        let row = [INIT, FIRST, SECOND, INIT];
        for pair in row.windows(2) {
            memory.put_u64(pair[0] + 0x200, pair[1] + 0x200);
            memory.put_u64(pair[1] + 0x208, pair[0] + 0x200);
        }
        memory
    }

    #[test]
    fn where_members_of_a_task_are_is_found_by_what_is_in_them() {
        let mut memory = tasks();
        let layout = Layout::of(&mut memory, INIT, STACK).unwrap();
        let expected = Layout {
            stack: 0x20,
            comm: 0x400,
            tasks: 0x200,
            pid: Some(0x2f8),
        };
        assert_eq!(layout, expected);
        assert_eq!(layout.name(&mut memory, SECOND).unwrap(), "kthreadd (2)");
        memory.put_u64(FIRST + 0x20, 12);
        assert!(Layout::of(&mut memory, INIT, STACK).is_err());
        assert!(Layout::of(&mut memory, INIT, STACK + 8).is_err());
        assert!(Layout::of(&mut memory, 0x1000, STACK).is_err());
    }
}
