#include "pg/prelude.hpp"

#include "pg/errors.hpp"
#include "pg/neutral_settings.hpp"
#include "pg/serialize.hpp"
#include "pg/settings.hpp"

extern "C" {
#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
}

namespace whisperer::pg {

bool serializable_type(Oid type) {
    return type == JSONBOID || type == JSONOID || type == RECORDOID || type_is_rowtype(type);
}

namespace {

// to_jsonb() asks its call expression for the argument's type, so give it one, kept for the last type used.
Datum call_to_jsonb(Datum value, Oid type) {
    static FmgrInfo function;
    static Oid prepared_for = InvalidOid;
    if (prepared_for != type) {
        prepared_for = InvalidOid;
        MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
        fmgr_info_cxt(F_TO_JSONB, &function, TopMemoryContext);
        Node *argument = (Node *)makeNullConst(type, -1, InvalidOid);
        fmgr_info_set_expr((Node *)makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(argument), InvalidOid,
                                                InvalidOid, COERCE_EXPLICIT_CALL),
                           &function);
        MemoryContextSwitchTo(old);
        prepared_for = type;
    }
    return FunctionCall1(&function, value);
}

// Whose rows they are: the owner of the table or composite type; who asks, where it is neither.
Oid owner_of_rows(Oid type) {
    HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(get_typ_typrelid(getBaseType(type))));
    if (!HeapTupleIsValid(tuple))
        return GetUserId();
    Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
    ReleaseSysCache(tuple);
    return owner;
}

// to_jsonb() calls the function of a cast to json where a column's type has one: as the table's owner, since
// a superuser's INSERT must not run it as a superuser.
Datum call_as_owner(Datum value, Oid type) {
    Oid user;
    int context;
    GetUserIdAndSecContext(&user, &context);
    SetUserIdAndSecContext(owner_of_rows(type), context | SECURITY_RESTRICTED_OPERATION);
    Datum result = call_to_jsonb(value, type);
    SetUserIdAndSecContext(user, context);
    return result;
}

// ---- Rows of nothing but built-in types whose text hardly any setting changes: nearly all rows there are.
// Nothing of a user's runs for them, so they need neither another user nor settings.

enum class Plainness { none, but_for_time_zone, full };

Plainness plainness_of_column(Oid type) {
    switch (type) {
    case BOOLOID:
    case INT2OID:
    case INT4OID:
    case INT8OID:
    case NUMERICOID:
    case TEXTOID:
    case VARCHAROID:
    case BPCHAROID:
    case CHAROID:
    case NAMEOID:
    case OIDOID:
    case UUIDOID:
    case JSONOID:
    case JSONBOID:
    case DATEOID: // JSON has ISO 8601 always
    case TIMESTAMPOID:
    case TIMEOID:
    case FLOAT4OID: // extra_float_digits is looked at for each row
    case FLOAT8OID:
    case TEXTARRAYOID:
    case INT2ARRAYOID:
    case INT4ARRAYOID:
    case INT8ARRAYOID:
    case NUMERICARRAYOID:
    case UUIDARRAYOID:
        return Plainness::full;
    case TIMESTAMPTZOID:
        return Plainness::but_for_time_zone;
    default:
        return Plainness::none;
    }
}

Plainness plainness_of_columns(const TupleDescData *columns) {
    Plainness result = Plainness::full;
    for (int i = 0; i < columns->natts; i++) {
        const FormData_pg_attribute *column = TupleDescAttr(columns, i);
        Plainness own = column->attisdropped ? Plainness::full : plainness_of_column(column->atttypid);
        result = Min(result, own);
    }
    return result;
}

// Kept for the last type, as long as its columns are the same.
Plainness plainness_of_type(Oid type) {
    static Oid last_type = InvalidOid;
    static uint64 last_columns = 0;
    static Plainness last = Plainness::none;
    const TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_TUPDESC);
    if (entry->tupDesc == nullptr)
        return Plainness::none;
    if (type != last_type || entry->tupDesc_identifier != last_columns) {
        last = plainness_of_columns(entry->tupDesc);
        last_type = type;
        last_columns = entry->tupDesc_identifier;
    }
    return last;
}

bool time_zone_is_utc() {
    const char *name = pg_get_timezone_name(session_timezone);
    return strcmp(name, "UTC") == 0 || strcmp(name, "Etc/UTC") == 0;
}

