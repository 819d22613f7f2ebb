#include "core/http_transfer.hpp"

#include "core/headers.hpp"
#include "core/http_callbacks.hpp"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <strings.h>

namespace whisperer::core {

namespace {

constexpr size_t kept_capacity = 64 << 10; // of a buffer between two requests
#if LIBCURL_VERSION_NUM >= 0x075700
constexpr long ca_file_kept = 60; // seconds until the certificates are read again for a new connection
#endif

bool is_openssl() noexcept {
    const char *library = curl_version_info(CURLVERSION_NOW)->ssl_version;
    const auto is = [library](const char *name) { return strncmp(library, name, strlen(name)) == 0; };
    return library != nullptr && (is("OpenSSL") || is("LibreSSL") || is("quictls"));
}

// Those that frame the request or pick the receiver: libcurl writes them, and another value would let a
// request's body be read as further requests.
bool is_reserved(std::string_view name) noexcept {
    for (const char *reserved :
         {"Content-Length", "Transfer-Encoding", "Host", "Connection", "Expect", "Upgrade"})
        if (name.size() == std::strlen(reserved) && strncasecmp(name.data(), reserved, name.size()) == 0)
            return true;
    return false;
}

// Appends a line in libcurl's spelling: "Name: value", or "Name;" for an empty value.
const char *append_header(std::string &text, std::string_view line) {
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || !is_token(slice(line.substr(0, colon))))
        return "a request header is not of the form \"Name: value\"";
    if (is_reserved(line.substr(0, colon)))
        return "a request header tries to set what the engine sets itself";
    const auto forbidden = [](char c) { return c == '\0' || c == '\r' || c == '\n'; };
    if (std::any_of(line.begin(), line.end(), forbidden))
        return "a request header contains a line break or a NUL byte";
    if (line.find_first_not_of(" \t", colon + 1) == std::string_view::npos)
        text.append(line.substr(0, colon)).push_back(';');
    else
        text.append(line);
    text.push_back('\0');
    return nullptr;
}

// What libcurl would add by itself, switched off: a name with nothing after the colon. A line of the owner's
// with the same name comes first in the list and wins.
constexpr const char *suppressed[] = {"Accept:", "Content-Type:", "Expect:"};

void shrink(std::string &buffer) noexcept {
    if (buffer.capacity() > kept_capacity)
        std::string().swap(buffer);
    else
        buffer.clear();
}

template <typename Value> bool set(CURL *easy, CURLoption option, Value value) noexcept {
    return curl_easy_setopt(easy, option, value) == CURLE_OK;
}

} // namespace

const char *system_ca_file() noexcept {
    return curl_version_info(CURLVERSION_NOW)->cainfo;
}

Transfer::~Transfer() {
    if (easy != nullptr)
        curl_easy_cleanup(easy);
}

const char *Transfer::take(const HttpRequest &request) {
    tag = request.tag;
    connect_timeout = request.connect_timeout;
    response_timeout = request.response_timeout;
    max_response_body = request.max_response_body;
    if (url.empty() || url != request.url.view()) {
        url.clear();
        if (!split_url(request.url, &target))
            return "the URL cannot be used";
        dialled_url = ascii_url(request.url.view(), &target);
        if (dialled_url.empty())
            return "the host's internationalized name cannot be converted; give it in its ASCII form "
                   "(xn--...)";
        host = target.host;
        url.assign(request.url.view());
    }
    body.assign(request.body.view());

    header_text.clear();
    for (size_t i = 0; i < request.header_count; i++)
        if (const char *problem = append_header(header_text, request.headers[i].view()))
            return problem;
    // Nodes of our own, reused, in place of curl_slist_append()'s two allocations per line.
    header_list.resize(request.header_count + std::size(suppressed));
    size_t node = 0;
    for (char *line = header_text.data(); node < request.header_count; line += std::strlen(line) + 1)
        header_list[node++].data = line;
    for (const char *line : suppressed)
        header_list[node++].data = const_cast<char *>(line); // libcurl only reads it
    for (size_t i = 0; i < node; i++)
        header_list[i].next = i + 1 < node ? &header_list[i + 1] : nullptr;
    return nullptr;
}

// What all requests of a generation have in common.
bool Transfer::set_generation_options() {
    curl_easy_reset(easy);
    handle_url.clear();
    options_of = 0;
    const bool proxied = !generation->proxy.empty();
    bool ok = set(easy, CURLOPT_PRIVATE, this) && set(easy, CURLOPT_ERRORBUFFER, curl_error) &&
              set(easy, CURLOPT_NOSIGNAL, 1L) && set(easy, CURLOPT_FOLLOWLOCATION, 0L) &&
              set(easy, CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED)) &&
              set(easy, CURLOPT_HTTP09_ALLOWED, 0L) && set(easy, CURLOPT_POST, 1L) &&
              set(easy, CURLOPT_HTTP_CONTENT_DECODING, 0L) && set(easy, CURLOPT_TCP_NODELAY, 1L) &&
              set(easy, CURLOPT_TCP_KEEPALIVE, 1L);
#if LIBCURL_VERSION_NUM >= 0x075700
    ok = ok && set(easy, CURLOPT_QUICK_EXIT, 1L);
