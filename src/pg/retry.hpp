// Making deliveries due now, and bringing settled ones back: whisperer.retry() and whisperer.retry_failed().
//
// A row that a session touches gets due = NULL and the current transaction's xid, which makes it new work for
// the worker once that transaction is visible. Attempts, last response and request times are kept, so that
// the countdown counts on.
#pragma once

#include "pg/find_delivery.hpp"
#include "pg/prelude.hpp"

extern "C" {
#include "utils/uuid.h"
}

namespace whisperer::pg {

// What whisperer.retry() does, for a caller whose right to call it was checked. WH003, WH005 (delivered, and
// not `force`), 55000 (its subscription is inactive or ended; it has no body).
void retry_delivery(Oid caller, const pg_uuid_t *uuid, bool force);

// The parts of it, inside internal_begin(), for a delivery found and locked: is it to be sent again?
// `delivered_hint` is said with WH005.
void check_may_retry(const FoundDelivery &found, const pg_uuid_t *uuid, bool force,
                     const char *delivered_hint);

// Pending, due as soon as this transaction commits, at which the worker is woken.
void make_due(const FoundDelivery &found, const pg_uuid_t *uuid);

} // namespace whisperer::pg
