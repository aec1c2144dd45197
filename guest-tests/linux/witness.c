/*
 * What a shell cannot see of its own CPUs, as a program without a C library:
 *
 *   witness samples STOP   has the kernel sample every CPU until the file STOP is there, then says how often
 *                          it did; CPUs may go off and on meanwhile
 *   witness alarm SECONDS  has an alarm every so many seconds, for which a machine that sleeps is woken
 *   witness pattern        loads a pattern into every register and spins: xN is 0xa5a5a5a5a5a5a5NN
 *
 * Each writes the line "ready" as soon as it does so: who starts it in the background must wait for that.
 */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

/* System calls: include/uapi/asm-generic/unistd.h. */
enum {
	SYS_FACCESSAT = 48,
	SYS_CLOSE = 57,
	SYS_READ = 63,
	SYS_WRITE = 64,
	SYS_TIMERFD_CREATE = 85,
	SYS_TIMERFD_SETTIME = 86,
	SYS_EXIT = 93,
	SYS_NANOSLEEP = 101,
	SYS_MUNMAP = 215,
	SYS_MMAP = 222,
	SYS_PERF_EVENT_OPEN = 241,
};

#define ENODEV 19
#define EINVAL 22

static long call(long number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	register u64 x0 asm("x0") = a;
	register u64 x1 asm("x1") = b;
	register u64 x2 asm("x2") = c;
	register u64 x3 asm("x3") = d;
	register u64 x4 asm("x4") = e;
	register u64 x5 asm("x5") = f;
	register long x8 asm("x8") = number;

	asm volatile("svc #0"
		     : "+r"(x0)
		     : "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5), "r"(x8)
		     : "memory");
	return (long)x0;
}

/* Writing: one line, put together here. */
static char line[256];
static u64 filled;

static void put(const char *text)
{
	while (*text && filled < sizeof(line))
		line[filled++] = *text++;
}

static void put_number(const char *name, u64 number)
{
	char digits[21];
	char *at = digits + 20;

	*at = 0;
	do {
		*--at = '0' + number % 10;
		number /= 10;
	} while (number);
	put(name);
	put(at);
}

static void flush(void)
{
	put("\n");
	call(SYS_WRITE, 1, (u64)line, filled, 0, 0, 0);
	filled = 0;
}

static void tell_ready(void)
{
	put("ready");
	flush();
}

/* Sampling: include/uapi/linux/perf_event.h. */
struct attributes {
	u32 type, size;
	u64 config, period, sample_type, read_format, flags;
	u32 wakeup, breakpoint_type;
	u64 breakpoint;
};

#define TYPE_SOFTWARE 1
#define CONFIG_CPU_CLOCK 0
#define SAMPLE_IP (1 << 0)
#define SAMPLE_TID (1 << 1)
#define SAMPLE_TIME (1 << 2)
#define SAMPLE_CALLCHAIN (1 << 5)
#define SAMPLE_CPU (1 << 7)
#define RECORD_LOST 2
#define RECORD_SAMPLE 9
/* Of struct perf_event_mmap_page, in words. */
#define DATA_HEAD (1024 / 8)
#define DATA_TAIL (1032 / 8)

struct sample {
	u32 type;
	unsigned short misc, size;
	u64 pc;
	u32 pid, tid;
	u64 time;
	u32 cpu, reserved;
	u64 frames;
};

enum { MOST_CPUS = 128, PAGE = 4096, DATA = 16 * PAGE };

static struct {
	int fd;
	volatile u64 *page;
	u64 kernel, user, rounds;
} cpus[MOST_CPUS];

static u64 wrong, lost, refused;

/* Answers 0 if there is no such CPU and none above. */
static int begin(u32 cpu)
{
	struct attributes attributes = {
		.type = TYPE_SOFTWARE,
		.size = sizeof(attributes),
		.config = CONFIG_CPU_CLOCK,
		.period = 2000000, /* ns */
		.sample_type = SAMPLE_IP | SAMPLE_TID | SAMPLE_TIME | SAMPLE_CPU |
			       SAMPLE_CALLCHAIN,
	};
	long fd = call(SYS_PERF_EVENT_OPEN, (u64)&attributes, -1, cpu, -1, 0, 0);
	long page;

	cpus[cpu].fd = -1;
	if (fd == -EINVAL)
		return 0;
	if (fd < 0) {
		/* One that is off, or just going. */
		refused += fd != -ENODEV;
		return 1;
	}
	/* Readable and writable, shared. */
	page = call(SYS_MMAP, 0, PAGE + DATA, 3, 1, fd, 0);
	if (page < 0) {
		refused++;
		call(SYS_CLOSE, fd, 0, 0, 0, 0, 0);
		return 1;
	}
	cpus[cpu].fd = fd;
	cpus[cpu].page = (u64 *)page;
	cpus[cpu].rounds++;
	return 1;
}

