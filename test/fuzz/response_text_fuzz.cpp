// Whatever a receiver sent as a body: what is stored as it is can be stored, and what is escaped too, and can
// be read back to the byte.
#include "core/response_text.hpp"
#include "fuzz.hpp"

#include <memory>

using namespace whisperer::core;

namespace {

std::string read_back(std::string_view text) {
    std::string bytes;
    for (size_t i = 0; i < text.size(); i++) {
        if (text[i] != '\\') {
            bytes.push_back(text[i]);
            continue;
        }
        require(++i < text.size());
        if (text[i] == '\\') {
            bytes.push_back('\\');
            continue;
        }
        require(text[i] == 'x' && i + 2 < text.size());
        unsigned value = 0;
        for (int digit = 0; digit < 2; digit++) {
            const char c = text[++i];
            require((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'));
            value = value << 4 | static_cast<unsigned>(c <= '9' ? c - '0' : c - 'a' + 10);
        }
        require(value < 0x20 || value >= 0x80); // what can be shown is
        bytes.push_back(static_cast<char>(value));
    }
    return bytes;
}

// By PostgreSQL's rule and RFC 3629's table, byte after byte.
bool may_be_stored(const uint8_t *data, size_t size) {
    for (size_t i = 0; i < size;) {
        const uint8_t first = data[i];
        const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC2 ? 2 : 1;
        if (first == 0 || first > 0xF4 || (first >= 0x80 && first < 0xC2) || size - i < length)
            return false;
        for (size_t j = 1; j < length; j++) {
            const uint8_t low = j > 1 ? 0x80 : first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
            const uint8_t high = j > 1 ? 0xBF : first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
            if (data[i + j] < low || data[i + j] > high)
                return false;
        }
        i += length;
    }
    return true;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const Slice bytes{reinterpret_cast<const char *>(data), size};
    require(is_storable(bytes) == may_be_stored(data, size));
    // Cut at the limit, it is text if the whole was.
    if (is_storable(bytes))
        for (size_t cut = 0; cut <= size && cut < 64; cut++)
            require(is_storable({bytes.data, utf8_whole({bytes.data, cut})}));
    const size_t room = escaped_size(bytes);
    const std::unique_ptr<char[]> text(new char[room]);
    write_escaped(bytes, text.get());
    require(is_storable({text.get(), room}));
    require(read_back({text.get(), room}) == bytes.view());
    return 0;
}
