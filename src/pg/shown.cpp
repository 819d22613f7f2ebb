// What the views show of columns on which nobody has privileges: all to the owner and to admins, to monitors
// only what tells nothing of others' data, NULL to everybody else, as if there were no such row. Functions
// declared costly, so that the planner computes them after a sort and a limit, for the rows shown only.
#include "pg/prelude.hpp"

#include "pg/jsonb_input.hpp"
#include "pg/own_table.hpp"
#include "pg/relation_name.hpp"
#include "pg/transcode.hpp"
#include "pg/view_functions.hpp"
#include "pg/visibility.hpp"

extern "C" {
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
}

namespace whisperer::pg {

namespace {

// One column of a subscription, copied; false when there is no such row.
bool subscription_column(const char *column, int64 id, Datum *value) {
    const char *columns[] = {"id", column};
    OwnTable table;
    own_open(&table, "subscription", columns, 2);
    HeapTuple row = own_find(table, "subscription_pkey", F_INT8EQ, Int64GetDatum(id));
    bool is_null = true;
    if (row != nullptr)
        *value = own_value(table, row, 1, &is_null);
    own_close(&table);
    return !is_null;
}

// Null when the URL cannot be taken apart, which subscribe() has ruled out.
char *origin_of_url(Datum url) {
    core::UrlParts parts;
    if (!core::split_url(datum_to_utf8(url), &parts))
        return nullptr;
    return error_text({parts.origin, strlen(parts.origin)});
}

// The same keys, each value null.
Jsonb *without_values(Jsonb *headers) {
    JsonbParseState *state = nullptr;
    JsonMembers members = json_members(&headers->root);
    JsonbValue none = {};
    none.type = jbvNull;
    pushJsonbValue(&state, WJB_BEGIN_OBJECT, nullptr);
    for (int i = 0; i < members.count; i++) {
        JsonbValue key = {};
        key.type = jbvString;
        key.val.string.val = const_cast<char *>(members.items[i].key);
        key.val.string.len = (int)strlen(members.items[i].key);
        pushJsonbValue(&state, WJB_KEY, &key);
        pushJsonbValue(&state, WJB_VALUE, &none);
    }
    return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, nullptr));
}

// ---- Deliveries

enum DeliveryColumn {
    UUID,
    SUBSCRIPTION_ID,
    EVENT_TYPE,
    BODY,
    PAYLOAD,
    EVENT_UUID,
    RESPONSE_CONTENT,
    DELIVERY_COLUMNS
};

constexpr const char *failure_columns[] = {"uuid", "subscription_id", "occurred", "error"};

constexpr const char *delivery_columns[DELIVERY_COLUMNS] = {
    "uuid", "subscription_id", "event_type", "body", "payload", "event_uuid", "response_content"};

// The row, if there is one and the caller may see all of it; the table is open then.
HeapTuple open_delivery(FunctionCallInfo fcinfo, OwnTable *table) {
    bool pending = strcmp(text_to_cstring(PG_GETARG_TEXT_PP(0)), "pending") == 0;
    own_open(table, pending ? "delivery" : "history", delivery_columns, DELIVERY_COLUMNS);
    HeapTuple row =
        own_find(*table, pending ? "delivery_pkey" : "history_pkey", F_UUID_EQ, PG_GETARG_DATUM(1));
    bool is_null;
    if (row != nullptr && sight_of_subscription(fcinfo, DatumGetInt64(own_value(*table, row, SUBSCRIPTION_ID,
                                                                                &is_null))) == Sight::full)
        return row;
    own_close(table);
    return nullptr;
}

char *shared_payload(Datum event_uuid) {
    constexpr const char *columns[] = {"uuid", "payload"};
    OwnTable table;
    own_open(&table, "event", columns, 2);
    HeapTuple row = own_find(table, "event_pkey", F_UUID_EQ, event_uuid);
    char *payload = row == nullptr ? nullptr : own_text(table, row, 1);
    own_close(&table);
    return payload;
}

} // namespace

} // namespace whisperer::pg

using namespace whisperer::pg;

// whisperer.shown_url(subscription_id)
WHISPERER_SQL_FUNCTION(whisperer_shown_url) {
    if (PG_ARGISNULL(0))
        PG_RETURN_NULL();
    Sight sight = sight_of_subscription(fcinfo, PG_GETARG_INT64(0));
    Datum url;
    if (sight == Sight::none || !subscription_column("target_url", PG_GETARG_INT64(0), &url))
        PG_RETURN_NULL();
    if (sight == Sight::full)
        PG_RETURN_DATUM(url);
    const char *origin = origin_of_url(url);
    if (origin == nullptr)
        PG_RETURN_NULL();
    PG_RETURN_TEXT_P(cstring_to_text(origin));
}

