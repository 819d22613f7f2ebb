#include "core/response_headers.hpp"

#include <algorithm>
#include <string_view>

namespace whisperer::core {

namespace {

constexpr std::string_view comma = ", ";

struct Line {
    std::string_view name; // empty: this is no field
    std::string_view value;
};

// Takes the first line off.
Line next_line(std::string_view *lines) noexcept {
    const size_t end = lines->find('\n');
    std::string_view text = lines->substr(0, end);
    lines->remove_prefix(end == std::string_view::npos ? lines->size() : end + 1);
    text = text.substr(0, text.find('\r'));
    const size_t colon = text.find(':');
    if (colon == std::string_view::npos)
        return {};
    std::string_view value = text.substr(colon + 1);
    value.remove_prefix(std::min(value.find_first_not_of(" \t"), value.size()));
    return {text.substr(0, colon), value};
}

char lower(char c) noexcept {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

// `lower_case` is so already.
bool is_named(std::string_view name, std::string_view lower_case) noexcept {
    return name.size() == lower_case.size() && std::equal(name.begin(), name.end(), lower_case.begin(),
                                                          [](char a, char b) { return lower(a) == b; });
}

char *append(char *out, std::string_view text) noexcept {
    return std::copy(text.begin(), text.end(), out);
}

} // namespace

size_t count_header_lines(Slice lines) noexcept {
    const std::string_view text = lines.view();
    return static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
}

// It fits into the room: of a line that is repeated the name and the colon go, and the comma and the blank
// come.
size_t parse_response_headers(Slice lines, char *room, ResponseHeader *headers) noexcept {
    size_t count = 0;
    for (std::string_view rest = lines.view(); !rest.empty();) {
        const Line line = next_line(&rest);
        const auto same = [&line](const ResponseHeader &known) {
            return is_named(line.name, known.name.view());
        };
        if (line.name.empty() || std::any_of(headers, headers + count, same))
            continue;
        char *const name = room;
        room = std::transform(line.name.begin(), line.name.end(), room, lower);
        headers[count].name = {name, line.name.size()};
        char *const value = room;
        room = append(room, line.value);
        for (std::string_view later = rest; !later.empty();) {
            const Line again = next_line(&later);
            if (is_named(again.name, headers[count].name.view()))
                room = append(append(room, comma), again.value);
        }
        headers[count].value = {value, static_cast<size_t>(room - value)};
        count++;
    }
    return count;
}

} // namespace whisperer::core
