// The launcher's state machine, one for each database of the server. The functions have the names of its
// arrows.
//
//                        probe_say_absent
//     UNKNOWN ──probe──▶ PROBING ─────────▶ ABSENT
//      ▲ ▲ ▲                │  │               │
//      │ │ └──probe_fail────┘  │ set_start     │ look
//      │ │   (tried later)     ▼               │
//      │ │                  RUNNING ◀─┐        │
//      │ │                     │  │   │ worker_start_again (after a back-off)
//      │ │             set_stop│  └───┘        │
//      │ │                     ▼               │
//      │ └──set_stopped──── STOPPING           │
//      └───────────────────────────────────────┘
//
// - A database is seen in pg_database (at start, every whisperer.safety_scan_interval, and when a session
//   announces something) and begins UNKNOWN; when it is gone from there it is forgotten.
// - Only a process in the database can tell whether it has the extension: the probe. It answers, or fails.
// - RUNNING: every shard of the set has a worker. One that failed is started again after a back-off that
//   doubles up to five minutes and is forgotten when workers ran for a minute. One that left by itself found
//   the extension gone: set_stop.
// - set_stop happens when somebody announces a change (CREATE or DROP EXTENSION, ALTER DATABASE … SET), when
//   whisperer.workers changes, and when the database is barred. A new set begins only when the old one is
//   gone entirely, so that a subscription never has two owners.
// - A barred database (somebody is dropping, renaming, moving or copying it) is neither probed nor served.

#include "pg/prelude.hpp"

#include "pg/journal.hpp"
#include "pg/launcher_parts.hpp"
#include "pg/settings.hpp"
#include "pg/taken_jobs.hpp"
#include "pg/worker.hpp"

extern "C" {
#include "utils/timestamp.h"
}

