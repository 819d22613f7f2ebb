#include "pg/prelude.hpp"

#include "pg/errors.hpp"
#include "pg/neutral_settings.hpp"
#include "pg/row_text.hpp"
#include "pg/serialize.hpp"
#include "pg/settings.hpp"

extern "C" {
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "pgtime.h"
#include "utils/builtins.h"
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
    static MemoryContext memory = nullptr;
    if (prepared_for != type) {
        prepared_for = InvalidOid;
        if (memory == nullptr)
            memory = AllocSetContextCreate(CacheMemoryContext, "whisperer to_jsonb", ALLOCSET_SMALL_SIZES);
        MemoryContextReset(memory);
        MemoryContext old = MemoryContextSwitchTo(memory);
        fmgr_info_cxt(F_TO_JSONB, &function, memory);
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
    else {
        int level = neutral_settings_begin();
        result = DatumGetJsonbP(call_as_owner(value, type));
        neutral_settings_end(level);
    }
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

size_t check_sendable_text(const char *text, int len, const char *what) {
    int encoding = GetDatabaseEncoding();
    size_t size = (size_t)len;
    bool good;
    if (encoding == PG_UTF8)
        return size; // PostgreSQL admits no invalid text
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
        good = done == len;
        size = good ? strlen((const char *)converted) : 0;
        pfree(converted);
    }
    if (!good)
        ereport(
            ERROR, errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE), errmsg("%s cannot be sent as UTF-8", what),
            errdetail("It holds bytes that the database's encoding %s does not map to UTF-8.",
                      GetDatabaseEncodingName()),
            errhint(
                "Webhooks carry UTF-8; correct the value, or leave the column out of what is delivered."));
    return size;
}

namespace {

// So that it is a text without being copied.
StringInfoData begin_text() {
    StringInfoData text;
    initStringInfo(&text);
    appendStringInfoSpaces(&text, VARHDRSZ);
    return text;
}

// The size is that of what is sent.
void check_size(size_t size, const char *what) {
    if (size > (size_t)setting_max_payload_size)
        ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                errmsg("%s of %zu bytes is larger than whisperer.max_payload_size", what, size),
                errdetail("At most %d bytes are delivered.", setting_max_payload_size),
                errhint("Deliver less of the row, or raise whisperer.max_payload_size."));
}

PayloadText checked_text(StringInfoData text, Jsonb *json, const char *what) {
    PayloadText result = {text.data + VARHDRSZ, text.len - VARHDRSZ, PointerGetDatum(text.data), json};
    SET_VARSIZE(text.data, text.len);
    // Before much is converted: no encoding's text becomes half as long in UTF-8.
    if (result.len / 2 > setting_max_payload_size)
        check_size((size_t)result.len, what);
    check_size(check_sendable_text(result.data, result.len, what), what);
    return result;
}

PayloadText text_of(Jsonb *json, const char *what) {
    StringInfoData text = begin_text();
    JsonbToCString(&text, &json->root, VARSIZE(json));
    return checked_text(text, json, what);
}

} // namespace

PayloadText payload_text(Jsonb *payload) {
    return text_of(payload, "payload");
}

PayloadText row_payload_text(Datum row, Oid type) {
    StringInfoData text = begin_text();
    if (append_row_text(&text, row, type))
        return checked_text(text, nullptr, "payload");
    return payload_text(serialize_default(row, type));
}

PayloadText body_text(Jsonb *body) {
    return text_of(body, "customized body");
}

} // namespace whisperer::pg
