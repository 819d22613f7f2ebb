#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/errors.hpp"
#include "pg/find_delivery.hpp"
#include "pg/internal_sql.hpp"
#include "pg/prune.hpp"
#include "pg/relation_name.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
}

namespace whisperer::pg {

namespace {

Statement remove_old = {
    "WITH gone AS (DELETE FROM whisperer.history WHERE uuid IN ("
    "SELECT uuid FROM whisperer.history WHERE modified_date < $1 ORDER BY modified_date LIMIT $2"
    " FOR UPDATE SKIP LOCKED) RETURNING event_uuid)"
    " SELECT pg_catalog.count(*), pg_catalog.array_agg(DISTINCT event_uuid) FILTER (WHERE event_uuid IS NOT "
    "NULL)"
    " FROM gone",
    2,
    {TIMESTAMPTZOID, INT8OID},
    nullptr};

Statement find_orphans = {"SELECT pg_catalog.array_agg(e) FROM pg_catalog.unnest($1) AS g (e)"
                          " WHERE NOT EXISTS (SELECT FROM whisperer.history h WHERE h.event_uuid = e)"
                          " AND NOT EXISTS (SELECT FROM whisperer.delivery d WHERE d.event_uuid = e)",
                          1,
                          {UUIDARRAYOID},
                          nullptr};

Statement remove_orphans = {"DELETE FROM whisperer.event WHERE uuid = ANY ($1)", 1, {UUIDARRAYOID}, nullptr};

// What is told of users' functions is as old as the deliveries it is about.
Statement remove_failures = {
    "DELETE FROM whisperer.function_failure WHERE ctid = ANY (ARRAY("
    "SELECT ctid FROM whisperer.function_failure WHERE occurred < $1 ORDER BY occurred LIMIT $2"
    " FOR UPDATE SKIP LOCKED))",
    2,
    {TIMESTAMPTZOID, INT8OID},
    nullptr};

// A lock of our own on the table (the part of it that no column has): vacuum and writers are not concerned.
// Until the end of the transaction.
bool lock_pruning(bool wait) {
    LOCKTAG tag;
    SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, relation_of_name("whisperer", "history"),
                       UINT16_MAX);
    return LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

// Under the newest snapshot, in which every committed delivery is in one of the two tables, whichever way it
// is being moved.
void remove_payloads(Datum events) {
    CommandCounterIncrement(); // or the snapshot would still show what was just removed
    Datum arguments[1] = {events};
    Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    internal_execute_snapshot(&find_orphans, arguments, nullptr, snapshot);
    UnregisterSnapshot(snapshot);
    bool none;
    arguments[0] = spi_value(0, 1, &none);
    if (!none)
        internal_execute(&remove_orphans, arguments);
}

void check_arguments(FunctionCallInfo fcinfo) {
    if (PG_ARGISNULL(0))
        raise_null_argument("older_than", "Give an interval such as '12 weeks'.");
    if (PG_ARGISNULL(1))
        raise_null_argument("max_rows", "Give the number of deliveries to remove at most.");
    Interval zero = {0, 0, 0};
    Datum older_than = PG_GETARG_DATUM(0);
    if (DatumGetInt32(DirectFunctionCall2(interval_cmp, older_than, IntervalPGetDatum(&zero))) <= 0)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("older_than must be positive: %s",
                       DatumGetCString(DirectFunctionCall1(interval_out, older_than))),
                errhint("Give an interval such as '12 weeks'."));
    if (PG_GETARG_INT64(1) <= 0)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("max_rows must be positive: " INT64_FORMAT, PG_GETARG_INT64(1)),
                errhint("Give the number of deliveries to remove at most."));
}

// Further back than anything was settled, where subtracting might leave the range of time.
bool before_all_time(Datum older_than) {
    Interval ages = {0, 0, 12 * 5000};
    return DatumGetInt32(DirectFunctionCall2(interval_cmp, older_than, IntervalPGetDatum(&ages))) > 0;
}

} // namespace

int64 prune_batch(TimestampTz settled_before, int64 max_rows, bool wait) {
    if (!lock_pruning(wait))
        return 0;
    InternalSql sql;
    internal_begin(&sql);
    Datum arguments[2] = {TimestampTzGetDatum(settled_before), Int64GetDatum(max_rows)};
    internal_execute(&remove_old, arguments);
    bool is_null;
    int64 removed = DatumGetInt64(spi_value(0, 1, &is_null));
    Datum events = spi_value(0, 2, &is_null);
    if (!is_null)
        remove_payloads(events);
    internal_execute(&remove_failures, arguments);
    internal_end(&sql);
    return removed;
}

} // namespace whisperer::pg

using namespace whisperer::pg;

// whisperer.prune(older_than interval, max_rows bigint)
WHISPERER_SQL_FUNCTION(whisperer_prune) {
    Oid caller = GetUserId();
    check_arguments(fcinfo);
    access_check(caller, Access::admin, nullptr);
    require_writable("whisperer.prune()");
    Datum older_than = PG_GETARG_DATUM(0);
    if (before_all_time(older_than))
        PG_RETURN_INT64(0);
    Datum before = DirectFunctionCall2(
        timestamptz_mi_interval, TimestampTzGetDatum(GetCurrentTransactionStartTimestamp()), older_than);
    PG_RETURN_INT64(prune_batch(DatumGetTimestampTz(before), PG_GETARG_INT64(1), true));
}
