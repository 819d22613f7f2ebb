#include "core/url.hpp"

#include "core/utf8.hpp"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <sys/socket.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>

namespace whisperer::core {

namespace {

constexpr size_t max_host_size = 253; // RFC 1035, in text, without a final dot

struct FreeUrl {
    void operator()(CURLU *url) const { curl_url_cleanup(url); }
};
using Url = std::unique_ptr<CURLU, FreeUrl>;

struct FreePart {
    void operator()(char *part) const { curl_free(part); }
};
using Part = std::unique_ptr<char, FreePart>;

Part get(CURLU *url, CURLUPart what, unsigned flags = 0) {
    char *part = nullptr;
    return Part(curl_url_get(url, what, &part, flags) == CURLUE_OK ? part : nullptr);
}

// The reason of a refusal and what to do; the message is null for a good URL.
struct Refusal {
    const char *message;
    const char *hint;
};

constexpr Refusal accepted = {nullptr, nullptr};
constexpr const char *form_hint = "A URL has the form https://host/path or http://host:port/path.";
constexpr Refusal malformed = {"is not a well-formed URL", form_hint};
constexpr Refusal bad_host = {"has no valid host", form_hint};
constexpr Refusal bad_beginning = {R"(has a host that begins with "-", "+" or "*")",
                                   "A host begins with a letter, a digit or an underscore."};
constexpr Refusal bad_port = {"has a port that is not between 1 and 65535", form_hint};
constexpr Refusal bad_scheme = {"is not an http or https URL", form_hint};
constexpr Refusal has_login = {"has a user name or password in it",
                               "Put them into config.auth: {\"auth_type\": \"basic\", \"username\": ..., "
                               "\"password\": ...}."};
constexpr const char *token_login_hint =
    "Put them beside it: config.auth has \"username\" and \"password\", which are sent to this URL.";
constexpr Refusal out_of_memory = {"could not be read: out of memory", "Try again."};

bool begins_with(std::string_view text, std::string_view lower_case) {
    if (text.size() < lower_case.size())
        return false;
    for (size_t i = 0; i < lower_case.size(); i++) {
        char c = text[i];
        if ((c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) != lower_case[i])
            return false;
    }
    return true;
}

// What libcurl would take, but other readers of the same text might read otherwise.
Refusal check_spelling(std::string_view url) {
    if (url.empty())
        return {"is empty", form_hint};
    if (url.size() > max_url_size)
        return {"is longer than 2048 bytes",
                "Shorten it; what is particular to an event belongs in its payload."};
    if (has_control_character(url) || !valid_utf8({url.data(), url.size()}))
        return {"has a control character", "Percent-encode it, or remove it."};
    if (url.find(' ') != std::string_view::npos)
        return {"has a space", "Write %20 for it."};
    size_t scheme = begins_with(url, "http://") ? 7 : begins_with(url, "https://") ? 8 : 0;
    if (scheme == 0)
        return bad_scheme;
    // libcurl takes "http:///host" for "http://host".
    std::string_view authority = url.substr(scheme, url.find_first_of("/\\?#", scheme) - scheme);
    if (authority.empty())
        return bad_host;
    return authority.find('@') != std::string_view::npos ? has_login : accepted;
}

Refusal explain(CURLUcode code) {
    switch (code) {
    case CURLUE_OUT_OF_MEMORY:
        return out_of_memory;
    case CURLUE_UNSUPPORTED_SCHEME:
    case CURLUE_BAD_SCHEME:
        return bad_scheme;
    case CURLUE_USER_NOT_ALLOWED:
    case CURLUE_BAD_LOGIN:
        return has_login;
    case CURLUE_BAD_PORT_NUMBER:
        return bad_port;
    case CURLUE_BAD_HOSTNAME:
    case CURLUE_NO_HOST:
    case CURLUE_BAD_IPV6:
        return bad_host;
    default:
        return malformed;
    }
}

// Percent-encoded bytes of the host are decoded by now, so what was checked in the URL is checked again.
Refusal read_host(std::string_view host, UrlParts *parts) {
    if (host.size() > 2 && host.front() == '[' && host.back() == ']')
        host = host.substr(1, host.size() - 2);
    std::string_view without_dot = host;
    if (!without_dot.empty() && without_dot.back() == '.')
        without_dot.remove_suffix(1);
    if (without_dot.find_first_not_of('.') == std::string_view::npos || has_control_character(host) ||
        !valid_utf8({host.data(), host.size()}))
        return bad_host;
    // Where libcurl is told the addresses of names these are signs of its own: "-name" is to forget a name.
    if (std::string_view("-+*").find(host.front()) != std::string_view::npos)
        return bad_beginning;
    if (without_dot.size() > max_host_size)
        return {"has a host longer than 253 bytes", "No name can be that long."};
    memcpy(parts->host, host.data(), host.size());
    parts->host[host.size()] = '\0';
    unsigned char address[16];
    parts->literal =
        inet_pton(AF_INET, parts->host, address) == 1 || inet_pton(AF_INET6, parts->host, address) == 1;
    return accepted;
}

void write_origin(UrlParts *parts) {
    bool v6 = strchr(parts->host, ':') != nullptr;
    const char *scheme = parts->https ? "https" : "http";
    int len =
        snprintf(parts->origin, sizeof(parts->origin), v6 ? "%s://[%s]" : "%s://%s", scheme, parts->host);
    if (parts->port != (parts->https ? 443 : 80))
        snprintf(parts->origin + len, sizeof(parts->origin) - static_cast<size_t>(len), ":%u",
                 static_cast<unsigned>(parts->port));
}

Refusal read_parsed(CURLU *url, UrlParts *parts) {
    Part scheme = get(url, CURLUPART_SCHEME);
    Part host = get(url, CURLUPART_HOST);
    Part port = get(url, CURLUPART_PORT, CURLU_DEFAULT_PORT);
    if (scheme == nullptr || host == nullptr || port == nullptr)
        return bad_host;
    if (get(url, CURLUPART_USER) != nullptr || get(url, CURLUPART_PASSWORD) != nullptr)
        return has_login;
    parts->https = begins_with(scheme.get(), "https");
    long number = strtol(port.get(), nullptr, 10);
    if (number < 1 || number > 65535)
        return bad_port;
    parts->port = static_cast<uint16_t>(number);
    Refusal refusal = read_host(host.get(), parts);
    if (refusal.message == nullptr)
        write_origin(parts);
    return refusal;
}

// libcurl decodes a host after it has looked for addresses: "%31" is then the name "1", which resolvers take
// for 0.0.0.1. A host must mean the same once it is decoded.
bool reads_the_same(CURLU *url, const UrlParts &parts) {
    if (curl_url_set(url, CURLUPART_URL, parts.origin, CURLU_DISALLOW_USER) != CURLUE_OK)
        return false;
    UrlParts again{};
    return read_parsed(url, &again).message == nullptr && strcmp(again.origin, parts.origin) == 0;
}

Refusal read_url(std::string_view text, UrlParts *parts) {
    Refusal refusal = check_spelling(text);
    if (refusal.message != nullptr)
        return refusal;
    char terminated[max_url_size + 1];
    memcpy(terminated, text.data(), text.size());
    terminated[text.size()] = '\0';
    Url url(curl_url());
    if (url == nullptr)
        return out_of_memory;
    CURLUcode code = curl_url_set(url.get(), CURLUPART_URL, terminated, CURLU_DISALLOW_USER);
    if (code != CURLUE_OK)
        return explain(code);
    refusal = read_parsed(url.get(), parts);
    return refusal.message == nullptr && !reads_the_same(url.get(), *parts) ? bad_host : refusal;
}

} // namespace

bool check_url(Slice url, FieldError *error, const char *field) noexcept {
    UrlParts parts;
    Refusal refusal = read_url(url.view(), &parts);
    if (refusal.message == nullptr)
        return true;
    FixedText message;
    // A text with an @ may hold a password, wherever a mistake has put it.
    if (!url.empty() && url.view().find('@') == std::string_view::npos)
        message.quote(url.view());
    else
        message.add("the URL");
    message.add(" ").add(refusal.message);
    bool token_login = refusal.hint == has_login.hint && strcmp(field, "config.auth.url") == 0;
    set_field_error(error, field, message.view(), token_login ? token_login_hint : refusal.hint);
    return false;
}

bool split_url(Slice url, UrlParts *parts) noexcept {
    UrlParts read{};
    if (read_url(url.view(), &read).message != nullptr)
        return false;
    *parts = read;
    return true;
}

std::string percent_encoded(std::string_view text) {
    constexpr char hex[] = "0123456789ABCDEF";
    std::string encoded;
    encoded.reserve(text.size());
    for (char c : text) {
        auto byte = static_cast<unsigned char>(c);
        if (byte < 0x80)
            encoded.push_back(c);
        else
            encoded.append({'%', hex[byte >> 4], hex[byte & 15]});
    }
    return encoded;
}

} // namespace whisperer::core
