// The loop of a process that calls users' functions.
//
//     look which owners have jobs
//       → the owner served longest ago, unless another process serves it:
//           take up some jobs  (a durable transaction: what brings the server down is not made for ever)
//           make each call     (a transaction of its own, which removes the job)
//           after a while, give back what is left
//       → until nobody has jobs; wait a while for more; leave
//
// A call and the removal of its job are one transaction: what is lost in a crash is done again, and only
// that. Therefore it need not be on disk at once. A call that fails is rolled back, and its job removed in
// another transaction, with the reason.
#include "pg/prelude.hpp"

#include "pg/job_worker.hpp"

#include "pg/advisory_locks.hpp"
#include "pg/compat.hpp"
#include "pg/home.hpp"
#include "pg/internal_sql.hpp"
#include "pg/job_calls.hpp"
#include "pg/job_guard.hpp"
#include "pg/job_queue.hpp"
#include "pg/settings.hpp"
#include "pg/taken_jobs.hpp"
#include "pg/user_function.hpp"
#include "pg/worker.hpp"
#include "pg/worker_slots.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
}

namespace whisperer::pg {

namespace {

// An owner's turn. Its jobs are taken up in portions that fit into it.
constexpr int64 turn_time = 200 * 1000;
// A process without work stays this long.
constexpr int64 idle_time = 5 * 1000 * 1000;
constexpr int64 countdown_limit = 1000 * 1000;
constexpr int64 second = 1000 * 1000;

// The process's state; one, in static memory.
struct JobWorker {
    WorkerSelf *self;
    JobKind kind;
    OwnerQueues queues;
    uint32 seen;          // jobs_written at the last look
    MemoryContext memory; // of one call
    MemoryContext loop;   // reset in each round
    int64 scan_at;        // then everything is looked at from the beginning
};
JobWorker worker;

pg_atomic_uint32 *jobs_written() {
    return &worker.self->database_slot->jobs_written[(int)worker.kind];
}

// Who has waited longest; null: nobody.
OwnerQueue *next_queue() {
    OwnerQueue *next = nullptr;
    for (int i = 0; i < worker.queues.count; i++) {
        OwnerQueue *queue = &worker.queues.list[i];
        if (queue->has_work && (next == nullptr || queue->served < next->served))
            next = queue;
    }
    return next;
}

// See roster_jobs_written(). True: nobody has written anything since the last look.
bool may_leave() {
    pg_atomic_write_u32(&worker.self->slot->leaving, 1);
    pg_memory_barrier();
    return pg_atomic_read_u32(jobs_written()) == worker.seen;
}

[[noreturn]] void leave() {
    // Asked to, but perhaps only this process: what it knows of, or was woken for, another one must do.
    if (worker_must_stop(worker.self) && worker.self->database_slot != nullptr &&
        (!may_leave() || next_queue() != nullptr))
        roster_want_worker(worker.self->database_slot, worker.kind);
    proc_exit(0);
}

void begin() {
    if (!worker_begin(worker.self))
        leave();
}

void commit() {
    worker_commit(worker.self);
    MemoryContextSwitchTo(worker.loop);
}

// For a transaction whose loss could repeat what must not be repeated without end.
void commit_durably() {
    (void)set_config_option("synchronous_commit", "local", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true,
                            0, false);
    commit();
}

// May users' functions be called in this database?
bool may_work() {
    static Statement at_home = {
        "SELECT FROM whisperer.home WHERE system_identifier = $1 AND database_oid = $2",
        2,
        {INT8OID, OIDOID},
        nullptr};
    Datum arguments[2] = {Int64GetDatum(home_system()), ObjectIdGetDatum(MyDatabaseId)};
    return setting_enabled && internal_execute(&at_home, arguments) > 0 && !home_is_copy();
}

// ---- Failures

void count(Counter counter) {
    if (worker.kind == JobKind::callback)
        roster_count(counter, 1);
}

void fail(const JobKey &job, const JobFailure &failure) {
    begin();
    queue_fail(worker.kind, job, failure);
    commit();
    count(COUNT_CALLBACK_ERRORS);
}

int64 time_limit() {
    return worker.kind == JobKind::callback ? (int64)setting_callback_timeout * 1000 : countdown_limit;
}

const char *limit_text() {
    return worker.kind == JobKind::callback
               ? psprintf("whisperer.callback_timeout (%g s)", (double)setting_callback_timeout / 1000.0)
               : "a second";
}

// Calls for which an earlier process had to be ended.
void record_overruns() {
    JobKey job;
    while (roster_overrun_take(worker.self->database_slot, worker.kind, &job)) {
        count(COUNT_CALLBACKS);
        fail(job, {nullptr, ERRCODE_QUERY_CANCELED,
                   psprintf("took longer than twice %s and ignored its cancellation; its process was ended",
                            limit_text())});
    }
}

// ---- One call

struct Run {
    const JobKey *job;
    bool others_wait;
    JobCall call;
    GuardEnd end;
};

void make_call(Run *run) {
    begin();
    user_function_transaction_start();
    guard_begin(*run->job, time_limit(), run->others_wait, worker.seen);
    if (worker.kind == JobKind::callback)
        callback_run(*run->job, &run->call);
    else
        countdown_run(*run->job, &run->call);
    run->end = guard_end();
    if (run->end == GuardEnd::limit) // it caught the cancellation, and came to an end then
        ereport(ERROR, errcode(ERRCODE_QUERY_CANCELED), errmsg("the call was too late"));
    commit();
}

// What a function leaves in the session beyond its transaction, the next owner's shall not find; nor know
// what random() will say.
void forget_session() {
    advisory_locks_release_all();
    (void)DirectFunctionCall1(setseed, Float8GetDatum(pg_prng_double(&pg_global_prng_state)));
}

// True: the call is done with, or was never to be made. Else *failure says why not; null for a call that is
// only put off.
bool try_call(Run *run, JobFailure *failure) {
    volatile bool ok = true;
    ErrorData *volatile error = nullptr;
    PG_TRY();
    { make_call(run); }
    PG_CATCH();
    {
        GuardEnd end = guard_end();
        run->end = run->end == GuardEnd::in_time ? end : run->end;
        MemoryContextSwitchTo(worker.memory);
        error = CopyErrorData();
        FlushErrorState();
        worker_rollback(worker.self);
        ok = false;
    }
    PG_END_TRY();
    MemoryContextSwitchTo(worker.loop);
    forget_session();
    if (ok)
        return true;
    bool cancelled = error->sqlerrcode == ERRCODE_QUERY_CANCELED;
    if (cancelled && run->end == GuardEnd::stopped)
        return false;
    if (cancelled && run->end == GuardEnd::limit) {
        MemoryContextSwitchTo(worker.memory);
        *failure = {run->call.function, ERRCODE_QUERY_CANCELED,
                    psprintf("took longer than %s", limit_text())};
        MemoryContextSwitchTo(worker.loop);
    } else if (run->call.users) {
        MemoryContextSwitchTo(worker.memory);
        const char *text =
            error->detail == nullptr ? error->message : psprintf("%s (%s)", error->message, error->detail);
        *failure = {run->call.function, error->sqlerrcode, text};
        MemoryContextSwitchTo(worker.loop);
    } else
        ReThrowError(error); // trouble of ours: the process ends, and another one tries again after a while
    return false;
}

// False: the process must leave, and the job is put off.
bool do_job(const JobKey &job, bool others_wait) {
    MemoryContextReset(worker.memory);
    Run run = {&job, others_wait, {nullptr, worker.memory, false, false}, GuardEnd::in_time};
    JobFailure failure = {nullptr, 0, nullptr};
    bool ok = try_call(&run, &failure);
    if (!ok && failure.error == nullptr)
        return false;
    if (run.call.made)
        count(COUNT_CALLBACKS);
    if (!ok)
        fail(job, failure);
    return true;
}

// ---- An owner's turn

// What was taken up before is done with by then, and the commit puts that on disk, too. (Without jobs, it
// does not.)
void take_up(OwnerQueue *queue, TakenJobs *taken) {
    begin();
    queue_take(worker.kind, queue, taken);
    commit_durably();
    if (taken->count > 0)
        taken_jobs_are(taken);
}

// Durably: others may take them up now, so that they are not ours any more if we are ended.
void give_back(OwnerQueue *queue, const TakenJobs *taken, int from) {
    if (from >= taken->count)
        return;
    begin();
    for (int i = from; i < taken->count; i++)
        queue_give_back(worker.kind, queue, taken->jobs[i]);
    commit_durably();
    taken_jobs_are(nullptr);
}

bool others_wait(const OwnerQueue *queue) {
    for (int i = 0; i < worker.queues.count; i++)
        if (worker.queues.list[i].has_work && &worker.queues.list[i] != queue)
            return true;
    return false;
}

// Trouble that is not a call's ends this process, but no call did: none counts as one that no process
// survives.
void give_back_and_leave(OwnerQueue *queue, const TakenJobs *taken, int from) {
    MemoryContextSwitchTo(worker.loop);
    ErrorData *trouble = CopyErrorData();
    FlushErrorState();
    worker_rollback(worker.self);
    PG_TRY();
    { give_back(queue, taken, from); }
    PG_CATCH();
    {
        FlushErrorState(); // of the same trouble, most likely
        worker_rollback(worker.self);
    }
    PG_END_TRY();
    ReThrowError(trouble);
}

void do_jobs(OwnerQueue *queue, const TakenJobs *taken, int64 start, volatile int *done) {
    PG_TRY();
    {
        while (*done < taken->count && !worker_must_stop(worker.self) &&
               (*done == 0 || monotonic_micros() - start < turn_time)) {
            if (!do_job(taken->jobs[*done], others_wait(queue)))
                break;
            (*done)++;
        }
    }
    PG_CATCH();
    { give_back_and_leave(queue, taken, *done); }
    PG_END_TRY();
}

void take_turn(OwnerQueue *queue) {
    static TakenJobs both[2];
    TakenJobs *taken = &both[taken_jobs_now() == &both[0] ? 1 : 0];
    int64 start = monotonic_micros();
    queue->served = start;
    record_overruns(); // the owner is ours now: none of its jobs can be added to those
    take_up(queue, taken);
    if (taken->hopeless) {
        fail(taken->jobs[0], {nullptr, ERRCODE_CRASH_SHUTDOWN,
                              "given up: no process that tried the call survived it, several times"});
        return;
    }
    volatile int done = 0;
    do_jobs(queue, taken, start, &done);
    give_back(queue, taken, done);
    bool quick = done == taken->count && monotonic_micros() - start < turn_time / 2;
    queue->batch = quick ? Min(queue->batch * 2, most_jobs_at_once) : Max(done / 2, 1);
}

// ---- The loop

// Those that an earlier process had taken up, and others ended it.
void forgive_left() {
    LeftJob *left;
    int count = taken_jobs_left(worker.kind, &left);
    if (count > 0) {
        begin();
        for (int i = 0; i < count; i++)
            queue_forgive(worker.kind, left[i].key, left[i].runs);
        commit_durably();
    }
    if (count >= 0)
        taken_jobs_forget(worker.kind);
}

void look() {
    int64 now = monotonic_micros();
    if (now >= worker.scan_at) {
        worker.scan_at = now + (int64)setting_safety_scan_interval * second;
        queues_forget_marks(&worker.queues);
    }
    worker.seen = pg_atomic_read_u32(jobs_written());
    pg_memory_barrier();
    begin();
    // Not allowed to work is as good as without work: when that changes there may be no other wake.
    if (may_work())
        (void)queues_look(&worker.queues);
    else
        for (int i = 0; i < worker.queues.count; i++)
            worker.queues.list[i].has_work = false;
    commit();
}

// True: somebody was served.
bool serve() {
    bool served = false;
    while (OwnerQueue *queue = worker_must_stop(worker.self) ? nullptr : next_queue()) {
        queue->has_work = false; // in this round
        if (!slot_serve(worker.self->slot, queue->owner))
            continue; // another process does, and goes on until there is nothing left
        served = true;
        worker_report(worker.self,
                      worker.kind == JobKind::callback ? "calling callbacks" : "calling countdowns", 1);
        take_turn(queue);
        slot_serve_end(worker.self->slot);
        CHECK_FOR_INTERRUPTS();
        MemoryContextReset(worker.loop);
    }
    return served;
}

void wait_for_work(int64 until) {
    static uint32 wait_event = 0;
    worker_report(worker.self, "idle", 0);
    while (!worker_must_stop(worker.self) && pg_atomic_read_u32(jobs_written()) == worker.seen) {
        long wait = (long)((until - monotonic_micros()) / 1000);
        if (wait <= 0)
            return;
        int events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, wait,
                               compat_wait_event(&wait_event, "WhispererJobs"));
        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
        worker_reload_settings();
        if (events & WL_LATCH_SET)
            return; // by the launcher perhaps: there may be work that was somebody else's
    }
}

void run() {
    int64 idle_since = monotonic_micros();
    while (!worker_must_stop(worker.self)) {
        worker_reload_settings();
        look();
        if (serve()) {
            idle_since = monotonic_micros();
            continue;
        }
        int64 until = idle_since + idle_time;
        if (monotonic_micros() >= until && may_leave())
            leave();
        pg_atomic_write_u32(&worker.self->slot->leaving, 0);
        wait_for_work(until);
    }
}

void start(Datum main_arg, JobKind kind) {
    worker.self = worker_start(main_arg, job_worker(kind));
    worker.kind = worker.queues.kind = kind;
    if (worker.self->database_slot == nullptr)
        leave();
    guard_init(worker.self, kind);
    // Functions run under the settings that a session of their owner would have, but for what is pinned; see
    // above for why a call need not be on disk at once.
    SetConfigOption("row_security", "on", PGC_USERSET, PGC_S_OVERRIDE);
    SetConfigOption("synchronous_commit", "off", PGC_USERSET, PGC_S_OVERRIDE);
    worker.memory = AllocSetContextCreate(TopMemoryContext, "whisperer call", ALLOCSET_DEFAULT_SIZES);
    worker.loop = AllocSetContextCreate(TopMemoryContext, "whisperer jobs", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(worker.loop);
    taken_jobs_init(worker.self, kind);
    record_overruns();
    forgive_left();
    run();
    leave();
}

} // namespace

} // namespace whisperer::pg

void whisperer_callback_main(Datum main_arg) {
    whisperer::pg::start(main_arg, whisperer::pg::JobKind::callback);
}

void whisperer_countdown_main(Datum main_arg) {
    whisperer::pg::start(main_arg, whisperer::pg::JobKind::countdown);
}
