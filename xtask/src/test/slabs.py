# Prints how many pages the slabs of the kernel have, and how many of them the dump lacks: slabs.py VMCORE VMLINUX
import sys

import drgn
from drgn.helpers.linux.mm import compound_order, for_each_page, page_to_virt

PGTY_SLAB = 0xF5

vmcore, vmlinux = sys.argv[1:]
program = drgn.Program()
program.set_core_dump(vmcore)
program.load_debug_info([vmlinux])
size = program["PAGE_SIZE"].value_()
offset = drgn.offsetof(program.type("struct page"), "page_type")
pages = absent = 0
for page in for_each_page(program):
    try:
        kind = program.read_u32(page.value_() + offset) >> 24
    except drgn.FaultError:
        # A hole of the memory map, which the dump has no pages for.
        continue
    if kind != PGTY_SLAB:
        continue
    first = page_to_virt(page).value_()
    for address in range(first, first + (size << compound_order(page).value_()), size):
        pages += 1
        try:
            program.read(address, size)
        except drgn.FaultError:
            absent += 1
print(pages, absent)
