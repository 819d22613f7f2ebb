// Session-level advisory locks outlive the transaction, so a user function that takes one and does not give
// it back would leave it with whoever happened to write the row.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "storage/lock.h"
}

namespace whisperer::pg {

// Advisory locks that this process holds, of session and transaction alike. palloc'ed.
struct AdvisoryLocks {
    struct Held {
        LOCKTAG tag;
        LOCKMASK modes;
    } * items;
    int count;
};

// Costs next to nothing where there are none.
AdvisoryLocks advisory_locks_held();

// Releases the session-level ones that are held now and were not `before`. One taken again that was held
// already is only counted by PostgreSQL, and stays.
void advisory_locks_release_new(const AdvisoryLocks &before);

// Releases every session-level one: for processes of ours, after the end of a transaction that ran a user
// function.
void advisory_locks_release_all();

} // namespace whisperer::pg
