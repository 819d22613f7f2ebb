// Whatever a receiver sent as headers: the fields are those of a model that works line by line with maps, and
// their text stays within the room that the lines took.
#include "core/response_headers.hpp"
#include "fuzz.hpp"

#include <map>
#include <memory>
#include <utility>
#include <vector>

using namespace whisperer::core;

namespace {

using Fields = std::vector<std::pair<std::string, std::string>>;

Fields model(const std::string &lines) {
    Fields fields;
    std::map<std::string, size_t> places;
    for (size_t begin = 0; begin <= lines.size();) {
        size_t end = begin;
        while (end < lines.size() && lines[end] != '\n')
            end++;
        std::string name, value;
        bool has_colon = false, blank = true;
        for (size_t i = begin; i < end && lines[i] != '\r'; i++) {
            if (!has_colon && lines[i] == ':') {
                has_colon = true;
                continue;
            }
            if (!has_colon) {
                const bool capital = lines[i] >= 'A' && lines[i] <= 'Z';
                name.push_back(capital ? static_cast<char>(lines[i] | 0x20) : lines[i]);
                continue;
            }
            blank = blank && (lines[i] == ' ' || lines[i] == '\t');
            if (!blank)
                value.push_back(lines[i]);
        }
        begin = end + 1;
        if (!has_colon || name.empty())
            continue;
        const auto [place, is_new] = places.emplace(name, fields.size());
        if (is_new)
            fields.emplace_back(name, value);
        else
            fields[place->second].second += ", " + value;
    }
    return fields;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string lines(reinterpret_cast<const char *>(data), size);
    // Exactly as much as is promised, so that the sanitizer sees what is beyond.
    const std::unique_ptr<char[]> room(new char[size]);
    const size_t most = count_header_lines(slice(lines));
    const std::unique_ptr<ResponseHeader[]> headers(new ResponseHeader[most]);
    const size_t count = parse_response_headers(slice(lines), room.get(), headers.get());
    const Fields expected = model(lines);
    require(count == expected.size() && count <= most);
    for (size_t i = 0; i < count; i++) {
        require(headers[i].name.view() == expected[i].first);
        require(headers[i].value.view() == expected[i].second);
    }
    return 0;
}
