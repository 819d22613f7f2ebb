// Whatever the text: a uuid is read back as it was written, in both forms; one made has its time in it.
#include "core/uuid7.hpp"
#include "fuzz.hpp"

#include <algorithm>

using namespace whisperer::core;
using namespace whisperer::core::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string text(reinterpret_cast<const char *>(data), size); // a copy: reading past it is seen
    Uuid uuid{};
    if (parse_uuid(slice(text), &uuid)) {
        std::string lower = text;
        std::transform(lower.begin(), lower.end(), lower.begin(),
                       [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
        char dashed[uuid_text_size];
        char hex[uuid_hex_size];
        format_uuid(uuid, dashed);
        format_uuid_hex(uuid, hex);
        require(lower == dashed || lower == hex);
    }
    Input input(data, size);
    const auto time = input.number<int64_t>();
    const Uuid made = make_uuid7(time, input.number<uint64_t>());
    require(made.bytes[6] >> 4 == 7 && made.bytes[8] >> 6 == 2);
    char made_text[uuid_text_size];
    format_uuid(made, made_text);
    require(parse_uuid(slice(made_text), &uuid) && uuid == made);
    uint64_t millis = 0;
    for (int i = 0; i < 6; i++)
        millis = millis << 8 | made.bytes[i];
    if (time >= 0)
        require(millis == (static_cast<uint64_t>(time) / 1000 & ((UINT64_C(1) << 48) - 1)));
    return 0;
}
