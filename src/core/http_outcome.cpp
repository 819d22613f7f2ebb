// How a transfer ended, for the program and for an operator.
#include "core/http_transfer.hpp"

#include <arpa/inet.h>
#include <cstdio>
#include <cstring>

namespace whisperer::core {

namespace {

constexpr CURLcode curle_too_large = static_cast<CURLcode>(100); // CURLE_TOO_LARGE, since libcurl 8.6

bool is_tls_error(CURLcode code) noexcept {
    switch (code) {
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CRL_BADFILE:
    case CURLE_SSL_ENGINE_INITFAILED:
    case CURLE_SSL_ENGINE_NOTFOUND:
    case CURLE_SSL_ENGINE_SETFAILED:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_USE_SSL_FAILED:
        return true;
    default:
        return false;
    }
}

Failure failure_of(const Transfer &transfer, CURLcode code) noexcept {
    if (code == CURLE_OUT_OF_MEMORY)
        return Failure::internal;
    if (is_tls_error(code))
        return Failure::tls;
    if (transfer.phase != Phase::response) {
        if (code == CURLE_PROXY || !transfer.generation->proxy.empty())
            return Failure::proxy;
        return code == CURLE_COULDNT_RESOLVE_HOST ? Failure::name_lookup : Failure::connect;
    }
    switch (code) {
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL: // HTTP/0.9, which is what anything without a status line looks like
    case CURLE_BAD_CONTENT_ENCODING:
        return Failure::malformed;
    case CURLE_COULDNT_CONNECT: // a reused connection was closed and could not be made again
        return Failure::connect;
    default:
        return Failure::cut_short;
    }
}

double milliseconds(Micros time) noexcept {
    return static_cast<double>(time) / 1000.0;
}

Micros measured(const Transfer &transfer, CURLINFO what) noexcept {
    curl_off_t value = 0;
    return curl_easy_getinfo(transfer.easy, what, &value) == CURLE_OK ? static_cast<Micros>(value) : 0;
}

// "name lookup 3 ms, connect 1 ms, TLS 0 ms, sent 312 bytes, received 0 bytes"
void describe(const Transfer &transfer, char *buffer, size_t size) noexcept {
    const Micros connected = measured(transfer, CURLINFO_CONNECT_TIME_T);
    const Micros secured = measured(transfer, CURLINFO_APPCONNECT_TIME_T);
    long sent = 0;
    curl_easy_getinfo(transfer.easy, CURLINFO_REQUEST_SIZE, &sent);
    const Micros uploaded = measured(transfer, CURLINFO_SIZE_UPLOAD_T);
    snprintf(buffer, size,
             "name lookup %.0f ms, connect %.0f ms, TLS %.0f ms, sent %lld bytes, received %lld bytes",
             milliseconds(transfer.launched_at - transfer.added_at), milliseconds(connected),
             milliseconds(secured > connected ? secured - connected : 0),
             static_cast<long long>(sent) + static_cast<long long>(uploaded),
             static_cast<long long>(transfer.header_bytes) +
                 static_cast<long long>(measured(transfer, CURLINFO_SIZE_DOWNLOAD_T)));
}

} // namespace

void format_address(const Address &address, char *buffer, size_t size) noexcept {
    char text[INET6_ADDRSTRLEN] = "?";
    inet_ntop(address.v6 ? AF_INET6 : AF_INET, address.bytes.data(), text, sizeof text);
    snprintf(buffer, size, address.v6 ? "[%s]" : "%s", text);
}

bool parse_address(const char *text, Address *address) noexcept {
    *address = Address{};
    address->v6 = std::strchr(text, ':') != nullptr;
    return inet_pton(address->v6 ? AF_INET6 : AF_INET, text, address->bytes.data()) == 1;
}

void explain_refusal(Transfer &transfer, const Address &address) noexcept {
    char text[INET6_ADDRSTRLEN] = "?";
    inet_ntop(address.v6 ? AF_INET6 : AF_INET, address.bytes.data(), text, sizeof text);
    const char *kind = special_kind(address);
    transfer.explain("address %s (%s) is not allowed; see whisperer.allowed_networks", text,
                     kind != nullptr ? kind : "special");
}

void judge_outcome(Transfer &transfer, CURLcode code) noexcept {
    // libcurl takes it for final, and what follows for a body.
    if (transfer.status == 101) {
        transfer.failure = Failure::malformed;
        transfer.explain("the response switches protocols (101), which it was not asked to");
        return;
    }
    // libcurl takes a connection that is closed within the headers for the end of an empty body.
    const bool headers_whole = transfer.block_ended && transfer.status >= 200;
    if (code == CURLE_OK && !headers_whole) {
        transfer.failure = Failure::cut_short;
        transfer.explain("the response ended before it was whole: its headers have no end");
        return;
    }
    // Said before the error codes, since these are ends of our own making.
    if (code == CURLE_OK || (transfer.truncated && headers_whole && !transfer.out_of_memory)) {
        transfer.failure = Failure::none;
        return;
    }
    if (transfer.out_of_memory) {
        transfer.failure = Failure::internal;
        transfer.explain("out of memory");
        return;
    }
    // The latter: libcurl took for final what does not say so.
    if (transfer.bad_status_line || transfer.truncated) {
        transfer.failure = Failure::malformed;
        transfer.explain("the response does not begin with an HTTP status line");
        return;
    }
    if (transfer.headers_too_large) {
        transfer.failure = Failure::malformed;
        transfer.explain("the response's headers are larger than 64 kB");
        return;
    }
    if (transfer.phase == Phase::response && !headers_whole &&
        (code == CURLE_OUT_OF_MEMORY || code == curle_too_large)) {
        long sent = 0;
        curl_easy_getinfo(transfer.easy, CURLINFO_REQUEST_SIZE, &sent);
        if (sent == 0) {
            transfer.failure = Failure::internal;
            transfer.explain("the request's headers are larger than libcurl sends, or memory ran out");
            return;
        }
        // What libcurl says of one line of more than 100 kB, too.
        transfer.failure = Failure::malformed;
        transfer.explain("the response's headers are larger than 64 kB, or memory ran out");
        return;
    }
    if (transfer.refused && (code == CURLE_ABORTED_BY_CALLBACK || !transfer.dialled)) {
        transfer.failure = Failure::refused_by_policy;
        explain_refusal(transfer, transfer.refused_address);
        return;
    }
    // libcurl says that it could not connect, as if that were the receiver's fault.
    if (transfer.socket_error != 0 && code == CURLE_COULDNT_CONNECT) {
        transfer.failure = Failure::internal;
        transfer.explain("the database server could not make a socket: %s",
                         std::strerror(transfer.socket_error));
        return;
    }
    transfer.failure = failure_of(transfer, code);
    const char *detail = transfer.curl_error[0] != '\0' ? transfer.curl_error : curl_easy_strerror(code);
    if (transfer.failure == Failure::cut_short)
        transfer.explain("the response ended before it was whole: %s", detail);
    else if (transfer.failure == Failure::malformed)
        transfer.explain("the response is not HTTP: %s", detail);
    else if (transfer.failure == Failure::proxy)
        transfer.explain("proxy: %s", detail);
    else
        transfer.explain("%s", detail);
}

void judge_timeout(Transfer &transfer, Micros now) noexcept {
    if (transfer.phase == Phase::lookup) {
        transfer.failure = Failure::connect_timeout;
        transfer.explain("name lookup of \"%s\" did not end within %g s", transfer.target.host,
                         static_cast<double>(transfer.connect_timeout) / 1e6);
        return;
    }
    const bool connecting = transfer.phase == Phase::connect;
    transfer.failure = connecting ? Failure::connect_timeout : Failure::response_timeout;
    char details[200];
    describe(transfer, details, sizeof details);
    const double limit =
        static_cast<double>(connecting ? transfer.connect_timeout : transfer.response_timeout) / 1e6;
    const char *what = connecting               ? "no connection"
                       : transfer.status >= 200 ? "the response was not complete"
                                                : "no response";
    transfer.explain("%s within %g s (%s; %.0f ms in all)", what, limit, details,
                     milliseconds(now - transfer.added_at));
}

} // namespace whisperer::core
