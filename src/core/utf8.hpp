// UTF-8 as RFC 3629 defines it.
#pragma once

#include "core/no_postgres.hpp"
#include "core/slice.hpp"

#include <cstddef>
#include <string_view>

namespace whisperer::core {

// No overlong forms, no surrogates (U+D800 to U+DFFF), nothing above U+10FFFF. U+0000 counts as valid.
bool valid_utf8(Slice text) noexcept;

// The largest length <= limit that does not cut a character of valid UTF-8 in two. For other bytes: some
// length <= limit.
size_t utf8_cut(std::string_view text, size_t limit) noexcept;

// The length of valid UTF-8 that was cut somewhere, without the part of a character at its end.
size_t utf8_whole(std::string_view text) noexcept;

// A control character (below U+0020, U+007F to U+009F), a line or paragraph separator (U+2028, U+2029) or an
// explicit change of direction (U+202A to U+202E, U+2066 to U+2069): nothing of that belongs in a URL or in a
// header. `text` is UTF-8.
bool has_control_character(std::string_view text) noexcept;

} // namespace whisperer::core
