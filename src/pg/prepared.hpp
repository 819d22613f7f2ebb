// What a prepared transaction has to tell the workers, when somebody commits it: perhaps another session,
// perhaps an apply worker of logical replication, perhaps after the server was started anew.
//
// It goes with the transaction, as PostgreSQL's own invalidation messages do, which are kept in its state and
// sent by whoever commits it: each kind of news is the invalidation of an index of ours of which nobody keeps
// anything, so that it does nothing else.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

enum PreparedNews : uint32 {
    PREPARED_DELIVERIES = 1, // there are new ones
    PREPARED_RECALL = 2,     // what a worker may have read was taken back, or subscriptions changed
    PREPARED_JOBS = 4,       // users' functions are to be called
    PREPARED_UNKNOWN = 8     // heard only: the extension was not there, perhaps it is now
};

// The current transaction, which is about to be prepared, has these to tell.
void prepared_note(uint32 news);

// From now on what is committed by this process shall be heard. In a transaction.
void prepared_watch();

// The news of what has been committed since, and perhaps more: others' are heard, too. In a transaction.
uint32 prepared_heard();

// Registers the callback that hears. From _PG_init.
void prepared_init();

} // namespace whisperer::pg
