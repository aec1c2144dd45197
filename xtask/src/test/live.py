# What drgn finds in a guest that runs: live.py SOCKET VMLINUX
import sys

import drgn
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.percpu import per_cpu
from drgn.helpers.linux.pid import find_task

socket, vmlinux = sys.argv[1:]
program = drgn.Program()
program.set_qemu_qmp(socket)
program.load_debug_info([vmlinux])
print("release", program["init_uts_ns"].name.release.string_().decode())
for cpu in for_each_online_cpu(program):
    queue = per_cpu(program["runqueues"], cpu)
    print("queue", cpu, int(queue.cpu), queue.idle.comm.string_().decode())
# kthreadd sleeps until there is a thread to make.
task = find_task(program, 2)
print("task", task.comm.string_().decode())
for frame in program.stack_trace(task):
    print("frame", frame.name)
