#include "pg/prelude.hpp"

#include "pg/job_guard.hpp"

extern "C" {
#include "storage/ipc.h"
#include "storage/latch.h"
}

#include <signal.h>
#include <time.h>

namespace whisperer::pg {

namespace {

constexpr int64 longest_tick = 50 * 1000;
// A call that takes longer than this is slow: others shall not wait for it.
constexpr int64 slow_call = 100 * 1000;
// What a call has, after it was cancelled because the process must leave, before it is ended.
constexpr int64 stop_patience = 500 * 1000;
// A process that was stopped, or had no processor, gets one tick for all that time, of which so many ticks'
// worth is the call's at the most: it has neither used nor ignored the rest.
constexpr int late_ticks = 4;

// Written by the process, read and written by the signal handler.
struct Guard {
    WorkerSelf *self;
    JobKind kind;
    timer_t timer;
    JobKey job;
    int64 started;
    int64 step;   // between two ticks
    int64 ticked; // when it last did
    int64 used;   // by the call until then
    int64 limit;
    // In the call's own time. 0: not yet.
    int64 cancelled; // at the limit
    int64 stop_seen;
    uint32 jobs_seen;
    bool others_wait;
    bool asked;
    bool ending; // the process is being ended for this job
    volatile sig_atomic_t armed;
    volatile GuardEnd end;
};
Guard guard;

// What the call has used. Outside the handler a tick that is due has come, but where the signal is blocked,
// or somebody else's: then there was a processor. The clock is read before what a tick may change meanwhile.
int64 own_time() {
    int64 now = monotonic_micros();
    return guard.used + (now - guard.ticked);
}

// The first reason stays: what was too late is not made again because its process was to leave, too.
void cancel_call(GuardEnd why) {
    if (guard.end == GuardEnd::in_time)
        guard.end = why;
    QueryCancelPending = true;
    InterruptPending = true;
    SetLatch(MyLatch);
}

void end_process() {
    ProcDiePending = true;
    InterruptPending = true;
    SetLatch(MyLatch);
}

// Everybody else's work, if there is any, needs another process.
void ask_for_help() {
    DatabaseSlot *slot = guard.self->database_slot;
    bool more = pg_atomic_read_u32(&slot->jobs_written[static_cast<int>(guard.kind)]) != guard.jobs_seen;
    if (guard.asked || (!guard.others_wait && !more))
        return;
    guard.asked = true;
    roster_want_worker(slot, guard.kind);
}

// In the signal handler.
void tick() {
    if (!guard.armed)
        return;
    int64 now = monotonic_micros();
    guard.used += Min(now - guard.ticked, late_ticks * guard.step);
    guard.ticked = now;
    int64 used = guard.used;
    if (worker_must_stop(guard.self)) {
        if (guard.stop_seen == 0) {
            guard.stop_seen = used;
            cancel_call(GuardEnd::stopped);
        } else if (used - guard.stop_seen >= stop_patience) {
            guard.ending = guard.cancelled != 0;
            end_process();
        }
        return;
    }
    if (now - guard.started >= slow_call)
        ask_for_help();
    if (guard.cancelled == 0) {
        if (used < guard.limit)
            return;
        guard.cancelled = used;
        cancel_call(GuardEnd::limit);
    } else if (used - guard.cancelled >= guard.limit) {
        guard.ending = true;
        end_process();
    }
}

void handle_tick(SIGNAL_ARGS) {
    int saved_errno = errno;
    (void)postgres_signal_arg;
    tick();
    errno = saved_errno;
}

// PostgreSQL uses none of these, and makes nothing of SIGUSR2 in a process like this one. But a function may
// bring a whole runtime into it: Java's takes SIGUSR2 for itself, .NET's the first of these.
int tick_signal() {
    return SIGRTMIN + 1;
}

// Every so many microseconds; 0: not any more.
bool set_timer(int64 step) {
    struct itimerspec time = {};
    time.it_value.tv_sec = time.it_interval.tv_sec = step / 1000000;
    time.it_value.tv_nsec = time.it_interval.tv_nsec = step % 1000000 * 1000;
    return timer_settime(guard.timer, 0, &time, nullptr) == 0;
}

// Before the slot is given back, so that whoever does this owner's jobs next knows; and then it is no longer
// ours to look at.
void at_exit(int, Datum) {
    guard.armed = 0;
    (void)set_timer(0);
    if (!guard.ending)
        return;
    guard.self->slot->overrun = true;
    roster_overrun_note(guard.self->database_slot, guard.kind, guard.job);
}

} // namespace

void guard_init(WorkerSelf *self, JobKind kind) {
    guard.self = self;
    guard.kind = kind;
    pqsignal(tick_signal(), handle_tick);
    struct sigevent event = {};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = tick_signal();
    // PostgreSQL's own timers compare times of the wall clock: put back, it would stop the ticks until it is
    // as late again.
    if (timer_create(CLOCK_MONOTONIC, &event, &guard.timer) != 0)
        ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_RESOURCES),
                errmsg("could not create a timer for the functions to be called: %m"));
    on_shmem_exit(at_exit, (Datum)0);
}

void guard_begin(const JobKey &job, int64 limit, bool others_wait, uint32 jobs_seen) {
    guard.job = job;
    guard.started = guard.ticked = monotonic_micros();
    guard.used = 0;
    guard.step = Max(Min(longest_tick, limit / 5), INT64CONST(1000));
    guard.limit = limit;
    guard.stop_seen = guard.cancelled = 0;
    guard.jobs_seen = jobs_seen;
    guard.others_wait = others_wait;
    guard.asked = guard.ending = false;
    guard.end = GuardEnd::in_time;
    if (!set_timer(guard.step))
        elog(ERROR, "could not set a timer: %m");
    guard.armed = 1;
}

GuardEnd guard_end() {
    if (!guard.armed)
        return GuardEnd::in_time;
    bool in_time = own_time() < guard.limit;
    guard.armed = 0;
    (void)set_timer(0);
    QueryCancelPending = false;
    GuardEnd end = guard.end;
    if (end == GuardEnd::in_time && !in_time)
        end = GuardEnd::limit;
    return end;
}

bool guard_is_making(const JobKey &job) {
    const JobKey &mine = guard.job;
    return guard.armed && mine.xid == job.xid && mine.owner == job.owner && mine.attempt == job.attempt &&
           memcmp(mine.uuid, job.uuid, sizeof(job.uuid)) == 0;
}

bool guard_is_overdue() {
    return guard.armed && own_time() >= 2 * guard.limit;
}

} // namespace whisperer::pg
