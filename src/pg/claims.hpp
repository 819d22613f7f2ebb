// Deliveries that sessions are sending again at this moment (deliver_event with event_uuid and _async =>
// false).
//
// The delivery worker may have read such a delivery before the session locked its row, and would send it too.
// So the session claims it here, in shared memory, and then looks into the workers' journals; the worker
// notes a delivery in its journal and then looks here. Each writes before it reads, so of two who want to
// send the same delivery at least one sees the other.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// Claims a delivery of this database until the transaction ends, or the subtransaction rolls back. False:
// another session has. ERROR 53400 when there are too many. A second claim by the same transaction is fine. A
// transaction with claims cannot be prepared: 0A000.
bool claim_delivery(const core::Uuid &uuid);

// As core::FlightRecorder wants it: has a session claimed it? Cheap while there are no claims at all.
bool delivery_is_claimed(void *context, const core::Uuid &uuid);

// Shared memory and transaction callbacks. From _PG_init, before wake_init(): callbacks run last registered
// first, and a claim is given up after the worker was told of the commit.
void claims_init();

} // namespace whisperer::pg
