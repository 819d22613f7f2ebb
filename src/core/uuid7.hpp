// UUID version 7 (RFC 9562, section 5.7): time first, which is kind to indexes.
//
// Not monotone between processes nor after a clock step: an id, never a cursor or an order.
#pragma once

#include "core/no_postgres.hpp"
#include "core/slice.hpp"

#include <cstddef>
#include <cstdint>

namespace whisperer::core {

struct Uuid {
    uint8_t bytes[16]; // network order, as PostgreSQL's pg_uuid_t
};

inline bool operator==(const Uuid &a, const Uuid &b) noexcept {
    return __builtin_memcmp(a.bytes, b.bytes, sizeof(a.bytes)) == 0;
}
inline bool operator!=(const Uuid &a, const Uuid &b) noexcept {
    return !(a == b);
}
inline bool operator<(const Uuid &a, const Uuid &b) noexcept {
    return __builtin_memcmp(a.bytes, b.bytes, sizeof(a.bytes)) < 0;
}

// `unix_microseconds`: wall clock; its part below a millisecond goes into rand_a (method 3 of section 6.2),
// the two bits that microseconds cannot fill come from `random` like the 62 bits of rand_b. `random`: 64
// unpredictable bits, new ones each time.
Uuid make_uuid7(int64_t unix_microseconds, uint64_t random) noexcept;

// Texts with their final NUL.
constexpr size_t uuid_text_size = 37; // with dashes
constexpr size_t uuid_hex_size = 33;  // 32 digits

void format_uuid(const Uuid &uuid, char (&out)[uuid_text_size]) noexcept;
void format_uuid_hex(const Uuid &uuid, char (&out)[uuid_hex_size]) noexcept;

// Either of these two forms, in either letter case; nothing else. Any version.
bool parse_uuid(Slice text, Uuid *uuid) noexcept;

} // namespace whisperer::core
