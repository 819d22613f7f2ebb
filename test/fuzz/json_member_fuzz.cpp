// Whatever the text: no crash, and a string that is found is UTF-8; a document made of it is read back the
// same.
#include "core/json_member.hpp"
#include "core/utf8.hpp"

#include <cstdint>
#include <cstdlib>

using namespace whisperer::core;

namespace {

void require(bool condition) {
    if (!condition)
        abort();
}

std::string quoted(const std::string &text) {
    std::string result = "\"";
    for (char c : text) {
        auto byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\')
            result.append("\\").push_back(c);
        else if (byte < 0x20) {
            constexpr char hex[] = "0123456789abcdef";
            result.append("\\u00");
            result.push_back(hex[byte >> 4]);
            result.push_back(hex[byte & 15]);
        } else
            result.push_back(c);
    }
    return result.append("\"");
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Slice document = {reinterpret_cast<const char *>(data), size};
    std::string value;
    if (find_json_string(document, "key", &value) == JsonFound::string) {
        require(valid_utf8(slice(value)) && value.size() <= size);
        std::string again;
        std::string made = "{\"key\":" + quoted(value) + "}";
        require(find_json_string(slice(made), "key", &again) == JsonFound::string && again == value);
    } else
        require(value.empty());
    return 0;
}
