// The time limit of a user's function in a process of ours, which the function cannot trap.
//
// A timer ticks while the call runs, whatever the wall clock shows. Of time for which the process was
// stopped, or had no processor, not more than a fifth of a second is counted at once, as ticks are late then.
// At the limit it cancels the call as a statement is cancelled. A function can catch that and go on: after as
// long again the process is ended, as pg_terminate_backend() would, which nothing catches; whoever comes next
// records the call as overrun. When the process is asked to leave, the call is cancelled at once.
//
// A function in C (or in a language that does not look for interrupts) is beyond that; it holds up its
// owner's calls only.
#pragma once

#include "pg/prelude.hpp"
#include "pg/worker.hpp"

namespace whisperer::pg {

enum class GuardEnd : int { in_time, limit, stopped };

// Once in the process, after worker_start().
void guard_init(WorkerSelf *self, JobKind kind);

// `limit` in microseconds. `others_wait`: when the call takes long, another process is wanted for what other
// owners want; also when jobs were written after `jobs_seen`, the count of DatabaseSlot::jobs_written.
void guard_begin(const JobKey &job, int64 limit, bool others_wait, uint32 jobs_seen);

// The call is over, one way or the other: nothing will be cancelled any more. Says whether and why it was, or
// would have been. Harmless when there is none.
GuardEnd guard_end();

// Is this the call under way? And has it outlived the time at which its process would have been ended? For
// signal handlers, too.
bool guard_is_making(const JobKey &job);
bool guard_is_overdue();

} // namespace whisperer::pg
