// Reading whisperer.job: owners take turns, and only one process at a time does an owner's jobs of one kind.
//
// Everything here runs in a worker's transaction.
#pragma once

#include "pg/prelude.hpp"
#include "pg/roster.hpp"

namespace whisperer::pg {

// What a process knows of an owner's queue.
struct OwnerQueue {
    Oid owner;
    uint64 mark;   // every job written by a transaction below this is done
    int batch;     // jobs taken up at once; grows while they are quick
    int64 served;  // monotonic_micros() of the last turn
    bool has_work; // as far as the last look told
};

// Sorted by owner; in the memory context of the first look.
struct OwnerQueues {
    JobKind kind;
    uint64 mark; // the last look: owners not known since have no job written by a transaction below this
    OwnerQueue *list;
    int count;
    int capacity;
};

constexpr int most_jobs_at_once = 32;

// Sets has_work of all, and finds owners not known yet. False when there is none to do.
bool queues_look(OwnerQueues *queues);

// The next look is from the beginning.
void queues_forget_marks(OwnerQueues *queues);

struct TakenJobs {
    int count;
    JobKey jobs[most_jobs_at_once];
    int runs[most_jobs_at_once]; // what each weighs when that is committed: job.runs
    bool hopeless; // the only one of them has been taken up too often without any process surviving it
};

// Takes up the owner's next jobs, which is counted before they are done: the transaction must be durable. A
// job that was taken up before comes alone. None: *queue has no work now.
void queue_take(JobKind kind, OwnerQueue *queue, TakenJobs *taken);

// One that was taken up and not done after all is as before.
void queue_give_back(JobKind kind, OwnerQueue *queue, const JobKey &job);

// One that was taken up by a process which others have ended: that is hardly held against it. Only if it
// weighs what it did then, so that nothing is forgiven twice; and not if somebody has it locked, who is
// making the call.
void queue_forgive(JobKind kind, const JobKey &job, int runs);

// Removes a job whose call went wrong, and keeps why. `function` may be null. Says it in the log unless the
// subscription's last failure was the same.
struct JobFailure {
    const char *function;
    int sqlstate;
    const char *error;
};
void queue_fail(JobKind kind, const JobKey &job, const JobFailure &failure);

// Arguments $1 … $5 of a statement: the primary key. `uuid` is the caller's, as long as the arguments are
// used.
constexpr int job_key_arguments = 5;
void job_key_datums(JobKind kind, const JobKey &job, Datum *arguments);
#define JOB_KEY_MATCHES "j.kind = $1 AND j.owner_oid = $2 AND j.xid = $3 AND j.uuid = $4 AND j.attempt = $5"
#define JOB_KEY_TYPES CHAROID, OIDOID, XID8OID, UUIDOID, INT4OID

// Queries on the queue go by its index, whatever the statistics of some hour say. Between these two.
int queue_plans_begin();
void queue_plans_end(int level);

// For the delivery worker's safety scan: has those who do jobs look, if there are any jobs.
void jobs_announce();

} // namespace whisperer::pg
