/*
 * Faults at places that a test cannot reach from outside: preloaded into a server (LD_PRELOAD), strikes where a mapped file,
 * FAULT_PLAN, says. test/lib/Whisperer/Fault.pm writes the plan and reads what came of it.
 *
 * In a delivery worker, on the way of a commit to the disk:
 *     the write of the WAL that holds the commit record  →  its sync  →  the results leave the worker's memory
 * In its sending thread: a connection to a port, bytes sent or received that hold a mark.
 *
 * SIGKILL takes nothing from the operating system's cache. So what a power cut leaves of a write that was not synced is tried by
 * not writing it, or half of it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum point
{
	NOWHERE,
	BEFORE_WRITE,
	HALF_WRITTEN,
	WRITTEN,
	SYNCED,
	ACKNOWLEDGING,
	CONNECT,
	SEND,
	RECEIVE
};

enum means
{
	KILL_SERVER,
	KILL_WORKER,
	SEGMENTATION_FAULT,
	ABORT
};

#define MOST_STRIKES 64 /* of which the time is told */

struct plan
{
	uint32_t point;       /* written last; a commit's fault takes it back, the sending thread's stays */
	uint32_t means;
	int32_t commits;      /* so many pass */
	int32_t locks;        /* and, while the results leave, so many locks of the memory where they are */
	char mark[48];        /* that the bytes hold */
	_Atomic uint32_t strikes;
	uint32_t xid;         /* of the commit */
	double at[MOST_STRIKES];
};

static struct plan *plan;
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_lock)(pthread_mutex_t *);

/* PostgreSQL's, exported for extensions. */
static volatile uint32_t *critical_sections;
static uint64_t *last_record_end;
static uint32_t (*transaction)(void);
static const char **background_worker;

/* This process has written the record of the commit that it is in; the last one of its that it has synced. */
static bool commit_written;
static uint32_t commit_synced;

__attribute__((constructor)) static void begin(void)
{
	const char *name = getenv("FAULT_PLAN");
	int file = name == NULL ? -1 : open(name, O_RDWR);
	void *memory = file < 0 ? MAP_FAILED : mmap(NULL, sizeof(*plan), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

	if (file >= 0)
		close(file);
	/* A test in which nothing can break would prove nothing. */
	if (memory == MAP_FAILED)
		abort();
	real_pwrite = dlsym(RTLD_NEXT, "pwrite");
	critical_sections = dlsym(RTLD_DEFAULT, "CritSectionCount");
	last_record_end = dlsym(RTLD_DEFAULT, "XactLastRecEnd");
	transaction = (uint32_t (*)(void)) dlsym(RTLD_DEFAULT, "GetTopTransactionIdIfAny");
	background_worker = dlsym(RTLD_DEFAULT, "MyBgworkerEntry");
	plan = memory;
}

/* ---- Striking ---- */

/* A process's state, by its letter; its parent too. */
static char look(pid_t pid, pid_t *parent)
{
	char name[40], state = '\0';
	int number = 0;
	FILE *file;

	snprintf(name, sizeof(name), "/proc/%d/stat", (int) pid);
	if ((file = fopen(name, "r")) == NULL)
		return '\0';
	if (fscanf(file, "%*d (%*[^)]) %c %d", &state, &number) != 2)
		state = '\0';
	fclose(file);
	*parent = number;
	return state;
}

/* The postmaster and all its children but this one. It must stand first, and has then made the last one. */
static void kill_server(void)
{
	pid_t postmaster = getppid(), parent;
	char state;
	DIR *processes;
	struct dirent *entry;

	if (postmaster <= 1 || kill(postmaster, SIGSTOP) != 0)
		return; /* it has gone by itself */
	while ((state = look(postmaster, &parent)) != 'T')
	{
		if (state == '\0' || state == 'Z' || getppid() != postmaster)
			return;
		usleep(100);
	}
	processes = opendir("/proc");
	while (processes != NULL && (entry = readdir(processes)) != NULL)
	{
		pid_t pid = atoi(entry->d_name);

		if (pid > 0 && pid != getpid() && look(pid, &parent) != '\0' && parent == postmaster)
			kill(pid, SIGKILL);
	}
	kill(postmaster, SIGKILL);
}

static void strike(uint32_t xid)
{
	static const struct rlimit no_core = {0, 0};
	enum means means = plan->means;
	struct timespec now;
	uint32_t number = atomic_load(&plan->strikes);

	clock_gettime(CLOCK_REALTIME, &now);
	plan->xid = xid;
	if (number < MOST_STRIKES)
		plan->at[number] = now.tv_sec + now.tv_nsec / 1e9;
	if (plan->point < CONNECT)
		plan->point = NOWHERE;
	setrlimit(RLIMIT_CORE, &no_core);
	if (means == KILL_SERVER)
		kill_server();
	atomic_store(&plan->strikes, number + 1); /* who waits for it finds all done */
	if (means == SEGMENTATION_FAULT)
		*(volatile char *) NULL = 0; /* a signal that is blocked does not wait if it is deserved */
	if (means == ABORT)
		abort();
	kill(getpid(), SIGKILL);
	pause();
}

/* ---- A commit of a delivery worker ---- */

/* And not its sending thread. An entry begins with its name. */
static bool is_delivery_worker(void)
{
	return background_worker != NULL && *background_worker != NULL && gettid() == getpid() &&
		strncmp(*background_worker, "whisperer delivery", 18) == 0;
}

/* The position in the WAL of a file's beginning, 0 if it is not the WAL's. */
static uint64_t wal_position(int fd)
{
	char link[40], path[1024];
	const char *name;
	unsigned timeline, high, low;
	ssize_t length;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof(path) - 1);
	path[length > 0 ? length : 0] = '\0';
	name = strstr(path, "/pg_wal/");
	if (name == NULL || sscanf(name + 8, "%8X%8X%8X", &timeline, &high, &low) != 3)
		return 0;
	return ((uint64_t) high << 32) + ((uint64_t) low << 24);
}

