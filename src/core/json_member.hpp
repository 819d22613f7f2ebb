// One member of a JSON object, for the one place where the core reads JSON: a token server's answer.
#pragma once

#include "core/no_postgres.hpp"
#include "core/slice.hpp"

#include <cstdint>

#include <string>

namespace whisperer::core {

enum class JsonFound : uint8_t {
    string,    // the member is there and a string
    other,     // it is there and something else
    absent,    // an object without it
    no_object, // a JSON value, but no object
    malformed  // not JSON (RFC 8259), not UTF-8, or nested more than 64 deep
};

// The string member `key` of the object that `document` is. The whole document is checked; of equal keys the
// last counts. `value` is set only for `string`, as UTF-8 with escapes resolved. Throws std::bad_alloc.
JsonFound find_json_string(Slice document, std::string_view key, std::string *value);

} // namespace whisperer::core
