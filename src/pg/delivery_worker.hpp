// The delivery worker: one process that owns the subscriptions of its shard, sends what is pending for them,
// and records what became of it. Its parts: delivery_start.cpp, delivery_worker.cpp (the loop),
// subscription_loader.cpp, queue_reader.cpp, recorder.cpp.
#pragma once

#include "pg/prelude.hpp"

#include "pg/journal.hpp"
#include "pg/wall_clock.hpp"
#include "pg/worker.hpp"

namespace whisperer::pg {

// The process's state; one, in static memory. The core objects belong to the process and live until it ends.
struct DeliveryWorker {
    WorkerSelf *self;
    core::Outbox *box;
    core::SendingThread *sending; // the only one that steps the engine
    core::ChangeCursor *subscription_changes;
    Journal *journal;
    DatabaseSlot *database;
    bool held;             // a copy, or never used: nothing may be sent
    bool reload_wanted;    // subscriptions changed, or roles
    bool load_failed;      // the last time, for want of memory
    bool owners_changed;   // roles changed: owners may be gone
    bool owners_refreshed; // in the transaction under way
    bool secrets_missing;  // of a subscription that was loaded
    bool refetch_states;   // at start: what was learnt of receivers
    bool announce_jobs;    // those who call users' functions may not know of what there is for them
    bool told_copy;        // the log has been told that this database is a copy
};

// delivery_start.cpp: the process's worker, in a memory context of its own, its sending thread running. An
// ERROR ends the process; it is started again later.
DeliveryWorker *make_delivery_worker(Datum main_arg);

// All that follow run in a transaction of the worker's (worker_begin() … worker_commit()).

// The snapshot of the transaction as the core wants it; the arrays are palloc'ed.
struct SnapshotXids {
    uint64 xmin;
    uint64 xmax;
    uint64 *running;
    size_t count;
};
SnapshotXids current_snapshot_xids();

// subscription_loader.cpp: takes over what changed in whisperer.subscription, and whether this database is
// held. False when memory ran out; it is tried again.
bool load_subscriptions(DeliveryWorker *worker);
// Cancels what is left for subscriptions that have ended. For the safety scan.
void cancel_stragglers();

// queue_reader.cpp: one round of reading.
void read_queue(DeliveryWorker *worker);
// Bodies too large to be read ahead, for what is to be sent now; deliveries that were cancelled leave the
// outbox.
void read_bodies(core::Outbox *box);
void drop_cancelled(DeliveryWorker *worker);

// recorder.cpp: records what is known in this transaction. After the commit call record_committed(), after a
// failure record_failed().
void record_results(DeliveryWorker *worker);
void record_committed(DeliveryWorker *worker);
void record_failed(DeliveryWorker *worker);

} // namespace whisperer::pg
