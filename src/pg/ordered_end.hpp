// The end of a process that is told to leave at once: the server is stopped at once or another process has
// crashed (SIGQUIT), the postmaster is gone, an administrator is in a hurry (a second SIGTERM). That is no
// crash of what it was doing, which is done again and not held against it.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// From now on this is called then, once or more; perhaps by a signal handler, so that it may do only what is
// allowed there (signal-safety(7)). One for a process, after worker_start().
void ordered_end_call(void (*note)());

} // namespace whisperer::pg
