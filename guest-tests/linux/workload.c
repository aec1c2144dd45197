/*
 * What Linux does often and a hypervisor has to do with, as a program without a C library; `cargo xtask bench linux`
 * counts the instructions of each, between its two marks:
 *
 *   workload spin        nothing but user code, some milliseconds on one CPU
 *   workload exec        100 times vfork, exec of a program that ends at once, and wait
 *   workload sleep       500 times nanosleep of 100 us, on CPU 1
 *   workload pipe        1000 times a byte through a pipe to a process on CPU 1, and one back
 *   workload membarrier  500 times membarrier, while threads of this process are busy on CPUs 1 to 3
 *   workload disk        2048 times 128 KiB read from /dev/vda past the cache, one after the other, then 32 at a time
 *   workload nothing     ends at once
 *
 * Ends with 0 if it could do all, else with the number of the line that could not, modulo 256.
 */

typedef unsigned long u64;

/* System calls: include/uapi/asm-generic/unistd.h. */
enum {
	SYS_IO_SETUP = 0,
	SYS_IO_SUBMIT = 2,
	SYS_IO_GETEVENTS = 4,
	SYS_OPENAT = 56,
	SYS_PIPE2 = 59,
	SYS_READ = 63,
	SYS_WRITE = 64,
	SYS_EXIT = 93,
	SYS_EXIT_GROUP = 94,
	SYS_NANOSLEEP = 101,
	SYS_SCHED_SETAFFINITY = 122,
	SYS_CLONE = 220,
	SYS_EXECVE = 221,
	SYS_WAIT4 = 260,
	SYS_MEMBARRIER = 283,
};

/* include/uapi/linux/sched.h, signal.h, membarrier.h */
#define CLONE_VM 0x100
#define CLONE_VFORK 0x4000
/* With CLONE_VM, _FS, _FILES, _SIGHAND and _THREAD. */
#define CLONE_LIKE_A_THREAD 0x10f00
#define SIGCHLD 17
#define PRIVATE_EXPEDITED 8
#define REGISTER_PRIVATE_EXPEDITED 16

