#include "core/token_auth.hpp"

#include "core/json_member.hpp"
#include "core/url.hpp"

#include <algorithm>

namespace whisperer::core {

namespace {

bool is_plain(char c) noexcept {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '*' ||
           c == '-' || c == '.' || c == '_';
}

void append_encoded(std::string_view text, std::string *out) {
    constexpr char hex[] = "0123456789ABCDEF";
    for (char c : text) {
        if (is_plain(c))
            out->push_back(c);
        else if (c == ' ')
            out->push_back('+');
        else {
            auto byte = static_cast<unsigned char>(c);
            out->push_back('%');
            out->push_back(hex[byte >> 4]);
            out->push_back(hex[byte & 15]);
        }
    }
}

bool is_visible_ascii(std::string_view text) noexcept {
    return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

// Null: *token is one.
const char *token_fault(const HttpResult &http, std::string_view key, std::string *token) {
    if (http.body_truncated)
        return "answered with more than 65536 bytes";
    switch (find_json_string(http.body, key, token)) {
    case JsonFound::string:
        break;
    case JsonFound::other:
    case JsonFound::absent:
        return "answered a JSON object without the string that config.auth.token_key names";
    case JsonFound::no_object:
    case JsonFound::malformed:
        return "answered no JSON object";
    }
    if (token->empty() || token->size() > max_token_size || !is_visible_ascii(*token))
        return "answered a token that is empty, not visible ASCII, or longer than 8192 bytes";
    return nullptr;
}

} // namespace

std::string token_form(const TokenFields &fields) {
    std::string form;
    append_encoded(fields.username_field.view(), &form);
    form.push_back('=');
    append_encoded(fields.username.view(), &form);
    form.push_back('&');
    append_encoded(fields.password_field.view(), &form);
    form.push_back('=');
    append_encoded(fields.password.view(), &form);
    return form;
}

TokenAnswer read_token_answer(const HttpResult &http, std::string_view url, std::string_view token_key,
                              std::string_view header_format) {
    TokenAnswer answer;
    UrlParts parts;
    std::string what = "token request";
    if (split_url(slice(url), &parts))
        what.append(" to ").append(parts.origin);
    if (http.failure != Failure::none) {
        answer.error = what.append(" failed: ").append(http.error.view());
        return answer;
    }
    if (http.status < 200 || http.status > 299) {
        answer.error = what.append(" answered ").append(std::to_string(http.status));
        return answer;
    }
    std::string token;
    if (const char *fault = token_fault(http, token_key, &token)) {
        answer.error = what.append(" ").append(fault);
        return answer;
    }
    size_t place = header_format.find("{}");
    answer.authorization.assign(header_format.substr(0, place)).append(token);
    if (place != std::string_view::npos)
        answer.authorization.append(header_format.substr(place + 2));
    return answer;
}

} // namespace whisperer::core
