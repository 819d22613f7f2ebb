// From whisperer.delivery to the outbox: what the outbox asks for, in one statement for all subscriptions.
#include "pg/prelude.hpp"

#include "pg/delivery_worker.hpp"
#include "pg/durable.hpp"
#include "pg/internal_sql.hpp"
#include "pg/transcode.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "utils/xid8.h"
}

namespace whisperer::pg {

namespace {

constexpr size_t reads_at_once = 512;
constexpr size_t unsent_at_once = 4096;
constexpr int adoptions_at_once = 100;
constexpr size_t bodies_at_once = 4;
// A row that somebody else has locked is tried again after this.
constexpr core::WallMicros locked_again = 200 * 1000;

// Both statements give: number of the read, uuid, xid, due, not_before, attempts, event type, content,
// whether that is the whole body, and whether it was too large to be given: `limit` is the parameter that
// says so.
#define DELIVERY_COLUMNS(limit)                                                                              \
    "d.uuid, d.xid, d.due, d.not_before, d.attempts, d.event_type,"                                          \
    " CASE WHEN pg_catalog.octet_length(c.content) <= " limit " THEN c.content END,"                         \
    " d.body IS NOT NULL, COALESCE(pg_catalog.octet_length(c.content) > " limit ", true)"
#define DELIVERY_CONTENT                                                                                     \
    " LEFT JOIN whisperer.event e ON e.uuid = d.event_uuid"                                                  \
    " CROSS JOIN LATERAL (SELECT COALESCE(d.body, d.payload, e.payload) AS content) c"

enum Column {
    COLUMN_READ = 1,
    COLUMN_UUID,
    COLUMN_XID,
    COLUMN_DUE,
    COLUMN_NOT_BEFORE,
    COLUMN_ATTEMPTS,
    COLUMN_EVENT_TYPE,
    COLUMN_CONTENT,
    COLUMN_WHOLE_BODY,
    COLUMN_MISSING
};

Statement new_statement = {
    "SELECT r.i, " DELIVERY_COLUMNS(
        "$6") " FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY AS r (subscription, lo, hi, after, lim, i)"
              " CROSS JOIN LATERAL (SELECT * FROM whisperer.delivery d WHERE d.subscription_id = "
              "r.subscription AND d.due IS NULL"
              "  AND (d.xid, d.uuid) > (r.lo, r.after) AND d.xid < r.hi ORDER BY d.xid, d.uuid LIMIT r.lim) "
              "d" DELIVERY_CONTENT " ORDER BY r.i, d.xid, d.uuid",
    6,
    {INT8ARRAYOID, XID8ARRAYOID, XID8ARRAYOID, UUIDARRAYOID, INT4ARRAYOID, INT4OID},
    nullptr};

Statement retry_statement = {
    "SELECT r.i, " DELIVERY_COLUMNS(
        "$5") " FROM unnest($1, $2, $3, $4) WITH ORDINALITY AS r (subscription, due, after, lim, i)"
              " CROSS JOIN LATERAL (SELECT * FROM whisperer.delivery d WHERE d.subscription_id = "
              "r.subscription AND d.due IS NOT NULL"
              "  AND (d.due, d.uuid) > (r.due, r.after) ORDER BY d.due, d.uuid LIMIT r.lim) "
              "d" DELIVERY_CONTENT " ORDER BY r.i, d.due, d.uuid",
    5,
    {INT8ARRAYOID, TIMESTAMPTZARRAYOID, UUIDARRAYOID, INT4ARRAYOID, INT4OID},
    nullptr};

Statement adopt_statement = {
    "UPDATE whisperer.delivery SET due = not_before, not_before = NULL WHERE uuid = (SELECT d.uuid FROM "
    "whisperer.delivery d"
    " WHERE d.uuid = $1 AND d.due IS NULL AND d.not_before = $2 FOR UPDATE SKIP LOCKED)",
    2,
    {UUIDOID, TIMESTAMPTZOID},
    nullptr};

Statement locked_statement = {
    "SELECT FROM whisperer.delivery WHERE uuid = $1 AND due IS NULL AND not_before = $2",
    2,
    {UUIDOID, TIMESTAMPTZOID},
    nullptr};

Statement body_statement = {
    "SELECT COALESCE(d.body, d.payload, e.payload), d.body IS NOT NULL FROM whisperer.delivery d"
    " LEFT JOIN whisperer.event e ON e.uuid = d.event_uuid WHERE d.uuid = $1",
    1,
    {UUIDOID},
    nullptr};

// Gone, or sent by a session meanwhile; or asked for by retry(), which makes it new work.
Statement cancelled_statement = {
    "SELECT u FROM unnest($1, $2, $3) AS t (u, attempts, xid) WHERE NOT EXISTS"
    " (SELECT FROM whisperer.delivery d WHERE d.uuid = t.u AND d.attempts = t.attempts AND d.xid = t.xid)",
    3,
    {UUIDARRAYOID, INT4ARRAYOID, XID8ARRAYOID},
    nullptr};

// The structs of the core have the bytes of PostgreSQL's uuid.
Datum uuid_datum(const core::Uuid *uuid) {
    return PointerGetDatum(uuid->bytes);
}

core::DeliveryRow row_of(uint64 row) {
    bool is_null;
    core::DeliveryRow result = {};
    result.uuid = spi_uuid(row, COLUMN_UUID);
    result.xid = U64FromFullTransactionId(DatumGetFullTransactionId(spi_value(row, COLUMN_XID, &is_null)));
    Datum due = spi_value(row, COLUMN_DUE, &is_null);
    result.due = is_null ? 0 : to_wall(DatumGetTimestampTz(due));
    Datum not_before = spi_value(row, COLUMN_NOT_BEFORE, &is_null);
    result.not_before = is_null ? 0 : to_wall(DatumGetTimestampTz(not_before));
    result.attempts = DatumGetInt32(spi_value(row, COLUMN_ATTEMPTS, &is_null));
    result.event_type = datum_to_utf8(spi_value(row, COLUMN_EVENT_TYPE, &is_null));
    Datum content = spi_value(row, COLUMN_CONTENT, &is_null);
    if (!is_null)
        result.payload = datum_to_utf8(content);
    result.whole_body = DatumGetBool(spi_value(row, COLUMN_WHOLE_BODY, &is_null));
    result.body_missing = DatumGetBool(spi_value(row, COLUMN_MISSING, &is_null));
    return result;
}

size_t read_index(uint64 row) {
    bool is_null;
    return (size_t)DatumGetInt64(spi_value(row, COLUMN_READ, &is_null)) - 1;
}

// Bodies up to this size come with the rows; larger ones just before they are sent. The more rows there may
// be, the smaller: what one round takes of memory is bounded.
constexpr int64 content_at_once = 64 * 1024 * 1024;
constexpr int64 largest_content = 64 * 1024;
Datum content_limit(int64 rows) {
    return Int32GetDatum((int32)Min(largest_content, content_at_once / Max(rows, (int64)1)));
}

void read_new(DeliveryWorker *worker, core::WallMicros now, bool *ok) {
    core::NewRead *reads = (core::NewRead *)palloc(sizeof(core::NewRead) * reads_at_once);
    size_t count = worker->box->plan_new(reads, reads_at_once);
    if (count == 0)
        return;
    Datum *columns = (Datum *)palloc(sizeof(Datum) * count * 5);
    Datum *subscriptions = columns, *lows = columns + count, *highs = columns + 2 * count,
          *afters = columns + 3 * count, *limits = columns + 4 * count;
    int64 most = 0;
    for (size_t i = 0; i < count; i++) {
        subscriptions[i] = Int64GetDatum(reads[i].subscription);
        lows[i] = UInt64GetDatum(reads[i].lo);
        highs[i] = UInt64GetDatum(reads[i].hi);
        afters[i] = uuid_datum(&reads[i].after);
        limits[i] = Int32GetDatum(reads[i].limit);
        most += reads[i].limit;
    }
    Datum arguments[6] = {
        array_of(subscriptions, nullptr, count, INT8OID), array_of(lows, nullptr, count, XID8OID),
        array_of(highs, nullptr, count, XID8OID),         array_of(afters, nullptr, count, UUIDOID),
        array_of(limits, nullptr, count, INT4OID),        content_limit(most)};
    uint64 rows = internal_execute(&new_statement, arguments);
    uint64 *xids = (uint64 *)palloc(sizeof(uint64) * Max(rows, (uint64)1));
    for (uint64 i = 0; i < rows && *ok; i++) {
        core::DeliveryRow row = row_of(i);
        xids[i] = row.xid;
        *ok = worker->box->add_new(read_index(i), row, now);
    }
    if (*ok)
        flush_commits(xids, rows);
}

void read_retries(DeliveryWorker *worker, core::WallMicros now, bool *ok) {
    core::RetryRead *reads = (core::RetryRead *)palloc(sizeof(core::RetryRead) * reads_at_once);
    size_t count = worker->box->plan_retries(reads, reads_at_once, now);
    if (count == 0)
        return;
    Datum *columns = (Datum *)palloc(sizeof(Datum) * count * 4);
    Datum *subscriptions = columns, *dues = columns + count, *afters = columns + 2 * count,
          *limits = columns + 3 * count;
    int64 most = 0;
    for (size_t i = 0; i < count; i++) {
        subscriptions[i] = Int64GetDatum(reads[i].subscription);
        dues[i] = TimestampTzGetDatum(to_timestamp(reads[i].due));
        afters[i] = uuid_datum(&reads[i].after);
        limits[i] = Int32GetDatum(reads[i].limit);
        most += reads[i].limit;
    }
    Datum arguments[5] = {array_of(subscriptions, nullptr, count, INT8OID),
                          array_of(dues, nullptr, count, TIMESTAMPTZOID),
                          array_of(afters, nullptr, count, UUIDOID),
                          array_of(limits, nullptr, count, INT4OID), content_limit(most)};
    uint64 rows = internal_execute(&retry_statement, arguments);
    for (uint64 i = 0; i < rows && *ok; i++)
        *ok = worker->box->add_retry(read_index(i), row_of(i), now);
}

[[noreturn]] void out_of_memory() {
    ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("whisperer could not read what is to be sent"));
    pg_unreachable();
}

// Rows that a session wrote to be sent later get their due time from the worker, which alone may set it.
void adopt(DeliveryWorker *worker, core::WallMicros now) {
    core::Adoption adoption;
    for (int i = 0; i < adoptions_at_once && worker->box->next_adoption(&adoption, now); i++) {
        Datum arguments[2] = {uuid_datum(&adoption.uuid), TimestampTzGetDatum(to_timestamp(adoption.due))};
        if (internal_execute(&adopt_statement, arguments) > 0)
            worker->box->adopted(adoption);
        else if (internal_execute(&locked_statement, arguments) > 0)
            worker->box->adoption_failed(adoption, now + locked_again);
    }
}

} // namespace

