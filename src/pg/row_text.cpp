#include "pg/prelude.hpp"

#include "pg/row_text.hpp"

extern "C" {
#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/typcache.h"
}

namespace whisperer::pg {

namespace {

void append_string(StringInfo text, const char *value, int len) {
    for (int i = 0; i < len; i++) {
        unsigned char c = (unsigned char)value[i];
        if (c < ' ' || c == '"' || c == '\\') {
            char *terminated = pnstrdup(value, (Size)len);
            escape_json(text, terminated);
            pfree(terminated);
            return;
        }
    }
    enlargeStringInfo(text, len + 2);
    appendStringInfoCharMacro(text, '"');
    appendBinaryStringInfo(text, value, len);
    appendStringInfoCharMacro(text, '"');
}

void append_text(StringInfo text, Datum value) {
    struct varlena *detoasted = PG_DETOAST_DATUM_PACKED(value);
    append_string(text, VARDATA_ANY(detoasted), (int)VARSIZE_ANY_EXHDR(detoasted));
    if ((Pointer)detoasted != DatumGetPointer(value))
        pfree(detoasted);
}

void append_integer(StringInfo text, int64 value) {
    enlargeStringInfo(text, MAXINT8LEN + 1);
    text->len += pg_lltoa(value, text->data + text->len);
}

// What has no digits only, such as NaN, is a string.
void append_numeric_text(StringInfo text, const char *digits) {
    if (strpbrk(digits, "Nn") != nullptr)
        append_string(text, digits, (int)strlen(digits));
    else
        appendStringInfoString(text, digits);
}

void append_numeric(StringInfo text, Datum value) {
    append_numeric_text(text, DatumGetCString(DirectFunctionCall1(numeric_out, value)));
}

// By way of numeric, as in jsonb: 1e20 is 100000000000000000000 there.
void append_float(StringInfo text, Datum value, PGFunction output) {
    const char *digits = DatumGetCString(DirectFunctionCall1(output, value));
    if (strpbrk(digits, "Nne") == nullptr)
        appendStringInfoString(text, strcmp(digits, "-0") == 0 ? "0" : digits);
    else if (strpbrk(digits, "Nn") != nullptr)
        append_numeric_text(text, digits);
    else
        append_numeric(text, DirectFunctionCall3(numeric_in, CStringGetDatum(digits),
                                                 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

void append_time(StringInfo text, Datum value, Oid type) {
    int utc = 0;
    enlargeStringInfo(text, MAXDATELEN + 3);
    char *at = text->data + text->len;
    *at = '"';
    JsonEncodeDateTime(at + 1, value, type, type == TIMESTAMPTZOID ? &utc : nullptr);
    text->len += (int)strlen(at);
    appendStringInfoCharMacro(text, '"');
}

void append_uuid(StringInfo text, Datum value) {
    const char *digits = DatumGetCString(DirectFunctionCall1(uuid_out, value));
    append_string(text, digits, (int)strlen(digits));
}

void append_jsonb(StringInfo text, Datum value) {
    Jsonb *json = DatumGetJsonbP(value);
    (void)JsonbToCString(text, &json->root, VARSIZE(json));
}

enum class Known {
    no,
    directly,
    by_jsonb, // the value alone; no setting changes it either
};

Known known_type(Oid type) {
    switch (type) {
    case BOOLOID:
    case INT2OID:
    case INT4OID:
    case INT8OID:
    case NUMERICOID:
    case FLOAT4OID:
    case FLOAT8OID:
    case TEXTOID:
    case VARCHAROID:
    case BPCHAROID:
    case NAMEOID:
    case UUIDOID:
    case JSONBOID:
    case DATEOID:
    case TIMESTAMPOID:
    case TIMESTAMPTZOID:
        return Known::directly;
    case CHAROID:
    case OIDOID:
    case TIMEOID:
    case JSONOID:
    case BOOLARRAYOID:
    case INT2ARRAYOID:
    case INT4ARRAYOID:
    case INT8ARRAYOID:
    case NUMERICARRAYOID:
    case TEXTARRAYOID:
    case VARCHARARRAYOID:
    case UUIDARRAYOID:
    case JSONBARRAYOID:
    case DATEARRAYOID:
    case TIMESTAMPARRAYOID:
        return Known::by_jsonb;
    default:
        return Known::no;
    }
}

void append_value(StringInfo text, Datum value, Oid type) {
    switch (type) {
    case BOOLOID:
        return appendStringInfoString(text, DatumGetBool(value) ? "true" : "false");
    case INT2OID:
        return append_integer(text, DatumGetInt16(value));
    case INT4OID:
        return append_integer(text, DatumGetInt32(value));
    case INT8OID:
        return append_integer(text, DatumGetInt64(value));
    case NUMERICOID:
        return append_numeric(text, value);
    case FLOAT4OID:
        return append_float(text, value, float4out);
    case FLOAT8OID:
        return append_float(text, value, float8out);
    case NAMEOID:
        return append_string(text, NameStr(*DatumGetName(value)), (int)strlen(NameStr(*DatumGetName(value))));
    case UUIDOID:
        return append_uuid(text, value);
    case JSONBOID:
        return append_jsonb(text, value);
    case DATEOID:
    case TIMESTAMPOID:
    case TIMESTAMPTZOID:
        return append_time(text, value, type);
    default:
        return append_text(text, value);
    }
}

// ---- The columns of a type, in the order in which jsonb has keys: by length, then by bytes

struct Column {
    int number; // from 0
    Oid type;
    const char *name;
    const char *key;    // as printed
    FmgrInfo *to_jsonb; // null: the value is printed directly
};

struct Plan {
    Oid type;
    uint64 columns_identifier; // of what the type was when this was made
    bool usable;
    bool has_floats;
    TupleDesc attributes;
    int count;
    Column *columns;
    Datum *values; // of all attributes, to be filled
    bool *nulls;
};

Plan plan; // of the last type
MemoryContext plan_memory = nullptr;

int compare_names(const void *a, const void *b) {
    const char *one = ((const Column *)a)->name;
    const char *other = ((const Column *)b)->name;
    size_t len = strlen(one);
    size_t other_len = strlen(other);
    if (len != other_len)
        return len < other_len ? -1 : 1;
    return memcmp(one, other, len);
}

const char *key_text(const char *name) {
    StringInfoData key;
    initStringInfo(&key);
    escape_json(&key, name);
    appendStringInfoString(&key, ": ");
    return key.data;
}

// to_jsonb() asks its call expression for the argument's type.
FmgrInfo *to_jsonb_of(Oid type) {
    FmgrInfo *function = (FmgrInfo *)palloc(sizeof(FmgrInfo));
    fmgr_info_cxt(F_TO_JSONB, function, plan_memory);
    Node *argument = (Node *)makeNullConst(type, -1, InvalidOid);
    fmgr_info_set_expr((Node *)makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(argument), InvalidOid,
                                            InvalidOid, COERCE_EXPLICIT_CALL),
                       function);
    return function;
}

// What is wanted of the entry is taken first: PostgreSQL empties it whenever a message about the table
// arrives, of an ANALYZE say, and the look-ups below may let one in.
void make_plan(const TypeCacheEntry *entry) {
    uint64 identifier = entry->tupDesc_identifier;
    if (plan_memory == nullptr)
        plan_memory = AllocSetContextCreate(CacheMemoryContext, "whisperer row text", ALLOCSET_SMALL_SIZES);
    plan.type = InvalidOid; // in case of an ERROR
    MemoryContextReset(plan_memory);
    MemoryContext old = MemoryContextSwitchTo(plan_memory);
    TupleDesc attributes = CreateTupleDescCopyConstr(entry->tupDesc);
    plan.attributes = attributes;
    size_t room = (size_t)Max(attributes->natts, 1);
    plan.columns = (Column *)palloc(sizeof(Column) * room);
    plan.values = (Datum *)palloc(sizeof(Datum) * room);
    plan.nulls = (bool *)palloc(sizeof(bool) * room);
    plan.count = 0;
    plan.usable = true;
    plan.has_floats = false;
    for (int i = 0; i < attributes->natts; i++) {
        const FormData_pg_attribute *attribute = TupleDescAttr(attributes, i);
        if (attribute->attisdropped)
            continue;
        Known known = known_type(attribute->atttypid);
        plan.usable = plan.usable && known != Known::no;
        plan.has_floats =
            plan.has_floats || attribute->atttypid == FLOAT4OID || attribute->atttypid == FLOAT8OID;
        const char *name = pstrdup(NameStr(attribute->attname));
        plan.columns[plan.count++] = {i, attribute->atttypid, name, key_text(name),
                                      known == Known::by_jsonb ? to_jsonb_of(attribute->atttypid) : nullptr};
    }
    qsort(plan.columns, (size_t)plan.count, sizeof(Column), compare_names);
    MemoryContextSwitchTo(old);
    plan.columns_identifier = identifier;
    plan.type = entry->type_id;
}

} // namespace

bool append_row_text(StringInfo text, Datum row, Oid type) {
    HeapTupleHeader header = DatumGetHeapTupleHeader(row);
    if (HeapTupleHeaderGetTypeId(header) != type) // a row of an anonymous type
        return false;
    const TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_TUPDESC);
    if (entry->tupDesc == nullptr)
        return false;
    if (plan.type != type || plan.columns_identifier != entry->tupDesc_identifier)
        make_plan(entry);
    if (!plan.usable || (plan.has_floats && extra_float_digits < 1))
        return false;
    HeapTupleData tuple;
    tuple.t_len = HeapTupleHeaderGetDatumLength(header);
    ItemPointerSetInvalid(&tuple.t_self);
    tuple.t_tableOid = InvalidOid;
    tuple.t_data = header;
    heap_deform_tuple(&tuple, plan.attributes, plan.values, plan.nulls);

    appendStringInfoChar(text, '{');
    for (int i = 0; i < plan.count; i++) {
        const Column &column = plan.columns[i];
        if (i > 0)
            appendStringInfoString(text, ", ");
        appendStringInfoString(text, column.key);
        if (plan.nulls[column.number])
            appendStringInfoString(text, "null");
        else if (column.to_jsonb != nullptr)
            append_jsonb(text, FunctionCall1(column.to_jsonb, plan.values[column.number]));
        else
            append_value(text, plan.values[column.number], column.type);
    }
    appendStringInfoChar(text, '}');
    return true;
}

} // namespace whisperer::pg
