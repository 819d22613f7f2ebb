// The header lines of a response as fields, for a callback.
#pragma once

#include "core/no_postgres.hpp"
#include "core/slice.hpp"

#include <cstddef>

namespace whisperer::core {

struct ResponseHeader {
    Slice name; // ASCII letters in lower case; no two are the same
    Slice value;
};

// At least as many as there are fields in the lines.
size_t count_header_lines(Slice lines) noexcept;

// Lines "Name: value", ended by LF or CRLF; what is none is left out, and so are blanks around name and
// value. A line that begins with a blank goes on with the value before it (RFC 9112, section 5.2); a stray CR
// is a blank (2.2). A field that is repeated becomes one, joined by a comma as HTTP has it (RFC 9110,
// section 5.3). Fields come in the order in which they first appeared. Their text is written to `room`, which
// takes lines.len bytes. How many there are.
size_t parse_response_headers(Slice lines, char *room, ResponseHeader *headers) noexcept;

} // namespace whisperer::core
