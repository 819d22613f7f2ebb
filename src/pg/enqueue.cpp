#include "pg/prelude.hpp"

#include "pg/enqueue.hpp"
#include "pg/errors.hpp"
#include "pg/table_writer.hpp"
#include "pg/wake.hpp"
#include "pg/wall_clock.hpp"

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

// Bodies that a customizer made are written when there are so many of them, or so many bytes.
constexpr size_t bodies_at_once = 1000;
constexpr size_t body_bytes_at_once = 4 * 1024 * 1024;

// ---- Rows

enum EventColumn { EVENT_UUID, EVENT_PAYLOAD, EVENT_COLUMNS };
TableWriter events = {"event", EVENT_COLUMNS, {"uuid", "payload"}, nullptr};

enum DeliveryColumn {
    DELIVERY_UUID,
    DELIVERY_SUBSCRIPTION,
    DELIVERY_EVENT,
    DELIVERY_PAYLOAD,
    DELIVERY_BODY,
    DELIVERY_XID,
    DELIVERY_TYPE,
    DELIVERY_SCHEMA,
    DELIVERY_RELATION,
    DELIVERY_ATTEMPTS,
    DELIVERY_REQUESTS,
    DELIVERY_CREATED,
    DELIVERY_MODIFIED,
    DELIVERY_COLUMNS
};
TableWriter deliveries = {"delivery",
                          DELIVERY_COLUMNS,
                          {"uuid", "subscription_id", "event_uuid", "payload", "body", "xid", "event_type",
                           "relation_schema", "relation_name", "attempts", "request_datetimes",
                           "created_date", "modified_date"},
                          nullptr};

enum FailedColumn {
    FAILED_UUID,
    FAILED_SUBSCRIPTION,
    FAILED_STATE,
    FAILED_ATTEMPTS,
    FAILED_TYPE,
    FAILED_SCHEMA,
    FAILED_RELATION,
    FAILED_ERROR,
    FAILED_REASON,
    FAILED_REQUESTS,
    FAILED_CREATED,
    FAILED_MODIFIED,
    FAILED_COLUMNS
};
TableWriter failed_deliveries = {"history",
                                 FAILED_COLUMNS,
                                 {"uuid", "subscription_id", "state", "attempts", "event_type",
                                  "relation_schema", "relation_name", "error", "reason", "request_datetimes",
                                  "created_date", "modified_date"},
                                 nullptr};

void set_text(Datum *value, bool *is_null, const char *text) {
    *is_null = text == nullptr;
    *value = text == nullptr ? (Datum)0 : CStringGetTextDatum(text);
}

Datum no_requests() {
    return PointerGetDatum(construct_empty_array(TIMESTAMPTZOID));
}

// What is enqueued by one call. Deliveries are numbered event by event, recipient by recipient.
struct Enqueued {
    const EventOrigin &origin;
    const Recipients &recipients;
    const PayloadText *payloads;
    size_t deliveries;
    pg_uuid_t *uuids;
    pg_uuid_t *events; // of those that have a row of their own
    // Of the deliveries from `first` to before `end`, where there is a customizer.
    Datum *bodies;
    size_t first;
    size_t end;
};

// Unless its payload goes into the only delivery's row.
bool has_own_row(const Enqueued &all, size_t event) {
    return all.recipients.count > 1 || all.payloads[event].len > inline_payload_limit;
}

size_t event_of(const Enqueued &all, size_t delivery) {
    return delivery / (size_t)all.recipients.count;
}

// Events go with the first of their deliveries.
void write_events(const Enqueued &all) {
    size_t recipients = (size_t)all.recipients.count;
    bool begun = false;
    for (size_t i = (all.first + recipients - 1) / recipients; i * recipients < all.end; i++) {
        if (!has_own_row(all, i))
            continue;
        if (!begun)
            writer_begin(&events);
        begun = true;
        all.events[i] = new_uuid();
        Datum values[EVENT_COLUMNS] = {UUIDPGetDatum(&all.events[i]), all.payloads[i].value};
        bool nulls[EVENT_COLUMNS] = {};
        writer_put(&events, values, nulls);
    }
    if (begun)
        writer_end(&events);
}

