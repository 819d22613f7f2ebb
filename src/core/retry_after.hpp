// The Retry-After header field (RFC 9110, section 10.2.3).
#pragma once

#include "core/no_postgres.hpp"
#include "core/slice.hpp"

#include <cstdint>

namespace whisperer::core {

constexpr int max_retry_after_seconds = 24 * 60 * 60;

// The field's value, delay-seconds or HTTP-date (IMF-fixdate, or one of the two obsolete forms a recipient
// has to accept), as seconds from `now` (Unix time, seconds): 1 ... one day. -1: zero, in the past, or not
// understood, to be ignored.
int parse_retry_after(Slice value, int64_t now) noexcept;

} // namespace whisperer::core
