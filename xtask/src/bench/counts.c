/*
 * A plugin for QEMU's TCG (API version 3 or later, QEMU 9.1): counts the instructions of EL2 and those of the guest, of all CPUs, and
 * writes both sums so far each time that a CPU executes a mark, MOVZ XZR, #number with 0x4c in the number's upper byte.
 *
 * The first instruction of Linux at its own addresses, with the MMU on, counts as mark 255.
 *
 * Arguments: out, a file; el2 and end, the addresses between which EL2's code lies, where a guest has none; cpu, if of one CPU alone
 * instructions are counted and marks are seen. That is for a thread each: with one for all, QEMU 10.0 says of code that CPUs share which
 * of them translated it (gen_cpu_index in accel/tcg/plugin-gen.c), and not which executes it.
 *
 * Lines of the file: the mark's number, EL2's instructions, the guest's, all in decimal.
 *
 * What is needed of qemu-plugin.h is declared here, as QEMU's packages do not bring it.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stdint.h>
#include <inttypes.h>
#include <stdbool.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_info;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
	void (*cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *dest, size_t len);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
	void (*cb)(unsigned int cpu, void *data), enum qemu_plugin_cb_flags flags, void *data);

EXPORT int qemu_plugin_version = 3;
EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc, char **argv);

/*
 * All CPUs run in one thread, as instructions are counted. There are inline additions, too, which are faster; with one thread
 * they crash QEMU 10.0 as soon as a second CPU runs.
 */
static uint64_t el2_count, guest_count;
static uint64_t el2_begin, el2_end;
static FILE *out;
/* The only CPU that counts, if it is one. */
static unsigned long only = ~0UL;

static bool counts(unsigned int cpu)
{
	return only == ~0UL || only == cpu;
}

static void at_el2(unsigned int cpu, void *data)
{
	(void)data;
	/* CPUs have a thread each: those that do not count must not write, else they would undo what the other has added. */
	if (counts(cpu))
		el2_count++;
}

static void write_mark(uintptr_t number)
{
	fprintf(out, "%" PRIuPTR " %" PRIu64 " %" PRIu64 "\n", number, el2_count, guest_count);
	fflush(out);
}

static void at_guest(unsigned int cpu, void *data)
{
	(void)data;
	if (counts(cpu))
		guest_count++;
}

static void at_kernel(unsigned int cpu, void *data)
{
	static bool has_begun;

	if (!has_begun) {
		has_begun = true;
		write_mark(255);
	}
	at_guest(cpu, data);
}

static void at_mark(unsigned int cpu, void *number)
{
	if (counts(cpu))
		write_mark((uintptr_t)number);
}

static void at_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t count = qemu_plugin_tb_n_insns(tb);

	(void)id;
	for (size_t i = 0; i < count; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t at = qemu_plugin_insn_vaddr(insn);
		bool is_el2 = at >= el2_begin && at < el2_end;
		bool is_kernel = at >> 48 == 0xffff;
		uint32_t word = 0;

		qemu_plugin_register_vcpu_insn_exec_cb(insn, is_el2 ? at_el2 : is_kernel ? at_kernel : at_guest,
			QEMU_PLUGIN_CB_NO_REGS, NULL);
		qemu_plugin_insn_data(insn, &word, sizeof(word));
		/* MOVZ (64 bits), shifted by 0, into XZR. */
		if ((word & 0xffe0001f) == 0xd280001f && (word >> 13 & 0xff) == 0x4c)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, at_mark, QEMU_PLUGIN_CB_NO_REGS,
				(void *)(uintptr_t)(word >> 5 & 0xff));
	}
}

int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		char *value = strchr(argv[i], '=');

		if (!value)
			continue;
		*value++ = 0;
		if (!strcmp(argv[i], "out"))
			out = fopen(value, "w");
		else if (!strcmp(argv[i], "el2"))
			el2_begin = strtoull(value, NULL, 0);
		else if (!strcmp(argv[i], "end"))
			el2_end = strtoull(value, NULL, 0);
		else if (!strcmp(argv[i], "cpu"))
			only = strtoul(value, NULL, 0);
	}
	if (!out || !el2_end) {
		fprintf(stderr, "counts: out, el2 and end are needed\n");
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, at_translation);
	return 0;
}