void write_deliveries(const Enqueued &all) {
    Datum values[DELIVERY_COLUMNS];
    bool nulls[DELIVERY_COLUMNS] = {};
    values[DELIVERY_XID] = FullTransactionIdGetDatum(GetTopFullTransactionId());
    values[DELIVERY_TYPE] = CStringGetTextDatum(all.origin.event_type);
    set_text(&values[DELIVERY_SCHEMA], &nulls[DELIVERY_SCHEMA], all.origin.relation_schema);
    set_text(&values[DELIVERY_RELATION], &nulls[DELIVERY_RELATION], all.origin.relation_name);
    values[DELIVERY_ATTEMPTS] = Int32GetDatum(0);
    values[DELIVERY_REQUESTS] = no_requests();
    values[DELIVERY_CREATED] = values[DELIVERY_MODIFIED] = TimestampTzGetDatum(GetCurrentTimestamp());
    nulls[DELIVERY_BODY] = all.bodies == nullptr;
    writer_begin(&deliveries);
    for (size_t k = all.first; k < all.end; k++) {
        size_t event = event_of(all, k);
        bool own_row = has_own_row(all, event);
        values[DELIVERY_UUID] = UUIDPGetDatum(&all.uuids[k]);
        values[DELIVERY_SUBSCRIPTION] =
            Int64GetDatum(all.recipients.subscriptions[k % (size_t)all.recipients.count]);
        nulls[DELIVERY_EVENT] = !own_row;
        values[DELIVERY_EVENT] = UUIDPGetDatum(&all.events[event]);
        nulls[DELIVERY_PAYLOAD] = own_row;
        values[DELIVERY_PAYLOAD] = all.payloads[event].value;
        values[DELIVERY_BODY] = all.bodies == nullptr ? (Datum)0 : all.bodies[k - all.first];
        writer_put(&deliveries, values, nulls);
    }
    writer_end(&deliveries);
}

// Bodies for the next deliveries, in the current memory context. They are made before anything is written,
// because the customizer may do anything, raise events itself, say.
void make_bodies(Enqueued *all) {
    size_t bytes = 0;
    for (all->end = all->first; all->end < all->deliveries; all->end++) {
        if (all->end - all->first == bodies_at_once || bytes >= body_bytes_at_once)
            break;
        CHECK_FOR_INTERRUPTS();
        PayloadText body = customize_body(all->recipients.functions, &all->uuids[all->end],
                                          all->payloads[event_of(*all, all->end)]);
        all->bodies[all->end - all->first] = body.value;
        bytes += (size_t)body.len;
    }
}

void write_with_bodies(Enqueued *all) {
    all->bodies = (Datum *)palloc(sizeof(Datum) * Min(all->deliveries, bodies_at_once));
    MemoryContext memory =
        AllocSetContextCreate(CurrentMemoryContext, "whisperer bodies", ALLOCSET_DEFAULT_SIZES);
    MemoryContext old = MemoryContextSwitchTo(memory);
    for (all->first = 0; all->first < all->deliveries; all->first = all->end) {
        make_bodies(all);
        write_events(*all);
        write_deliveries(*all);
        MemoryContextReset(memory);
    }
    MemoryContextSwitchTo(old);
    MemoryContextDelete(memory);
    pfree(all->bodies);
}

} // namespace

pg_uuid_t new_uuid() {
    core::Uuid made = core::make_uuid7(wall_clock(), pg_prng_uint64(&pg_global_prng_state));
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
    require_writable("whisperer.deliver_event()");
    for (size_t i = 0; i < total; i++)
        uuids[i] = new_uuid();
    pg_uuid_t *event_uuids = (pg_uuid_t *)palloc(sizeof(pg_uuid_t) * (size_t)count);
    Enqueued all = {origin, recipients, payloads, total, uuids, event_uuids, nullptr, 0, total};
    if (recipients.functions.customizer != nullptr)
        write_with_bodies(&all);
    else {
        write_events(all);
        write_deliveries(all);
    }
    pfree(event_uuids);

    wake_events((uint64)count);
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
    require_writable("whisperer.deliver_event()");
    Datum values[FAILED_COLUMNS];
    bool nulls[FAILED_COLUMNS] = {};
    values[FAILED_STATE] = CStringGetTextDatum("failed");
    values[FAILED_ATTEMPTS] = Int32GetDatum(0);
    values[FAILED_TYPE] = CStringGetTextDatum(origin.event_type);
    set_text(&values[FAILED_SCHEMA], &nulls[FAILED_SCHEMA], origin.relation_schema);
    set_text(&values[FAILED_RELATION], &nulls[FAILED_RELATION], origin.relation_name);
    values[FAILED_ERROR] = CStringGetTextDatum("the body could not be made");
    values[FAILED_REASON] = clipped_text(error);
    values[FAILED_REQUESTS] = no_requests();
    values[FAILED_CREATED] = values[FAILED_MODIFIED] = TimestampTzGetDatum(GetCurrentTimestamp());
    writer_begin(&failed_deliveries);
    for (int i = 0; i < recipients.count; i++) {
        pg_uuid_t uuid = new_uuid();
        values[FAILED_UUID] = UUIDPGetDatum(&uuid);
        values[FAILED_SUBSCRIPTION] = Int64GetDatum(recipients.subscriptions[i]);
        writer_put(&failed_deliveries, values, nulls);
    }
    writer_end(&failed_deliveries);

    wake_events(1);
    for (int i = 0; i < recipients.count; i++)
        wake_delivery(recipients.subscriptions[i], 1);
    wake_results(0, 0, (uint64)recipients.count);
}

} // namespace whisperer::pg
