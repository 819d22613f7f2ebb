// Where this installation lives, and what follows from having been copied.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// All of these run inside internal_begin()/internal_end(), or in a worker's transaction.

// Notes this cluster and database as the home, if nobody has before. Called by the first registration.
void home_stamp();

// Has this database been restored, cloned or moved from another, and not been resumed since? Nothing may be
// sent then.
bool home_is_copy();

// Owners of subscriptions: their current names (a copy finds its owners by name), and who is gone for good.
// Only what differs is written, and only where nobody has the row locked: the worker must not wait. False if
// such rows were left out. The caller wakes the workers.
bool home_refresh_owners();

// This cluster's number, as the tables store it.
int64 home_system();

} // namespace whisperer::pg
