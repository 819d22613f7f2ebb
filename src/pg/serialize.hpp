// From a row or a JSON value to the payload's text. Runs as the caller, since a type's output function or
// cast is user code.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "utils/jsonb.h"
}

namespace whisperer::pg {

// Is a value of this type something deliver_event takes: a composite, a record, jsonb or json?
bool serializable_type(Oid type);

// The default serialization, to_jsonb(value), independent of the session's settings: UTC, ISO 8601 intervals,
// hex bytea, shortest exact floats. 22023 unless the result is an object.
Jsonb *serialize_default(Datum value, Oid type);

// Parses text that must be a JSON object (22023 otherwise); `argument` names it in the error.
Jsonb *parse_json_object(const char *text, const char *argument);

// The payload as it will be sent, as jsonb prints it, in the database's encoding. Checked against
// whisperer.max_payload_size (54000, program limit) and that it can be made UTF-8 (22021). palloc'ed.
struct PayloadText {
    char *data; // terminated; of `value`
    int len;
    Datum value; // as text
    Jsonb *json; // the same; null after row_payload_text()
};
PayloadText payload_text(Jsonb *payload);

// The same as payload_text(serialize_default(row, type)).
PayloadText row_payload_text(Datum row, Oid type);

// The same for a whole body, as a customizer made it.
PayloadText body_text(Jsonb *body);

// 22021 unless the text (of the database's encoding) can be sent as UTF-8; `what` names it in the error.
// Returns how many bytes it has then.
size_t check_sendable_text(const char *text, int len, const char *what);

} // namespace whisperer::pg
