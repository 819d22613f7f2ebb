// The functions of an event type: its serializer makes the payload of an instance, its customizer the body of
// a delivery. Both run as the type's owner, in the caller's transaction (user_function.hpp).
#pragma once

#include "pg/prelude.hpp"
#include "pg/serialize.hpp"

extern "C" {
#include "utils/uuid.h"
}

namespace whisperer::pg {

struct EventFunctions {
    const char *event_type;
    const char *serializer; // both as stored; null: none
    const char *customizer;
    Oid owner_oid; // as stored; the role is looked for only when a function is to be called
    const char *owner_name;
    int64 owner_system;
};

// The payload of an instance, a row or jsonb or json (serializable_type), by the serializer or, where there
// is none, the default serialization. A serializer of jsonb gets what the default gives; one of a row type
// gets a row of that type, or of a table that inherits from it (a partition), in its form. 42804 for an
// instance of another type, with both names; 22023 when the result is NULL or no object; 55000 when the owner
// is gone.
Jsonb *serialize_instance(const EventFunctions &functions, Datum value, Oid type);

// The payload's text.
PayloadText payload_of_instance(const EventFunctions &functions, Datum value, Oid type);

// Whether serialize_instance() needs rows in the row type of one table, such as this one, or takes any row as
// it is.
bool serializer_takes_rows(const EventFunctions &functions, Oid row);

// A row in the form of another table of the same inheritance tree, whose columns it has.
Datum convert_row(Datum row, Oid from, Oid to);

// The body of one delivery, by the customizer, which there must be; it gets the usual body. 22023 when the
// result is NULL or no object; size and encoding are checked as those of payloads.
PayloadText customize_body(const EventFunctions &functions, const pg_uuid_t *delivery,
                           const PayloadText &payload);

} // namespace whisperer::pg
