// Event types.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// WH004, in the words that every function uses.
[[noreturn]] void raise_no_event_type(const char *event_type);

// These run inside internal_begin()/internal_end().

// Is it registered? If so it stays until this transaction ends: unregister_event_type() waits.
bool event_type_hold(const char *event_type);

struct EventTypeFields {
    const char *serializer; // as stored; each may be null
    const char *customizer;
    const char *description;
};

// Registers it for `owner`, or raises WH006.
void event_type_register(const char *event_type, Oid owner, const EventTypeFields &fields);

} // namespace whisperer::pg
