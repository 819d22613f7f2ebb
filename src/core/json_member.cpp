#include "core/json_member.hpp"

#include "core/utf8.hpp"

#include <cstdint>

namespace whisperer::core {

namespace {

constexpr int max_depth = 64;

class Reader {
  public:
    explicit Reader(std::string_view text) : rest_(text) {}

    JsonFound document(std::string_view key, std::string *value);

  private:
    void skip_space();
    bool take(char c);
    bool word(std::string_view expected);
    bool digits();
    bool number();
    bool hex4(uint32_t *unit);
    bool escape(std::string *out);
    bool string(std::string *out); // null: only checked
    bool value(int depth);
    bool array(int depth);
    // At the outermost level `key` is looked for, with the answer in *found; else it is null.
    bool object(int depth, const std::string_view *key, std::string *out, JsonFound *found);

    std::string_view rest_;
};

void Reader::skip_space() {
    size_t n = rest_.find_first_not_of(" \t\n\r");
    rest_.remove_prefix(n == std::string_view::npos ? rest_.size() : n);
}

bool Reader::take(char c) {
    if (rest_.empty() || rest_.front() != c)
        return false;
    rest_.remove_prefix(1);
    return true;
}

bool Reader::word(std::string_view expected) {
    if (rest_.substr(0, expected.size()) != expected)
        return false;
    rest_.remove_prefix(expected.size());
    return true;
}

bool Reader::digits() {
    size_t n = 0;
    while (n < rest_.size() && rest_[n] >= '0' && rest_[n] <= '9')
        n++;
    rest_.remove_prefix(n);
    return n > 0;
}

bool Reader::number() {
    (void)take('-');
    if (!take('0') && !digits())
        return false;
    if (take('.') && !digits())
        return false;
    if (take('e') || take('E')) {
        (void)(take('+') || take('-'));
        return digits();
    }
    return true;
}

bool Reader::hex4(uint32_t *unit) {
    if (rest_.size() < 4)
        return false;
    *unit = 0;
    for (char c : rest_.substr(0, 4)) {
        uint32_t digit;
        if (c >= '0' && c <= '9')
            digit = static_cast<uint32_t>(c - '0');
        else if (c >= 'a' && c <= 'f')
            digit = static_cast<uint32_t>(c - 'a') + 10;
        else if (c >= 'A' && c <= 'F')
            digit = static_cast<uint32_t>(c - 'A') + 10;
        else
            return false;
        *unit = *unit * 16 + digit;
    }
    rest_.remove_prefix(4);
    return true;
}

void append_utf8(uint32_t code, std::string *out) {
    auto byte = [out](uint32_t bits) { out->push_back(static_cast<char>(bits)); };
    if (code < 0x80)
        byte(code);
    else if (code < 0x800) {
        byte(0xC0 | (code >> 6));
        byte(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        byte(0xE0 | (code >> 12));
        byte(0x80 | ((code >> 6) & 0x3F));
        byte(0x80 | (code & 0x3F));
    } else {
        byte(0xF0 | (code >> 18));
        byte(0x80 | ((code >> 12) & 0x3F));
        byte(0x80 | ((code >> 6) & 0x3F));
        byte(0x80 | (code & 0x3F));
    }
}

// After the backslash. A half of a surrogate pair alone is no character.
bool Reader::escape(std::string *out) {
    if (rest_.empty())
        return false;
    char c = rest_.front();
    rest_.remove_prefix(1);
    constexpr std::string_view names = "\"\\/bfnrt";
    constexpr std::string_view meant = "\"\\/\b\f\n\r\t";
    if (size_t i = names.find(c); i != std::string_view::npos) {
        if (out != nullptr)
            out->push_back(meant[i]);
        return true;
    }
    uint32_t code;
    if (c != 'u' || !hex4(&code) || (code >= 0xDC00 && code <= 0xDFFF))
        return false;
    if (code >= 0xD800 && code <= 0xDBFF) {
        uint32_t low;
        if (!word("\\u") || !hex4(&low) || low < 0xDC00 || low > 0xDFFF)
            return false;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    if (out != nullptr)
        append_utf8(code, out);
    return true;
}

bool Reader::string(std::string *out) {
    if (!take('"'))
        return false;
    while (!rest_.empty()) {
        char c = rest_.front();
        if (static_cast<unsigned char>(c) < 0x20)
            return false;
        rest_.remove_prefix(1);
        if (c == '"')
            return true;
        if (c == '\\') {
            if (!escape(out))
                return false;
        } else if (out != nullptr)
            out->push_back(c);
    }
    return false;
}

bool Reader::array(int depth) {
    skip_space();
    if (take(']'))
        return true;
    do {
        if (!value(depth))
            return false;
        skip_space();
    } while (take(','));
    return take(']');
}

bool Reader::object(int depth, const std::string_view *key, std::string *out, JsonFound *found) {
    std::string name;
    skip_space();
    if (take('}'))
        return true;
    do {
        skip_space();
        name.clear();
        if (!string(key == nullptr ? nullptr : &name))
            return false;
        skip_space();
        if (!take(':'))
            return false;
        skip_space();
        bool wanted = key != nullptr && name == *key;
        if (wanted && !rest_.empty() && rest_.front() == '"') {
            out->clear();
            *found = JsonFound::string;
            if (!string(out))
                return false;
        } else {
            if (wanted)
                *found = JsonFound::other;
            if (!value(depth))
                return false;
        }
        skip_space();
    } while (take(','));
    return take('}');
}

bool Reader::value(int depth) {
    skip_space();
    if (rest_.empty() || depth >= max_depth)
        return false;
    switch (rest_.front()) {
    case '{':
        return take('{') && object(depth + 1, nullptr, nullptr, nullptr);
    case '[':
        return take('[') && array(depth + 1);
    case '"':
        return string(nullptr);
    case 't':
        return word("true");
    case 'f':
        return word("false");
    case 'n':
        return word("null");
    default:
        return number();
    }
}

JsonFound Reader::document(std::string_view key, std::string *out) {
    JsonFound found = JsonFound::no_object;
    skip_space();
    bool good;
    if (take('{')) {
        found = JsonFound::absent;
        good = object(1, &key, out, &found);
    } else
        good = value(0);
    skip_space();
    return good && rest_.empty() ? found : JsonFound::malformed;
}

} // namespace

JsonFound find_json_string(Slice document, std::string_view key, std::string *value) {
    if (!valid_utf8(document))
        return JsonFound::malformed;
    std::string found;
    JsonFound result = Reader(document.view()).document(key, &found);
    if (result == JsonFound::string)
        *value = std::move(found);
    return result;
}

} // namespace whisperer::core
