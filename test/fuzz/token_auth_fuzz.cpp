// Whatever a token server answers: a header's value without control characters, or an error that has nothing
// of the answer in it; and the form that it gets says what was given.
#include "core/token_auth.hpp"
#include "fuzz.hpp"

using namespace whisperer::core;
using namespace whisperer::core::fuzz;

namespace {

int hex_value(char c) {
    return c <= '9' ? c - '0' : c - 'A' + 10;
}

// One name or value of a form.
std::string decoded(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size(); i++) {
        if (text[i] == '%') {
            out.push_back(static_cast<char>(hex_value(text[i + 1]) * 16 + hex_value(text[i + 2])));
            i += 2;
        } else
            out.push_back(text[i] == '+' ? ' ' : text[i]);
    }
    return out;
}

void check_form(std::string_view first, std::string_view second) {
    TokenFields fields{};
    fields.username_field = fields.password = slice(first);
    fields.password_field = fields.username = slice(second);
    const std::string form = token_form(fields);
    const size_t both = form.find('&');
    require(form.find('&', both + 1) == std::string::npos);
    const std::string_view parts[] = {std::string_view(form).substr(0, both),
                                      std::string_view(form).substr(both + 1)};
    const std::string_view expected[][2] = {{first, second}, {second, first}};
    for (int i = 0; i < 2; i++) {
        const size_t equals = parts[i].find('=');
        require(decoded(parts[i].substr(0, equals)) == expected[i][0]);
        require(decoded(parts[i].substr(equals + 1)) == expected[i][1]);
    }
}

} // namespace

// Input: status, whether there was more; the key, the header's format, then the answer.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input(data, size);
    HttpResult http{};
    const uint8_t kind = input.byte();
    http.failure = kind == 255 ? Failure::connect : Failure::none;
    http.error = slice("no connection");
    http.status = kind < 200 ? 200 : kind < 220 ? 201 : input.number<uint16_t>();
    http.body_truncated = kind == 254;
    const std::string_view key = input.text();
    const std::string_view format = input.text();
    http.body = slice(input.rest());
    const TokenAnswer answer = read_token_answer(http, "https://auth.example/token", key, format);
    require(!has_control_character(answer.error) && valid_utf8(slice(answer.error)));
    if (!answer.error.empty()) {
        require(answer.authorization.empty());
        require(answer.error.size() < 200); // a fixed text: there is no room for an answer in it
    } else {
        require(http.failure == Failure::none && http.status / 100 == 2 && !http.body_truncated);
        require(answer.authorization.size() <= format.size() + max_token_size);
        const std::string_view before = format.substr(0, format.find("{}"));
        require(answer.authorization.compare(0, before.size(), before) == 0);
        if (!has_control_character(format))
            require(!has_control_character(answer.authorization));
    }
    check_form(key, format);
    return 0;
}
