// Header fields that a subscription adds to its requests (RFC 9110, section 5).
#pragma once

#include "core/field_error.hpp"
#include "core/no_postgres.hpp"
#include "core/slice.hpp"

#include <cstddef>

namespace whisperer::core {

constexpr size_t max_headers_size = 8192; // names and values together

struct Header {
    Slice name;
    Slice value;
};

// token of RFC 9110, section 5.6.2
bool is_token(Slice text) noexcept;

// Is it a name that only whisperer or HTTP itself may set? Letter case does not matter.
bool is_reserved_header(Slice name) noexcept;

// The name is a token and not reserved; the value has no control character (a tab is one). An empty value is
// accepted: the sender has to see to it that it is sent (libcurl wants "Name;" for that). The error never
// shows the value.
bool check_header(Slice name, Slice value, FieldError *error) noexcept;

// Each of them, and: names distinct but for case, names and values together at most max_headers_size bytes.
bool check_headers(const Header *headers, size_t count, FieldError *error) noexcept;

} // namespace whisperer::core
