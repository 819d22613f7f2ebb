// The two calls that jobs stand for. Both run in a worker's transaction, remove the job, and make the call;
// what they raise undoes all of that.
#pragma once

#include "pg/prelude.hpp"
#include "pg/roster.hpp"

namespace whisperer::pg {

// What became known of a job on the way to its call; it outlives an ERROR.
struct JobCall {
    const char *function; // null: not known; in the memory context given
    MemoryContext memory;
    bool users; // what is raised now is the user's affair: the job is done with
    bool made;  // the function was called
};

// Nothing happens when the job is gone, or the subscription has no callback any more.
void callback_run(const JobKey &job, JobCall *call);

// The result becomes the delivery's due time, if it still waits for the attempt after this one.
void countdown_run(const JobKey &job, JobCall *call);

} // namespace whisperer::pg