void read_queue(DeliveryWorker *worker) {
    core::WallMicros now = wall_clock();
    SnapshotXids snapshot = current_snapshot_xids();
    if (!worker->box->set_snapshot(snapshot.xmin, snapshot.xmax, snapshot.running, snapshot.count))
        out_of_memory();
    bool ok = true;
    read_new(worker, now, &ok);
    if (ok)
        read_retries(worker, now, &ok);
    if (!ok)
        out_of_memory();
    worker->box->finish_reads(true);
    adopt(worker, now);
}

void read_bodies(core::Outbox *box) {
    // No more than were wanted at first: what is given is sent at once, by another thread, and more is wanted
    // then.
    core::Uuid wanted[bodies_at_once];
    size_t count = 0;
    while (count < lengthof(wanted) && box->wanted_body(&wanted[count]))
        count++;
    for (size_t i = 0; i < count; i++) {
        const core::Uuid &uuid = wanted[i];
        bool is_null = true;
        Datum arguments[1] = {uuid_datum(&uuid)};
        uint64 rows = internal_execute(&body_statement, arguments);
        Datum content = rows == 0 ? (Datum)0 : spi_value(0, 1, &is_null);
        if (!is_null) {
            bool flag_null;
            box->give_body(uuid, datum_to_utf8(content), DatumGetBool(spi_value(0, 2, &flag_null)));
            continue;
        }
        // While a restore loads the tables, "event" may come later than "delivery".
        if (rows > 0)
            box->body_lost(uuid);
        else
            box->body_gone(uuid);
    }
}