static long call(long number, u64 a, u64 b, u64 c, u64 d, u64 e)
{
	register u64 x0 asm("x0") = a;
	register u64 x1 asm("x1") = b;
	register u64 x2 asm("x2") = c;
	register u64 x3 asm("x3") = d;
	register u64 x4 asm("x4") = e;
	register long x8 asm("x8") = number;

	asm volatile("svc #0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x8) : "memory");
	return (long)x0;
}

static void __attribute__((noreturn)) leave(long status)
{
	call(SYS_EXIT_GROUP, status, 0, 0, 0, 0);
	__builtin_unreachable();
}

#define MUST(condition)                  \
	do {                             \
		if (!(condition))        \
			leave(__LINE__); \
	} while (0)

/*
 * MOVZ XZR, #number: no effect, and no compiler makes one. The counter knows it (xtask/src/bench/counts.c). A job's
 * number is in bits 4 and up, whether it ends in bit 0.
 */
#define MARK(number) asm volatile(".inst 0xd280001f | (%0) << 5" ::"i"(0x4c00 + (number)) : "memory")

static void pin(u64 cpu)
{
	u64 mask = 1UL << cpu;

	MUST(call(SYS_SCHED_SETAFFINITY, 0, sizeof(mask), (u64)&mask, 0, 0) >= 0);
}

static void spin(void)
{
	u64 turns = 10000000;

	pin(0);
	MARK(0x00);
	asm volatile("1: subs %0, %0, #1\n"
		     "b.ne 1b"
		     : "+r"(turns)::"cc");
	MARK(0x01);
}

/* Starts this program as "workload nothing". The child has the parent's stack, so it uses none. */
static long start_nothing(void)
{
	static const char path[] = "/bin/workload", word[] = "nothing";
	static const char *const words[] = { path, word, 0 };
	register u64 x0 asm("x0") = CLONE_VM | CLONE_VFORK | SIGCHLD;
	register u64 x1 asm("x1") = 0;
	register u64 x2 asm("x2") = 0;
	register u64 x3 asm("x3") = 0;
	register u64 x4 asm("x4") = 0;
	register u64 x5 asm("x5") = (u64)path;
	register u64 x6 asm("x6") = (u64)words;
	register u64 x8 asm("x8") = SYS_CLONE;

	asm volatile("svc #0\n"
		     "cbnz x0, 1f\n"
		     "mov x0, x5\n"
		     "mov x1, x6\n"
		     "mov x8, %[execve]\n"
		     "svc #0\n"
		     "mov x0, #99\n"
		     "mov x8, %[exit]\n"
		     "svc #0\n"
		     "1:"
		     : "+r"(x0), "+r"(x1), "+r"(x8)
		     : "r"(x2), "r"(x3), "r"(x4), "r"(x5), "r"(x6), [execve] "i"(SYS_EXECVE), [exit] "i"(SYS_EXIT)
		     : "memory");
	return (long)x0;
}

static void exec(void)
{
	int i, status;
	long child;

	pin(0);
	MARK(0x10);
	for (i = 0; i < 100; i++) {
		child = start_nothing();
		MUST(child > 0);
		MUST(call(SYS_WAIT4, child, (u64)&status, 0, 0, 0) == child);
		MUST(status == 0);
	}
	MARK(0x11);
}

static void sleep(void)
{
	const u64 pause[2] = { 0, 100000 };
	int i;

	pin(1);
	MARK(0x20);
	for (i = 0; i < 500; i++)
		MUST(call(SYS_NANOSLEEP, (u64)pause, 0, 0, 0, 0) == 0);
	MARK(0x21);
}

static void through_a_pipe(void)
{
	int to[2], from[2], i;
	long child;
	char byte = 'x';

	MUST(call(SYS_PIPE2, (u64)to, 0, 0, 0, 0) == 0);
	MUST(call(SYS_PIPE2, (u64)from, 0, 0, 0, 0) == 0);
	child = call(SYS_CLONE, SIGCHLD, 0, 0, 0, 0);
	MUST(child >= 0);
	if (child == 0) {
		pin(1);
		for (;;) {
			MUST(call(SYS_READ, to[0], (u64)&byte, 1, 0, 0) == 1);
			MUST(call(SYS_WRITE, from[1], (u64)&byte, 1, 0, 0) == 1);
			if (byte == '.')
				leave(0);
		}
	}
	pin(0);
	for (i = 0; i <= 1001; i++) {
		/* The first time starts the child. */
		if (i == 1)
			MARK(0x30);
		if (i == 1001) {
			MARK(0x31);
			byte = '.';
		}
		MUST(call(SYS_WRITE, to[1], (u64)&byte, 1, 0, 0) == 1);
		MUST(call(SYS_READ, from[0], (u64)&byte, 1, 0, 0) == 1);
	}
	MUST(call(SYS_WAIT4, child, (u64)&i, 0, 0, 0) == child);
	MUST(i == 0);
}

static volatile u64 ready[3];
static char stacks[3][4096] __attribute__((aligned(16)));

/* A thread on a CPU, for good. */
static void __attribute__((noreturn, used)) be_busy(u64 cpu)
{
	pin(cpu);
	ready[cpu - 1] = 1;
	/* With a hint an emulated CPU lets the next one run, so that what is counted is not turns of this loop. */
	for (;;)
		asm volatile("yield");
}

static void start_busy(u64 cpu, char *stack)
{
	register u64 x0 asm("x0") = CLONE_LIKE_A_THREAD;
	register u64 x1 asm("x1") = (u64)stack;
	register u64 x2 asm("x2") = 0;
	register u64 x3 asm("x3") = 0;
	register u64 x4 asm("x4") = 0;
	register u64 x5 asm("x5") = cpu;
	register u64 x8 asm("x8") = SYS_CLONE;

	asm volatile("svc #0\n"
		     "cbnz x0, 1f\n"
		     "mov x0, x5\n"
		     "b be_busy\n"
		     "1:"
		     : "+r"(x0)
		     : "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5), "r"(x8)
		     : "memory");
	MUST((long)x0 > 0);
}

static void membarrier(void)
{
	int i;

	pin(0);
	MUST(call(SYS_MEMBARRIER, REGISTER_PRIVATE_EXPEDITED, 0, 0, 0, 0) == 0);
	for (i = 0; i < 3; i++)
		start_busy(i + 1, stacks[i] + sizeof(stacks[i]));
	while (!ready[0] || !ready[1] || !ready[2])
		;
	MARK(0x40);
	for (i = 0; i < 500; i++)
		MUST(call(SYS_MEMBARRIER, PRIVATE_EXPEDITED, 0, 0, 0, 0) == 0);
	MARK(0x41);
}

/* include/uapi/linux/aio_abi.h, fcntl.h; arch/arm64/include/uapi/asm/fcntl.h. */
#define AT_FDCWD -100
#define O_DIRECT 0x10000
#define READ_SIZE (128UL << 10)
#define MOST_READS 32

struct iocb {
	u64 data;
	unsigned int key, rw_flags;
	unsigned short opcode, priority;
	unsigned int fd;
	u64 buffer, bytes, offset, reserved;
	unsigned int flags, result_fd;
};

struct event {
	u64 data, object;
	long result, second_result;
};

static char data[MOST_READS][READ_SIZE] __attribute__((aligned(4096)));

/* Reads so often, `depth` at a time; every read is over when this returns. */
static void read_disk(u64 context, int file, u64 *offset, int times, int depth)
{
	static struct iocb reads[MOST_READS];
	static struct iocb *list[MOST_READS];
	static struct event events[MOST_READS];
	int i;

	while (times > 0) {
		for (i = 0; i < depth; i++) {
			reads[i].fd = file;
			reads[i].buffer = (u64)data[i];
			reads[i].bytes = READ_SIZE;
			reads[i].offset = *offset;
			*offset += READ_SIZE;
			list[i] = &reads[i];
		}
		MUST(call(SYS_IO_SUBMIT, context, depth, (u64)list, 0, 0) == depth);
		MUST(call(SYS_IO_GETEVENTS, context, depth, depth, (u64)events, 0) == depth);
		for (i = 0; i < depth; i++)
			MUST(events[i].result == READ_SIZE);
		times -= depth;
	}
}

static void disk(void)
{
	static const char path[] = "/dev/vda";
	u64 context = 0, offset = 0;
	int file;

	pin(0);
	file = call(SYS_OPENAT, AT_FDCWD, (u64)path, O_DIRECT, 0, 0);
	MUST(file >= 0);
	MUST(call(SYS_IO_SETUP, MOST_READS, (u64)&context, 0, 0, 0) == 0);
	/* Once for the pages that are read into. */
	read_disk(context, file, &offset, MOST_READS, MOST_READS);
	MARK(0x50);
	read_disk(context, file, &offset, 2048, 1);
	MARK(0x51);
	MARK(0x60);
	read_disk(context, file, &offset, 2048, MOST_READS);
	MARK(0x61);
}

/* argc, argv[0], argv[1], ... */
void __attribute__((noreturn, used)) run(const u64 *stack)
{
	const char *word = stack[0] == 2 ? (const char *)stack[2] : "";

	if (word[0] == 's' && word[1] == 'p')
		spin();
	else if (word[0] == 's' && word[1] == 'l')
		sleep();
	else if (word[0] == 'e')
		exec();
	else if (word[0] == 'p')
		through_a_pipe();
	else if (word[0] == 'm')
		membarrier();
	else if (word[0] == 'd')
		disk();
	else if (word[0] != 'n')
		leave(2);
	leave(0);
}

asm(".globl _start\n"
    "_start: mov x29, xzr\n"
    "mov x30, xzr\n"
    "mov x0, sp\n"
    "b run");
