// The loop of a delivery worker.
//
//     wait for: a commit (latch), news of the sending thread, a timer
//       → settings, subscriptions that changed
//       → record what has ended        (a transaction of its own)
//       → read what there is to send   (another)
//       → wake the sending thread
//
// Sending is another thread's (core/sending_thread.hpp), which never touches anything of PostgreSQL's; this
// one shares with it the outbox, and nothing else. No transaction is open while it waits. An ERROR in a
// transaction rolls that one back, is said once, and is tried again later; what is in flight goes on.
#include "pg/prelude.hpp"

#include "pg/compat.hpp"
#include "pg/delivery_worker.hpp"
#include "pg/job_queue.hpp"
#include "pg/sender.hpp"
#include "pg/settings.hpp"
#include "pg/statistics.hpp"

extern "C" {
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
}

namespace whisperer::pg {

namespace {

// Results are recorded when they take half of the worker's slots, or after this time, whichever is first.
size_t record_batch() {
    return (size_t)Max(sender_max_in_flight() / 2, 1);
}
constexpr int64 record_delay = 10 * 1000;
// What was learnt of receivers is saved this often.
constexpr int64 state_interval = 1000 * 1000;
constexpr int64 statistics_interval = 10 * 1000 * 1000;
// After an ERROR the next try waits, longer each time.
constexpr int64 first_backoff = 250 * 1000;
constexpr int64 last_backoff = 30 * 1000 * 1000;
// So often is looked whether it is over, while requests in flight may still end.
constexpr int64 finish_interval = 50 * 1000;
// A server that shuts down does not wait for slow receivers: what is still in flight then is sent again, with
// the same id.
constexpr int64 shutdown_patience = 1000 * 1000;
// After it was asked to, whatever locks others hold.
constexpr int64 leave_within = 10 * 1000 * 1000;
constexpr int64 least_lock_wait = 100 * 1000;

// Times are of the monotonic clock, microseconds.
struct Loop {
    WaitEventSet *events;
    int64 results_since; // the oldest result not recorded; 0: none
    int64 states_at;
    int64 scan_at;
    int64 statistics_at;
    int64 try_again_at; // after an ERROR
    int64 backoff;
    bool backing_off;                 // in this turn: an ERROR came, or try_again_at is still to come
    uint32 recalls;                   // as counted before the marks were taken
    bool prepared_counted;            // perhaps, by what has been committed in two phases
    int told_error;                   // SQLSTATE already said
    void (*failed)(DeliveryWorker *); // what failed last, and has not gone well since
    bool finishing;                   // nothing new is started any more
};
Loop loop;

// ---- Transactions

// Says an error once, until another one comes or what failed goes well again.
void say_error(DeliveryWorker *worker, ErrorData *error) {
    if (loop.told_error == error->sqlerrcode)
        return;
    loop.told_error = error->sqlerrcode;
    ereport(LOG, errcode(error->sqlerrcode),
            errmsg("whisperer could not work on its tables in database \"%s\": %s",
                   worker->self->database_name, error->message),
            error->detail != nullptr ? errdetail_internal("%s", error->detail) : 0,
            errhint("Nothing is lost; it is tried again, at intervals of up to %d seconds.%s%s",
                    (int)(last_backoff / 1000000), error->hint != nullptr ? " " : "",
                    error->hint != nullptr ? error->hint : ""));
}

void rest(int64 time) {
    loop.try_again_at = monotonic_micros() + time;
    loop.backing_off = true;
}

// One transaction. False: it failed and is to be tried again at loop.try_again_at. Leaves the process when
// the extension is gone.
bool in_transaction(DeliveryWorker *worker, void (*work)(DeliveryWorker *)) {
    MemoryContext context = CurrentMemoryContext;
    volatile bool ok = false;
    volatile bool gone = false;
    PG_TRY();
    {
        if (worker_begin(worker->self)) {
            work(worker);
            worker_commit(worker->self);
            ok = true;
        } else
            gone = true;
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        ErrorData *error = CopyErrorData();
        FlushErrorState();
        worker_rollback(worker->self);
        MemoryContextSwitchTo(context);
        say_error(worker, error);
        FreeErrorData(error);
        // What was loaded in it may have been undone.
        worker->reload_wanted = true;
        worker->owners_changed = worker->owners_changed || worker->owners_refreshed;
        loop.failed = work;
        loop.backoff = Min(Max(loop.backoff * 2, first_backoff), last_backoff);
        rest(loop.backoff);
    }
    PG_END_TRY();
    MemoryContextSwitchTo(context);
    if (gone) {
        worker->sending->stop();
        journal_close(worker->journal);
        proc_exit(0);
    }
    if (ok) {
        worker->owners_refreshed = false;
        // Only by itself: what can be read while nothing can be written, say, makes nothing well again.
        if (work == loop.failed) {
            loop.failed = nullptr;
            loop.told_error = 0;
            loop.backoff = 0;
            loop.try_again_at = 0;
            loop.backing_off = false;
        }
    }
    return ok;
}

void record_work(DeliveryWorker *worker) {
    record_results(worker);
}

void record(DeliveryWorker *worker, int64 now) {
    loop.states_at = now + state_interval;
    if (in_transaction(worker, record_work))
        record_committed(worker);
    else
        record_failed(worker);
    loop.results_since = worker->box->result_count() > 0 ? now : 0;
}

void load_work(DeliveryWorker *worker) {
    bool was_held = worker->held;
    worker->reload_wanted = false; // first: roles may change while it loads
    worker->load_failed = !load_subscriptions(worker);
    if (worker->load_failed) {
        worker->reload_wanted = true;
        rest(first_backoff);
    }
    if (worker->self->shard != 0 || worker->held || !setting_enabled || !(worker->announce_jobs || was_held))
        return;
    jobs_announce();
    worker->announce_jobs = false;
}

void read_work(DeliveryWorker *worker) {
    // At the transaction's start it may have turned out that roles have changed, and an owner may be gone.
    if (worker->reload_wanted)
        load_work(worker);
    drop_cancelled(worker);
    read_queue(worker);
    read_bodies(worker->box);
}

void scan_work(DeliveryWorker *worker) {
    cancel_stragglers();
    worker->subscription_changes->reset(); // somebody may have written a row without its change_xid
    worker->announce_jobs = true;
    loop.prepared_counted = true;
    load_work(worker);
}

void statistics_work(DeliveryWorker *) {
    statistics_save();
    if (loop.prepared_counted)
        statistics_take_prepared();
}

bool save_statistics(DeliveryWorker *worker) {
    if (!in_transaction(worker, statistics_work))
        return false;
    if (loop.prepared_counted)
        statistics_prepared_taken();
    loop.prepared_counted = false;
    return true;
}

void start_work(DeliveryWorker *worker) {
    statistics_load();
    load_work(worker);
}

// ---- One turn

void take_settings(DeliveryWorker *worker) {
    if (!worker_reload_settings())
        return;
    if (worker->self->shard == 0)
        roster_say_enabled(worker->database, setting_enabled);
    sender_make_room();
    if (worker->self->shard == 0)
        sender_check_ca_file();
    if (!worker->box->configure(sender_engine_settings()))
        ereport(LOG, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("whisperer could not take over changed settings"),
                errhint("Reload the configuration again when there is memory."));
    worker->box->set_limits(sender_limits());
    worker->subscription_changes->reset(); // time-outs and limits of each subscription
    worker->announce_jobs = true;
    worker->reload_wanted = true;
    loop.scan_at = Min(loop.scan_at, monotonic_micros() + (int64)setting_safety_scan_interval * 1000000);
}

void take_flags(DeliveryWorker *worker) {
    uint64 bits[dirty_words];
    if (roster_take_reload(worker->self->slot))
        worker->reload_wanted = true;
    if (!setting_enabled)
        return; // the marks stay: sessions do not wake it for what is marked already
    if (roster_take_dirty(worker->self->slot, bits)) {
        worker->box->mark_all_dirty();
        worker->reload_wanted = true;
        loop.prepared_counted = true;
        return;
    }
    for (int word = 0; word < dirty_words; word++)
        for (uint64 left = bits[word]; left != 0; left &= left - 1)
            worker->box->mark_bucket_dirty(word * 64 + __builtin_ctzll(left));
}

bool saves_statistics(const DeliveryWorker *worker) {
    return worker->self->shard == 0 && (statistics_changed() || loop.prepared_counted);
}

bool may_send(const DeliveryWorker *worker) {
    return setting_enabled && !worker->held && !loop.finishing;
}

bool wants_tables(DeliveryWorker *worker) {
    return worker->box->wants_tables(wall_clock());
}

void work_on_tables(DeliveryWorker *worker, int64 now) {
    size_t results = worker->box->result_count();
    if (results == 0)
        loop.results_since = 0;
    else if (loop.results_since == 0)
        loop.results_since = now;
    if (loop.backing_off)
        return;
    if (worker->reload_wanted && !in_transaction(worker, load_work))
        return;
    bool results_due = results >= record_batch() || (results > 0 && now - loop.results_since >= record_delay);
    if (results_due || (worker->box->has_changed_states() && now >= loop.states_at))
        record(worker, now);
    if (loop.backing_off)
        return; // that failed, or there is no memory for the subscriptions
    if (now >= loop.scan_at) {
        loop.scan_at = now + (int64)setting_safety_scan_interval * 1000000;
        worker->box->mark_all_dirty();
        if (!in_transaction(worker, scan_work))
            return;
    }
    if (now >= loop.statistics_at) {
        loop.statistics_at = now + statistics_interval;
        if (saves_statistics(worker) && !save_statistics(worker))
            return;
    }
    if (!may_send(worker) || !wants_tables(worker))
        return;
    if (!in_transaction(worker, read_work))
        worker->box->read_all_again();
    else if (!worker->load_failed && !worker->box->has_unsent_to_check())
        worker->box->recalls_handled(loop.recalls);
}

void tell_state(DeliveryWorker *worker) {
    bool busy = worker->box->in_flight() > 0;
    const char *state = !setting_enabled                         ? "disabled"
                        : worker->told_copy                      ? "held: copy, call whisperer.resume()"
                        : loop.try_again_at > monotonic_micros() ? "waiting after an error"
                        : busy                                   ? "sending"
                                                                 : "idle";
    worker_report_state(worker->self, state, busy);
}

// The thread goes on with what has been read, and tells when there is something to do here. What is waited
// for by time is not to be told.
void wake_sending(DeliveryWorker *worker) {
    unsigned wanted = 0;
    if (!loop.backing_off) {
        wanted = core::news_enough;
        if (loop.results_since == 0)
            wanted |= core::news_results;
        if (may_send(worker))
            wanted |= core::news_tables;
    }
    worker->sending->wake(may_send(worker), wanted, record_batch());
}

int64 sooner(int64 a, int64 b) {
    return b == 0 ? a : Min(a, b);
}

// Milliseconds to wait at most; 0 when there is something to do at once.
long time_to_wait(DeliveryWorker *worker, int64 now) {
    int64 until = loop.scan_at;
    if (saves_statistics(worker))
        until = sooner(until, loop.statistics_at);
    if (loop.results_since != 0)
        until = sooner(until, loop.results_since + record_delay);
    if (worker->box->has_changed_states())
        until = sooner(until, loop.states_at);
    if (loop.backing_off)
        until = loop.try_again_at; // until then nothing else is done
    if (loop.finishing)
        until = Min(until, now + finish_interval);
    // The latch that announced marks may have been reset within a transaction.
    if (!loop.backing_off && (ConfigReloadPending || roster_is_marked(worker->self->slot, setting_enabled) ||
                              (may_send(worker) && wants_tables(worker))))
        return 0;
    return until <= now ? 0 : (long)((until - now + 999) / 1000);
}

void wait_for_something(DeliveryWorker *worker) {
    static uint32 wait_event = 0;
    WaitEvent occurred[3];
    long timeout = time_to_wait(worker, monotonic_micros());
    int count = WaitEventSetWait(loop.events, timeout, occurred, lengthof(occurred),
                                 compat_wait_event(&wait_event, "WhispererDelivery"));
    for (int i = 0; i < count; i++) {
        if (occurred[i].events & WL_LATCH_SET)
            ResetLatch(MyLatch);
        if (occurred[i].events & WL_POSTMASTER_DEATH)
            proc_exit(1);
    }
}

void turn(DeliveryWorker *worker) {
    wait_for_something(worker);
    CHECK_FOR_INTERRUPTS();
    take_settings(worker);
    // Before the marks are taken: they were set before it was counted.
    loop.recalls = pg_atomic_read_u32(&worker->database->recalls);
    take_flags(worker);
    worker->sending->hear(); // first: what is told after this wakes the next wait
    loop.backing_off = monotonic_micros() < loop.try_again_at;
    work_on_tables(worker, monotonic_micros());
    wake_sending(worker);
    journal_tend(worker->journal);
    tell_state(worker);
    MemoryContextReset(CurrentMemoryContext);
}

// Who is asked to leave does so soon, whatever else it was about to wait for. Each transaction would wait for
// a lock that somebody holds, and there are several.
void heed_request(int64 *deadline) {
    int64 asked_at = worker_asked_to_leave_at();
    if (asked_at == 0)
        return;
    *deadline = Min(*deadline, asked_at + shutdown_patience);
    int64 left = Max(asked_at + leave_within - monotonic_micros(), least_lock_wait);
    char text[32];
    snprintf(text, sizeof(text), "%lld", (long long)(left / 1000));
    SetConfigOption("lock_timeout", text, PGC_USERSET, PGC_S_OVERRIDE);
}

// Is there something to wait for? Who has a row locked often ends with us, but has no more than a second; if
// it is a table, or the disk, each try would wait in vain.
bool awaits(DeliveryWorker *worker, int64 since) {
    return worker->box->in_flight() > 0 || (worker->box->unrecorded_count() > 0 && !loop.backing_off &&
                                            monotonic_micros() - since < shutdown_patience);
}

// Nothing new is started; what is in flight may end until the patience does; results are recorded.
void finish(DeliveryWorker *worker) {
    loop.finishing = true;
    wake_sending(worker); // nothing starts from now on
    int64 patience = shutdown_patience;
    StopReason reason = worker_stop_reason(worker->self);
    if (reason == STOP_BARRED)
        patience = 0;
    else if (reason == STOP_RESTART && !ShutdownRequestPending)
        patience =
            (int64)((setting_request_timeout().connect_seconds + setting_request_timeout().response_seconds) *
                    1e6);
    int64 since = monotonic_micros();
    int64 deadline = since + patience;
    heed_request(&deadline);
    while (awaits(worker, since) && monotonic_micros() < deadline &&
           worker_stop_reason(worker->self) != STOP_BARRED) {
        turn(worker);
        heed_request(&deadline);
    }
    worker->sending->stop();
    worker->box->end_postponements();
    for (size_t left = worker->box->result_count(); left > 0;) {
        heed_request(&deadline);
        record(worker, monotonic_micros());
        size_t now_left = worker->box->result_count();
        if (now_left >= left)
            break; // locked rows, or the tables cannot be written: they are sent again
        left = now_left;
    }
    heed_request(&deadline);
    if (saves_statistics(worker))
        (void)save_statistics(worker);
    journal_close(worker->journal);
}

} // namespace

} // namespace whisperer::pg

using namespace whisperer::pg;

WHISPERER_EXPORT void whisperer_delivery_main(Datum main_arg) {
    DeliveryWorker *worker = make_delivery_worker(main_arg);
    loop.events = compat_create_wait_event_set(3);
    AddWaitEventToSet(loop.events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, nullptr);
    AddWaitEventToSet(loop.events, WL_POSTMASTER_DEATH, PGINVALID_SOCKET, nullptr, nullptr);
    AddWaitEventToSet(loop.events, WL_SOCKET_READABLE, worker->sending->wait_fd(), nullptr, nullptr);
    int64 now = monotonic_micros();
    loop.scan_at = now + (int64)setting_safety_scan_interval * 1000000;
    loop.statistics_at = now + statistics_interval;
    loop.prepared_counted = true;

    while (!in_transaction(worker, start_work) && !worker_must_stop(worker->self))
        wait_for_something(worker);
    while (!worker_must_stop(worker->self))
        turn(worker);
    finish(worker);
    proc_exit(0);
}