namespace whisperer::pg {

namespace {

constexpr int probes_at_once = 1; // a server with just enough worker slots must do
constexpr int64 maintenance_first = 10 * second;

bool memory_changed = false;

void later(int64 *next, int64 candidate) {
    *next = Min(*next, candidate);
}

// Nothing is to be known of the database's past.
void forget_past(const Entry *entry) {
    roster_database_free(entry->database);
    journal_remove_all(entry->database);
    taken_jobs_remove_all(entry->database);
    memory_changed = memory_changed || entry->failures > 0;
}

} // namespace

void database_forget(Entry *entry) {
    forget_past(entry);
    *entry = {};
}

namespace {

void look(Entry *entry, int64 now) {
    entry->look = false;
    entry->state = DatabaseState::unknown;
    // A worker that leaves by itself at once, again and again, must not make a tight loop; the first time is
    // free.
    entry->next_try = now + backoff_micros(Max(entry->failures, entry->quick_exits - 1));
}

void probe(Entry *entry) {
    if (!database_refresh(entry)) {
        database_forget(entry);
        return;
    }
    entry->look = false; // whatever was announced until now, the probe will see
    if (!entry->connectable)
        return;
    SlotRequest request = {WorkerKind::probe, entry->database, InvalidOid, 0, 1, 0};
    if (process_register(entry, request))
        entry->state = DatabaseState::probing;
    else
        entry->next_try = monotonic_micros() + slot_retry;
}

void probe_say_absent(Entry *entry) {
    forget_past(entry);
    entry->failures = 0;
    entry->state = DatabaseState::absent;
}

void probe_fail(Entry *entry, int64 now) {
    entry->failures++;
    entry->next_try = now + backoff_micros(entry->failures);
    entry->state = DatabaseState::unknown;
}

void start_missing_workers(Entry *entry, DatabaseSlot *slot, int64 now) {
    uint32 present = slot_shards_present(entry->database);
    for (int shard = 0; shard < entry->shards; shard++) {
        SlotRequest request = {WorkerKind::delivery, entry->database, entry->extension, shard,
                               entry->shards,        slot->generation};
        if ((present & (1u << shard)) == 0 && !process_register(entry, request)) {
            entry->next_try = now + slot_retry;
            entry->running_since = Max(entry->running_since, entry->next_try);
            return;
        }
    }
    entry->next_try = 0;
    if (!entry->said)
        ereport(LOG, (errmsg_plural("whisperer serves database \"%s\" with %d delivery worker",
                                    "whisperer serves database \"%s\" with %d delivery workers",
                                    entry->shards, entry->name, entry->shards)));
    entry->said = true;
}

// The probe found the extension: a new set of workers.
void set_start(Entry *entry, Oid extension, int64 now) {
    DatabaseSlot *slot = roster_database_make(entry->database);
    if (slot == nullptr) { // said by report_full()
        entry->state = DatabaseState::unknown;
        entry->next_try = now + setting_safety_scan_interval * second;
        return;
    }
    entry->extension = extension;
    entry->shards = setting_workers;
    slot->generation++;
    pg_atomic_write_u32(&slot->shards, static_cast<uint32>(entry->shards));
    entry->state = DatabaseState::running;
    entry->running_since = Max(now, entry->next_try);
    entry->next_maintenance = now + maintenance_first;
    entry->said = false;
    memory_changed = true;
}

// Somebody changed something: perhaps the reason is gone.
void begin_anew(Entry *entry, int64 now) {
    memory_changed = memory_changed || entry->failures > 0;
    entry->failures = entry->quick_exits = 0;
    entry->next_try = Min(entry->next_try, now);
}

// Failures of a set that ran for a while since are over.
void forgive(Entry *entry, int64 now) {
    if (entry->failures == 0 || now - entry->running_since < healthy_micros)
        return;
    entry->failures = 0;
    memory_changed = true;
}

} // namespace

void set_stop(Entry *entry, int64 now) {
    if (entry->state == DatabaseState::running)
        forgive(entry, now);
    if (entry->look)
        begin_anew(entry, now);
    slot_stop(entry->database, STOP_RESTART);
    entry->state = DatabaseState::stopping;
    entry->look = false;
}

namespace {

void set_stopped(Entry *entry, int64 now) {
    memory_changed = true;
    if (entry->said)
        ereport(LOG, (errmsg("whisperer stopped its processes in database \"%s\"", entry->name)));
    entry->said = false;
    look(entry, now);
}

// A worker of a running set ended with an error, or did not even begin: another one after a while.
void worker_start_again(Entry *entry, bool began, int64 now) {
    forgive(entry, now);
    entry->failures++;
    int64 wait = backoff_micros(entry->failures);
    entry->next_try = now + wait;
    entry->running_since = entry->next_try;
    memory_changed = true;
    ereport(LOG,
            (errmsg("whisperer starts the delivery worker of database \"%s\" again in %lld s", entry->name,
                    static_cast<long long>(wait / second)),
             began ? errdetail("It ended with an error, for the %dth time in a row.", entry->failures)
                   : errdetail("Its process could not be started; failures in a row: %d.", entry->failures)));
}

} // namespace

void process_ended(Entry *entry, const SlotEnd &end, int64 now) {
    if (end.kind == WorkerKind::probe && entry->state == DatabaseState::probing) {
        if (!end.started) // it found the database barred
            look(entry, now);
        else if (!end.answered)
            probe_fail(entry, now);
        else if (OidIsValid(end.extension))
            set_start(entry, end.extension, now);
        else
            probe_say_absent(entry);
    } else if (end.kind == WorkerKind::callback || end.kind == WorkerKind::countdown) {
        job_worker_ended(entry, end, now);
    } else if (end.kind == WorkerKind::delivery && entry->state == DatabaseState::running) {
        if (end.exit_code != 0) {
            worker_start_again(entry, true, now);
        } else {
            int64 uptime = end.started ? now - entry->running_since : 0;
            entry->quick_exits = uptime < second ? entry->quick_exits + 1 : 0;
            set_stop(entry, now);
        }
    }
}

// A lack of memory or of processes, most likely: trying again at once would only make it worse. (A probe is
// missed by database_step().)
void process_not_started(Entry *entry, WorkerKind kind, int64 now) {
    if (entry->state != DatabaseState::running)
        return;
    if (kind == WorkerKind::callback || kind == WorkerKind::countdown) {
        SlotEnd end = {};
        end.kind = kind;
        end.database = entry->database;
        end.exit_code = 1;
        end.began = GetCurrentTimestamp();
        job_worker_ended(entry, end, now);
    } else if (kind == WorkerKind::maintenance) {
        later(&entry->next_maintenance, now + 60 * second);
    } else if (kind == WorkerKind::delivery && now >= entry->next_try) { // once, of all that are missing
        worker_start_again(entry, false, now);
    }
}

int64 database_step(Entry *entry, int64 now) {
    int64 next = never;
    bool barred = bar_holds(entry->database);
    switch (entry->state) {
    case DatabaseState::unknown:
        if (barred || !entry->connectable)
            return never; // the end of the bar, or a scan, brings it back
        if (entry->look)
            begin_anew(entry, now);
        if (now < entry->next_try)
            return entry->next_try;
        if (slot_count(WorkerKind::probe, InvalidOid) >= probes_at_once)
            return never; // the end of a probe wakes us
        probe(entry);
        return entry->state == DatabaseState::unknown && entry->next_try > now ? entry->next_try : never;
    case DatabaseState::probing:
        if (slot_count(WorkerKind::probe, entry->database) == 0) {
            probe_fail(entry, now); // it could not even be started
            return entry->next_try;
        }
        return never;
    case DatabaseState::absent:
        if (entry->look) {
            look(entry, now);
            return now;
        }
        return never;
    case DatabaseState::running:
        if (entry->look || barred || entry->shards != setting_workers) {
            set_stop(entry, now);
            return now;
        }
        if (DatabaseSlot *slot = roster_database_find(entry->database)) {
            if (now >= entry->next_try)
                start_missing_workers(entry, slot, now);
            for (int kind = 0; kind < job_kinds; kind++)
                later(&next, job_worker_start(entry, slot, static_cast<JobKind>(kind), now));
            later(&next, maintenance_start(entry, slot, now));
        }
        if (entry->next_try > now)
            later(&next, entry->next_try);
        return next;
    case DatabaseState::stopping:
        // Users' functions may take their time to be cancelled, and maintenance may wait for somebody; the
        // next set of delivery workers does not wait for them.
        if (slot_count(WorkerKind::delivery, entry->database) == 0) {
            set_stopped(entry, now);
            return now;
        }
        return never;
    }
    return never;
}

bool memory_take_changed() {
    bool changed = memory_changed;
    memory_changed = false;
    return changed;
}

} // namespace whisperer::pg
