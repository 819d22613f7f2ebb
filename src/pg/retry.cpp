#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/errors.hpp"
#include "pg/find_delivery.hpp"
#include "pg/internal_sql.hpp"
#include "pg/retry.hpp"
#include "pg/wake.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
}

// Here and below, modified_date is the time of the call. By the row's xid the recorder sees that it came
// while an attempt was under way.

// `which` selects the uuids to move; `result` ends the statement.
#define REVIVE_SQL(which, result)                                                                            \
    "WITH moved AS (DELETE FROM whisperer.history WHERE uuid IN (" which                                     \
    ") RETURNING " WHISPERER_KEPT_COLUMNS                                                                    \
    "), revived AS (INSERT INTO whisperer.delivery (" WHISPERER_KEPT_COLUMNS                                 \
    ", xid, modified_date) SELECT " WHISPERER_KEPT_COLUMNS                                                   \
    ", pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp() FROM moved"                             \
    " RETURNING subscription_id) " result

// Failed ones with a body, of active subscriptions, in the order of uuids, in which everybody locks several
// rows. $1: subscription or null; $2: subscriptions managed, or null for all; $3, $4: since and until, or
// null.
#define FAILED_ONES                                                                                          \
    "SELECT h.uuid FROM whisperer.history h JOIN whisperer.subscription s ON s.id = h.subscription_id"       \
    " WHERE h.state = 'failed' AND s.is_active AND s.ended_date IS NULL"                                     \
    " AND (h.body IS NOT NULL OR h.payload IS NOT NULL OR h.event_uuid IS NOT NULL)"                         \
    " AND ($1 IS NULL OR h.subscription_id = $1) AND ($2 IS NULL OR h.subscription_id = ANY ($2))"           \
    " AND ($3 IS NULL OR h.modified_date >= $3) AND ($4 IS NULL OR h.modified_date < $4)"                    \
    " ORDER BY h.uuid FOR UPDATE OF h"

namespace whisperer::pg {

namespace {

Statement due_now = {
    "UPDATE whisperer.delivery SET due = NULL, not_before = NULL,"
    " xid = pg_catalog.pg_current_xact_id(), modified_date = pg_catalog.clock_timestamp() WHERE uuid = $1",
    1,
    {UUIDOID},
    nullptr};

Statement revive_one = {REVIVE_SQL("$1", "SELECT subscription_id FROM revived"), 1, {UUIDOID}, nullptr};

Statement revive_failed = {
    REVIVE_SQL(FAILED_ONES,
               "SELECT subscription_id, pg_catalog.count(*) FROM revived GROUP BY subscription_id"),
    4,
    {INT8OID, INT8ARRAYOID, TIMESTAMPTZOID, TIMESTAMPTZOID},
    nullptr};

Statement subscription_status = {
    "SELECT is_active, ended_date IS NOT NULL, inactive_reason,"
    " owner_dropped OR whisperer.owner_is_gone(owner_oid, owner_name, owner_system)"
    " FROM whisperer.subscription WHERE id = $1",
    1,
    {INT8OID},
    nullptr};

// 55000 unless something may be sent for the subscription.
void check_sends(int64 subscription_id, const pg_uuid_t *uuid) {
    Datum arguments[1] = {Int64GetDatum(subscription_id)};
    if (internal_execute(&subscription_status, arguments) == 0)
        elog(ERROR, "whisperer has no subscription " INT64_FORMAT " of delivery %s", subscription_id,
             uuid_text(uuid));
    bool is_null;
    if (DatumGetBool(spi_value(0, 2, &is_null)))
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("delivery %s cannot be retried", uuid_text(uuid)),
                errdetail("Its subscription " INT64_FORMAT " has ended.", subscription_id),
                errhint("Subscribe again with whisperer.subscribe(), and raise the event again."));
    if (DatumGetBool(spi_value(0, 4, &is_null)))
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("delivery %s cannot be retried", uuid_text(uuid)),
                errdetail("Its subscription " INT64_FORMAT " is held: the owner's role is gone.",
                          subscription_id),
                errhint("whisperer.reassign() gives it to another role."));
    if (DatumGetBool(spi_value(0, 1, &is_null)))
        return;
    Datum reason = spi_value(0, 3, &is_null);
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("delivery %s cannot be retried", uuid_text(uuid)),
            is_null ? errdetail("Its subscription " INT64_FORMAT " is not active.", subscription_id)
                    : errdetail("Its subscription " INT64_FORMAT " is not active: %s", subscription_id,
                                TextDatumGetCString(reason)),
            errhint("Resume it first: SELECT whisperer.update_subscription(" INT64_FORMAT
                    ", '{\"is_active\": true}');",
                    subscription_id));
}

