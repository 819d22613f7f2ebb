#include "pg/prelude.hpp"

#include "pg/jsonb_input.hpp"

extern "C" {
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
}

#include <math.h>

namespace whisperer::pg {

namespace {

// Enough to recognize what was given.
constexpr int excerpt_bytes = 80;

} // namespace

bool json_is_object(Jsonb *document) {
    return JB_ROOT_IS_OBJECT(document);
}

bool json_is_object(const JsonbValue &value) {
    return value.type == jbvBinary && JsonContainerIsObject(value.val.binary.data);
}

bool json_is_array(const JsonbValue &value) {
    return value.type == jbvBinary && JsonContainerIsArray(value.val.binary.data);
}

JsonMembers json_members(JsonbContainer *object) {
    JsonMembers members = {(JsonMember *)palloc(sizeof(JsonMember) * (JsonContainerSize(object) + 1)), 0};
    JsonbIterator *iterator = JsonbIteratorInit(object);
    JsonbValue value;
    JsonbIteratorToken token;
    while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE) {
        if (token == WJB_KEY)
            members.items[members.count].key = json_string(value);
        else if (token == WJB_VALUE)
            members.items[members.count++].value = value;
    }
    return members;
}

JsonbValue *json_elements(JsonbContainer *array, int *count) {
    JsonbValue *elements = (JsonbValue *)palloc(sizeof(JsonbValue) * (JsonContainerSize(array) + 1));
    *count = 0;
    JsonbIterator *iterator = JsonbIteratorInit(array);
    JsonbValue value;
    JsonbIteratorToken token;
    while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
        if (token == WJB_ELEM)
            elements[(*count)++] = value;
    return elements;
}

const JsonMember *json_find(const JsonMembers &members, const char *key) {
    for (int i = 0; i < members.count; i++)
        if (strcmp(members.items[i].key, key) == 0)
            return &members.items[i];
    return nullptr;
}

char *json_string(const JsonbValue &value) {
    return pnstrdup(value.val.string.val, value.val.string.len);
}

double json_number(const JsonbValue &value, bool *whole) {
    *whole = strchr(numeric_normalize(value.val.numeric), '.') == nullptr;
    return DatumGetFloat8(
        DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(value.val.numeric)));
}

bool json_integer(const JsonbValue &value, int low, int high, int *result) {
    if (value.type != jbvNumeric)
        return false;
    bool whole;
    double number = json_number(value, &whole);
    if (!whole || !(number >= low && number <= high))
        return false;
    *result = (int)number;
    return true;
}

const char *json_kind(const JsonbValue &value) {
    switch (value.type) {
    case jbvNull:
        return "null";
    case jbvString:
        return "a string";
    case jbvNumeric:
        return "a number";
    case jbvBool:
        return "true or false";
    default:
        return json_is_object(value) ? "an object" : "an array";
    }
}

const char *json_kind(Jsonb *document) {
    if (JB_ROOT_IS_OBJECT(document))
        return "an object";
    if (!JB_ROOT_IS_SCALAR(document))
        return "an array";
    int count;
    return json_kind(json_elements(&document->root, &count)[0]);
}

Jsonb *json_document(const JsonbValue &value) {
    JsonbValue copy = value;
    return JsonbValueToJsonb(&copy);
}

char *json_excerpt(Jsonb *document) {
    char *text = JsonbToCString(nullptr, &document->root, (int)VARSIZE(document));
    int len = (int)strlen(text);
    if (len <= excerpt_bytes)
        return text;
    len = pg_mbcliplen(text, len, excerpt_bytes);
    text[len] = '\0';
    return psprintf("%s...", text);
}

static void say_field(void *field) {
    errcontext("%s", (const char *)field);
}

core::Slice utf8_slice(const char *text, const char *field) {
    ErrorContextCallback where = {error_context_stack, say_field, (void *)field};
    if (field != nullptr)
        error_context_stack = &where;
    const char *utf8 = pg_server_to_any(text, (int)strlen(text), PG_UTF8);
    error_context_stack = where.previous;
    return {utf8, strlen(utf8)};
}

} // namespace whisperer::pg
