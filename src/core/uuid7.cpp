#include "core/uuid7.hpp"

namespace whisperer::core {

namespace {

constexpr char digits[] = "0123456789abcdef";

int digit_value(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

// Is there a dash before byte i in the form with dashes?
bool dash_before(size_t i) {
    return i == 4 || i == 6 || i == 8 || i == 10;
}

} // namespace

Uuid make_uuid7(int64_t unix_microseconds, uint64_t random) noexcept {
    uint64_t micros = unix_microseconds < 0 ? 0 : static_cast<uint64_t>(unix_microseconds);
    uint64_t millis = micros / 1000;
    // 1000 microseconds spread over 4000 of the 4096 values of rand_a; two random bits fill the gaps between
    // them.
    uint64_t rand_a = (micros % 1000) * 4 + (random >> 62);
    uint64_t high = (millis << 16) | UINT64_C(0x7000) | rand_a;
    uint64_t low = (UINT64_C(2) << 62) | (random & ((UINT64_C(1) << 62) - 1));
    Uuid uuid;
    for (int i = 0; i < 8; i++) {
        uuid.bytes[i] = static_cast<uint8_t>(high >> (56 - 8 * i));
        uuid.bytes[8 + i] = static_cast<uint8_t>(low >> (56 - 8 * i));
    }
    return uuid;
}

void format_uuid(const Uuid &uuid, char (&out)[uuid_text_size]) noexcept {
    char *p = out;
    for (size_t i = 0; i < sizeof(uuid.bytes); i++) {
        if (dash_before(i))
            *p++ = '-';
        *p++ = digits[uuid.bytes[i] >> 4];
        *p++ = digits[uuid.bytes[i] & 15];
    }
    *p = '\0';
}

void format_uuid_hex(const Uuid &uuid, char (&out)[uuid_hex_size]) noexcept {
    char *p = out;
    for (uint8_t byte : uuid.bytes) {
        *p++ = digits[byte >> 4];
        *p++ = digits[byte & 15];
    }
    *p = '\0';
}

bool parse_uuid(Slice text, Uuid *uuid) noexcept {
    bool dashed = text.len == uuid_text_size - 1;
    if (!dashed && text.len != uuid_hex_size - 1)
        return false;
    const char *p = text.data;
    Uuid parsed;
    for (size_t i = 0; i < sizeof(parsed.bytes); i++) {
        if (dashed && dash_before(i) && *p++ != '-')
            return false;
        int high = digit_value(*p++);
        int low = digit_value(*p++);
        if (high < 0 || low < 0)
            return false;
        parsed.bytes[i] = static_cast<uint8_t>(high * 16 + low);
    }
    *uuid = parsed;
    return true;
}

} // namespace whisperer::core
