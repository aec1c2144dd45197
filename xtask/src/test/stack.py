# Prints the stack of what ran on a CPU, innermost function first: stack.py VMCORE VMLINUX CPU
import sys

import drgn
from drgn.helpers.linux.sched import cpu_curr

vmcore, vmlinux, cpu = sys.argv[1:]
program = drgn.Program()
program.set_core_dump(vmcore)
program.load_debug_info([vmlinux])
for frame in program.stack_trace(cpu_curr(program, int(cpu))):
    print(frame.name)
