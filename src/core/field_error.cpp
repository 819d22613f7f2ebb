#include "core/field_error.hpp"

#include "core/utf8.hpp"

#include <cstdint>
#include <cstdio>
#include <cstring>

namespace whisperer::core {

namespace {

template <size_t size> void copy(char (&to)[size], std::string_view from) {
    size_t len = utf8_cut(from, size - 1);
    if (len > 0)
        memcpy(to, from.data(), len);
    to[len] = '\0';
}

bool is_not_ascii(char byte) {
    return static_cast<uint8_t>(byte) >= 0x80;
}
bool is_continuation(char byte) {
    return (static_cast<uint8_t>(byte) & 0xC0) == 0x80;
}

} // namespace

void set_field_error(FieldError *error, std::string_view field, std::string_view message,
                     std::string_view hint) noexcept {
    if (error == nullptr)
        return;
    copy(error->field, field);
    copy(error->message, message);
    copy(error->hint, hint);
}

FixedText &FixedText::add(std::string_view text) noexcept {
    size_t len = utf8_cut(text, sizeof(buffer_) - 1 - len_);
    if (len > 0)
        memcpy(buffer_ + len_, text.data(), len);
    len_ += len;
    buffer_[len_] = '\0';
    return *this;
}

FixedText &FixedText::quote(std::string_view text, size_t max_bytes) noexcept {
    bool valid = valid_utf8({text.data(), text.size()});
    size_t shown = valid ? utf8_cut(text, max_bytes) : text.size() < max_bytes ? text.size() : max_bytes;
    add("\"");
    for (size_t i = 0; i < shown;) {
        // Character by character, so that escapes and whole characters alike are added completely or not at
        // all.
        size_t size = 1;
        while (valid && i + size < shown && is_continuation(text[i + size]))
            size++;
        std::string_view character = text.substr(i, size);
        if (has_control_character(character) || (!valid && is_not_ascii(character[0]))) {
            FixedText escaped;
            for (char byte : character)
                escaped.add_escape(byte);
            add_whole(escaped.view());
        } else {
            add_whole(character);
        }
        i += size;
    }
    return add(shown < text.size() ? "...\"" : "\"");
}

void FixedText::add_escape(char byte) noexcept {
    char escaped[5];
    snprintf(escaped, sizeof(escaped), "\\x%02x", static_cast<unsigned>(static_cast<uint8_t>(byte)));
    add(escaped);
}

void FixedText::add_whole(std::string_view text) noexcept {
    if (text.size() < sizeof(buffer_) - len_)
        add(text);
}

FixedText &FixedText::number(double value) noexcept {
    char digits[40];
    snprintf(digits, sizeof(digits), "%.15g", value);
    return add(digits);
}

} // namespace whisperer::core
