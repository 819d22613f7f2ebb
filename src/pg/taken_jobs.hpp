// Jobs that were taken up by a process which was told to leave at once.
//
// That a job is taken up is counted in the table, before the call: what brings the server down is not called
// for ever. But a process that others end (see ordered_end.hpp) is none that the call has brought down. It
// leaves a file in the data directory, pg_whisperer/<database>.<kind>.taken, of the jobs it had taken up, and
// the next process of the kind takes those counts back. A file that cannot be written, or is lost in a power
// cut: they count.
#pragma once

#include "pg/job_queue.hpp"
#include "pg/prelude.hpp"

namespace whisperer::pg {

// In a process that has its database. *taken is what it has taken up at any time from now on; it stays where
// it is.
void taken_jobs_watch(JobKind kind, const TakenJobs *taken);

// Takes over what processes of the kind have left, as a palloc'ed array, and forgets it. Errors are as good
// as none.
int taken_jobs_left(JobKind kind, JobKey **jobs);

// Removes what was left in a database, when it is known to be gone.
void taken_jobs_remove_all(Oid database);

} // namespace whisperer::pg
