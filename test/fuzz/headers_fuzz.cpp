// Whatever the pairs: what is accepted can be written into a request and read back as the same fields.
#include "core/headers.hpp"
#include "core/utf8.hpp"

#include <cstdint>
#include <cstdlib>
#include <vector>

using namespace whisperer::core;

namespace {
void require(bool condition) {
    if (!condition)
        abort();
}
} // namespace

// Input: fields ended by 0xFF, name and value in turn.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    std::vector<Slice> fields;
    const char *text = reinterpret_cast<const char *>(data);
    for (size_t i = 0, start = 0; i <= size; i++) {
        if (i < size && data[i] != 0xFF)
            continue;
        fields.push_back({text + start, i - start});
        start = i + 1;
    }
    std::vector<Header> headers;
    for (size_t i = 0; i + 1 < fields.size(); i += 2)
        headers.push_back({fields[i], fields[i + 1]});
    FieldError error{};
    if (!check_headers(headers.data(), headers.size(), &error)) {
        require(error.message[0] != '\0' && !has_control_character(error.message));
        require(valid_utf8(slice(error.message)));
        return 0;
    }
    size_t total = 0;
    for (const Header &header : headers) {
        total += header.name.len + header.value.len;
        require(header.name.view().find_first_of(std::string_view(": \t\r\n\0", 6)) ==
                std::string_view::npos);
        require(header.value.view().find_first_of(std::string_view("\r\n\0", 3)) == std::string_view::npos);
        require(check_header(header.name, header.value, nullptr));
    }
    require(total <= max_headers_size);
    return 0;
}
