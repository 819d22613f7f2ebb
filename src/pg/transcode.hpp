// Between the database's encoding and UTF-8.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// A text of the database as UTF-8: the same memory where nothing is to be converted, else palloc'ed. ERROR
// when it cannot be converted, which deliver_event has ruled out for what it stored.
core::Slice to_utf8(const char *text, int len);

// The same for a text datum; the value is detoasted.
core::Slice datum_to_utf8(Datum text);

// What a receiver answered, as text of the database's encoding: as it is where it is valid UTF-8 that the
// encoding can hold, else with every other byte escaped as \xHH (and \ as \\) behind a line that says so.
// `truncated` adds a line that says so. palloc'ed.
char *response_text(core::Slice bytes, bool truncated);

// Header lines "Name: value" in the same way, each for itself: one that is not text spoils no other. What
// says that bytes were escaped is before the value. palloc'ed.
char *headers_text(core::Slice lines);

// One line for an operator from the core (UTF-8), made harmless in the same way.
char *error_text(core::Slice bytes);

} // namespace whisperer::pg
