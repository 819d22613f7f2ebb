// The end of a process that others want: the server is stopped at once or another process has crashed
// (SIGQUIT), the postmaster is gone, it was asked to leave and did not come to leave by itself (a second
// SIGTERM, a call that does not want to end). That is no crash of what it was doing, which is done again and
// hardly held against it.
#pragma once

#include "pg/prelude.hpp"
#include "pg/worker.hpp"

namespace whisperer::pg {

// From now on this is called then, before anything is lost; perhaps by a signal handler, so that it may do
// only what is allowed there (signal-safety(7)), and perhaps twice. One for a process, after worker_start().
// Also at an end that the process has come to by itself because it was asked to.
void ordered_end_call(WorkerSelf *self, void (*note)());

} // namespace whisperer::pg
