#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/cancel.hpp"
#include "pg/errors.hpp"
#include "pg/find_delivery.hpp"
#include "pg/internal_sql.hpp"
#include "pg/wake.hpp"

extern "C" {
#include "catalog/pg_type.h"
}

// `which` selects the uuids to move; as an array, so that it does not depend on statistics that they are
// looked up and not the whole table walked through. What was in flight keeps its request; see recorder.cpp
// for its result.
#define CANCEL_SQL(which)                                                                                    \
    "WITH moved AS (DELETE FROM whisperer.delivery WHERE uuid = ANY (ARRAY(" which                           \
    ")) RETURNING " WHISPERER_KEPT_COLUMNS ") INSERT INTO whisperer.history (" WHISPERER_KEPT_COLUMNS        \
    ", state, modified_date) SELECT " WHISPERER_KEPT_COLUMNS ", 'cancelled', pg_catalog.now() FROM moved"

// By uuid, the order in which everybody who takes several rows locks them.
#define PENDING_OF                                                                                           \
    "SELECT uuid FROM whisperer.delivery WHERE subscription_id = $1 ORDER BY uuid LIMIT $2 FOR UPDATE"

namespace whisperer::pg {

namespace {

Statement cancel_one = {CANCEL_SQL("SELECT $1"), 1, {UUIDOID}, nullptr};
Statement cancel_waiting = {CANCEL_SQL(PENDING_OF), 2, {INT8OID, INT8OID}, nullptr};
Statement cancel_skipping = {CANCEL_SQL(PENDING_OF " SKIP LOCKED"), 2, {INT8OID, INT8OID}, nullptr};

void cancel_found(const FoundDelivery &found, const pg_uuid_t *uuid) {
    switch (found.state) {
    case DeliveryState::cancelled:
        return;
    case DeliveryState::delivered:
        ereport(ERROR, errcode(ERRCODE_WH_ALREADY_DELIVERED),
                errmsg("delivery %s is already delivered", uuid_text(uuid)),
                errhint("Only a pending delivery can be cancelled."));
    case DeliveryState::failed:
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("delivery %s has failed and cannot be cancelled", uuid_text(uuid)),
                errhint("Nothing is sent for it unless whisperer.retry() revives it."));
    case DeliveryState::pending:
        break;
    }
    Datum arguments[1] = {UUIDPGetDatum(uuid)};
    if (internal_execute(&cancel_one, arguments) != 1)
        elog(ERROR, "whisperer lost delivery %s between locking and cancelling it", uuid_text(uuid));
    wake_cancelled(1);
    wake_recall(found.subscription_id); // the worker may have read it ahead
}

} // namespace

uint64 cancel_pending_of(int64 subscription_id, Locked locked, int64 max_rows) {
    InternalSql sql;
    internal_begin(&sql);
    Datum arguments[2] = {Int64GetDatum(subscription_id), Int64GetDatum(max_rows)};
    uint64 cancelled =
        internal_execute(locked == Locked::skip ? &cancel_skipping : &cancel_waiting, arguments,
                         max_rows == 0 ? " n" : nullptr); // LIMIT NULL: all
    internal_end(&sql);
    if (cancelled > 0)
        wake_cancelled(cancelled);
    return cancelled;
}

} // namespace whisperer::pg

using namespace whisperer::pg;

// whisperer.cancel(event_uuid uuid)
WHISPERER_SQL_FUNCTION(whisperer_cancel) {
    Oid caller = GetUserId();
    if (PG_ARGISNULL(0))
        raise_null_argument("event_uuid",
                            "Give the uuid of a delivery, as whisperer.webhook_events shows it.");
    access_check(caller, Access::subscribe, nullptr);
    require_writable("whisperer.cancel()");
    const pg_uuid_t *uuid = PG_GETARG_UUID_P(0);
    InternalSql sql;
    internal_begin(&sql);
    cancel_found(find_delivery(caller, uuid), uuid);
    internal_end(&sql);
    PG_RETURN_VOID();
}
