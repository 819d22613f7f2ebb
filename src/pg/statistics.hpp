// Totals of one database since their last reset. They live in shared memory (roster.hpp) and are saved to a
// table now and then, so that a restart continues them; a crash loses what was counted since.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// Both inside worker_begin()/worker_commit(), by the delivery worker with shard 0.

// Adds the saved totals, once after a start of the server.
void statistics_load();

// Is there anything to save? Cheap, and needs no transaction.
bool statistics_changed();

// Saves them if they have changed.
void statistics_save();

} // namespace whisperer::pg
