// Shared memory: which databases have the extension, which processes serve them, what is dirty, what was
// counted.
//
// Nothing but plain data and atomics, fixed in size when the server starts. Lock order: the roster's one
// LWLock is a leaf: nothing else is acquired under it, no I/O, no palloc. Atomics (dirty bits, counters,
// requests to stop) need no lock; those who read all the counters, or set them, hold it.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
}

namespace whisperer::pg {

constexpr int dirty_words = 64; // 4096 bits, hashed by subscription
constexpr int dirty_bits = dirty_words * 64;
constexpr int max_shards = 16;  // delivery workers of one database at most
constexpr int max_bars = 64;    // databases kept free of our processes at the same time at most
constexpr int max_look_at = 64; // databases announced to the launcher at once; more: it looks at all

enum Counter {
    COUNT_EVENTS,
    COUNT_DELIVERIES,
    COUNT_ATTEMPTS,
    COUNT_DELIVERED,
    COUNT_FAILED,
    COUNT_CANCELLED,
    COUNT_CALLBACKS,
    COUNT_CALLBACK_ERRORS,
    counter_kinds
};

enum class WorkerKind : int { none, launcher, probe, delivery, maintenance, callback, countdown };

// What users' functions are called for: each kind of job has its own processes, which are there while there
// is work.
enum class JobKind : int { callback, countdown };
constexpr int job_kinds = 2;
constexpr int max_overruns = 16; // calls that ended their process and are not recorded yet, of one database

inline WorkerKind job_worker(JobKind kind) {
    return kind == JobKind::callback ? WorkerKind::callback : WorkerKind::countdown;
}

// One call of a user's function that is to be made: a row of whisperer.job.
struct JobKey {
    Oid owner; // the queue it stands in
    uint64 xid;
    unsigned char uuid[16];
    int32 attempt;
};

// Why a worker shall leave; the larger number wins.
enum StopReason : uint32 {
    STOP_NONE = 0,
    STOP_RESTART = 1, // the set of workers or a setting changes: finish what is in flight, record, exit
    STOP_BARRED = 2   // somebody waits to drop, rename, move or copy the database: give up, record, exit
};

// One process. Reserved by the launcher, attached and freed by the process itself; plain fields are written
// under the roster lock, the atomics by anybody.
struct WorkerSlot {
    WorkerKind kind; // none: free
    uint32 ticket;   // of this reservation: a process that comes too late finds another one and leaves
    Oid database;
    Oid extension;     // as the probe found it
    int shard;         // of the delivery worker, from 0
    int shards;        // how many there are in this set
    uint32 generation; // of the set
    pid_t pid;         // 0: registered, not yet started
    Latch *latch;      // null until it runs
    bool finished;     // the process is gone; the launcher reads exit_code and found, then frees the slot
    int exit_code;
    bool answered; // probe: `extension` is the answer (InvalidOid: none)
    TimestampTz started;
    TimestampTz last_activity;
    char state[128];       // for the view and for people: "idle", "sending", "held: …", "disabled"
    pg_atomic_uint32 stop; // StopReason
    pg_atomic_uint32 in_flight;
    pg_atomic_uint32 reload_subscriptions; // set by sessions, taken by the worker
    pg_atomic_uint32 all_dirty;
    pg_atomic_uint64 dirty[dirty_words];
    Oid serving; // of callback and countdown workers: the owner whose jobs it does; InvalidOid: idle
    pg_atomic_uint32 leaving; // the same: it will not look for work again
    bool overrun;             // the same: its job did not end when it had to, so the process does
};

// One database that has the extension (or had it a moment ago).
struct DatabaseSlot {
    Oid database; // InvalidOid: free
    uint32 generation;
    pg_atomic_uint32 delivery_slot[max_shards]; // 1 + index of that shard's worker slot; 0: none
    pg_atomic_uint32 shards;                    // of the present set
    pg_atomic_uint32 enabled;                   // whisperer.enabled, which may be this database's own
    pg_atomic_uint64 counters[counter_kinds];
    pg_atomic_uint32 counters_loaded; // the saved totals have been added
    TimestampTz stats_reset;
    pg_atomic_uint32 recalls;                   // transactions that took back what a worker may have read
    ConditionVariable settled;                  // broadcast after deliveries settled
    pg_atomic_uint32 jobs_written[job_kinds];   // counts transactions that wrote jobs
    pg_atomic_uint32 workers_wanted[job_kinds]; // the launcher shall start one more
    int overrun_count;
    struct Overrun {
        JobKind kind;
        JobKey job;
    } overruns[max_overruns];
};

struct Roster {
    LWLock *lock;
    uint32 next_ticket;
    Latch *launcher_latch;
    ConditionVariable departures; // broadcast when a process of ours has left its database
    bool full;                    // a database found no slot; the launcher says so
    int look_at_count;            // more than max_look_at: all
    Oid look_at[max_look_at];
    struct Bar {
        Oid database; // InvalidOid: free
        pid_t by;
    } bars[max_bars];
    int database_capacity;
    int worker_capacity;
    DatabaseSlot *databases;
    WorkerSlot *workers;
};

// Null in a process that has no shared memory of ours.
extern Roster *roster;

// Asks for the shared memory and sets the start-up hooks. From _PG_init.
void roster_init();

// Bit and shard of a subscription: the same for sessions and workers. The shard follows from the bit, so that
// a set of dirty bits can be handed out without the ids.
inline uint32 subscription_bit(int64 subscription_id) {
    uint64 x = static_cast<uint64>(subscription_id);
    x ^= x >> 33;
    x *= UINT64CONST(0xff51afd7ed558ccd);
    x ^= x >> 33;
    x *= UINT64CONST(0xc4ceb9fe1a85ec53);
    x ^= x >> 33;
    return static_cast<uint32>(x % dirty_bits);
}
inline int subscription_shard(int64 subscription_id, int shards) {
    return static_cast<int>(subscription_bit(subscription_id) % static_cast<uint32>(shards));
}

// ---- Sessions and workers: this database

// This process's database; null when it has no slot (no extension known, or the roster is full). Cheap:
// cached.
DatabaseSlot *roster_this_database();

// Makes the slot if need be. Null only when the roster is full (the launcher says so, once).
DatabaseSlot *roster_this_database_make();

// Adds to a counter of this database; nothing without a slot.
void roster_count(Counter counter, uint64 amount);

// Marks the given 4096 bits for the workers that own them and wakes those. Call after the rows are visible.
void roster_mark_dirty(DatabaseSlot *slot, const uint64 *bits);

// Every delivery worker of the database reloads its subscriptions; with `everything` also looks for work
// everywhere.
void roster_mark_reload(DatabaseSlot *slot, bool everything);

// The launcher shall look at the database (or at all: InvalidOid), now.
void roster_look_at(Oid database);

// Deliveries of this database settled: wakes those who wait for that. Never fails.
void roster_broadcast_settled();

// To wait for deliveries to settle without missing a broadcast: prepare, look at the tables, wait, and again;
// cancel at the end (an ERROR cancels by itself). Without a slot prepare returns false, and the caller can
// only look again later. roster_settled_wait: true when there was a broadcast (or for no reason), false after
// timeout_ms. Serves interrupts; hold no snapshot.
bool roster_settled_prepare();
bool roster_settled_wait(long timeout_ms);
void roster_settled_cancel();

// ---- Jobs

// Jobs of this kind were written, and are visible: wakes those who do them, or has one started.
void roster_jobs_written(JobKind kind);

// One more process of this kind is wanted. Safe in a signal handler.
void roster_want_worker(DatabaseSlot *slot, JobKind kind);

// As the delivery worker of shard 0 knows it, and nobody outside of the database: the launcher starts only
// what may work.
void roster_say_enabled(DatabaseSlot *slot, bool enabled);

// This process's call has overrun all limits and ends the process: whoever comes next records it.
void roster_overrun_note(DatabaseSlot *slot, JobKind kind, const JobKey &job);

// Takes one of those of this kind; false when there is none.
bool roster_overrun_take(DatabaseSlot *slot, JobKind kind, JobKey *job);

// ---- The launcher

// Null: the roster is full, or (find) there is none.
DatabaseSlot *roster_database_make(Oid database);
DatabaseSlot *roster_database_find(Oid database);
// The database has the extension no more. Its processes must be gone.
void roster_database_free(Oid database);

// ---- The worker that owns the slot

// Has the worker marks that it has not taken? To be asked before it waits: a wait within a transaction (for a
// lock, a page) resets the latch that announced them. `dirty`: the marks of deliveries count too.
bool roster_is_marked(WorkerSlot *slot, bool dirty);
// Takes and clears the dirty bits: true when all was marked dirty (then *bits says nothing).
bool roster_take_dirty(WorkerSlot *slot, uint64 bits[dirty_words]);
inline bool dirty_has(const uint64 *bits, int64 subscription_id) {
    uint32 bit = subscription_bit(subscription_id);
    return (bits[bit / 64] >> (bit % 64)) & 1;
}

// Takes and clears the request to reload subscriptions.
bool roster_take_reload(WorkerSlot *slot);

} // namespace whisperer::pg
