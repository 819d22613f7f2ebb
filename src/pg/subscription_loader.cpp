// From whisperer.subscription to the outbox: what changed since the last look, found by the transactions that
// changed it.
#include "pg/prelude.hpp"

#include "pg/cancel.hpp"
#include "pg/delivery_worker.hpp"
#include "pg/home.hpp"
#include "pg/internal_sql.hpp"
#include "pg/receiver_states.hpp"
#include "pg/sending_row.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "storage/procarray.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"
}

namespace whisperer::pg {

namespace {

Statement load_statement = {"SELECT " SENDING_COLUMNS " FROM whisperer.subscription s" SENDING_JOINS
                            " WHERE s.change_xid >= $1 AND s.change_xid < $2",
                            2,
                            {XID8OID, XID8OID},
                            nullptr};

Statement home_statement = {"SELECT pg_catalog.count(*), pg_catalog.bool_and(system_identifier = $1 AND "
                            "database_oid = $2) FROM whisperer.home",
                            2,
                            {INT8OID, OIDOID},
                            nullptr};

// Of those that ended since $1. (As a subquery with EXISTS the planner would read all deliveries there are.)
Statement stragglers_statement = {
    "SELECT s.id FROM whisperer.subscription s CROSS JOIN LATERAL"
    " (SELECT FROM whisperer.delivery d WHERE d.subscription_id = s.id LIMIT 1) d"
    " WHERE s.change_xid >= $1 AND s.ended_date IS NOT NULL LIMIT 100",
    1,
    {XID8OID},
    nullptr};

// Stragglers cancelled in one transaction at most.
constexpr int64 straggler_batch = 10000;

// Stragglers are raised by transactions that still saw the subscription. For all that ended before `from`
// those are over, and what they left has been cancelled. For those that ended before `next_from` all of them
// have written what they write, with numbers below `next_below`.
struct StragglerCursor {
    uint64 from;
    uint64 next_from;
    uint64 next_below;
};
StragglerCursor stragglers;

// Every xid of a snapshot is within half the number space of the next one.
uint64 widen(TransactionId xid, FullTransactionId next) {
    uint32 epoch = EpochFromFullTransactionId(next);
    if (xid > XidFromFullTransactionId(next))
        epoch--;
    return U64FromFullTransactionId(FullTransactionIdFromEpochAndXid(epoch, xid));
}

bool put_row(DeliveryWorker *worker, uint64 row) {
    int64 id = sending_subscription(row);
    if (subscription_shard(id, worker->self->shards) != worker->self->shard)
        return true;
    if (sending_ended(row)) {
        worker->box->remove_subscription(id);
        return true;
    }
    if (!worker->box->put_subscription(sending_fields(row)))
        return false;
    worker->secrets_missing = worker->secrets_missing || sending_incomplete(row);
    core::ReceiverState state;
    if (worker->refetch_states && sending_state(row, &state))
        worker->box->set_receiver_state(state);
    return true;
}

// Held: there is a row of another cluster or database (a copy), or none at all (never used, or a restore
// under way whose row has not come yet). Says so once.
void refresh_held(DeliveryWorker *worker) {
    bool is_null;
    Datum arguments[2] = {Int64GetDatum(home_system()), ObjectIdGetDatum(MyDatabaseId)};
    internal_execute(&home_statement, arguments);
    int64 rows = DatumGetInt64(spi_value(0, 1, &is_null));
    bool at_home = DatumGetBool(spi_value(0, 2, &is_null)) && !is_null;
    bool is_copy = rows > 0 && !at_home;
    if (is_copy && !worker->told_copy)
        ereport(
            LOG,
            errmsg("whisperer holds database \"%s\": it is a copy of another", worker->self->database_name),
            errdetail("It was restored, cloned or upgraded from a database in which whisperer was in use. "
                      "Nothing is sent."),
            errhint("Call whisperer.resume() in it if this database is to send."));
    if (worker->told_copy && !is_copy)
        ereport(LOG, errmsg("whisperer resumes database \"%s\"", worker->self->database_name));
    worker->told_copy = is_copy;
    worker->held = !at_home;
}

} // namespace

SnapshotXids current_snapshot_xids() {
    Snapshot snapshot = GetActiveSnapshot();
    FullTransactionId next = ReadNextFullTransactionId();
    SnapshotXids result = {widen(snapshot->xmin, next), widen(snapshot->xmax, next), nullptr, snapshot->xcnt};
    result.running = (uint64 *)palloc(sizeof(uint64) * Max(snapshot->xcnt, 1u));
    for (uint32 i = 0; i < snapshot->xcnt; i++)
        result.running[i] = widen(snapshot->xip[i], next);
    return result;
}

bool load_subscriptions(DeliveryWorker *worker) {
    refresh_held(worker);
    if (worker->owners_changed) {
        worker->owners_changed = !home_refresh_owners(); // what somebody has locked is for the next time
        worker->owners_refreshed = true;
        worker->subscription_changes->reset(); // owners are not in change_xid: look at all
    }
    if (worker->secrets_missing) {
        worker->secrets_missing = false;
        worker->subscription_changes->reset(); // they are not in change_xid either
    }
    SnapshotXids now = current_snapshot_xids();
    if (!worker->subscription_changes->advance(now.xmin, now.xmax, now.running, now.count))
        return false;
    for (size_t i = 0; i < worker->subscription_changes->range_count(); i++) {
        core::XidRange range = worker->subscription_changes->range(i);
        Datum arguments[2] = {UInt64GetDatum(range.lo), UInt64GetDatum(range.hi)};
        uint64 rows = internal_execute(&load_statement, arguments);
        for (uint64 row = 0; row < rows; row++)
            if (!put_row(worker, row))
                return false;
    }
    worker->subscription_changes->done();
    take_receiver_reports(worker);
    worker->refetch_states = false;
    return true;
}

void cancel_stragglers() {
    Datum arguments[1] = {UInt64GetDatum(stragglers.from)};
    uint64 rows = internal_execute(&stragglers_statement, arguments);
    SPITupleTable *found = SPI_tuptable;
    int64 left = straggler_batch;
    for (uint64 row = 0; row < rows && left > 0; row++) {
        bool is_null;
        Datum id = SPI_getbinval(found->vals[row], found->tupdesc, 1, &is_null);
        left -= (int64)cancel_pending_of(DatumGetInt64(id), Locked::skip, left);
    }
    if (rows > 0)
        return; // perhaps not all, or somebody has some of them locked
    // None that this transaction sees. What it does not see has been written since, or by one that still
    // runs.
    SnapshotXids now = current_snapshot_xids();
    if (now.xmin < stragglers.next_below)
        return;
    FullTransactionId next = ReadNextFullTransactionId();
    stragglers.from = stragglers.next_from;
    // In this order: who sees a subscription that ended before the oldest snapshot has its number by now.
    stragglers.next_from = widen(GetOldestNonRemovableTransactionId(nullptr), next);
    stragglers.next_below = U64FromFullTransactionId(ReadNextFullTransactionId());
}

} // namespace whisperer::pg
