// Processes that come and go: maintenance, and those that call users' functions.
#include "pg/prelude.hpp"

#include "pg/launcher_parts.hpp"
#include "pg/settings.hpp"

extern "C" {
#include "utils/timestamp.h"
}

namespace whisperer::pg {

namespace {

constexpr int64 maintenance_every = 600 * second;

// Processes that call users' functions are started when somebody asks for one, and leave when they have
// nothing to do. One more is wanted when a call takes long while others wait, so that no owner waits for
// another's slow function.
constexpr int most_job_workers[job_kinds] = {4, 2};
// As long as a delivery worker waits between its tries: when the reason is gone both go on.
constexpr int64 longest_job_wait = 30 * second;

// By the wall clock: one that jumps makes this process start another one sooner or later, and no harm.
bool ran_well(const SlotEnd &end) {
    return TimestampDifferenceExceeds(end.began, GetCurrentTimestamp(),
                                      static_cast<int>(healthy_micros / 1000));
}

} // namespace

int64 maintenance_start(Entry *entry, DatabaseSlot *slot, int64 now) {
    if (setting_retention() <= 0 || pg_atomic_read_u32(&slot->enabled) == 0)
        return never; // its time stays: when that changes, it may have come
    if (now < entry->next_maintenance)
        return entry->next_maintenance;
    if (slot_count(WorkerKind::maintenance, InvalidOid) > 0) // one at a time, so as not to squat on slots
        return entry->next_maintenance = now + second;
    SlotRequest request = {WorkerKind::maintenance, entry->database, entry->extension, 0, 1, 0};
    bool started = process_register(entry, request);
    return entry->next_maintenance = now + (started ? maintenance_every : 60 * second);
}

int64 job_worker_start(Entry *entry, DatabaseSlot *slot, JobKind kind, int64 now) {
    int number = static_cast<int>(kind);
    WorkerKind worker = job_worker(kind);
    if (pg_atomic_read_u32(&slot->workers_wanted[number]) == 0)
        return never;
    if (pg_atomic_read_u32(&slot->enabled) == 0) // it stays wanted, and a change wakes us
        return never;
    if (now < entry->next_job_worker[number])
        return entry->next_job_worker[number];
    pg_atomic_write_u32(&slot->workers_wanted[number], 0);
    // Counted, so that an idle one that is about to leave does not.
    pg_atomic_fetch_add_u32(&slot->jobs_written[number], 1);
    if (slot_wake_idle(worker, entry->database))
        return never;
    bool room = slot_count(worker, entry->database) < most_job_workers[number];
    SlotRequest request = {worker, entry->database, entry->extension, 0, 1, slot->generation};
    if (room && process_register(entry, request))
        return never;
    pg_atomic_write_u32(&slot->workers_wanted[number], 1);
    if (!room) // those that leave are counted, too: the end of one wakes us
        return never;
    return entry->next_job_worker[number] = now + slot_retry;
}

void job_worker_ended(Entry *entry, const SlotEnd &end, int64 now) {
    JobKind kind = end.kind == WorkerKind::callback ? JobKind::callback : JobKind::countdown;
    int number = static_cast<int>(kind);
    DatabaseSlot *slot = roster_database_find(entry->database);
    if (end.exit_code == 0 || end.overrun || ran_well(end))
        entry->job_failures[number] = 0;
    if (end.exit_code == 0 || slot == nullptr)
        return;
    if (!end.overrun)
        entry->job_failures[number]++;
    entry->next_job_worker[number] = now + Min(backoff_micros(entry->job_failures[number]), longest_job_wait);
    pg_atomic_write_u32(&slot->workers_wanted[number], 1);
}

} // namespace whisperer::pg