/*
 * Whether it is in the commit of a transaction that wrote: RecordTransactionCommit holds a critical section around that of
 * XLogFlush. (With one alone a dirty page, or somebody else's asynchronous commit, wants the WAL on disk.)
 */
static bool commits(void)
{
	return critical_sections != NULL && *critical_sections >= 2 && transaction() != 0 && is_delivery_worker();
}

static bool passes(void)
{
	return plan->commits > 0 && plan->commits-- > 0;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
	uint32_t point = plan == NULL ? NOWHERE : plan->point;
	uint64_t position;
	ssize_t result;

	if (point < BEFORE_WRITE || point > ACKNOWLEDGING || (position = wal_position(fd)) == 0 || !commits() ||
		position + offset + size < *last_record_end || passes())
		return real_pwrite(fd, data, size, offset);
	if (point == BEFORE_WRITE)
		strike(transaction());
	if (point == HALF_WRITTEN)
	{
		(void) real_pwrite(fd, data, size / 2, offset);
		strike(transaction());
	}
	result = real_pwrite(fd, data, size, offset);
	if (point == WRITTEN)
		strike(transaction());
	commit_written = true;
	return result;
}

int fdatasync(int fd)
{
	uint32_t point = plan == NULL ? NOWHERE : plan->point;

	if (!commit_written)
		return 0; /* as fsync() below */
	commit_written = false;
	if (syscall(SYS_fdatasync, fd) != 0)
		return -1;
	if (point == SYNCED)
		strike(transaction());
	commit_synced = point == ACKNOWLEDGING ? transaction() : 0;
	return 0;
}

/* What the faults are not about is not synced: that takes time, and the machine does not crash. */
int fsync(int fd)
{
	(void) fd;
	return 0;
}

/* The results leave the worker's memory under its lock, after the commit is done with. */
int pthread_mutex_lock(pthread_mutex_t *mutex)
{
	if (real_lock == NULL)
		real_lock = dlsym(RTLD_NEXT, "pthread_mutex_lock");
	if (commit_synced != 0 && *critical_sections == 0 && gettid() == getpid() && plan->locks-- <= 0)
		strike(commit_synced);
	return real_lock(mutex);
}

/* ---- The sending thread of a delivery worker ---- */

static bool hits(enum point point, const void *data, ssize_t size)
{
	char name[17] = "";

	return plan != NULL && plan->point == point && size > 0 && memmem(data, size, plan->mark, strlen(plan->mark)) != NULL &&
		prctl(PR_GET_NAME, name) == 0 && strcmp(name, "whisperer send") == 0;
}

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
	const struct sockaddr_in *inet = (const struct sockaddr_in *) address;

	char port[8];

	/* The mark is the port. */
	if (address->sa_family == AF_INET && hits(CONNECT, port, snprintf(port, sizeof(port), "%d", ntohs(inet->sin_port))))
		strike(0);
	return (int) syscall(SYS_connect, fd, address, length);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
	if (hits(SEND, data, (ssize_t) size))
		strike(0);
	return syscall(SYS_sendto, fd, data, size, flags, NULL, 0);
}

ssize_t recv(int fd, void *data, size_t size, int flags)
{
	ssize_t result = syscall(SYS_recvfrom, fd, data, size, flags, NULL, NULL);

	if (hits(RECEIVE, data, result))
		strike(0);
	return result;
}
