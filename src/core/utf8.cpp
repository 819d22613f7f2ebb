#include "core/utf8.hpp"

#include <cstdint>
#include <cstring>

namespace whisperer::core {

namespace {

bool continuation(uint8_t byte) {
    return (byte & 0xC0) == 0x80;
}

// Length of the valid character at p, 0 if there is none.
size_t character_size(const uint8_t *p, size_t left) {
    uint8_t first = p[0];
    if (first < 0x80)
        return 1;
    if (first >= 0xC2 && first <= 0xDF)
        return left >= 2 && continuation(p[1]) ? 2 : 0;
    if (first >= 0xE0 && first <= 0xEF) {
        // The second byte's range excludes overlong forms (E0) and surrogates (ED).
        uint8_t low = first == 0xE0 ? 0xA0 : 0x80;
        uint8_t high = first == 0xED ? 0x9F : 0xBF;
        return left >= 3 && p[1] >= low && p[1] <= high && continuation(p[2]) ? 3 : 0;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        // The same for overlong forms (F0) and what lies above U+10FFFF (F4).
        uint8_t low = first == 0xF0 ? 0x90 : 0x80;
        uint8_t high = first == 0xF4 ? 0x8F : 0xBF;
        return left >= 4 && p[1] >= low && p[1] <= high && continuation(p[2]) && continuation(p[3]) ? 4 : 0;
    }
    return 0;
}

} // namespace

bool valid_utf8(Slice text) noexcept {
    const auto *p = reinterpret_cast<const uint8_t *>(text.data);
    size_t left = text.len;
    while (left > 0) {
        // Bodies are mostly ASCII: eight bytes at a time.
        while (left >= sizeof(uint64_t)) {
            uint64_t word;
            memcpy(&word, p, sizeof(word));
            if ((word & UINT64_C(0x8080808080808080)) != 0)
                break;
            p += sizeof(word);
            left -= sizeof(word);
        }
        if (left == 0)
            break;
        size_t size = character_size(p, left);
        if (size == 0)
            return false;
        p += size;
        left -= size;
    }
    return true;
}

size_t utf8_cut(std::string_view text, size_t limit) noexcept {
    if (text.size() <= limit)
        return text.size();
    size_t cut = limit;
    // No character has more than three continuation bytes; more of them are no UTF-8, and cut where they are.
    for (int back = 0; back < 3 && cut > 0 && continuation(static_cast<uint8_t>(text[cut])); back++)
        cut--;
    return continuation(static_cast<uint8_t>(text[cut])) ? limit : cut;
}

size_t utf8_whole(std::string_view text) noexcept {
    for (size_t back = 1; back <= 3 && back <= text.size(); back++) {
        auto byte = static_cast<uint8_t>(text[text.size() - back]);
        if (continuation(byte))
            continue;
        size_t size = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
        return size > back ? text.size() - back : text.size();
    }
    return text.size();
}

bool has_control_character(std::string_view text) noexcept {
    for (size_t i = 0; i < text.size(); i++) {
        auto byte = static_cast<uint8_t>(text[i]);
        if (byte < 0x20 || byte == 0x7F)
            return true;
        if (byte == 0xC2 && i + 1 < text.size()) { // U+0080 to U+009F
            auto second = static_cast<uint8_t>(text[i + 1]);
            if (second >= 0x80 && second <= 0x9F)
                return true;
        }
        if (byte == 0xE2 && i + 2 < text.size()) {
            auto second = static_cast<uint8_t>(text[i + 1]);
            auto third = static_cast<uint8_t>(text[i + 2]);
            // U+2028 and U+2029 end a line; U+202A to U+202E and U+2066 to U+2069 turn the direction of what
            // follows, so that it reads as something else.
            if ((second == 0x80 && third >= 0xA8 && third <= 0xAE) ||
                (second == 0x81 && third >= 0xA6 && third <= 0xA9))
                return true;
        }
    }
    return false;
}

} // namespace whisperer::core
