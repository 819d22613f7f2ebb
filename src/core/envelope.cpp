#include "core/envelope.hpp"

#include <cstdint>
#include <cstring>

namespace whisperer::core {

namespace {

constexpr std::string_view before_type = R"({"event": {"type": ")";
constexpr std::string_view before_uuid = R"(", "uuid": ")";
constexpr std::string_view before_payload = R"("}, "payload": )";
constexpr std::string_view end = "}";

// The letter of a short escape, 0 if the byte has none.
char short_escape(char byte) {
    switch (byte) {
    case '\b':
        return 'b';
    case '\f':
        return 'f';
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    case '"':
        return '"';
    case '\\':
        return '\\';
    default:
        return 0;
    }
}

bool is_control(char byte) {
    return static_cast<uint8_t>(byte) < 0x20;
}

size_t escaped_size(std::string_view text) {
    size_t size = 0;
    for (char byte : text)
        size += short_escape(byte) != 0 ? 2 : is_control(byte) ? 6 : 1;
    return size;
}

char *append(char *out, std::string_view text) {
    if (!text.empty())
        memcpy(out, text.data(), text.size());
    return out + text.size();
}

char *append_escaped(char *out, std::string_view text) {
    for (char byte : text) {
        if (char letter = short_escape(byte); letter != 0) {
            *out++ = '\\';
            *out++ = letter;
        } else if (is_control(byte)) {
            constexpr char digits[] = "0123456789abcdef";
            out = append(out, "\\u00");
            *out++ = digits[static_cast<uint8_t>(byte) >> 4];
            *out++ = digits[static_cast<uint8_t>(byte) & 15];
        } else {
            *out++ = byte;
        }
    }
    return out;
}

} // namespace

size_t envelope_size(Slice event_type, size_t payload_size) noexcept {
    return before_type.size() + escaped_size(event_type.view()) + before_uuid.size() + (uuid_hex_size - 1) +
           before_payload.size() + payload_size + end.size();
}

size_t write_envelope(Slice event_type, const Uuid &uuid, Slice payload, char *out) noexcept {
    char hex[uuid_hex_size];
    format_uuid_hex(uuid, hex);
    char *p = append(out, before_type);
    p = append_escaped(p, event_type.view());
    p = append(p, before_uuid);
    p = append(p, hex);
    p = append(p, before_payload);
    p = append(p, payload.view());
    p = append(p, end);
    return static_cast<size_t>(p - out);
}

} // namespace whisperer::core
