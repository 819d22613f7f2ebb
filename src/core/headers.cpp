#include "core/headers.hpp"

#include "core/utf8.hpp"

#include <algorithm>
#include <string_view>

namespace whisperer::core {

namespace {

// Set by whisperer: identity and signature. Set by HTTP: framing and the connection. Never sent: cookies.
constexpr std::string_view reserved[] = {"x-whisperer-event", "x-whisperer-signature",
                                         "webhook-id",        "webhook-timestamp",
                                         "webhook-signature", "host",
                                         "content-length",    "transfer-encoding",
                                         "connection",        "keep-alive",
                                         "upgrade",           "te",
                                         "trailer",           "expect",
                                         "accept-encoding",   "cookie",
                                         "http2-settings"};
constexpr std::string_view reserved_prefix = "proxy-";

// ASCII only: the session's locale must not decide what "HOST" is.
char lower(char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

bool same_name(std::string_view a, std::string_view b) {
    return a.size() == b.size() &&
           std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) { return lower(x) == lower(y); });
}

bool is_token_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos);
}

bool refuse(FieldError *error, const FixedText &message, std::string_view hint) {
    set_field_error(error, "additional_headers", message.view(), hint);
    return false;
}

} // namespace

bool is_token(Slice text) noexcept {
    std::string_view view = text.view();
    return !view.empty() && std::all_of(view.begin(), view.end(), is_token_character);
}

bool is_reserved_header(Slice name) noexcept {
    std::string_view view = name.view();
    return same_name(view.substr(0, reserved_prefix.size()), reserved_prefix) ||
           std::any_of(std::begin(reserved), std::end(reserved),
                       [view](std::string_view other) { return same_name(view, other); });
}

bool check_header(Slice name, Slice value, FieldError *error) noexcept {
    FixedText message;
    if (!is_token(name)) {
        message.add("header name ").quote(name.view()).add(" is not an HTTP token");
        return refuse(error, message, "Header names are ASCII letters, digits and !#$%&'*+-.^_`|~ only.");
    }
    if (is_reserved_header(name)) {
        message.add("header ").quote(name.view()).add(" cannot be set");
        return refuse(error, message,
                      "HTTP and whisperer set the headers of connection, framing, identity and signature "
                      "themselves; choose another name.");
    }
    if (has_control_character(value.view())) {
        message.add("value of header ").quote(name.view()).add(" has a control character");
        return refuse(error, message, "Remove line breaks, tabs and other control characters.");
    }
    return true;
}

bool check_headers(const Header *headers, size_t count, FieldError *error) noexcept {
    // Sizes first: they bound the number of headers, as a name has at least one byte, before all are compared
    // with all.
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        if (!check_header(headers[i].name, headers[i].value, error))
            return false;
        total += headers[i].name.len + headers[i].value.len;
    }
    if (total > max_headers_size) {
        FixedText message;
        message.add("headers have ").number(static_cast<double>(total)).add(" bytes of names and values");
        return refuse(error, message, "At most 8192 bytes are allowed in all.");
    }
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < i; j++) {
            if (!same_name(headers[i].name.view(), headers[j].name.view()))
                continue;
            FixedText message;
            message.add("header ").quote(headers[i].name.view()).add(" is given more than once");
            return refuse(error, message, "Letter case does not make header names different.");
        }
    }
    return true;
}

} // namespace whisperer::core
