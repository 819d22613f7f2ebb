// Synchronous delivery, deliver_event(…, _async => false): requests are made in the caller's process and
// transaction.
//
// The same parts as in the delivery worker: an outbox with its HTTP engine, kept by the session for the next
// call (connections and tokens), and the recorder. What is sent are rows of the caller's own transaction, or
// rows that it has locked and claimed: the worker cannot see the former and leaves the latter alone. What is
// to be sent again is left to the worker, which finds it when the transaction commits.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "utils/uuid.h"
}

namespace whisperer::pg {

// 55000 when nothing may be sent from here: whisperer.enabled is off, or this database is a copy that is
// held.
void check_may_deliver_now();

// Sends these deliveries, several at once, and returns when each has had its attempt and that is recorded. A
// delivery whose subscription takes nothing now (its receiver asked for a pause, its owner is gone) stays
// pending. Serves interrupts: a cancel, statement_timeout or a termination ends it at once, and with the
// transaction everything that it recorded. Call it outside of internal_begin().
void deliver_now(const pg_uuid_t *uuids, int count);

} // namespace whisperer::pg
