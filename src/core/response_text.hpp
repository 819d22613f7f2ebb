// What a receiver sent, as text that a table can hold: as it is, or with its bytes escaped.
#pragma once

#include "core/no_postgres.hpp"
#include "core/slice.hpp"

#include <cstddef>

namespace whisperer::core {

// Valid UTF-8 without NUL.
bool is_storable(Slice bytes) noexcept;

// Every byte but those of printable ASCII, tab and line ends as \xHH, and \ as \\: nothing is lost. The size,
// and the writing of that many bytes.
size_t escaped_size(Slice bytes) noexcept;
void write_escaped(Slice bytes, char *out) noexcept;

} // namespace whisperer::core
