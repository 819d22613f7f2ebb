// Parts of the launcher: its memory of databases, their state machines, what it reads from pg_database, how
// it registers processes, and the file that remembers failures across a crash of the server. Only the
// launcher includes this.
#pragma once

#include "pg/prelude.hpp"
#include "pg/roster.hpp"
#include "pg/worker_slots.hpp"

namespace whisperer::pg {

// Intervals, as monotonic_micros() counts.
constexpr int64 second = 1000000;
constexpr int64 never = PG_INT64_MAX;
constexpr int64 slot_retry = 5 * second; // after a lack of worker slots

// See the drawing in launcher_machine.cpp.
enum class DatabaseState { unknown, probing, absent, running, stopping };

// What the launcher knows of a database. Times are monotonic_micros().
struct Entry {
    Oid database; // InvalidOid: unused
    char name[NAMEDATALEN];
    DatabaseState state;
    bool seen;        // in the scan under way
    bool connectable; // pg_database allows connections
    bool look;        // somebody announced a change
    bool said;        // the log has it that the set runs
    int failures;     // in a row, of its workers
    int quick_exits;  // in a row: workers that left by themselves within a second
    int64 next_try;   // nothing is started before
    int64 running_since;
    int64 next_maintenance;
    int64 next_job_worker[job_kinds]; // none is started before
    int job_failures[job_kinds];      // in a row, of its processes that do jobs
    Oid extension;
    int shards;
};

struct Entries {
    Entry *list;
    int count; // used or not
    int capacity;
};

Entry *entry_find(Entries *entries, Oid database);
Entry *entry_make(Entries *entries, Oid database);

// ---- launcher_machine.cpp: what becomes of a database

// One turn of its machine; returns when it wants the next.
int64 database_step(Entry *entry, int64 now);
// It is gone, or has no process any more and no extension.
void database_forget(Entry *entry);
// Its set of workers leaves; what is to come, it learns by looking.
void set_stop(Entry *entry, int64 now);
// A process of it has ended, or could not be started.
void process_ended(Entry *entry, const SlotEnd &end, int64 now);
void process_not_started(Entry *entry, WorkerKind kind, int64 now);
// Whether the file has to be written; asked once, it is no longer so.
bool memory_take_changed();

// ---- launcher_databases.cpp: pg_database

// Reads them all: sets seen, connectable and name; makes entries for new ones.
void databases_scan(Entries *entries);
// The same for one, at once; false when it is gone.
bool database_refresh(Entry *entry);

// ---- launcher_register.cpp: background workers

// Reserves a slot and registers a process for it. False: none free; said in the log once, and again only when
// it lasts.
bool process_register(Entry *entry, const SlotRequest &request);
// Gives back the slots of processes that the postmaster could not start, or that ended before they could say
// who they are, and tells whose they were.
void process_check_pending(void (*not_started)(WorkerKind kind, Oid database));
// Takes reservations of an earlier launcher back; its processes, if they still come, leave.
void process_abandon_all();

// ---- launcher_on_demand.cpp: processes that come and go

// Starts retention's process if there is to be one and it is time for it; returns when the next one is due.
int64 maintenance_start(Entry *entry, DatabaseSlot *slot, int64 now);
// Starts a process for jobs of a kind if one is wanted; returns when to try again.
int64 job_worker_start(Entry *entry, DatabaseSlot *slot, JobKind kind, int64 now);
// One that ended with an error has left work behind. It is not started again at once for ever; but one that
// had to be ended because of a user's function (`overrun`) does not keep others waiting.
void job_worker_ended(Entry *entry, const SlotEnd &end, int64 now);

// ---- launcher_memory.cpp: the file

// Seconds to wait after that many failures in a row.
int64 backoff_micros(int failures);
// A worker set, or a process that does jobs, that ran so long is healthy: its failures are forgotten.
constexpr int64 healthy_micros = INT64CONST(60) * 1000000;

// Reads what an earlier launcher left: databases whose workers ran when the server crashed get one failure
// more.
void memory_read(Entries *entries);
// Writes the present state; `leaving`: cleanly, so that nothing counts as crashed. Trouble is logged once,
// and false.
bool memory_write(const Entries *entries, bool leaving);
// At the start, when the databases are known: where the file cannot be written, what it says is of some
// earlier time, and the workers may be crashing the server again and again. They start later then.
void memory_check(Entries *entries);

} // namespace whisperer::pg
