// The body of a request:
//
//     {"event": {"type": "package-created", "uuid": "da81e85139824c6187dd1e58a7d3f971"}, "payload": {...}}
//
// byte for byte as jsonb prints it, without having to build a jsonb.
#pragma once

#include "core/no_postgres.hpp"
#include "core/slice.hpp"
#include "core/utf8.hpp"
#include "core/uuid7.hpp"

#include <cstddef>

namespace whisperer::core {

// Length of the body in bytes, known before it is made (the uuid's has always the same).
size_t envelope_size(Slice event_type, size_t payload_size) noexcept;

// Writes exactly envelope_size(event_type, payload.len) bytes to `out`, without a final NUL. `event_type` is
// the bare name and is escaped here as PostgreSQL's escape_json does it; `payload` is JSON text and is
// copied. Both are to be UTF-8 already. Returns the number of bytes written.
size_t write_envelope(Slice event_type, const Uuid &uuid, Slice payload, char *out) noexcept;

} // namespace whisperer::core