#endif
#if LIBCURL_VERSION_NUM >= 0x075500
    ok = ok && set(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    ok = ok && set(easy, CURLOPT_PROTOCOLS, long{CURLPROTO_HTTP | CURLPROTO_HTTPS});
#endif
    // The engine judges time by its own clock; libcurl's default limit of 300 s must not come first.
    ok = ok && set(easy, CURLOPT_CONNECTTIMEOUT_MS, 0x7fffffffL);
    ok = ok && set(easy, CURLOPT_SSL_VERIFYPEER, 1L) && set(easy, CURLOPT_SSL_VERIFYHOST, 2L) &&
         set(easy, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
    // Other libraries than OpenSSL have other contexts, or none.
    if (is_openssl())
        ok = ok && set(easy, CURLOPT_SSL_CTX_FUNCTION, on_tls) &&
             set(easy, CURLOPT_SSL_CTX_DATA, generation->engine);
    if (!generation->ca_file.empty())
        ok = ok && set(easy, CURLOPT_CAINFO, generation->ca_file.c_str());
    // Libcurl (since 7.87) keeps what it has read of a file, but not when there is a directory, too: it then
    // reads the file anew for each connection, which takes 20 ms.
    if (!generation->ca_file.empty() || system_ca_file() != nullptr)
        ok = ok && set(easy, CURLOPT_CAPATH, static_cast<char *>(nullptr));
#if LIBCURL_VERSION_NUM >= 0x075700
    // It would be kept for a day. Whoever cannot do this keeps nothing.
    set(easy, CURLOPT_CA_CACHE_TIMEOUT, ca_file_kept);
#endif
    // "" and not null: null would let the environment decide. Headers are for the receiver, not for the
    // proxy.
    ok = ok && set(easy, CURLOPT_PROXY, generation->proxy.c_str()) && set(easy, CURLOPT_NOPROXY, "") &&
         set(easy, CURLOPT_HTTPPROXYTUNNEL, proxied ? 1L : 0L) &&
         set(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L) &&
         set(easy, CURLOPT_HEADEROPT, static_cast<long>(CURLHEADER_SEPARATE));
    ok = ok && set(easy, CURLOPT_HEADERFUNCTION, on_header) && set(easy, CURLOPT_HEADERDATA, this) &&
         set(easy, CURLOPT_WRITEFUNCTION, on_body) && set(easy, CURLOPT_WRITEDATA, this) &&
         set(easy, CURLOPT_OPENSOCKETFUNCTION, on_open_socket) && set(easy, CURLOPT_OPENSOCKETDATA, this) &&
         set(easy, CURLOPT_CLOSESOCKETFUNCTION, on_close_socket) &&
         set(easy, CURLOPT_CLOSESOCKETDATA, generation->engine) &&
         set(easy, CURLOPT_PREREQFUNCTION, on_ready) && set(easy, CURLOPT_PREREQDATA, this) &&
         set(easy, CURLOPT_RESOLVER_START_FUNCTION, on_resolver_start) &&
         set(easy, CURLOPT_RESOLVER_START_DATA, this);
    https_options = false;
    ok = ok && set(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
    if (ok)
        options_of = generation->id;
    return ok;
}

bool Transfer::set_options() {
    // A handle may keep TLS sessions, and one that is resumed vouches for a certificate that is not asked for
    // again: no generation takes over another's.
    if (easy != nullptr && made_for != generation->id) {
        curl_easy_cleanup(easy);
        easy = nullptr;
    }
    if (easy == nullptr) {
        easy = curl_easy_init();
        if (easy == nullptr)
            return false;
        options_of = 0;
        made_for = generation->id;
    }
    if (options_of != generation->id && !set_generation_options())
        return false;
    bool ok = true;
    if (https_options != target.https) {
        // Waiting to learn whether a connection multiplexes pays only where it can: HTTP/2 is spoken over TLS
        // alone, and without it the wait would last until the first response.
        const long version = target.https ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1;
        ok = set(easy, CURLOPT_HTTP_VERSION, version) && set(easy, CURLOPT_PIPEWAIT, target.https ? 1L : 0L);
        https_options = target.https;
    }
    if (handle_url != dialled_url) {
        ok = ok && set(easy, CURLOPT_URL, dialled_url.c_str());
        handle_url = dialled_url;
    }
    ok = ok && set(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size())) &&
         set(easy, CURLOPT_POSTFIELDS, body.data()) && set(easy, CURLOPT_HTTPHEADER, header_list.data());
    ok = ok && set(easy, CURLOPT_RESOLVE, resolve_list.data != nullptr ? &resolve_list : nullptr) &&
         set(easy, CURLOPT_CONNECT_TO, connect_list.data != nullptr ? &connect_list : nullptr) &&
         set(easy, CURLOPT_FORBID_REUSE, generation->current ? 0L : 1L);
    curl_error[0] = '\0';
    if (!ok)
        options_of = 0;
    return ok;
}

void Transfer::clear() noexcept {
    phase = Phase::idle;
    generation = nullptr;
    pin = nullptr;
    shrink(body);
    shrink(header_text);
    shrink(headers);
    shrink(response_body);
    resolve_list.data = nullptr;
    connect_list.data = nullptr;
    dialled = refused = false;
    begun = SocketSet::Since();
    socket_error = 0;
    block_ended = true;
    http1 = truncated = headers_too_large = bad_status_line = out_of_memory = false;
    header_bytes = retry_after_at = retry_after_size = 0;
    status = 0;
    launched_at = 0;
    failure = Failure::none;
    error[0] = curl_error[0] = '\0';
    previous = next = next_done = nullptr;
}

void Transfer::explain(const char *format, ...) noexcept {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error, sizeof error, format, arguments);
    va_end(arguments);
    for (char *c = error; *c != '\0'; c++)
        if (static_cast<unsigned char>(*c) < 0x20 || *c == 0x7f)
            *c = ' ';
}

} // namespace whisperer::core
