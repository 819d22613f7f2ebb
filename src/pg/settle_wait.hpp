// whisperer.wait_until_settled(): waits until what is on its way now has arrived or been given up.
//
// "Now" is a snapshot taken at the call: a delivery is waited for if it is pending and the transaction that
// last asked for an attempt of it (delivery.xid) was committed by then. What is raised, or retried by others,
// later is not.
//
// The wait goes by a witness: one such delivery, the one expected to settle last. Only when that is gone is
// there another search, so that the cost of waiting for a million deliveries is that of looking at one row, a
// few times. A look uses a new snapshot, whatever the isolation level, and drops it before the wait. (The
// snapshot of the statement that called the function is PostgreSQL's and stays, as under pg_sleep().)
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// True when all are settled, false at the deadline, which is one of monotonic_micros(). For a caller whose
// right to call was checked.
bool wait_until_settled(Oid caller, int64 deadline);

} // namespace whisperer::pg
