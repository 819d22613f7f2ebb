// One call of a custom countdown, for a delivery that waits by the default schedule meanwhile.
#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/custom_countdowns.hpp"
#include "pg/internal_sql.hpp"
#include "pg/job_calls.hpp"
#include "pg/job_queue.hpp"
#include "pg/wake.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
}

namespace whisperer::pg {

namespace {

// Of an ended subscription nothing is to be called any more: what its countdown is called may be another's by
// now, since only subscriptions that have not ended keep a countdown from being removed.
Statement take_statement = {
    "WITH j AS (DELETE FROM whisperer.job j WHERE " JOB_KEY_MATCHES " RETURNING j.*)"
    " SELECT s.id, s.retry_countdown_config, c.countdown, s.owner_oid, s.owner_name, s.owner_system, "
    "s.owner_dropped,"
    " j.written FROM j JOIN whisperer.subscription s ON s.id = j.subscription_id AND s.ended_date IS NULL"
    " LEFT JOIN whisperer.custom_countdown c ON c.choice = s.retry_countdown_config ->> 'choice'",
    job_key_arguments,
    {JOB_KEY_TYPES},
    nullptr};

enum Column {
    SUBSCRIPTION = 1,
    CONFIG,
    COUNTDOWN,
    OWNER_OID,
    OWNER_NAME,
    OWNER_SYSTEM,
    OWNER_DROPPED,
    WRITTEN
};

// Only the worker that owns the subscription writes due: it finds the row as it finds a new one. One that
// somebody wants sent now, or that has been sent meanwhile, stays as it is; so does one that somebody has
// locked.
Statement put_off_statement = {
    "UPDATE whisperer.delivery SET due = NULL, not_before = $3, xid = pg_catalog.pg_current_xact_id()"
    " WHERE uuid = (SELECT d.uuid FROM whisperer.delivery d WHERE d.uuid = $1 AND d.attempts = $2"
    "  AND (d.due IS NOT NULL OR d.not_before IS NOT NULL) FOR UPDATE SKIP LOCKED)",
    3,
    {UUIDOID, INT4OID, TIMESTAMPTZOID},
    nullptr};

Oid owner_now(const char *name) {
    bool is_null;
    if (DatumGetBool(spi_value(0, OWNER_DROPPED, &is_null)))
        return InvalidOid;
    return owner_role(DatumGetObjectId(spi_value(0, OWNER_OID, &is_null)), name,
                      DatumGetInt64(spi_value(0, OWNER_SYSTEM, &is_null)));
}

} // namespace

void countdown_run(const JobKey &job, JobCall *call) {
    Datum key[job_key_arguments];
    job_key_datums(JobKind::countdown, job, key);
    int level = queue_plans_begin();
    uint64 rows = internal_execute(&take_statement, key);
    queue_plans_end(level);
    bool is_null = true;
    Datum config = rows == 0 ? (Datum)0 : spi_value(0, CONFIG, &is_null);
    CustomChoice custom;
    if (is_null || !countdown_is_custom(DatumGetJsonbP(config), &custom))
        return; // the subscription has another countdown now
    int64 subscription = DatumGetInt64(spi_value(0, SUBSCRIPTION, &is_null));
    TimestampTz written = DatumGetTimestampTz(spi_value(0, WRITTEN, &is_null));
    char *owner_name = TextDatumGetCString(spi_value(0, OWNER_NAME, &is_null));
    Oid owner = owner_now(owner_name);
    Datum function = spi_value(0, COUNTDOWN, &is_null);
    call->users = true;
    if (is_null)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("countdown \"%s\" is not registered any more", custom.choice));
    call->function = MemoryContextStrdup(call->memory, TextDatumGetCString(function));
    if (!OidIsValid(owner))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("the role of the subscription's owner, \"%s\", is gone", owner_name));
    call->made = true;
    double seconds = custom_countdown_seconds(call->function, owner, job.attempt, custom.kwargs);
    call->users = false;
    Datum arguments[3] = {PointerGetDatum(job.uuid), Int32GetDatum(job.attempt),
                          TimestampTzGetDatum(written + (int64)(seconds * USECS_PER_SEC))};
    level = queue_plans_begin();
    if (internal_execute(&put_off_statement, arguments) > 0)
        wake_due(subscription, 0);
    queue_plans_end(level);
}

} // namespace whisperer::pg
