// Shared by the fuzzers: what must hold, and how bytes become values.
#pragma once

#include "core/field_error.hpp"
#include "core/slice.hpp"
#include "core/utf8.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

namespace whisperer::core::fuzz {

// In every build, and with the line in the report.
#define require(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);                   \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

// Takes values off the front of the fuzzer's bytes; zeros when there are no more.
class Input {
  public:
    Input(const uint8_t *data, size_t size) : rest_(reinterpret_cast<const char *>(data), size) {}

    uint8_t byte() {
        if (rest_.empty())
            return 0;
        auto value = static_cast<uint8_t>(rest_.front());
        rest_.remove_prefix(1);
        return value;
    }

    template <typename Number> Number number() {
        Number value{};
        memcpy(&value, rest_.data(), rest_.size() < sizeof value ? rest_.size() : sizeof value);
        rest_.remove_prefix(rest_.size() < sizeof value ? rest_.size() : sizeof value);
        return value;
    }

    // Up to the next 0xFF, which is in no UTF-8, or to the end.
    std::string_view text() {
        const size_t end = rest_.find('\xFF');
        const std::string_view found = rest_.substr(0, end);
        rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 1);
        return found;
    }

    bool empty() const { return rest_.empty(); }
    std::string_view rest() const { return rest_; }

  private:
    std::string_view rest_;
};

// What goes to a client and to the log: text, one line, something said.
inline void require_readable(const FieldError &error) {
    for (std::string_view text : {std::string_view(error.field), std::string_view(error.message)})
        require(!text.empty());
    for (std::string_view text :
         {std::string_view(error.field), std::string_view(error.message), std::string_view(error.hint)})
        require(valid_utf8(slice(text)) && !has_control_character(text));
}

} // namespace whisperer::core::fuzz
