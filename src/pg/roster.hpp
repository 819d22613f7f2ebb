// Shared memory: which databases have the extension, which processes serve them, what is dirty, what was counted.
//
// Nothing but plain data and atomics. Lock order: the roster's one LWLock is a leaf: nothing else is acquired under it, no
// I/O, no palloc that can fail. Atomics (dirty bits, counters) need no lock.
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
constexpr int max_shards = 16;  // delivery workers of one database at most

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

enum class WorkerKind : int { none, launcher, probe, delivery, maintenance };

// One process. Written by that process and by the launcher under the roster lock; the atomics by anybody.
struct WorkerSlot {
    WorkerKind kind; // none: free
    Oid database;
    int shard;      // of the delivery worker, from 0
    int shards;     // how many there are in this set
    uint32 generation; // of the set; another one than the database's: finish and exit
    pid_t pid;      // 0: registered, not yet started
    Latch *latch;   // null until it runs
    TimestampTz started;
    TimestampTz last_activity;
    char state[128]; // for the view and for people: "idle", "sending", "held: …", "disabled"
    pg_atomic_uint32 in_flight;
    pg_atomic_uint32 reload_subscriptions; // set by sessions, taken by the worker
    pg_atomic_uint32 all_dirty;
    pg_atomic_uint64 dirty[dirty_words];
};

// One database that has the extension or may have it.
struct DatabaseSlot {
    Oid database; // InvalidOid: free
    uint32 generation;
    pid_t barred_by; // backend whose DDL keeps our processes out of the database; 0: nobody
    pg_atomic_uint64 counters[counter_kinds];
    pg_atomic_uint32 counters_loaded; // the saved totals have been added
    TimestampTz stats_reset;
    ConditionVariable settled; // broadcast after deliveries settled
    // … private to roster.cpp and launcher.cpp (state machine, backoff)
};

} // namespace whisperer::pg
