// Whatever the bytes: UTF-8 as a slow decoder sees it, cuts between characters, and texts for people that are
// valid, of one line, and never too long.
#include "core/field_error.hpp"
#include "core/utf8.hpp"
#include "fuzz.hpp"

using namespace whisperer::core;
using namespace whisperer::core::fuzz;

namespace {

// By value instead of by byte ranges. 0: no character begins here.
size_t decode(std::string_view text, uint32_t *value) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t first = byte(0);
    const size_t size = first < 0x80       ? 1
                        : first >> 5 == 6  ? 2
                        : first >> 4 == 14 ? 3
                        : first >> 3 == 30 ? 4
                                           : 0;
    if (size == 0 || text.size() < size)
        return 0;
    *value = size == 1 ? first : first & (0x7F >> size);
    for (size_t i = 1; i < size; i++) {
        if (byte(i) >> 6 != 2)
            return 0;
        *value = *value << 6 | (byte(i) & 0x3F);
    }
    constexpr uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    return *value < least[size] || *value > 0x10FFFF || (*value >= 0xD800 && *value <= 0xDFFF) ? 0 : size;
}

bool is_control(uint32_t value) {
    return value < 0x20 || (value >= 0x7F && value <= 0x9F) || (value >= 0x2028 && value <= 0x202E) ||
           (value >= 0x2066 && value <= 0x2069);
}

} // namespace

// Input: where to cut, then the text.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input(data, size);
    const size_t limit = input.byte();
    const std::string copy(input.rest());
    const std::string_view text = copy;
    bool valid = true;
    bool control = false;
    for (size_t i = 0; i < text.size() && valid;) {
        uint32_t value = 0;
        const size_t step = decode(text.substr(i), &value);
        valid = step != 0;
        control = control || (valid && is_control(value));
        i += step;
    }
    require(valid_utf8(slice(text)) == valid);
    if (valid)
        require(has_control_character(text) == control);
    const size_t cut = utf8_cut(text, limit);
    require(cut <= limit && cut <= text.size() && cut + 4 > (limit < text.size() ? limit : text.size()));
    if (valid)
        require(valid_utf8(slice(text.substr(0, cut))) && utf8_whole(text.substr(0, limit)) == cut);

    require(utf8_whole(text) <= text.size() && utf8_whole(text) + 3 >= text.size());

    FixedText quoted;
    quoted.add("argument ").quote(text, limit).add(" is bad");
    require(valid_utf8(slice(quoted.view())) && !has_control_character(quoted.view()));
    FieldError error{};
    set_field_error(&error, quoted.view(), quoted.view(), quoted.view());
    require_readable(error);
    return 0;
}
