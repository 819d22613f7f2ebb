// Totals of one database since their last reset. They live in shared memory (roster.hpp) and are saved to a
// table now and then, so that a restart continues them; a crash loses what was counted since.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// The current transaction, which is about to be prepared, has counted these (by Counter): they go with it,
// and count when somebody commits it.
void statistics_prepare(const uint64 *counts);

// The rest inside worker_begin()/worker_commit(), by the delivery worker with shard 0.

// Adds the saved totals, once after a start of the server.
void statistics_load();

// Is there anything to save? Cheap, and needs no transaction.
bool statistics_changed();

// Saves them if they have changed.
void statistics_save();

// Takes what prepared transactions counted that have been committed; adds it, after the commit.
void statistics_take_prepared();
void statistics_prepared_taken();

} // namespace whisperer::pg
