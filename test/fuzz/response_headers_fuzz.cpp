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

bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r';
}

// Without blanks around it, and without a CR within.
std::string plain(std::string text) {
    while (!text.empty() && is_blank(text.back()))
        text.pop_back();
    while (!text.empty() && is_blank(text.front()))
        text.erase(0, 1);
    for (char &c : text)
        c = c == '\r' ? ' ' : c;
    return text;
}

Fields model(const std::string &lines) {
    Fields fields; // as they stand there
    bool within = false;
    for (size_t begin = 0; begin < lines.size();) {
        size_t end = begin;
        while (end < lines.size() && lines[end] != '\n')
            end++;
        const std::string line = lines.substr(begin, end - begin);
        begin = end + 1;
        const size_t colon = line.find(':');
        if (!line.empty() && line != "\r" && is_blank(line[0])) {
            if (within && !plain(line).empty())
                fields.back().second += (fields.back().second.empty() ? "" : " ") + plain(line);
            continue;
        }
        within = colon != std::string::npos;
        if (!within)
            continue;
        std::string name = plain(line.substr(0, colon));
        for (char &c : name)
            c = c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
        fields.emplace_back(name, plain(line.substr(colon + 1)));
    }
    Fields joined;
    std::map<std::string, size_t> places;
    for (const auto &[name, value] : fields) {
        if (name.empty())
            continue;
        const auto [place, is_new] = places.emplace(name, joined.size());
        if (is_new)
            joined.emplace_back(name, value);
        else
            joined[place->second].second += ", " + value;
    }
    return joined;
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
