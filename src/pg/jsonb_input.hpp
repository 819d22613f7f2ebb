// Reading what users give as jsonb. Everything returned is palloc'ed in the current memory context and in the
// database's encoding, unless a name says utf8.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "utils/jsonb.h"
}

namespace whisperer::pg {

// One member of an object. A nested array or object is a jbvBinary value, valid as long as the document is.
struct JsonMember {
    const char *key; // terminated
    JsonbValue value;
};

struct JsonMembers {
    JsonMember *items;
    int count;
};

// Is the document an object?
bool json_is_object(Jsonb *document);

// Is the value an object, an array?
bool json_is_object(const JsonbValue &value);
bool json_is_array(const JsonbValue &value);

// The members of an object, in the order of jsonb (by length of key, then bytes).
JsonMembers json_members(JsonbContainer *object);

// The elements of an array.
JsonbValue *json_elements(JsonbContainer *array, int *count);

// Null if there is none of that name.
const JsonMember *json_find(const JsonMembers &members, const char *key);

// The value of a JSON string, terminated. Only for jbvString.
char *json_string(const JsonbValue &value);

// A number as double: infinity when no double can hold it. *whole: it has no fractional part. Only for
// jbvNumeric.
double json_number(const JsonbValue &value, bool *whole);

// False unless the value is a whole number between low and high.
bool json_integer(const JsonbValue &value, int low, int high, int *result);

// What a value is, for messages: "a string", "a number", "true or false", "null", "an array", "an object".
const char *json_kind(const JsonbValue &value);
const char *json_kind(Jsonb *document);

// The value as a document of its own.
Jsonb *json_document(const JsonbValue &value);

// The document's text, cut to what fits a message. Not for documents that may hold secrets.
char *json_excerpt(Jsonb *document);

// Text as UTF-8, for the core. 22021 when it cannot be made so, with the field, if given, as its context.
core::Slice utf8_slice(const char *text, const char *field = nullptr);

} // namespace whisperer::pg