static u64 word(u32 cpu, u64 at)
{
	return ((u64 *)((u8 *)cpus[cpu].page + PAGE))[at % DATA / 8];
}

static void count(u32 cpu)
{
	u64 tail = 0, head = cpus[cpu].page[DATA_HEAD];

	asm volatile("dmb ishld" ::: "memory");
	while (tail < head) {
		struct sample sample;
		u64 i, size;

		for (i = 0; i < sizeof(sample) / 8; i++)
			((u64 *)&sample)[i] = word(cpu, tail + 8 * i);
		size = sample.size;
		if (size < 8 || size % 8 || size > head - tail) {
			wrong++;
			return;
		}
		if (sample.type == RECORD_LOST) {
			lost++;
		} else if (sample.type == RECORD_SAMPLE) {
			if (size != sizeof(sample) + 8 * sample.frames ||
			    sample.cpu != cpu || !sample.pc)
				wrong++;
			else if (sample.pc >> 63)
				cpus[cpu].kernel++;
			else
				cpus[cpu].user++;
		}
		tail += size;
	}
}

static void end(u32 cpu)
{
	if (cpus[cpu].fd < 0)
		return;
	count(cpu);
	call(SYS_MUNMAP, (u64)cpus[cpu].page, PAGE + DATA, 0, 0, 0, 0);
	call(SYS_CLOSE, cpus[cpu].fd, 0, 0, 0, 0, 0);
}

/* An event dies with its CPU, so all are opened anew all the time. */
static void take_samples(const char *stop)
{
	const u64 pause[2] = { 0, 100000000 };
	u32 cpu, all = 0, is_ready = 0;

	while (call(SYS_FACCESSAT, -100, (u64)stop, 0, 0, 0, 0) < 0) {
		for (all = 0; all < MOST_CPUS && begin(all); all++)
			;
		if (!is_ready)
			tell_ready();
		is_ready = 1;
		call(SYS_NANOSLEEP, (u64)pause, 0, 0, 0, 0, 0);
		for (cpu = 0; cpu < all; cpu++)
			end(cpu);
	}
	for (cpu = 0; cpu < all; cpu++) {
		put_number("cpu=", cpu);
		put_number(" kernel=", cpus[cpu].kernel);
		put_number(" user=", cpus[cpu].user);
		put_number(" rounds=", cpus[cpu].rounds);
		flush();
	}
	put_number("wrong=", wrong);
	put_number(" lost=", lost);
	put_number(" refused=", refused);
	flush();
}

/* Answers what the program exits with, if there is no alarm. */
static u64 have_alarms(const char *digits)
{
	const u64 clock_boottime_alarm = 9;
	u64 seconds = 0, expired;
	long fd = call(SYS_TIMERFD_CREATE, clock_boottime_alarm, 0, 0, 0, 0, 0);

	while (*digits >= '0' && *digits <= '9')
		seconds = 10 * seconds + *digits++ - '0';
	/* Seconds and nanoseconds between two, and from now to the first. */
	const u64 timer[4] = { seconds, 0, seconds, 0 };

	if (fd < 0 || call(SYS_TIMERFD_SETTIME, fd, 0, (u64)timer, 0, 0, 0) < 0)
		return 1;
	tell_ready();
	while (call(SYS_READ, fd, (u64)&expired, sizeof(expired), 0, 0, 0) == sizeof(expired))
		;
	return 1;
}

static void __attribute__((noreturn)) show_pattern(void)
{
	tell_ready();
	asm volatile(".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30\n"
		     "movz x\\n, #0xa500 + \\n\n"
		     "movk x\\n, #0xa5a5, lsl #16\n"
		     "movk x\\n, #0xa5a5, lsl #32\n"
		     "movk x\\n, #0xa5a5, lsl #48\n"
		     ".endr\n"
		     "1: b 1b");
	__builtin_unreachable();
}

/* argc, argv[0], argv[1], ... */
void __attribute__((noreturn, used)) run(const u64 *stack)
{
	u64 count = stack[0], status = 0;
	const char *const *words = (const char *const *)(stack + 1);

	if (count == 3 && words[1][0] == 's')
		take_samples(words[2]);
	else if (count == 3 && words[1][0] == 'a')
		status = have_alarms(words[2]);
	else if (count == 2 && words[1][0] == 'p')
		show_pattern();
	else
		status = 2;
	call(SYS_EXIT, status, 0, 0, 0, 0, 0);
	__builtin_unreachable();
}

asm(".globl _start\n"
    "_start: mov x29, xzr\n"
    "mov x30, xzr\n"
    "mov x0, sp\n"
    "b run");
