// Jobs that were taken up by a process which others have ended.
//
// That a job is taken up is counted in the table, before the call: what brings the server down is not called
// for ever. But a process that others end (see ordered_end.hpp) is none that the call has brought down. It
// leaves a file in the data directory, pg_whisperer/<database>.<kind>.taken, of the jobs it had taken up, and
// the next process of the kind forgives those runs. A file that cannot be written, or is lost in a power cut:
// they count.
#pragma once

#include "pg/job_queue.hpp"
#include "pg/prelude.hpp"
#include "pg/worker.hpp"

namespace whisperer::pg {

// Once in a process, after guard_init().
void taken_jobs_init(WorkerSelf *self, JobKind kind);

// What it has taken up, in a committed transaction; null: nothing. It must stay where and as it is until the
// next call of this function, which comes when that is done with on disk as well.
void taken_jobs_are(const TakenJobs *taken);
const TakenJobs *taken_jobs_now();

struct LeftJob {
    JobKey key;
    int runs; // what it weighed then
};

// Reads what earlier processes of the kind have left, as a palloc'ed array; -1: nothing that could be read.
// And removes that, when their runs have been forgiven.
int taken_jobs_left(JobKind kind, LeftJob **left);
void taken_jobs_forget(JobKind kind);

// Removes what was left in a database, when it is known to be gone.
void taken_jobs_remove_all(Oid database);

} // namespace whisperer::pg