// whisperer.shown_headers(subscription_id)
WHISPERER_SQL_FUNCTION(whisperer_shown_headers) {
    if (PG_ARGISNULL(0))
        PG_RETURN_NULL();
    Sight sight = sight_of_subscription(fcinfo, PG_GETARG_INT64(0));
    Datum headers;
    if (sight == Sight::none || !subscription_column("additional_headers", PG_GETARG_INT64(0), &headers))
        PG_RETURN_NULL();
    if (sight == Sight::full)
        PG_RETURN_DATUM(headers);
    PG_RETURN_JSONB_P(without_values(DatumGetJsonbP(headers)));
}

// whisperer.shown_body(state, uuid): the whole body of the delivery's requests, as jsonb.
WHISPERER_SQL_FUNCTION(whisperer_shown_body) {
    OwnTable table;
    HeapTuple row = PG_ARGISNULL(0) || PG_ARGISNULL(1) ? nullptr : open_delivery(fcinfo, &table);
    if (row == nullptr)
        PG_RETURN_NULL();
    char *body = own_text(table, row, BODY);
    char *payload = body != nullptr ? nullptr : own_text(table, row, PAYLOAD);
    char *event_type = own_text(table, row, EVENT_TYPE);
    bool no_event;
    Datum event_uuid = own_value(table, row, EVENT_UUID, &no_event);
    own_close(&table);
    if (body == nullptr && payload == nullptr && !no_event)
        payload = shared_payload(event_uuid);
    if (body == nullptr && payload == nullptr)
        PG_RETURN_NULL();
    PG_RETURN_DATUM(request_body(event_type, PG_GETARG_UUID_P(1), body, payload));
}

// whisperer.shown_response(state, uuid): what the receiver answered last.
WHISPERER_SQL_FUNCTION(whisperer_shown_response) {
    OwnTable table;
    HeapTuple row = PG_ARGISNULL(0) || PG_ARGISNULL(1) ? nullptr : open_delivery(fcinfo, &table);
    if (row == nullptr)
        PG_RETURN_NULL();
    bool is_null;
    Datum content = own_value(table, row, RESPONSE_CONTENT, &is_null);
    own_close(&table);
    if (is_null)
        PG_RETURN_NULL();
    PG_RETURN_DATUM(content);
}

// whisperer.shown_reason(uuid): why there is no body, in the words of a function of the event type's.
WHISPERER_SQL_FUNCTION(whisperer_shown_reason) {
    constexpr const char *columns[] = {"uuid", "subscription_id", "reason"};
    if (PG_ARGISNULL(0))
        PG_RETURN_NULL();
    OwnTable table;
    own_open(&table, "history", columns, lengthof(columns));
    HeapTuple row = own_find(table, "history_pkey", F_UUID_EQ, PG_GETARG_DATUM(0));
    bool is_null = true;
    char *reason = nullptr;
    if (row != nullptr &&
        sight_of_subscription(fcinfo, DatumGetInt64(own_value(table, row, 1, &is_null))) == Sight::full)
        reason = own_text(table, row, 2);
    own_close(&table);
    if (reason == nullptr)
        PG_RETURN_NULL();
    PG_RETURN_TEXT_P(cstring_to_text(reason));
}

// whisperer.shown_failure(subscription_id, uuid, occurred): the error of a call of a function.
WHISPERER_SQL_FUNCTION(whisperer_shown_failure) {
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2) ||
        sight_of_subscription(fcinfo, PG_GETARG_INT64(0)) != Sight::full)
        PG_RETURN_NULL();
    OwnTable table;
    own_open(&table, "function_failure", failure_columns, lengthof(failure_columns));
    ScanKeyData key;
    ScanKeyInit(&key, table.columns[0], BTEqualStrategyNumber, F_UUID_EQ, PG_GETARG_DATUM(1));
    SysScanDesc scan =
        systable_beginscan(table.relation, relation_of_name("whisperer", "function_failure_by_uuid"), true,
                           own_snapshot(), 1, &key);
    char *error = nullptr;
    for (HeapTuple row; error == nullptr && HeapTupleIsValid(row = systable_getnext(scan));) {
        bool is_null;
        // The subscription was judged, so it must be this one's.
        if (DatumGetInt64(own_value(table, row, 1, &is_null)) == PG_GETARG_INT64(0) &&
            DatumGetTimestampTz(own_value(table, row, 2, &is_null)) == PG_GETARG_TIMESTAMPTZ(2))
            error = own_text(table, row, 3);
    }
    systable_endscan(scan);
    own_close(&table);
    if (error == nullptr)
        PG_RETURN_NULL();
    PG_RETURN_TEXT_P(cstring_to_text(error));
}
