// Cancelling deliveries: from delivery to history, in the caller's transaction.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// What to do with rows that another transaction has locked.
enum class Locked { wait, skip };

// Cancels what is pending for a subscription and visible now, at most `max_rows` of it (0: all), and says so
// at commit (wake_cancelled: statistics and waiters). Returns how many. No privilege is checked. Does its own
// internal_begin() and internal_end(), may be called between them as well. For unsubscribe (Locked::wait),
// and for the worker, which finds what was raised meanwhile by transactions that still saw the subscription
// (Locked::skip: it never waits).
uint64 cancel_pending_of(int64 subscription_id, Locked locked = Locked::wait, int64 max_rows = 0);

} // namespace whisperer::pg
