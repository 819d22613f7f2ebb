#include "pg/prelude.hpp"

#include "pg/enqueue.hpp"
#include "pg/errors.hpp"
#include "pg/internal_sql.hpp"
#include "pg/wake.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"
}

namespace whisperer::pg {

namespace {

// A payload up to this size that has one delivery only is kept in the delivery's own row: one insert instead of two. Above
// it PostgreSQL would move it out of line, and copying it to the history would write it twice.
constexpr int inline_payload_limit = 1900;

// Rows written by one statement at most, so that the arrays stay small whatever the statement of the user's wrote.
constexpr int batch_rows = 1000;

Statement find_statement = {"SELECT s.id FROM whisperer.event_type_entry t"
                            " LEFT JOIN whisperer.subscription s ON s.event_type = t.event_type AND s.is_active"
                            "  AND s.ended_date IS NULL AND ($2 IS NULL OR s.config OPERATOR(pg_catalog.@>) $2)"
                            " WHERE t.event_type = $1",
                            2,
                            {TEXTOID, JSONBOID},
                            nullptr};

Statement insert_events = {"INSERT INTO whisperer.event (uuid, payload)"
                           " SELECT u, p FROM unnest($1, $2) AS e (u, p)",
                           2,
                           {UUIDARRAYOID, TEXTARRAYOID},
                           nullptr};

Statement insert_deliveries = {
    "INSERT INTO whisperer.delivery (uuid, subscription_id, event_uuid, payload, xid, event_type, relation_schema,"
    " relation_name, created_date, modified_date)"
    " SELECT d.u, d.s, d.e, d.p, $5, $6, $7, $8, $9, $9 FROM unnest($1, $2, $3, $4) AS d (u, s, e, p)",
    9,
    {UUIDARRAYOID, INT8ARRAYOID, UUIDARRAYOID, TEXTARRAYOID, XID8OID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID},
    nullptr};

Statement insert_failed = {
    "INSERT INTO whisperer.history (uuid, subscription_id, state, attempts, event_type, relation_schema, relation_name,"
    " error, request_datetimes, created_date, modified_date)"
    " SELECT d.u, d.s, 'failed', 0, $3, $4, $5, $6, '{}', $7, $7 FROM unnest($1, $2) AS d (u, s)",
    7,
    {UUIDARRAYOID, INT8ARRAYOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID},
    nullptr};

Datum make_array(Datum *values, bool *nulls, int count, Oid type) {
    int lower = 1;
    switch (type) {
    case UUIDOID:
        return PointerGetDatum(
            construct_md_array(values, nulls, 1, &count, &lower, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
    case INT8OID:
        return PointerGetDatum(construct_md_array(values, nulls, 1, &count, &lower, INT8OID, sizeof(int64),
                                                  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
    default:
        return PointerGetDatum(
            construct_md_array(values, nulls, 1, &count, &lower, TEXTOID, -1, false, TYPALIGN_INT));
    }
}

Datum text_or_null(const char *value, char *null_flag) {
    *null_flag = value == nullptr ? 'n' : ' ';
    return value == nullptr ? (Datum)0 : CStringGetTextDatum(value);
}

// Rows of one insert, gathered and flushed together.
struct Batch {
    int count;
    Datum uuids[batch_rows], subscriptions[batch_rows], events[batch_rows], payloads[batch_rows];
    bool no_event[batch_rows], no_payload[batch_rows];
};

void flush(Batch *batch, const EventOrigin &origin) {
    if (batch->count == 0)
        return;
    int n = batch->count;
    char nulls[] = "         ";
    Datum arguments[9] = {
        make_array(batch->uuids, nullptr, n, UUIDOID),
        make_array(batch->subscriptions, nullptr, n, INT8OID),
        make_array(batch->events, batch->no_event, n, UUIDOID),
        make_array(batch->payloads, batch->no_payload, n, TEXTOID),
        FullTransactionIdGetDatum(GetTopFullTransactionId()),
        CStringGetTextDatum(origin.event_type),
        text_or_null(origin.relation_schema, &nulls[6]),
        text_or_null(origin.relation_name, &nulls[7]),
        TimestampTzGetDatum(GetCurrentTimestamp()),
    };
    internal_execute(&insert_deliveries, arguments, nulls);
    batch->count = 0;
}

void write_shared_events(pg_uuid_t *uuids, const PayloadText *payloads, int count) {
    Datum *ids = (Datum *)palloc(sizeof(Datum) * (size_t)count);
    Datum *texts = (Datum *)palloc(sizeof(Datum) * (size_t)count);
    for (int i = 0; i < count; i++) {
        ids[i] = UUIDPGetDatum(&uuids[i]);
        texts[i] = PointerGetDatum(cstring_to_text_with_len(payloads[i].data, payloads[i].len));
    }
    Datum arguments[2] = {make_array(ids, nullptr, count, UUIDOID), make_array(texts, nullptr, count, TEXTOID)};
    internal_execute(&insert_events, arguments);
}

} // namespace

Recipients find_recipients(const char *event_type, Jsonb *config_filter) {
    MemoryContext caller = CurrentMemoryContext;
    InternalSql sql;
    internal_begin(&sql);
    Datum arguments[2] = {CStringGetTextDatum(event_type), JsonbPGetDatum(config_filter)};
    uint64 rows = internal_execute(&find_statement, arguments, config_filter == nullptr ? " n" : nullptr);
    if (rows == 0)
        ereport(ERROR, errcode(ERRCODE_WH_NO_EVENT_TYPE),
                errmsg("event type \"%s\" is not registered", event_type),
                errhint("Register it with whisperer.register_event_type(); whisperer.event_types lists those there are."));
    Recipients result = {(int64 *)MemoryContextAlloc(caller, sizeof(int64) * rows), 0};
    for (uint64 i = 0; i < rows; i++) {
        bool is_null;
        Datum id = spi_value(i, 1, &is_null);
        if (!is_null)
            result.subscriptions[result.count++] = DatumGetInt64(id);
    }
    internal_end(&sql);
    return result;
}

pg_uuid_t new_uuid() {
    constexpr int64 epoch_shift = (int64)(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
    core::Uuid made = core::make_uuid7(GetCurrentTimestamp() + epoch_shift, pg_prng_uint64(&pg_global_prng_state));
    pg_uuid_t result;
    static_assert(sizeof(result.data) == sizeof(made.bytes));
    memcpy(result.data, made.bytes, sizeof(made.bytes));
    return result;
}

pg_uuid_t *enqueue_events(const EventOrigin &origin, const Recipients &recipients, const PayloadText *payloads,
                          int count) {
    size_t total = (size_t)count * (size_t)recipients.count;
    pg_uuid_t *uuids = (pg_uuid_t *)palloc(sizeof(pg_uuid_t) * Max(total, (size_t)1));
    if (total == 0)
        return uuids;
    PreventCommandIfReadOnly("whisperer.deliver_event()");
    for (size_t i = 0; i < total; i++)
        uuids[i] = new_uuid();

    InternalSql sql;
    internal_begin(&sql);
    // Which payloads get a row of their own.
    pg_uuid_t *event_uuids = (pg_uuid_t *)palloc(sizeof(pg_uuid_t) * (size_t)count);
    pg_uuid_t *shared_uuids = (pg_uuid_t *)palloc(sizeof(pg_uuid_t) * (size_t)count);
    PayloadText *shared = (PayloadText *)palloc(sizeof(PayloadText) * (size_t)count);
    bool *is_shared = (bool *)palloc0(sizeof(bool) * (size_t)count);
    int shared_count = 0;
    for (int i = 0; i < count; i++) {
        if (recipients.count == 1 && payloads[i].len <= inline_payload_limit)
            continue;
        is_shared[i] = true;
        event_uuids[i] = shared_uuids[shared_count] = new_uuid();
        shared[shared_count++] = payloads[i];
    }
    if (shared_count > 0)
        write_shared_events(shared_uuids, shared, shared_count);

    Batch *batch = (Batch *)palloc(sizeof(Batch));
    batch->count = 0;
    pg_uuid_t *next = uuids;
    for (int i = 0; i < count; i++) {
        Datum payload =
            is_shared[i] ? (Datum)0 : PointerGetDatum(cstring_to_text_with_len(payloads[i].data, payloads[i].len));
        for (int r = 0; r < recipients.count; r++) {
            int k = batch->count++;
            batch->uuids[k] = UUIDPGetDatum(next++);
            batch->subscriptions[k] = Int64GetDatum(recipients.subscriptions[r]);
            batch->no_event[k] = !is_shared[i];
            batch->events[k] = is_shared[i] ? UUIDPGetDatum(&event_uuids[i]) : (Datum)0;
            batch->no_payload[k] = is_shared[i];
            batch->payloads[k] = payload;
            if (batch->count == batch_rows)
                flush(batch, origin);
        }
    }
    flush(batch, origin);
    internal_end(&sql);

    for (int i = 0; i < count; i++)
        wake_event();
    for (int r = 0; r < recipients.count; r++)
        wake_delivery(recipients.subscriptions[r], (uint64)count);
    return uuids;
}

void enqueue_failed(const EventOrigin &origin, const Recipients &recipients, const char *error) {
    if (recipients.count == 0)
        return;
    InternalSql sql;
    internal_begin(&sql);
    int n = recipients.count;
    Datum *uuids = (Datum *)palloc(sizeof(Datum) * (size_t)n);
    Datum *subscriptions = (Datum *)palloc(sizeof(Datum) * (size_t)n);
    pg_uuid_t *ids = (pg_uuid_t *)palloc(sizeof(pg_uuid_t) * (size_t)n);
    for (int i = 0; i < n; i++) {
        ids[i] = new_uuid();
        uuids[i] = UUIDPGetDatum(&ids[i]);
        subscriptions[i] = Int64GetDatum(recipients.subscriptions[i]);
    }
    char nulls[] = "       ";
    Datum arguments[7] = {
        make_array(uuids, nullptr, n, UUIDOID),
        make_array(subscriptions, nullptr, n, INT8OID),
        CStringGetTextDatum(origin.event_type),
        text_or_null(origin.relation_schema, &nulls[3]),
        text_or_null(origin.relation_name, &nulls[4]),
        CStringGetTextDatum(error),
        TimestampTzGetDatum(GetCurrentTimestamp()),
    };
    internal_execute(&insert_failed, arguments, nulls);
    internal_end(&sql);
}

} // namespace whisperer::pg