void drop_cancelled(DeliveryWorker *worker) {
    core::Uuid *unsent = (core::Uuid *)palloc(sizeof(core::Uuid) * unsent_at_once);
    int *attempts = (int *)palloc(sizeof(int) * unsent_at_once);
    uint64 *xids = (uint64 *)palloc(sizeof(uint64) * unsent_at_once);
    size_t count = worker->box->unsent(unsent, unsent_at_once, attempts, xids);
    if (count == 0)
        return;
    Datum *values = (Datum *)palloc(sizeof(Datum) * count);
    Datum *made = (Datum *)palloc(sizeof(Datum) * count);
    Datum *written_by = (Datum *)palloc(sizeof(Datum) * count);
    for (size_t i = 0; i < count; i++) {
        values[i] = uuid_datum(&unsent[i]);
        made[i] = Int32GetDatum(attempts[i]);
        written_by[i] = UInt64GetDatum(xids[i]);
    }
    Datum arguments[3] = {array_of(values, nullptr, count, UUIDOID), array_of(made, nullptr, count, INT4OID),
                          array_of(written_by, nullptr, count, XID8OID)};
    uint64 rows = internal_execute(&cancelled_statement, arguments);
    for (uint64 i = 0; i < rows; i++)
        worker->box->drop_unsent(spi_uuid(i, 1));
}

} // namespace whisperer::pg