// 22023 when the range is empty whatever there is.
void check_range(FunctionCallInfo fcinfo) {
    if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
        return;
    TimestampTz since = PG_GETARG_TIMESTAMPTZ(1);
    TimestampTz until = PG_GETARG_TIMESTAMPTZ(2);
    if (since > until)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("since must not be after until"),
                errdetail("since is %s, until is %s.", pstrdup(timestamptz_to_str(since)),
                          pstrdup(timestamptz_to_str(until))),
                errhint("Failed deliveries with since <= modified_date < until are retried."));
}

// Wakes for each subscription in the last result, (id, count); returns the sum.
uint64 wake_revived() {
    uint64 total = 0;
    for (uint64 i = 0; i < SPI_processed; i++) {
        bool is_null;
        uint64 count = (uint64)DatumGetInt64(spi_value(i, 2, &is_null));
        wake_due(DatumGetInt64(spi_value(i, 1, &is_null)), count);
        total += count;
    }
    return total;
}

} // namespace

void check_may_retry(const FoundDelivery &found, const pg_uuid_t *uuid, bool force,
                     const char *delivered_hint) {
    if (found.state == DeliveryState::delivered && !force)
        ereport(ERROR, errcode(ERRCODE_WH_ALREADY_DELIVERED),
                errmsg("delivery %s is already delivered", uuid_text(uuid)), errhint("%s", delivered_hint));
    if (!found.has_body)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("delivery %s cannot be retried", uuid_text(uuid)),
                errdetail("Its event failed before it had a body (whisperer.trigger_errors = record)."),
                errhint("See its error in whisperer.failed, remove the cause, and raise the event again."));
    check_sends(found.subscription_id, uuid);
}

void make_due(const FoundDelivery &found, const pg_uuid_t *uuid) {
    Datum arguments[1] = {UUIDPGetDatum(uuid)};
    Statement *change = found.state == DeliveryState::pending ? &due_now : &revive_one;
    if (internal_execute(change, arguments) != 1)
        elog(ERROR, "whisperer lost delivery %s between locking and retrying it", uuid_text(uuid));
    wake_due(found.subscription_id, 1);
    if (found.cancelled_here)
        wake_not_cancelled();
}

void retry_delivery(Oid caller, const pg_uuid_t *uuid, bool force) {
    InternalSql sql;
    internal_begin(&sql);
    FoundDelivery found = find_delivery(caller, uuid);
    check_may_retry(found, uuid, force, "Give force => true to send it again, with the same uuid.");
    make_due(found, uuid);
    internal_end(&sql);
}

} // namespace whisperer::pg

using namespace whisperer::pg;

// whisperer.retry(event_uuid uuid, force boolean)
WHISPERER_SQL_FUNCTION(whisperer_retry) {
    Oid caller = GetUserId();
    if (PG_ARGISNULL(0))
        raise_null_argument("event_uuid",
                            "Give the uuid of a delivery, as whisperer.webhook_events shows it.");
    if (PG_ARGISNULL(1))
        raise_null_argument("force", "true sends again what is already delivered.");
    access_check(caller, Access::subscribe, nullptr);
    require_writable("whisperer.retry()");
    retry_delivery(caller, PG_GETARG_UUID_P(0), PG_GETARG_BOOL(1));
    PG_RETURN_VOID();
}

// whisperer.retry_failed(subscription_id bigint, since timestamptz, until timestamptz)
WHISPERER_SQL_FUNCTION(whisperer_retry_failed) {
    Oid caller = GetUserId();
    check_range(fcinfo);
    access_check(caller, Access::subscribe, nullptr);
    require_writable("whisperer.retry_failed()");
    InternalSql sql;
    internal_begin(&sql);
    if (!PG_ARGISNULL(0))
        check_subscription(caller, PG_GETARG_INT64(0));
    ArrayType *managed = managed_subscriptions(caller);
    Datum arguments[4] = {PG_GETARG_DATUM(0), PointerGetDatum(managed), PG_GETARG_DATUM(1),
                          PG_GETARG_DATUM(2)};
    char nulls[] = "    ";
    for (int i = 0; i < 3; i++)
        if (PG_ARGISNULL(i))
            nulls[i == 0 ? 0 : i + 1] = 'n';
    if (managed == nullptr)
        nulls[1] = 'n';
    internal_execute(&revive_failed, arguments, nulls);
    uint64 revived = wake_revived();
    internal_end(&sql);
    PG_RETURN_INT64((int64)revived);
}
