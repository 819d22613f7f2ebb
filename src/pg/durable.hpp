// Nothing is sent whose commit could still be undone by a crash.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// Waits until the commit records of these transactions (seen as committed) are on disk. With
// synchronous_commit = off other sessions see a transaction before it is; for synchronous commits this costs
// a look into shared memory.
void flush_commits(const uint64 *xids, size_t count);

} // namespace whisperer::pg
