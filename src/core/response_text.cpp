#include "core/response_text.hpp"

#include "core/utf8.hpp"

namespace whisperer::core {

namespace {

bool is_plain(char c) noexcept {
    return static_cast<unsigned char>(c) < 0x80 && (c >= ' ' || c == '\n' || c == '\r' || c == '\t');
}

} // namespace

bool is_storable(Slice bytes) noexcept {
    return bytes.view().find('\0') == std::string_view::npos && valid_utf8(bytes);
}

size_t escaped_size(Slice bytes) noexcept {
    size_t size = 0;
    for (char c : bytes.view())
        size += c == '\\' ? 2 : is_plain(c) ? 1 : 4;
    return size;
}

void write_escaped(Slice bytes, char *out) noexcept {
    constexpr char digits[] = "0123456789abcdef";
    for (char c : bytes.view()) {
        if (is_plain(c)) {
            if (c == '\\')
                *out++ = '\\';
            *out++ = c;
            continue;
        }
        *out++ = '\\';
        *out++ = 'x';
        *out++ = digits[static_cast<unsigned char>(c) >> 4];
        *out++ = digits[static_cast<unsigned char>(c) & 15];
    }
}

} // namespace whisperer::core
