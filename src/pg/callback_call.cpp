// One call of a callback: f(response jsonb, event_type text, instance jsonb, payload jsonb).
#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/internal_sql.hpp"
#include "pg/job_calls.hpp"
#include "pg/job_queue.hpp"
#include "pg/user_function.hpp"
#include "pg/view_functions.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/uuid.h"
}

namespace whisperer::pg {

namespace {

// The delivery is in one of the two tables, whichever way it is being moved. A body that a customizer made
// has the serialized row in it, unless that was kept beside it.
Statement take_statement = {
    "WITH j AS (DELETE FROM whisperer.job j WHERE " JOB_KEY_MATCHES " RETURNING j.*)"
    " SELECT s.callback, s.owner_oid, s.owner_name, s.owner_system, s.owner_dropped, d.event_type,"
    " COALESCE(COALESCE(d.payload, e.payload)::pg_catalog.jsonb, d.body::pg_catalog.jsonb -> 'payload'),"
    " COALESCE(d.payload, e.payload), d.body,"
    " j.delivered, j.status, j.headers, j.content, j.error, j.elapsed"
    " FROM j JOIN whisperer.subscription s ON s.id = j.subscription_id"
    " LEFT JOIN LATERAL (SELECT event_type, event_uuid, payload, body FROM whisperer.delivery WHERE uuid = "
    "j.uuid"
    "  UNION ALL SELECT event_type, event_uuid, payload, body FROM whisperer.history WHERE uuid = j.uuid "
    "LIMIT 1) d ON true"
    " LEFT JOIN whisperer.event e ON e.uuid = d.event_uuid",
    job_key_arguments,
    {JOB_KEY_TYPES},
    nullptr};

enum Column {
    CALLBACK = 1,
    OWNER_OID,
    OWNER_NAME,
    OWNER_SYSTEM,
    OWNER_DROPPED,
    EVENT_TYPE,
    INSTANCE,
    PAYLOAD,
    BODY,
    DELIVERED,
    STATUS,
    HEADERS,
    CONTENT,
    ERROR_TEXT,
    ELAPSED
};

// ---- The response as an object

struct Object {
    JsonbParseState *state;
};

JsonbValue string_value(core::Slice text) {
    JsonbValue value;
    value.type = jbvString;
    value.val.string.val = const_cast<char *>(text.data);
    value.val.string.len = (int)text.len;
    return value;
}

// Null where there is none.
JsonbValue string_value(const char *text) {
    JsonbValue null;
    null.type = jbvNull;
    return text == nullptr ? null : string_value(core::Slice{text, strlen(text)});
}

void put(Object *object, JsonbValue name, JsonbValue value) {
    pushJsonbValue(&object->state, WJB_KEY, &name);
    pushJsonbValue(&object->state, WJB_VALUE, &value);
}

void put(Object *object, const char *key, JsonbValue value) {
    put(object, string_value(key), value);
}

JsonbValue number_value(Datum numeric) {
    JsonbValue value;
    value.type = jbvNumeric;
    value.val.numeric = DatumGetNumeric(numeric);
    return value;
}

JsonbValue integer_value(int32 number) {
    return number_value(DirectFunctionCall1(int4_numeric, Int32GetDatum(number)));
}

void put_headers(Object *object, const char *lines) {
    JsonbValue name = string_value("headers");
    pushJsonbValue(&object->state, WJB_KEY, &name);
    pushJsonbValue(&object->state, WJB_BEGIN_OBJECT, nullptr);
    core::Slice text = {lines, lines == nullptr ? 0 : strlen(lines)};
    char *room = (char *)palloc(text.len);
    core::ResponseHeader *headers =
        (core::ResponseHeader *)palloc(sizeof(core::ResponseHeader) * core::count_header_lines(text));
    size_t count = core::parse_response_headers(text, room, headers);
    for (size_t i = 0; i < count; i++)
        put(object, string_value(headers[i].name), string_value(headers[i].value));
    pushJsonbValue(&object->state, WJB_END_OBJECT, nullptr);
}

char *text_column(int column) {
    bool is_null;
    Datum value = spi_value(0, column, &is_null);
    return is_null ? nullptr : TextDatumGetCString(value);
}

Jsonb *response_of(const JobKey &job) {
    bool is_null;
    Object object = {nullptr};
    pushJsonbValue(&object.state, WJB_BEGIN_OBJECT, nullptr);
    Datum status = spi_value(0, STATUS, &is_null);
    put(&object, "status", is_null ? string_value(nullptr) : integer_value(DatumGetInt32(status)));
    put_headers(&object, text_column(HEADERS));
    put(&object, "body", string_value(text_column(CONTENT)));
    put(&object, "error", string_value(text_column(ERROR_TEXT)));
    double elapsed = (double)DatumGetInt64(spi_value(0, ELAPSED, &is_null)) / 1000.0;
    put(&object, "elapsed_ms", number_value(DirectFunctionCall1(float8_numeric, Float8GetDatum(elapsed))));
    pg_uuid_t uuid;
    memcpy(uuid.data, job.uuid, UUID_LEN);
    put(&object, "event_uuid",
        string_value(DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&uuid)))));
    put(&object, "attempt", integer_value(job.attempt));
    JsonbValue delivered;
    delivered.type = jbvBool;
    delivered.val.boolean = DatumGetBool(spi_value(0, DELIVERED, &is_null));
    put(&object, "delivered", delivered);
    return JsonbValueToJsonb(pushJsonbValue(&object.state, WJB_END_OBJECT, nullptr));
}

Oid owner_now() {
    bool is_null;
    if (DatumGetBool(spi_value(0, OWNER_DROPPED, &is_null)))
        return InvalidOid;
    return owner_role(DatumGetObjectId(spi_value(0, OWNER_OID, &is_null)), text_column(OWNER_NAME),
                      DatumGetInt64(spi_value(0, OWNER_SYSTEM, &is_null)));
}

} // namespace

void callback_run(const JobKey &job, JobCall *call) {
    Datum key[job_key_arguments];
    job_key_datums(JobKind::callback, job, key);
    int level = queue_plans_begin();
    uint64 rows = internal_execute(&take_statement, key);
    queue_plans_end(level);
    char *name = rows == 0 ? nullptr : text_column(CALLBACK);
    if (name == nullptr)
        return;
    call->function = MemoryContextStrdup(call->memory, name);
    call->users = true;
    Oid owner = owner_now();
    if (!OidIsValid(owner))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("the role of the subscription's owner, \"%s\", is gone", text_column(OWNER_NAME)));
    NullableDatum arguments[4];
    for (int i = 0; i < 2; i++)
        arguments[i + 1].value = spi_value(0, EVENT_TYPE + i, &arguments[i + 1].isnull);
    const char *payload = text_column(PAYLOAD), *body = text_column(BODY);
    if (arguments[1].isnull || (payload == nullptr && body == nullptr))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("the delivery was pruned before its callback was called"));
    pg_uuid_t uuid;
    memcpy(uuid.data, job.uuid, UUID_LEN);
    arguments[0] = {JsonbPGetDatum(response_of(job)), false};
    arguments[3] = {request_body(text_column(EVENT_TYPE), &uuid, body, payload), false};
    call->made = true;
    bool is_null;
    (void)user_function_call({"callback", call->function, owner}, arguments, 4, &is_null);
}

} // namespace whisperer::pg
