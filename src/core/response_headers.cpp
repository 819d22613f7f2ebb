#include "core/response_headers.hpp"

#include <algorithm>
#include <string_view>

namespace whisperer::core {

namespace {

constexpr std::string_view comma = ", ";

// A stray CR is a blank (RFC 9112, section 2.2).
constexpr std::string_view blanks = " \t\r";

struct Field {
    std::string_view name; // empty: this is no field
    std::string_view body; // with the lines on which it goes on
};

std::string_view trimmed(std::string_view text) noexcept {
    text.remove_prefix(std::min(text.find_first_not_of(blanks), text.size()));
    return text.substr(0, text.find_last_not_of(blanks) + 1);
}

std::string_view first_line(std::string_view lines) noexcept {
    return lines.substr(0, lines.find('\n'));
}

void drop_line(std::string_view *lines) noexcept {
    lines->remove_prefix(std::min(first_line(*lines).size() + 1, lines->size()));
}

bool goes_on(std::string_view line) noexcept {
    return !line.empty() && line != "\r" && blanks.find(line.front()) != std::string_view::npos;
}

// Takes the first field off, or the first line if it begins none.
Field next_field(std::string_view *lines) noexcept {
    const std::string_view all = *lines, line = first_line(all);
    drop_line(lines);
    const size_t colon = line.find(':');
    if (goes_on(line) || colon == std::string_view::npos)
        return {};
    while (goes_on(first_line(*lines)))
        drop_line(lines);
    return {trimmed(line.substr(0, colon)), all.substr(colon + 1, all.size() - lines->size() - colon - 1)};
}

// As names are compared.
char lower(char c) noexcept {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c == '\r' ? ' ' : c;
}

// `lower_case` is so already.
bool is_named(std::string_view name, std::string_view lower_case) noexcept {
    return name.size() == lower_case.size() && std::equal(name.begin(), name.end(), lower_case.begin(),
                                                          [](char a, char b) { return lower(a) == b; });
}

char *append(char *out, std::string_view text) noexcept {
    return std::copy(text.begin(), text.end(), out);
}

// Its lines, with one blank between them.
char *append_body(char *out, std::string_view body) noexcept {
    char *const begin = out;
    for (; !body.empty(); drop_line(&body)) {
        const std::string_view piece = trimmed(first_line(body));
        if (piece.empty())
            continue;
        if (out != begin)
            *out++ = ' ';
        out = std::replace_copy(piece.begin(), piece.end(), out, '\r', ' ');
    }
    return out;
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
        const Field field = next_field(&rest);
        const auto same = [&field](const ResponseHeader &known) {
            return is_named(field.name, known.name.view());
        };
        if (field.name.empty() || std::any_of(headers, headers + count, same))
            continue;
        char *const name = room;
        room = std::transform(field.name.begin(), field.name.end(), room, lower);
        headers[count].name = {name, field.name.size()};
        char *const value = room;
        room = append_body(room, field.body);
        for (std::string_view later = rest; !later.empty();) {
            const Field again = next_field(&later);
            if (is_named(again.name, headers[count].name.view()))
                room = append_body(append(room, comma), again.body);
        }
        headers[count].value = {value, static_cast<size_t>(room - value)};
        count++;
    }
    return count;
}

} // namespace whisperer::core
