// What every background process of whisperer has in common: start, transactions, being asked to leave,
// telling its state.
#pragma once

#include "pg/prelude.hpp"
#include "pg/roster.hpp"

namespace whisperer::pg {

// The process itself; one per process, in static memory.
struct WorkerSelf {
    int index;
    WorkerSlot *slot;
    DatabaseSlot *database_slot; // null for launcher and probe
    WorkerKind kind;
    Oid database;
    Oid extension; // the installation served; another one under the same name is not ours
    int shard;
    int shards;
    uint32 generation;
    char database_name[NAMEDATALEN];
};

// Microseconds of the monotonic clock.
int64 monotonic_micros();

// monotonic_micros() of the first SIGTERM; 0: none.
int64 worker_asked_to_leave_at();

// Start of a worker's main function: signal handlers, slot, connection to the slot's database as the
// bootstrap superuser, settings. Leaves the process (code 0) when the slot is no longer meant for it or the
// database is barred; with an error the process ends with code 1, and the launcher tries again later.
//
// SIGTERM asks to leave: ShutdownRequestPending is set and the latch too, and SQL under way is completed, so
// that results are not lost; worker transactions are short and their lock waits are limited. A second SIGTERM
// ends the process at its next CHECK_FOR_INTERRUPTS.
WorkerSelf *worker_start(Datum main_arg, WorkerKind kind);

// The same for a slot that the caller knows: the launcher's, which reserves its own.
WorkerSelf *worker_enter(int index, uint32 ticket, WorkerKind kind);

// Opens a transaction with snapshot and SPI, in which the extension cannot be dropped. False: no transaction
// is open, and the worker must leave, since the extension is gone or another one, or it was asked to leave
// while it waited for somebody who is just dropping or updating the extension. May wait for that one; hold
// nothing.
bool worker_begin(WorkerSelf *self);

// Ends it and reports statistics.
void worker_commit(WorkerSelf *self);

// Rolls it back; also after an ERROR that was caught.
void worker_rollback(WorkerSelf *self);

// Shall the process leave? Cheap: for every turn of a loop.
bool worker_must_stop(const WorkerSelf *self);

// Why: STOP_BARRED means at once, giving up what is in flight. STOP_RESTART and a shutdown leave time to
// finish.
StopReason worker_stop_reason(const WorkerSelf *self);

// Reads the configuration files again if that was asked for; true if so.
bool worker_reload_settings();

// State for the view, pg_stat_activity and the log's reader: "idle", "sending", "held: …". Unless something
// is in flight, counts of rows that PostgreSQL has kept back in this process are handed on.
void worker_report(WorkerSelf *self, const char *state, int in_flight);
// The same for whoever keeps slot->in_flight up to date by itself.
void worker_report_state(WorkerSelf *self, const char *state, bool busy);

// Directory of files that outlive shared memory but need not outlive the machine; relative to the data
// directory.
extern const char *const worker_directory;

// Makes it; an ERROR if that fails.
void worker_directory_make();

} // namespace whisperer::pg
