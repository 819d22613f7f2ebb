// A view of bytes that somebody else owns.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace whisperer::core {

// Plain data on purpose: the PostgreSQL shell passes slices through frames which an ERROR may leave by
// longjmp, where nothing with a destructor may live. Valid as long as its owner says.
struct Slice {
    const char *data;
    size_t len;

    std::string_view view() const noexcept { return {data == nullptr ? "" : data, len}; }
    bool empty() const noexcept { return len == 0; }
};

inline Slice slice(std::string_view s) noexcept {
    return {s.data(), s.size()};
}

} // namespace whisperer::core