Datum serialize_row(Datum value, Oid type) {
    Plainness plainness =
        type_is_rowtype(type) && HeapTupleHeaderGetTypeId(DatumGetHeapTupleHeader(value)) == type &&
                extra_float_digits >= 1
            ? plainness_of_type(type)
            : Plainness::none;
    if (plainness == Plainness::full ||
        (plainness == Plainness::but_for_time_zone && time_zone_is_utc()))
        return call_to_jsonb(value, type);
    if (plainness == Plainness::but_for_time_zone) {
        int level = neutral_time_zone_begin();
        Datum result = call_to_jsonb(value, type);
        neutral_settings_end(level);
        return result;
    }
    int level = neutral_settings_begin();
    Datum result = call_as_owner(value, type);
    neutral_settings_end(level);
    return result;
}

const char *hint_for(const char *argument) {
    return strcmp(argument, "instance") == 0 ? "Give a row, or a JSON object such as '{\"id\": 1}'."
                                             : "Give a JSON object such as '{\"region\": \"eu\"}'.";
}

void require_object(Jsonb *value, const char *argument) {
    if (!JB_ROOT_IS_OBJECT(value))
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s must be a JSON object", argument),
                errdetail("It is %s.", JB_ROOT_IS_SCALAR(value) ? "a scalar" : "an array"),
                errhint("%s", hint_for(argument)));
}

} // namespace

Jsonb *serialize_default(Datum value, Oid type) {
    Jsonb *result;
    if (type == JSONBOID)
        result = DatumGetJsonbP(value);
    else if (type == JSONOID)
        return parse_json_object(TextDatumGetCString(value), "instance");
    else
        result = DatumGetJsonbP(serialize_row(value, type));
    require_object(result, "instance");
    return result;
}

Jsonb *parse_json_object(const char *text, const char *argument) {
    MemoryContext context = CurrentMemoryContext;
    Jsonb *volatile result = nullptr;
    PG_TRY();
    { result = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text))); }
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        ErrorData *error = CopyErrorData();
        if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION)
            PG_RE_THROW();
        FlushErrorState();
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s is not valid JSON", argument),
                errdetail_internal("%s", error->detail != nullptr ? error->detail : error->message),
                errhint("%s", hint_for(argument)));
    }
    PG_END_TRY();
    require_object(result, argument);
    return result;
}

void check_sendable_text(const char *text, int len, const char *what) {
    int encoding = GetDatabaseEncoding();
    bool good;
    if (encoding == PG_UTF8)
        return; // PostgreSQL admits no invalid text
    if (encoding == PG_SQL_ASCII)
        good = core::valid_utf8(core::Slice{text, (size_t)len});
    else {
        Oid conversion = FindDefaultConversionProc(encoding, PG_UTF8);
        if (!OidIsValid(conversion))
            ereport(ERROR, errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
                    errmsg("%s cannot be sent as UTF-8", what),
                    errdetail("There is no conversion from the database's encoding %s to UTF8.",
                              GetDatabaseEncodingName()));
        size_t room = (size_t)len * MAX_CONVERSION_GROWTH + 1;
        unsigned char *converted = (unsigned char *)MemoryContextAllocHuge(CurrentMemoryContext, room);
        int done = pg_do_encoding_conversion_buf(conversion, encoding, PG_UTF8, (unsigned char *)text, len,
                                                 converted, (int)Min(room, (size_t)INT_MAX), true);
        pfree(converted);
        good = done == len;
    }
    if (!good)
        ereport(
            ERROR, errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE), errmsg("%s cannot be sent as UTF-8", what),
            errdetail("It holds bytes that the database's encoding %s does not map to UTF-8.",
                      GetDatabaseEncodingName()),
            errhint(
                "Webhooks carry UTF-8; correct the value, or leave the column out of what is delivered."));
}

namespace {

PayloadText checked_text(Jsonb *json, const char *what) {
    StringInfoData text;
    initStringInfo(&text);
    appendStringInfoSpaces(&text, VARHDRSZ); // so that it is a text without being copied
    JsonbToCString(&text, &json->root, VARSIZE(json));
    PayloadText result = {text.data + VARHDRSZ, text.len - VARHDRSZ, PointerGetDatum(text.data), json};
    SET_VARSIZE(text.data, text.len);
    if (result.len > setting_max_payload_size)
        ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                errmsg("%s of %d bytes is larger than whisperer.max_payload_size", what, result.len),
                errdetail("At most %d bytes are delivered.", setting_max_payload_size),
                errhint("Deliver less of the row, or raise whisperer.max_payload_size."));
    check_sendable_text(result.data, result.len, what);
    return result;
}

} // namespace

PayloadText payload_text(Jsonb *payload) {
    return checked_text(payload, "payload");
}

PayloadText body_text(Jsonb *body) {
    return checked_text(body, "customized body");
}

} // namespace whisperer::pg
