// What a session tells the workers when, and only when, its transaction commits.
//
// Everything here is backend-local until XACT_EVENT_COMMIT (transaction already visible then), when it is
// published to shared memory and the workers' latches are set. Rolled-back subtransactions are forgotten. At
// PREPARE what kind of news it was goes with the transaction (prepared.hpp), and whoever commits it wakes all
// workers of the database; what there is to count goes with it in a table (statistics.hpp).
#pragma once

#include "pg/prelude.hpp"
#include "pg/roster.hpp"

namespace whisperer::pg {

// New deliveries of this subscription were written by the current transaction.
void wake_delivery(int64 subscription_id, uint64 deliveries);
// Deliveries that there were are due by the current transaction: they are not counted once more. 0: nobody's
// wish, who would wait for them in vain before the commit.
void wake_due(int64 subscription_id, uint64 deliveries);
// The current transaction cancelled a delivery of it, or has sent one itself: once it has committed, no
// worker sends what it read before without having looked again.
void wake_recall(int64 subscription_id);

// Events were raised by the current transaction (for statistics and wait_until_settled).
void wake_events(uint64 events);

// Subscriptions changed: workers must reload them.
void wake_subscriptions();

// Deliveries were cancelled by the current transaction (statistics, and waiters of wait_until_settled).
void wake_cancelled(uint64 deliveries);
// One that the current transaction itself had cancelled is pending again.
void wake_not_cancelled();

// Attempts that the current transaction made itself, and what became of them (statistics, and waiters).
void wake_results(uint64 attempts, uint64 delivered, uint64 failed);

// Everything of this database must be looked at again (resume).
void wake_all();

// Tells at once what was prepared and has been committed since prepared_watch(): its rows are visible
// already.
void wake_prepared();

// CREATE or DROP EXTENSION whisperer, or ALTER DATABASE SET whisperer.…: the launcher must look at this
// database at commit. InvalidOid: at every database.
void wake_launcher_for(Oid database);

// Calls of users' functions were written (whisperer.job): whoever makes them must hear of it at commit.
void wake_jobs(JobKind kind);

// Has the current transaction written deliveries that are not committed (and not rolled back to a savepoint)?
bool wake_has_uncommitted_deliveries();

// Registers the transaction callbacks. From _PG_init.
void wake_init();

} // namespace whisperer::pg
