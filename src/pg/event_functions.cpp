#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/event_functions.hpp"
#include "pg/user_function.hpp"

extern "C" {
#include "access/htup_details.h"
#include "access/tupconvert.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"
}

namespace whisperer::pg {

namespace {

Oid owner_of(const EventFunctions &functions) {
    Oid owner = owner_role(functions.owner_oid, functions.owner_name, functions.owner_system);
    if (!OidIsValid(owner))
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("the owner of event type \"%s\" does not exist", functions.event_type),
                errdetail("Serializer and customizer run as the owner, role \"%s\".", functions.owner_name),
                errhint("Give it to another role with whisperer.reassign(), or remove the functions with "
                        "whisperer.update_event_type()."));
    return owner;
}

// What the value is, whatever the query took it for: a variable of type record may well hold a row of a
// table.
Oid actual_type(Datum value, Oid type) {
    if (type == JSONBOID || type == JSONOID)
        return type;
    type = getBaseType(type);
    return type == RECORDOID ? HeapTupleHeaderGetTypeId(DatumGetHeapTupleHeader(value)) : type;
}

// For an instance of this type.
UserFunction serializer_of(const EventFunctions &functions, Oid given) {
    bool is_row = given != JSONBOID && given != JSONOID && given != RECORDOID;
    return {"serializer", functions.serializer, owner_of(functions), is_row ? given : InvalidOid};
}

Datum fitting_row(const UserFunction &serializer, Oid wanted, Datum value, Oid given) {
    if (given == wanted)
        return value;
    if (given != RECORDOID && type_is_rowtype(given) && typeInheritsFrom(given, wanted))
        return convert_row(value, given, wanted);
    ereport(ERROR, errcode(ERRCODE_DATATYPE_MISMATCH),
            errmsg("serializer: function %s takes %s, not %s", serializer.name,
                   format_type_be_qualified(wanted), format_type_be_qualified(given)),
            errhint("Deliver a row of that type, or let the serializer take jsonb."));
}

Jsonb *require_result_object(const UserFunction &function, Jsonb *result) {
    if (result == nullptr || !JB_ROOT_IS_OBJECT(result))
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("%s: function %s must return a JSON object", function.what, function.name),
                errdetail("It returned %s.", result == nullptr           ? "NULL"
                                             : JB_ROOT_IS_SCALAR(result) ? "a scalar"
                                                                         : "an array"));
    return result;
}

// ---- The body as a customizer gets it

JsonbValue string_value(const char *text, int len) {
    JsonbValue value;
    value.type = jbvString;
    value.val.string.val = (char *)text;
    value.val.string.len = len;
    return value;
}

void push_key(JsonbParseState **state, const char *key) {
    JsonbValue value = string_value(key, (int)strlen(key));
    (void)pushJsonbValue(state, WJB_KEY, &value);
}

void push_text(JsonbParseState **state, const char *key, const char *text, int len) {
    push_key(state, key);
    JsonbValue value = string_value(text, len);
    (void)pushJsonbValue(state, WJB_VALUE, &value);
}

// The same as core::write_envelope() makes of the payload.
Jsonb *usual_body(const char *event_type, const pg_uuid_t *delivery, Jsonb *payload) {
    char digits[2 * UUID_LEN + 1];
    for (int i = 0; i < UUID_LEN; i++)
        snprintf(digits + 2 * i, 3, "%02x", delivery->data[i]);
    JsonbParseState *state = nullptr;
    (void)pushJsonbValue(&state, WJB_BEGIN_OBJECT, nullptr);
    push_key(&state, "event");
    (void)pushJsonbValue(&state, WJB_BEGIN_OBJECT, nullptr);
    push_text(&state, "type", event_type, (int)strlen(event_type));
    push_text(&state, "uuid", digits, 2 * UUID_LEN);
    (void)pushJsonbValue(&state, WJB_END_OBJECT, nullptr);
    push_key(&state, "payload");
    JsonbValue value;
    value.type = jbvBinary;
    value.val.binary.data = &payload->root;
    value.val.binary.len = (int)VARSIZE(payload) - VARHDRSZ;
    (void)pushJsonbValue(&state, WJB_VALUE, &value);
    return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, nullptr));
}

} // namespace

bool serializer_takes_rows(const EventFunctions &functions, Oid row) {
    return functions.serializer != nullptr &&
           user_function_types(serializer_of(functions, row)).first_argument != JSONBOID;
}

Jsonb *serialize_instance(const EventFunctions &functions, Datum value, Oid type) {
    if (functions.serializer == nullptr)
        return serialize_default(value, type);
    Oid given = actual_type(value, type);
    UserFunction serializer = serializer_of(functions, given);
    Oid wanted = user_function_types(serializer).first_argument;
    NullableDatum argument = {(Datum)0, false};
    argument.value = wanted == JSONBOID ? JsonbPGetDatum(serialize_default(value, type))
                                        : fitting_row(serializer, wanted, value, given);
    return require_result_object(serializer, user_function_call_jsonb(serializer, &argument, 1));
}

PayloadText payload_of_instance(const EventFunctions &functions, Datum value, Oid type) {
    bool plain = functions.serializer == nullptr && functions.customizer == nullptr;
    return plain && type != JSONBOID && type != JSONOID
               ? row_payload_text(value, type)
               : payload_text(serialize_instance(functions, value, type));
}

Datum convert_row(Datum row, Oid from, Oid to) {
    HeapTupleHeader header = DatumGetHeapTupleHeader(row);
    TupleDesc from_columns = lookup_rowtype_tupdesc(from, -1);
    TupleDesc to_columns = lookup_rowtype_tupdesc(to, -1);
    HeapTupleData tuple;
    tuple.t_len = HeapTupleHeaderGetDatumLength(header);
    ItemPointerSetInvalid(&tuple.t_self);
    tuple.t_tableOid = InvalidOid;
    tuple.t_data = header;
    TupleConversionMap *map = convert_tuples_by_name(from_columns, to_columns);
    HeapTuple converted = map == nullptr ? &tuple : execute_attr_map_tuple(&tuple, map);
    Datum result = heap_copy_tuple_as_datum(converted, to_columns);
    ReleaseTupleDesc(from_columns);
    ReleaseTupleDesc(to_columns);
    return result;
}

PayloadText customize_body(const EventFunctions &functions, const pg_uuid_t *delivery,
                           const PayloadText &payload) {
    UserFunction customizer = {"customizer", functions.customizer, owner_of(functions)};
    Jsonb *body = usual_body(functions.event_type, delivery, payload.json);
    return body_text(require_result_object(customizer, user_function_call_jsonb(customizer, body)));
}

} // namespace whisperer::pg
