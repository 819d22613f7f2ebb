#include "pg/prelude.hpp"

#include "pg/enqueue.hpp"
#include "pg/errors.hpp"
#include "pg/internal_sql.hpp"
#include "pg/wake.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"
}

namespace whisperer::pg {

namespace {

// A payload up to this size that has one delivery only is kept in the delivery's own row: one insert instead
// of two. Above it PostgreSQL would move it out of line, and copying it to the history would write it twice.
constexpr int inline_payload_limit = 1900;

// Rows, and about the bytes, written by one statement at most, so that the arrays stay small whatever the
// statement of the user's wrote and however many subscribe.
constexpr int batch_rows = 1000;
constexpr size_t batch_bytes = 4 * 1024 * 1024;

enum FindColumn {
    FIND_SUBSCRIPTION = 1,
    FIND_SERIALIZER,
    FIND_CUSTOMIZER,
    FIND_OWNER_OID,
    FIND_OWNER_NAME,
    FIND_OWNER_SYSTEM
};

Statement find_statement = {
    "SELECT s.id, t.serializer, t.customizer, t.owner_oid, t.owner_name, t.owner_system FROM "
    "whisperer.event_type_entry t"
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

Statement insert_deliveries = {"INSERT INTO whisperer.delivery (uuid, subscription_id, event_uuid, payload, "
                               "xid, event_type, relation_schema,"
                               " relation_name, created_date, modified_date, body)"
                               " SELECT d.u, d.s, d.e, d.p, $5, $6, $7, $8, $9, $9, d.b FROM unnest($1, $2, "
                               "$3, $4, $10) AS d (u, s, e, p, b)",
                               10,
                               {UUIDARRAYOID, INT8ARRAYOID, UUIDARRAYOID, TEXTARRAYOID, XID8OID, TEXTOID,
                                TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTARRAYOID},
                               nullptr};

Statement insert_failed = {
    "INSERT INTO whisperer.history (uuid, subscription_id, state, attempts, event_type, relation_schema, "
    "relation_name,"
    " error, reason, request_datetimes, created_date, modified_date)"
    " SELECT d.u, d.s, 'failed', 0, $3, $4, $5, 'the body could not be made', $6, '{}', $7, $7 FROM "
    "unnest($1, $2) AS d (u, s)",
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

// Deliveries of one insert, gathered and flushed together with the events of their own that some of them
// need. No user function may run during internal SQL, so the bodies are made while gathering.
struct Batch {
    int room;
    int count;
    size_t bytes;
    MemoryContext memory; // of the texts: reset by each flush
    Datum *uuids, *subscriptions, *events, *payloads, *bodies;
    bool *no_event, *no_payload, *no_body;
    int event_count;
    Datum *event_uuids, *event_payloads;
};

Batch make_batch(size_t deliveries) {
    Batch batch = {};
    batch.room = (int)Min(deliveries, (size_t)batch_rows);
    batch.memory = AllocSetContextCreate(CurrentMemoryContext, "whisperer batch", ALLOCSET_DEFAULT_SIZES);
    Datum **columns[] = {&batch.uuids,  &batch.subscriptions, &batch.events,        &batch.payloads,
                         &batch.bodies, &batch.event_uuids,   &batch.event_payloads};
    for (Datum **column : columns)
        *column = (Datum *)palloc(sizeof(Datum) * (size_t)batch.room);
    bool **flags[] = {&batch.no_event, &batch.no_payload, &batch.no_body};
    for (bool **flag : flags)
        *flag = (bool *)palloc(sizeof(bool) * (size_t)batch.room);
    return batch;
}

void insert_batch(const Batch &batch, const EventOrigin &origin) {
    int n = batch.count;
    char nulls[] = "          ";
    Datum arguments[10] = {
        make_array(batch.uuids, nullptr, n, UUIDOID),
        make_array(batch.subscriptions, nullptr, n, INT8OID),
        make_array(batch.events, batch.no_event, n, UUIDOID),
        make_array(batch.payloads, batch.no_payload, n, TEXTOID),
        FullTransactionIdGetDatum(GetTopFullTransactionId()),
        CStringGetTextDatum(origin.event_type),
        text_or_null(origin.relation_schema, &nulls[6]),
        text_or_null(origin.relation_name, &nulls[7]),
        TimestampTzGetDatum(GetCurrentTimestamp()),
        make_array(batch.bodies, batch.no_body, n, TEXTOID),
    };
    internal_execute(&insert_deliveries, arguments, nulls);
}

void flush(Batch *batch, const EventOrigin &origin) {
    if (batch->count == 0)
        return;
    InternalSql sql;
    internal_begin(&sql);
    if (batch->event_count > 0) {
        Datum arguments[2] = {make_array(batch->event_uuids, nullptr, batch->event_count, UUIDOID),
                              make_array(batch->event_payloads, nullptr, batch->event_count, TEXTOID)};
        internal_execute(&insert_events, arguments);
    }
    insert_batch(*batch, origin);
    internal_end(&sql);
    MemoryContextReset(batch->memory);
    batch->count = batch->event_count = 0;
    batch->bytes = 0;
}

Datum batch_text(Batch *batch, const PayloadText &text) {
    batch->bytes += (size_t)text.len;
    return PointerGetDatum(cstring_to_text_with_len(text.data, text.len));
}

// One event for all recipients, with a row of its own unless its payload goes into the delivery's. Runs in
// batch->memory; `event` and `uuids` outlive the batch.
void add_event(Batch *batch, const EventOrigin &origin, const Recipients &recipients,
               const PayloadText &payload, pg_uuid_t *event, pg_uuid_t *uuids) {
    bool own_row = recipients.count > 1 || payload.len > inline_payload_limit;
    for (int r = 0; r < recipients.count; r++) {
        int k = batch->count++;
        if (own_row && r == 0) {
            *event = new_uuid();
            batch->event_uuids[batch->event_count] = UUIDPGetDatum(event);
            batch->event_payloads[batch->event_count++] = batch_text(batch, payload);
        }
        batch->uuids[k] = UUIDPGetDatum(&uuids[r]);
        batch->subscriptions[k] = Int64GetDatum(recipients.subscriptions[r]);
        batch->no_event[k] = !own_row;
        batch->events[k] = own_row ? UUIDPGetDatum(event) : (Datum)0;
        batch->no_payload[k] = own_row;
        batch->payloads[k] = own_row ? (Datum)0 : batch_text(batch, payload);
        batch->no_body[k] = recipients.functions.customizer == nullptr;
        batch->bodies[k] = batch->no_body[k]
                               ? (Datum)0
                               : batch_text(batch, customize_body(recipients.functions, &uuids[r], payload));
        if (batch->count == batch->room || batch->bytes >= batch_bytes)
            flush(batch, origin);
    }
}

const char *found_text(FindColumn column) {
    bool is_null;
    Datum value = spi_value(0, column, &is_null);
    return is_null ? nullptr : TextDatumGetCString(value);
}

// The owner is of no interest where there is nothing to run as it.
EventFunctions read_functions(const char *event_type) {
    EventFunctions result = {
        event_type, found_text(FIND_SERIALIZER), found_text(FIND_CUSTOMIZER), InvalidOid, nullptr, 0};
    if (result.serializer != nullptr || result.customizer != nullptr) {
        bool is_null;
        result.owner_oid = DatumGetObjectId(spi_value(0, FIND_OWNER_OID, &is_null));
        result.owner_name = found_text(FIND_OWNER_NAME);
        result.owner_system = DatumGetInt64(spi_value(0, FIND_OWNER_SYSTEM, &is_null));
    }
    return result;
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
                errhint("Register it with whisperer.register_event_type(); whisperer.event_types lists those "
                        "there are."));
    MemoryContext internal = MemoryContextSwitchTo(caller);
    Recipients result = {(int64 *)palloc(sizeof(int64) * rows), 0, read_functions(event_type)};
    MemoryContextSwitchTo(internal);
    for (uint64 i = 0; i < rows; i++) {
        bool is_null;
        Datum id = spi_value(i, FIND_SUBSCRIPTION, &is_null);
        if (!is_null)
            result.subscriptions[result.count++] = DatumGetInt64(id);
    }
    internal_end(&sql);
    return result;
}

pg_uuid_t new_uuid() {
    constexpr int64 epoch_shift = (int64)(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
    core::Uuid made =
        core::make_uuid7(GetCurrentTimestamp() + epoch_shift, pg_prng_uint64(&pg_global_prng_state));
    pg_uuid_t result;
    static_assert(sizeof(result.data) == sizeof(made.bytes));
    memcpy(result.data, made.bytes, sizeof(made.bytes));
    return result;
}

pg_uuid_t *enqueue_events(const EventOrigin &origin, const Recipients &recipients,
                          const PayloadText *payloads, int count) {
    size_t total = (size_t)count * (size_t)recipients.count;
    pg_uuid_t *uuids = (pg_uuid_t *)palloc(sizeof(pg_uuid_t) * Max(total, (size_t)1));
    if (total == 0)
        return uuids;
    PreventCommandIfReadOnly("whisperer.deliver_event()");
    for (size_t i = 0; i < total; i++)
        uuids[i] = new_uuid();
    pg_uuid_t *events = (pg_uuid_t *)palloc(sizeof(pg_uuid_t) * (size_t)count);

    Batch batch = make_batch(total);
    MemoryContext old = MemoryContextSwitchTo(batch.memory);
    for (int i = 0; i < count; i++) {
        CHECK_FOR_INTERRUPTS();
        add_event(&batch, origin, recipients, payloads[i], &events[i],
                  uuids + (size_t)i * (size_t)recipients.count);
    }
    MemoryContextSwitchTo(old);
    flush(&batch, origin);
    MemoryContextDelete(batch.memory);

    for (int i = 0; i < count; i++)
        wake_event();
    for (int r = 0; r < recipients.count; r++)
        wake_delivery(recipients.subscriptions[r], (uint64)count);
    return uuids;
}

// At most 8 kB of what may be as long as a user's function likes.
static Datum clipped_text(const char *text) {
    return PointerGetDatum(cstring_to_text_with_len(text, pg_mbcliplen(text, (int)strlen(text), 8192)));
}

void enqueue_failed(const EventOrigin &origin, const Recipients &recipients, const char *error) {
    if (recipients.count == 0)
        return;
    PreventCommandIfReadOnly("whisperer.deliver_event()");
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
        make_array(uuids, nullptr, n, UUIDOID),        make_array(subscriptions, nullptr, n, INT8OID),
        CStringGetTextDatum(origin.event_type),        text_or_null(origin.relation_schema, &nulls[3]),
        text_or_null(origin.relation_name, &nulls[4]), clipped_text(error),
        TimestampTzGetDatum(GetCurrentTimestamp()),
    };
    internal_execute(&insert_failed, arguments, nulls);
    internal_end(&sql);

    wake_event();
    for (int i = 0; i < n; i++)
        wake_delivery(recipients.subscriptions[i], 1);
    wake_results(0, 0, (uint64)n);
}

} // namespace whisperer::pg
